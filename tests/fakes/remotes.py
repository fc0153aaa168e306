"""Small public homes of corpora: folders laid out as Zenodo and GitHub lay them out, to be served by `FileServer`."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from builder.datasets import crema_d, ravdess
from tests.factories import corpora
from tests.fakes.servers import FileServer

RECORD = "api/records/1188976"
ARCHIVES = "records/1188976/files"
REPOSITORY = "media/CheyneyComputerScience/CREMA-D/1658cd342dff90010aa843eaeebd53610a08b1dc"


def recording(name: str) -> bytes:
    """What stands for a recording: no two are alike."""
    return hashlib.sha256(name.encode()).digest() * 40


def archive_name(actor: str) -> str:
    return f"Video_Speech_Actor_{actor}.zip"


def publish_ravdess(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All 24 archives, with their 60 speech videos and as many without sound, and the record that lists them."""
    for actor in corpora.SPEAKERS["ravdess"]:
        names = [f"Actor_{actor}/{name}.mp4" for name in corpora.ravdess_names(actor)]
        silent = [name.replace("/01-", "/02-") for name in names]
        write_archive(root, actor, {name: recording(name) for name in (*names, *silent)})
    publish_record(root, monkeypatch)
    return root


def write_archive(root: Path, actor: str, files: Mapping[str | zipfile.ZipInfo, bytes]) -> None:
    path = root / ARCHIVES / archive_name(actor)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(f"Actor_{actor}/", b"")
        for name, data in files.items():
            bundle.writestr(name, data)


def publish_record(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the record tell what the archives are now, and the builder expect it."""
    archives = sorted((root / ARCHIVES).glob("*.zip"))
    write_record(root, [entry(path) for path in archives])
    inventory = root.with_name("inventory")
    inventory.mkdir(exist_ok=True)
    table = ["archive,size", *(f"{path.name},{path.stat().st_size}" for path in archives)]
    (inventory / "ravdess.csv").write_text("\n".join(table) + "\n")
    monkeypatch.setattr(ravdess, "INVENTORY", inventory)


def entry(path: Path) -> dict[str, object]:
    """One file, as Zenodo lists it."""
    data = path.read_bytes()
    return {
        "id": "0d3cc9a8",
        "key": path.name,
        "size": len(data),
        "checksum": f"md5:{hashlib.md5(data).hexdigest()}",
        "links": {"self": f"https://zenodo.org/{RECORD}/files/{path.name}/content"},
    }


def write_record(root: Path, files: object) -> None:
    """The record, with another archive that is of no use here."""
    (root / RECORD).parent.mkdir(parents=True, exist_ok=True)
    (root / RECORD).write_text(json.dumps({"id": 1188976, "metadata": {"title": "RAVDESS"}, "files": files}))


def publish_crema_d(root: Path, monkeypatch: pytest.MonkeyPatch, clips: Iterable[str] = corpora.CREMA_D_CLIPS) -> Path:
    """Recordings and WAVs of some clips, which are all that the builder knows of."""
    table = ["clip,flv_sha256,flv_size,wav_sha256,wav_size,vote"]
    for clip in clips:
        row = [clip]
        for name in (f"VideoFlash/{clip}.flv", f"AudioWAV/{clip}.wav"):
            data = recording(name)
            corpora.put(root / REPOSITORY / name, lambda path, data=data: path.write_bytes(data))
            row += [hashlib.sha256(data).hexdigest(), str(len(data))]
        table.append(",".join((*row, "A")))
    inventory = root.with_name("inventory")
    inventory.mkdir(exist_ok=True)
    (inventory / "crema-d.csv").write_text("\n".join(table) + "\n")
    (inventory / "crema-d-defects.json").write_bytes((crema_d.INVENTORY / "crema-d-defects.json").read_bytes())
    monkeypatch.setattr(crema_d, "INVENTORY", inventory)
    return root


def serve_lfs(server: FileServer, files: Mapping[str, bytes], **errors: object) -> str:
    """Have a server provide files as the Git LFS of a repository; returns its address.

    `errors` is name of the object without its suffix -> error in place of its link.
    """
    for data in files.values():
        corpora.put(
            server.folder / "objects" / hashlib.sha256(data).hexdigest(), lambda path, data=data: path.write_bytes(data)
        )
    failing = {
        hashlib.sha256(data).hexdigest(): errors[Path(name).stem]
        for name, data in files.items()
        if Path(name).stem in errors
    }

    def answer(body: bytes) -> bytes:
        request = json.loads(body)
        assert (request["operation"], request["transfers"]) == ("download", ["basic"])
        objects = []
        for each in request["objects"]:
            link = {"href": f"{server.url}/objects/{each['oid']}", "header": {"Authorization": "Basic bGZz"}}
            outcome = {"error": failing[each["oid"]]} if each["oid"] in failing else {"actions": {"download": link}}
            objects.append({**each, "authenticated": True, **outcome})
        return json.dumps({"transfer": "basic", "objects": objects}).encode()

    server.answers["mirror.git/info/lfs/objects/batch"] = answer
    return f"{server.url}/mirror.git"
