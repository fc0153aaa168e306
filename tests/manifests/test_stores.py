"""Stores: directories, web servers, buckets, the hub; and what is never shown or followed."""

from __future__ import annotations

import base64
import itertools
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from manifests.errors import install_command
from manifests.stores import (
    CHUNK_BYTES,
    Store,
    StoreError,
    TransientError,
    UnreachableError,
    http,
    is_remote,
    open_store,
    open_writable_store,
)
from tests.fakes.servers import Fault, FileServer, Request, raw_server, silent_server
from tests.fakes.stores import KINDS, published, put_folder, s3_server

NAME = "receipts/anna 000%.json"
DATA = bytes(range(256)) * (3 * CHUNK_BYTES // 512)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "there" / "receipts").mkdir(parents=True)
    (tmp_path / "there" / NAME).write_bytes(DATA)
    (tmp_path / "secret").write_text("not yours")
    return tmp_path / "there"


@pytest.fixture
def server(there: Path) -> Iterator[FileServer]:
    with FileServer(there) as running:
        yield running


@pytest.fixture(params=KINDS)
def store_at(request: pytest.FixtureRequest, there: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """One of each kind, with the same file."""
    with published(request.param, there, monkeypatch) as address:
        yield open_store(f"{address}/")


def read(store: Store, name: str = NAME, start: int = 0) -> bytes:
    return b"".join(store.chunks(name, start))


@pytest.mark.parametrize("start", [0, 1, CHUNK_BYTES, len(DATA) - 1, len(DATA), len(DATA) + 5])
def test_a_file_is_read_from_any_byte_on(store_at: Store, start: int) -> None:
    assert read(store_at, start=start) == DATA[start:]


def test_what_is_not_there_is_told_by_its_address(store_at: Store) -> None:
    with pytest.raises(StoreError, match=rf"^{re.escape(store_at.address)}/ben-000\.tar: not found"):
        read(store_at, "ben-000.tar")


def test_reading_may_end_early(store_at: Store) -> None:
    chunks = store_at.chunks(NAME)
    assert DATA.startswith(next(chunks))
    chunks.close()


@pytest.mark.parametrize(
    "address",
    [
        *("", "file:///etc", "ftp://host/a", "pipe://cat", "simplecache::s3://a/b", "https:///b", "http://", "s3://"),
        *("hf://owner/name", "hf://datasets/owner", "hf://models/owner/name", "https://[1/", "memory://bucket"),
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(StoreError, match=r"^found (no|an) address.*expected"):
        open_store(address)


@pytest.mark.parametrize(
    "address",
    [
        *("https://anna:PassWord@host/a", "https://PassWord@host/a", "s3://PassWord:key@bucket/a"),
        *("https://host/a?token=PassWord", "https://host/a#PassWord", "ftp://anna:PassWord@host/a"),
    ],
)
def test_credentials_have_no_place_in_an_address_and_are_not_told(address: str) -> None:
    with pytest.raises(
        StoreError, match=r"^found (a user|\? or #) in the address of (host|bucket), expected"
    ) as caught:
        open_store(address)
    assert "PassWord" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        *("s3://KEY:PassWord/x@bucket/a", "s3://KEY:12/PassWord@bucket/a", "https://anna:Pass/Word@host/a"),
        *("https://anna:12/PassWord@host/a", "https://anna:PassWord/x@host/a", "s3://bucket:12/PassWord", "s3://a/b@c"),
    ],
)
def test_secrets_with_a_slash_are_not_told_either(address: str) -> None:
    """AWS's secret keys contain slashes: what is before one looks like a host and its port."""
    for opened in (open_store, open_writable_store):
        with pytest.raises(
            StoreError, match=r"^found (an address that cannot be read|@ or : in an address), "
        ) as caught:
            opened(address)
        assert not any(word in str(caught.value) for word in ("PassWord", "Word", "KEY", "12/"))


def test_a_home_folder_of_nobody_is_told() -> None:
    with pytest.raises(StoreError, match=r"^~nobody-at-all/a: found no home folder of that user; write the complete"):
        open_store("~nobody-at-all/a")


def test_a_path_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_remote("shards/demo")
    assert not is_remote("C:/shards")
    monkeypatch.chdir(tmp_path)
    assert open_store("shards").address == str(tmp_path / "shards")
    with pytest.raises(StoreError, match=f"^{tmp_path}/shards/SHA256SUMS: not found"):
        read(open_store("shards"), "SHA256SUMS")


def test_a_folder_in_a_file_s_place_is_no_file(there: Path) -> None:
    with pytest.raises(StoreError, match="receipts: not found"):
        read(open_store(str(there)), "receipts")


@pytest.mark.parametrize("target", ["file:///{secret}", "ftp://127.0.0.1/x", "data:,x", "gopher://127.0.0.1/", "//"])
def test_a_redirect_elsewhere_is_not_followed(server: FileServer, tmp_path: Path, target: str) -> None:
    location = target.format(secret=tmp_path / "secret")
    server.misbehave("x.tar", always=Fault(status=302, headers={"Location": location}))
    with pytest.raises(StoreError) as caught:
        read(open_store(server.url), "x.tar")
    assert str(caught.value).startswith(f"{server.url}/x.tar: ")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "2852039166", "0xa9.0xfe.0xa9.0xfe"]
)
def test_a_redirect_to_a_link_local_address_is_not_followed(server: FileServer, host: str) -> None:
    server.misbehave("x.tar", always=Fault(status=302, headers={"Location": f"http://{host}/latest/meta-data"}))
    with pytest.raises(StoreError, match=r"x\.tar: found a redirect that is not followed \(HTTP 302\)"):
        read(open_store(server.url), "x.tar")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.7", "192.168.1.1", "[::1]", "[fd00::1]", "0.0.0.0"])
def test_a_public_server_does_not_redirect_into_private_networks(
    server: FileServer, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, connect = socket.getaddrinfo, socket.create_connection
    port = int(server.url.rpartition(":")[2])
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *a, **k: public if name == "shards.example" else look_up(name, *a, **k)
    )
    monkeypatch.setattr(socket, "create_connection", lambda address, *a, **k: connect(("127.0.0.1", port), *a, **k))
    server.misbehave("x.tar", Fault(status=302, headers={"Location": f"http://{host}:{port}/receipts"}))
    server.misbehave(
        "y.tar", Fault(status=302, headers={"Location": "http://shards.example/receipts/anna%20000%25.json"})
    )
    store = open_store("http://shards.example")
    with pytest.raises(StoreError, match=r"x\.tar: found a redirect that is not followed \(HTTP 302\)"):
        read(store, "x.tar")
    assert server.requested == ["x.tar"]
    assert read(store, "y.tar") == DATA


@pytest.mark.parametrize("target", ["http://anna:PassWord@127.0.0.1/x", "http://127.0.0.1:PassWord/", "/a\x7fPassWord"])
def test_the_target_of_a_redirect_is_not_told(server: FileServer, target: str) -> None:
    server.misbehave("x.tar", always=Fault(status=302, headers={"Location": target}))
    with pytest.raises(StoreError) as caught:
        read(open_store(server.url), "x.tar")
    assert str(caught.value).startswith(f"{server.url}/x.tar: ")
    assert "PassWord" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("999999", 300), *[(odd, 0) for odd in ("nan", "inf", "-1", "1e3", "9" * 5000, "")]],
)
def test_a_pause_that_a_server_asks_for_is_a_number(server: FileServer, header: str, seconds: float) -> None:
    server.misbehave("x.tar", Fault(status=503, headers={"Retry-After": header}))
    with pytest.raises(TransientError) as caught:
        read(open_store(server.url), "x.tar")
    assert caught.value.pause_seconds == seconds


def test_redirects_in_a_circle_end(server: FileServer) -> None:
    server.misbehave("x.tar", always=Fault(status=302, headers={"Location": "/x.tar"}))
    with pytest.raises(StoreError, match=r"x\.tar: found a redirect that is not followed \(HTTP 302\)"):
        read(open_store(server.url), "x.tar")


def test_a_redirect_is_followed_with_the_range_and_without_the_password(
    server: FileServer, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password PassWord\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    expected = "Basic " + base64.b64encode(b"anna:PassWord").decode()
    server.allow = lambda request: request.headers.get("authorization") == expected
    with FileServer(there) as other:
        server.misbehave("x.tar", Fault(status=302, headers={"Location": f"{other.url}/receipts/anna%20000%25.json"}))
        assert read(open_store(server.url), "x.tar", start=7) == DATA[7:]
        (request,) = other.requests
    assert request.first_byte == 7
    assert "authorization" not in request.headers
    server.misbehave("y.tar", Fault(status=307, headers={"Location": f"/{'receipts/anna%20000%25.json'}"}))
    assert read(open_store(server.url), "y.tar") == DATA  # the same server gets it again


def test_a_password_that_is_missing_is_not_worth_another_try(server: FileServer) -> None:
    server.allow = lambda request: False
    with pytest.raises(StoreError, match=r"may not be read \(HTTP 401\); is a login or an agreement"):
        read(open_store(server.url))
    assert len(server.requests) == 1


def test_a_range_that_was_not_asked_for_is_refused(server: FileServer) -> None:
    server.misbehave(NAME, always=Fault(headers={"Content-Range": "bytes 900-1000/2000"}))
    with pytest.raises(StoreError, match="found a range that was not requested"):
        read(open_store(server.url), start=7)


def test_a_wider_range_than_was_asked_for_is_cut(server: FileServer) -> None:
    server.misbehave(NAME, Fault(headers={"Content-Range": "bytes 5-1000/2000"}))
    assert (
        read(open_store(server.url), start=7) == DATA[9:]
    )  # the server says that what it sends begins two bytes early


OK = b"HTTP/1.1 200 OK\r\n"


def slowly(data: bytes) -> Iterator[bytes]:
    for byte in data:
        time.sleep(0.02)
        yield bytes([byte])


#: Answers without an end, or whose end comes too late.
ENDLESS: dict[str, Callable[[], Iterable[bytes]]] = {
    "informational": lambda: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "informational with headers": lambda: itertools.repeat(b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"),
    "status": lambda: itertools.repeat(b"H" * 999),
    "headers": lambda: itertools.chain([OK], itertools.repeat(b"A: b\r\n")),
    "one header": lambda: itertools.chain([OK, b"A: "], itertools.repeat(b"b" * 999)),
    "size of a chunk": lambda: itertools.chain(
        [OK, b"Transfer-Encoding: chunked\r\n\r\n1;"], itertools.repeat(b"b" * 999)
    ),
    "lines after the last chunk": lambda: itertools.chain(
        [OK, b"Transfer-Encoding: chunked\r\n\r\n0\r\n"], itertools.repeat(b"A: b\r\n")
    ),
    "slow status": lambda: slowly(OK + b"Content-Length: 0\r\n\r\n"),
    "slow informational": lambda: itertools.cycle(slowly(b"HTTP/1.1 100 Continue\r\n\r\n")),
    "slow lines after the last chunk": lambda: itertools.chain(
        [OK, b"Transfer-Encoding: chunked\r\n\r\n0\r\n"], itertools.cycle(slowly(b"A: b\r\n"))
    ),
}


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_headers_without_an_end_are_given_up(
    answer: Callable[[], Iterable[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LINES_SECONDS", 0.4)
    with raw_server(answer) as address, pytest.raises(TransientError) as caught:
        read(open_store(address), "x.tar")
    assert re.match(rf"{address}/x\.tar: cannot be fetched \((found|got) (more than|no end of)", str(caught.value))


def test_a_few_informational_responses_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"] * 3 + [OK, b"Content-Length: 4\r\n\r\nabcd"]
    with raw_server(lambda: answer) as address:
        assert read(open_store(address), "x.tar") == b"abcd"


def test_limits_of_lines_are_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file in small chunks has more lines than headers may have."""
    monkeypatch.setattr(http, "LINES_BYTES", 100)
    answer = [OK, b"Transfer-Encoding: chunked\r\n\r\n", *[b"4\r\nabcd\r\n"] * 99, b"0\r\n\r\n"]
    with raw_server(lambda: answer) as address:
        assert read(open_store(address), "x.tar") == b"abcd" * 99


@pytest.mark.parametrize("encoding", ["gzip", "BR", "identity, gzip", "'\x07" + "x" * 500])
def test_an_encoded_response_is_refused_with_that_reason(server: FileServer, encoding: str) -> None:
    server.misbehave(NAME, Fault(headers={"Content-Encoding": encoding}))
    with pytest.raises(
        StoreError, match=r"found a response with Content-Encoding .*, expected the file itself"
    ) as caught:
        read(open_store(server.url))
    assert not isinstance(caught.value, TransientError)
    assert len(str(caught.value)) < 300
    server.misbehave(NAME, Fault(headers={"Content-Encoding": "identity"}))
    assert read(open_store(server.url)) == DATA


def test_an_address_that_cannot_be_asked_is_not_asked_again() -> None:
    with pytest.raises(StoreError, match=r"found an address that is not valid") as caught:
        read(open_store("http://127.0.0.1/a b"), "x.tar")
    assert not isinstance(caught.value, TransientError)


@pytest.mark.parametrize("folder", ["x" * 300, "y/" * 3000])
def test_a_path_that_cannot_be_is_not_tried_again(tmp_path: Path, folder: str) -> None:
    with pytest.raises(StoreError, match=r"cannot be read \(File name too long\)$") as caught:
        read(open_store(str(tmp_path / folder)), "x.tar")
    assert not isinstance(caught.value, TransientError)


def test_a_disk_that_may_recover_is_tried_again() -> None:
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs a file that fails to be read: /proc/self/mem of Linux")
    with pytest.raises(TransientError, match=r"^/proc/self/mem: cannot be read \(Input/output error\)$"):
        read(open_store("/proc/self"), "mem")


def test_what_it_takes_to_read_a_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys\nsys.modules['s3fs'] = None\n"
        "from manifests.stores import StoreError, open_store\n"
        "try: open_store('s3://lab/shards')\nexcept StoreError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"s3://lab/shards: needs s3fs; {install_command('s3')}\n"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StoreError, match=r"^hf://datasets/lab/faces: needs huggingface_hub; pip install '.*\[hub\]'$"):
        open_store("hf://datasets/lab/faces")


@pytest.fixture
def hub(there: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with FileServer(there, prefix="datasets/lab/faces/resolve") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url.partition("/datasets")[0])
        yield running


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("hf://datasets/lab/faces", "main/x.tar"),
        ("hf://datasets/lab/faces/", "main/x.tar"),
        ("hf://datasets/lab/faces@refs%2Fpr%2F1", "refs/pr/1/x.tar"),
        ("hf://datasets/lab/faces/shards/demo", "main/shards/demo/x.tar"),
        ("hf://datasets/lab/faces@v1/demo", "v1/demo/x.tar"),
    ],
)
def test_the_hub_is_asked_for_a_revision_and_a_folder(hub: FileServer, address: str, name: str) -> None:
    with pytest.raises(StoreError, match=rf"^{address.rstrip('/')}/x.tar: not found"):
        read(open_store(address), "x.tar")
    assert hub.requested == [name]


def test_the_hub_s_token_is_for_the_hub_alone(hub: FileServer, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_PassWord")
    store = open_store("hf://datasets/lab/faces")
    assert "PassWord" not in repr(store)

    def allowed(request: Request) -> bool:
        return request.headers.get("authorization") == "Bearer hf_PassWord"

    hub.allow = allowed
    with FileServer(there) as elsewhere:
        signed = f"{elsewhere.url}/receipts/anna%20000%25.json?signature=PassWord"
        hub.misbehave("main/x.tar", Fault(status=302, headers={"Location": signed}))
        assert read(store, "x.tar") == DATA
        assert "authorization" not in elsewhere.requests[0].headers
        missing = f"{elsewhere.url}/gone?signature=PassWord"
        hub.misbehave("main/x.tar", Fault(status=302, headers={"Location": missing}))
        with pytest.raises(StoreError) as caught:
            read(store, "x.tar")
    assert str(caught.value) == "hf://datasets/lab/faces/x.tar: not found (HTTP 404)"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_server(monkeypatch) as running:
        yield running


def test_a_bucket_that_is_not_there_is_told(store: Any) -> None:
    with pytest.raises(StoreError, match=r"^s3://nowhere/shards/x\.tar: not found"):
        read(open_store("s3://nowhere/shards"), "x.tar")


def test_a_store_that_nobody_serves_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch):
        store = open_store("s3://lab/shards")
    message = r"127\.0\.0\.1:\d+ cannot be reached \(Connection refused\); check network and proxy, then run again$"
    with pytest.raises(UnreachableError, match=rf"^s3://lab/shards/x\.tar: {message}"):
        read(store, "x.tar")
    with pytest.raises(UnreachableError, match=rf"^s3://lab/shards: {message}"):
        store.list_files()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    with pytest.raises(UnreachableError, match=rf"^hf://datasets/lab/faces: {message}"):
        open_writable_store("hf://datasets/lab/faces").list_files()


#: Where a request does not get through: which of the addresses never accepts a connection, never responds, or refuses.
OUTAGES = {
    "firewall": lambda: silent_server(accepts=False),
    "silence": lambda: silent_server(accepts=True),
    "proxy": lambda: raw_server(lambda: [b"HTTP/1.1 403 Forbidden\r\n\r\n"]),
}


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("address", ["https://nowhere.invalid/x", "hf://datasets/lab/faces", "s3://lab/shards"])
def test_a_network_that_leads_nowhere_is_told_within_seconds(
    address: str, outage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In front of the server; the libraries alone take minutes. A later connection is patient."""
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.6)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HF_ENDPOINT", "https://nowhere.invalid")
    reason = r"Tunnel connection failed: 403 Forbidden" if outage == "proxy" else "no response in time"
    with OUTAGES[outage]() as proxy:
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setattr(http, "_OPENER", http._make_opener(http._Redirects()))  # reads the environment
        monkeypatch.setattr(http, "_PROBE", http._make_opener())
        started = time.monotonic()
        with pytest.raises(UnreachableError, match=rf"/x\.tar: 127\.0\.0\.1:\d+ cannot be reached \({reason}\);"):
            read(open_store(address), "x.tar")
        assert time.monotonic() - started < 20


def test_a_server_that_accepts_and_never_responds_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_TIMEOUT_SECONDS", 0.5)
    with (
        silent_server(accepts=True) as url,
        pytest.raises(UnreachableError, match=r"cannot be reached \(timed out\); check network and proxy"),
    ):
        read(open_store(url), "x.tar")


def test_a_certificate_that_is_not_trusted_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_(*_: object, **__: object) -> None:
        raise URLError(ssl.SSLCertVerificationError(1, "certificate verify failed"))

    monkeypatch.setattr(http._OPENER, "open", open_)
    with pytest.raises(StoreError, match=r"\(certificate verify failed\); set SSL_CERT_FILE to") as caught:
        read(open_store("https://nowhere.invalid"), "x.tar")
    assert not isinstance(caught.value, TransientError)


def test_missing_credentials_are_told(store: Any, there: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_folder(store, there, "s3://lab/shards")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"^s3://lab/shards/.*: Unable to locate credentials; set AWS credentials"):
        read(open_store("s3://lab/shards"))
