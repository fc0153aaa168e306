"""Remote folders: whole, hashed and fetched once, or refused by name."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
import torch
from shard_factory import make_folder

from manifests.index import ManifestError, load_dataset
from manifests.labels import identity_scheme
from train import cache
from train.cache import CacheError
from train.data import Folder, fold_sides, load_clips, members_for, open_folder, ready_shards, shards_named
from train.fusion import STRATEGIES
from train.loader import Batch, Loader, Schedule

Damage = Callable[[str, bytes], bytes]


class Server:
    """A local web server; `damage` changes what is sent, though never the length that is promised."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.damage: Damage = lambda _, data: data
        handler = partial(_Handler, self)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/shards"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, owner: Server, *args: object) -> None:
        self.owner = owner
        super().__init__(*args)

    def do_GET(self) -> None:
        name = self.path.removeprefix("/shards/")
        path = self.owner.folder / name
        self.owner.asked.append(name)
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(self.owner.damage(name, data))

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("cache") / "shards", takes=1)


@pytest.fixture
def server(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves a folder of its own, to be damaged."""
    running = Server(shutil.copytree(shards, tmp_path_factory.mktemp("served") / "shards"))
    yield running
    running.stop()


def batches(folder: Folder) -> list[Batch]:
    side = fold_sides(folder, "anna")["train"]
    ready_shards(folder, shards_named(folder.dataset, side["shards"]))
    members = members_for(folder.dataset, STRATEGIES["cfas"], "mfcc")
    clips = load_clips(folder, side, identity_scheme("folder", side["clips"]), members)
    return list(Loader(clips, Schedule(clips=len(clips), batch_size=4), workers=0).epoch(0))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part")]


def test_a_remote_folder_reads_like_a_local_one(server: Server, shards: Path, tmp_path: Path) -> None:
    remote = batches(open_folder(server.url, tmp_path / "cache"))
    local = batches(open_folder(shards))
    for one, other in zip(remote, local, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.filmstrips, other.filmstrips)
        assert torch.equal(one.spectrograms, other.spectrograms)


def test_only_what_is_used_is_fetched_and_only_once(server: Server, tmp_path: Path) -> None:
    batches(open_folder(server.url, tmp_path))
    used = fold_sides(open_folder(server.url, tmp_path), "anna")["train"]["shards"]
    assert sorted(name for name in server.asked if name.endswith(".tar")) == used
    server.asked.clear()
    batches(open_folder(server.url, tmp_path))
    assert server.asked == ["SHA256SUMS"]


def test_wrong_bytes_are_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    def flip(name: str, data: bytes) -> bytes:
        return data[:-600] + bytes([data[-600] ^ 1]) + data[-599:] if name.endswith(".tar") else data

    server.damage = flip
    folder = open_folder(server.url, tmp_path)
    with pytest.raises(CacheError, match=rf"^{server.url}/\w+-000\.tar: found SHA-256 [0-9a-f]+, expected [0-9a-f]+;"):
        ready_shards(folder, folder.dataset.shards[:1])
    assert not list(tmp_path.rglob("*.tar"))
    assert not leftovers(tmp_path)
    server.damage = lambda _, data: data
    ready_shards(folder, folder.dataset.shards[:1])


def test_a_cut_connection_is_told_and_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.damage = lambda name, data: data[: len(data) // 2] if name == "cleo-000.tar" else data
    folder = open_folder(server.url, tmp_path)
    size = {shard.name: shard.bytes for shard in folder.dataset.shards}["cleo-000.tar"]
    with pytest.raises(CacheError, match=rf"cleo-000\.tar: found {size // 2} bytes, expected {size}; run again"):
        ready_shards(folder, folder.dataset.shards)
    assert not leftovers(tmp_path)
    fetched = {path.name for path in folder.path.glob("*.tar")}
    server.damage = lambda _, data: data
    server.asked.clear()
    ready_shards(folder, folder.dataset.shards)
    assert fetched.isdisjoint(server.asked)
    assert "cleo-000.tar" in server.asked


def test_a_cut_index_is_refused(server: Server, tmp_path: Path) -> None:
    server.damage = lambda name, data: data[: len(data) // 2] if name == "dataset.json" else data
    with pytest.raises(CacheError, match=r"dataset\.json: found SHA-256"):
        open_folder(server.url, tmp_path)
    sums = (server.folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    without_folds = "".join(line for line in sums if "folds/" not in line).encode()
    server.damage = lambda name, data: without_folds if name == "SHA256SUMS" else data
    with pytest.raises(CacheError, match=r"SHA256SUMS: found no line for folds/loso\.json, expected one"):
        open_folder(server.url, tmp_path)


def test_more_bytes_than_promised_are_not_taken(server: Server, tmp_path: Path) -> None:
    folder = open_folder(server.url, tmp_path)
    shard = folder.dataset.shards[0]
    (server.folder / shard.name).write_bytes(bytes(shard.bytes + 1))
    with pytest.raises(CacheError, match=rf"{shard.name}: found more than {shard.bytes} bytes"):
        ready_shards(folder, [shard])
    assert not leftovers(tmp_path)


def test_a_cached_file_that_was_damaged_is_fetched_again(server: Server, tmp_path: Path) -> None:
    folder = open_folder(server.url, tmp_path)
    shard = folder.dataset.shards[0]
    ready_shards(folder, [shard])
    whole = (folder.path / shard.name).read_bytes()
    (folder.path / shard.name).write_bytes(whole[:-512] + b"x" * 512)
    ready_shards(folder, [shard])
    assert (folder.path / shard.name).read_bytes() == whole


def test_several_at_once_fetch_each_file_once(server: Server, tmp_path: Path) -> None:
    shard = load_dataset(server.folder).shards[0]
    with ThreadPoolExecutor(8) as pool:
        fetches = [
            pool.submit(cache.fetch, server.url, tmp_path, shard.name, shard.sha256, shard.bytes) for _ in range(8)
        ]
        assert {fetch.result() for fetch in fetches} == {tmp_path / shard.name}
    assert server.asked == [shard.name]


def test_a_folder_that_is_not_there_is_told(server: Server, tmp_path: Path) -> None:
    (server.folder / "SHA256SUMS").unlink()
    with pytest.raises(CacheError, match=r"SHA256SUMS: cannot be fetched \(HTTP Error 404"):
        open_folder(server.url, tmp_path)
    (server.folder / "SHA256SUMS").write_text("<html>welcome</html>\n")
    with pytest.raises(ManifestError, match=r"SHA256SUMS:1: found '<html>"):
        open_folder(server.url, tmp_path)


@pytest.mark.parametrize(
    "address", ["file:///etc", "ftp://host/a", "pipe://cat", "simplecache::s3://a/b", "https:///b", "https://h/a?x=1"]
)
def test_other_addresses_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="found another kind of address, expected http, https, s3"):
        open_folder(address, tmp_path)


def test_other_stores_are_read_through_fsspec(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SCHEMES", ("memory",))
    store = fsspec.filesystem("memory")
    for path in filter(Path.is_file, shards.rglob("*")):
        store.pipe_file(f"/bucket/shards/{path.relative_to(shards).as_posix()}", path.read_bytes())
    remote = batches(open_folder("memory://bucket/shards", tmp_path))
    assert [batch.keys for batch in remote] == [batch.keys for batch in batches(open_folder(shards))]
    with pytest.raises(CacheError, match=r"^memory://bucket/none/SHA256SUMS: cannot be fetched"):
        open_folder("memory://bucket/none", tmp_path)


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_missing_plug_in_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"^s3://bucket/shards/SHA256SUMS: Install s3fs"):
        open_folder("s3://bucket/shards", tmp_path)


def test_mirrors_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.default_root() == Path("/somewhere/multimae-der")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/anna")
    assert cache.default_root() == Path("/home/anna/.cache/multimae-der")
