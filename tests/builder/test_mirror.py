"""The mirror of a corpus: used when its public address refuses files for now, never because of wrong bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builder.__main__ import main
from builder.corpus import sources
from builder.datasets import DATASETS, crema_d
from manifests import download
from tests.factories import corpora
from tests.fakes import remotes
from tests.fakes.servers import Fault, FileServer

CLIP = "VideoFlash/1001_DFA_ANG_XX.flv"
BATCH = "mirror.git/info/lfs/objects/batch"
NAMES = [f"VideoFlash/{clip}.flv" for clip in corpora.CREMA_D_CLIPS]
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with FileServer(remotes.publish_crema_d(tmp_path / "github", monkeypatch)) as server:
        yield server


@pytest.fixture
def gitlab(tmp_path: Path, github: FileServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The mirror, which the corpus names beside the server of `github`."""
    with FileServer(tmp_path / "gitlab") as server:
        mirror = remotes.serve_lfs(server, {name: remotes.recording(name) for name in NAMES})
        assert crema_d.CORPUS.remote is not None
        remote = replace(crema_d.CORPUS.remote, address=github.url, lfs_mirror=mirror)
        monkeypatch.setitem(DATASETS, "crema-d", replace(crema_d.CORPUS, remote=remote))
        yield server


def corpus(data: Path, *arguments: str) -> int:
    return main(["corpus", "--dataset", "crema-d", "--data", str(data), *arguments])


def refuse(server: FileServer, fault: Fault, names: list[str] = NAMES) -> None:
    for name in names:
        server.misbehave(f"{remotes.REPOSITORY}/{name}", always=fault)


def assert_complete(data: Path) -> None:
    for name in NAMES:
        assert (data / name).read_bytes() == remotes.recording(name)


def test_the_published_mirror_is_that_of_the_owners() -> None:
    assert crema_d.CORPUS.remote is not None
    assert crema_d.CORPUS.remote.lfs_mirror == "https://gitlab.com/cs-cooper-lab/crema-d-mirror.git"


def test_the_mirror_is_left_alone_while_the_home_answers(
    github: FileServer, gitlab: FileServer, tmp_path: Path, capsys: Said
) -> None:
    assert corpus(tmp_path / "data") == 0
    assert gitlab.requests == []
    assert "\nmirror " not in capsys.readouterr().out
    assert_complete(tmp_path / "data")


@pytest.mark.parametrize("status", [403, 429, 500, 503, 509])
def test_a_home_that_refuses_is_replaced_by_the_mirror(
    github: FileServer, gitlab: FileServer, tmp_path: Path, capsys: Said, status: int
) -> None:
    refuse(github, Fault(status=status))
    assert corpus(tmp_path / "data") == 0
    assert_complete(tmp_path / "data")
    captured = capsys.readouterr()
    home = f"{github.url}/{remotes.REPOSITORY}"
    assert f"from      {home}\n" in captured.out
    assert f"mirror    {gitlab.url}/mirror.git, because of HTTP {status} of {home}\n" in captured.out
    assert f"(HTTP {status})" in captured.err and f"; using the mirror {gitlab.url}/mirror.git\n" in captured.err
    posts = [request for request in gitlab.requests if request.method == "POST"]
    assert 1 <= len(posts) <= 4  # links of many files in one request
    assert posts[0].headers["accept"] == posts[0].headers["content-type"] == "application/vnd.git-lfs+json"
    fetched = [request for request in gitlab.requests if request.method == "GET"]
    assert len(fetched) == len(NAMES) and {r.headers["authorization"] for r in fetched} == {"Basic bGZz"}
    assert len(github.requests) <= 2 * 4 + sources.MAX_REFUSALS  # at most the files that were on their way


def test_what_the_home_gave_before_is_kept(
    github: FileServer, gitlab: FileServer, tmp_path: Path, capsys: Said
) -> None:
    refuse(github, Fault(status=403), NAMES[20:])
    assert corpus(tmp_path / "data", "--connections", "1") == 0
    assert_complete(tmp_path / "data")
    assert len([request for request in gitlab.requests if request.method == "GET"]) == len(NAMES) - 20


def test_a_short_failure_of_the_home_is_no_reason(github: FileServer, gitlab: FileServer, tmp_path: Path) -> None:
    github.misbehave(f"{remotes.REPOSITORY}/{CLIP}", Fault(status=503), Fault(status=503))
    assert corpus(tmp_path / "data", "--connections", "1") == 0
    assert gitlab.requests == []


@pytest.mark.parametrize("fault", [Fault(change=lambda data: b"!" + data[1:]), Fault(status=404), Fault(drop_after=0)])
def test_wrong_bytes_and_other_failures_of_the_home_are_no_reason(
    github: FileServer, gitlab: FileServer, tmp_path: Path, fault: Fault
) -> None:
    refuse(github, fault, [CLIP])
    assert corpus(tmp_path / "data") == 1
    assert gitlab.requests == []


def test_wrong_bytes_of_the_mirror_are_refused(
    github: FileServer, gitlab: FileServer, tmp_path: Path, capsys: Said
) -> None:
    refuse(github, Fault(status=429))
    (path,) = [each for each in (gitlab.folder / "objects").iterdir() if each.read_bytes() == remotes.recording(CLIP)]
    path.write_bytes(b"!" + remotes.recording(CLIP)[1:])
    assert corpus(tmp_path / "data") == 1
    captured = capsys.readouterr()
    assert f"  failed  {CLIP}: found SHA-256 " in captured.out
    assert not (tmp_path / "data" / CLIP).exists()


def test_an_interrupted_file_is_resumed_from_the_mirror(github: FileServer, gitlab: FileServer, tmp_path: Path) -> None:
    github.misbehave(f"{remotes.REPOSITORY}/{CLIP}", Fault(drop_after=500), always=Fault(status=403))
    refuse(github, Fault(status=403), [name for name in NAMES if name != CLIP])
    assert corpus(tmp_path / "data", "--connections", "1") == 0
    assert_complete(tmp_path / "data")
    assert 500 in {request.first_byte for request in gitlab.requests}


def test_an_expired_link_is_requested_again(github: FileServer, gitlab: FileServer, tmp_path: Path) -> None:
    refuse(github, Fault(status=403))
    second = next(
        f"objects/{path.name}"
        for path in (gitlab.folder / "objects").iterdir()
        if path.read_bytes() == remotes.recording(sorted(NAMES)[1])
    )
    gitlab.misbehave(second, Fault(status=403))
    assert corpus(tmp_path / "data", "--connections", "1") == 0
    assert_complete(tmp_path / "data")
    assert len([request for request in gitlab.requests if request.method == "POST"]) == 2


def test_an_object_that_the_mirror_lacks_is_listed(
    github: FileServer, gitlab: FileServer, tmp_path: Path, capsys: Said
) -> None:
    files = {name: remotes.recording(name) for name in NAMES}
    remotes.serve_lfs(gitlab, files, **{Path(CLIP).stem: {"code": 404, "message": "Object does not exist"}})
    refuse(github, Fault(status=403))
    assert corpus(tmp_path / "data") == 1
    assert f"  failed  {CLIP}: cannot be fetched from Git LFS (404: Object does not exist)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b'{"objects": {}}',
        b'{"objects": [1]}',
        b'{"objects": []}',
        b"[" * 100_000,
        b" " * (5 << 20),
        json.dumps({"objects": [{"oid": "x", "actions": {"download": {"href": "file:///etc/passwd"}}}]}).encode(),
    ],
    ids=["html", "list", "mapping", "number", "empty", "deep", "large", "strange"],
)
def test_answers_that_are_none(
    github: FileServer, gitlab: FileServer, tmp_path: Path, capsys: Said, answer: bytes
) -> None:
    refuse(github, Fault(status=403))
    gitlab.answers[BATCH] = lambda _: answer
    assert corpus(tmp_path / "data", "--connections", "1") == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "http://169.254.169.254/latest", "http://me@host/", "x", 3, None]
)
def test_links_that_are_not_followed(
    github: FileServer, gitlab: FileServer, tmp_path: Path, capsys: Said, href: object
) -> None:
    refuse(github, Fault(status=403))
    gitlab.answers[BATCH] = lambda body: json.dumps(
        {"objects": [{**each, "actions": {"download": {"href": href}}} for each in json.loads(body)["objects"]]}
    ).encode()
    assert corpus(tmp_path / "data", "--connections", "1") == 2
    assert "found no link to it in the answer of Git LFS" in capsys.readouterr().err


def test_a_mirror_may_be_chosen(gitlab: FileServer, github: FileServer, tmp_path: Path, capsys: Said) -> None:
    assert corpus(tmp_path / "data", "--from", f"{gitlab.url}/mirror.git") == 0
    assert_complete(tmp_path / "data")
    assert github.requests == []
    assert f"from      {gitlab.url}/mirror.git\n" in capsys.readouterr().out


def test_a_chosen_address_has_no_mirror(gitlab: FileServer, github: FileServer, tmp_path: Path) -> None:
    refuse(github, Fault(status=403))
    assert corpus(tmp_path / "data", "--from", github.url) == 2
    assert gitlab.requests == []


def test_files_without_a_sha256_are_in_no_git_lfs(tmp_path: Path, capsys: Said) -> None:
    arguments = ["corpus", "--dataset", "ravdess", "--data", str(tmp_path), "--from", "https://host.example/x.git"]
    assert main(arguments) == 2
    assert "cannot be used as Git LFS: no SHA-256 of Video_Speech_Actor_01.zip is known" in capsys.readouterr().err
