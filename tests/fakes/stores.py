"""A folder as others publish it: in a directory, on a web server, in a bucket, on the hub; all on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.fakes.servers import FileServer

KINDS = ("directory", "web", "bucket", "hub")


@contextmanager
def published(kind: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a folder, where it can be read in the block."""
    if kind == "directory":
        yield str(folder)
    elif kind == "web":
        with FileServer(folder, prefix="lab/shards") as server:
            yield server.url
    elif kind == "bucket":
        with s3_server(patch) as store:
            put_folder(store, folder, "s3://lab/shards")
            yield "s3://lab/shards"
    else:
        with FileServer(folder, prefix="datasets/lab/faces/resolve/main") as server:
            patch.setenv("HF_ENDPOINT", server.url.partition("/datasets")[0])
            yield "hf://datasets/lab/faces"


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's file system of an empty store; whatever reads `s3://` addresses in the block, reads that store."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import fsspec

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "anyone",
        "AWS_SECRET_ACCESS_KEY": "at-all",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        patch.setenv(name, value)
    try:
        yield fsspec.filesystem("s3", skip_instance_cache=True)
    finally:
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # all its servers are one store
        server.stop()


def put_folder(store: Any, folder: Path, address: str) -> None:
    """Copy a folder into a store whose bucket may not be there yet."""
    bucket = address.removeprefix("s3://").partition("/")[0]
    if not store.exists(bucket):
        store.mkdir(bucket)
    for path in filter(Path.is_file, folder.rglob("*")):
        store.pipe_file(f"{address}/{path.relative_to(folder).as_posix()}", path.read_bytes())
