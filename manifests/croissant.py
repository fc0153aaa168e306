"""Croissant metadata, `croissant.json`: what is in the folder, for tools that know nothing of this project.

One file object a shard, with size and SHA-256; the faces in all shards as one file set (with a second one, mlcroissant
takes time by the square of the shards); two record sets, the table of clips and the samples. There is no date of
publication: a folder is a function of the recordings and the settings, and does not know when it was published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manifests import licensing
from manifests.index import CLIPS_FILE, Dataset
from manifests.schema import SCHEMA_VERSION, dump_json, member_names

Json = dict[str, Any]

_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
#: The vocabulary of Croissant 1.0, which every such file repeats.
_CROISSANT_TERMS = """
citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset jsonPath
key md5 parentField path recordSet references regex repeated replace samplingRate separator source subField transform
"""
_CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _CROISSANT_TERMS.split()},
}

#: Columns of the table of clips -> what they tell.
_COLUMNS = {
    "clip_id": "key of the sample's members",
    "emotion": "as the corpus says it; label schemes map it to classes",
    "intensity": "as the corpus says it",
    "sentence": "what is said",
    "status": "built; flagged: built, but worth a look; dropped: left out, for the reason given",
    "reason": "why the clip was left out",
    "shard": "tar that holds the clip",
}
_FACES = "faces.jpg"


def croissant(dataset: Dataset, *, clips_bytes: int, clips_sha256: str) -> bytes:
    """Content of `croissant.json`, for an index and the size and hash of its `clips.jsonl`."""
    table = _file(CLIPS_FILE, clips_bytes, clips_sha256, "application/jsonlines")
    shards = [_file(shard.name, shard.bytes, shard.sha256, "application/x-tar") for shard in dataset.shards]
    faces = [_faces(shards, dataset)] if shards else []
    body = {"distribution": [table, *shards, *faces], "recordSet": [_clips(), *(_samples() for _ in faces)]}
    return (dump_json(_head(dataset) | body) + "\n").encode()


def _head(dataset: Dataset) -> Json:
    licence = licensing.known_licence(dataset)
    said = {
        "name": licensing.about(dataset, "title") or dataset.dataset,
        "description": "Aligned face crops, spectrograms and sound of audiovisual emotion clips, in WebDataset shards "
        f"of one speaker each. {licensing.about(dataset, 'title')}",
        "license": licence.url if licence else licensing.about(dataset, "licence"),
        "citeAs": licensing.about(dataset, "citation"),
        "url": licensing.about(dataset, "homepage"),
        "rai:personalSensitiveInformation": licensing.PERSONAL_DATA,
        "version": f"{SCHEMA_VERSION}.0.0+{_digest(shard.sha256 for shard in dataset.shards)}",
    }
    named = {"@context": _CONTEXT, "@type": "sc:Dataset", "conformsTo": _CONFORMS_TO}
    return named | {key: value for key, value in said.items() if value}


def _digest(hashes: Iterable[str]) -> str:
    """Tells one set of shards from another."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()[:12]


def _file(name: str, size: int, sha256: str, media_type: str) -> Json:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": media_type,
        "sha256": sha256,
    }


def _faces(shards: Sequence[Json], dataset: Dataset) -> Json:
    return {
        "@type": "cr:FileSet",
        "@id": _FACES,
        "name": _FACES,
        "description": "Filmstrips of 16 aligned face crops, side by side. A sample's members share a key: "
        + ", ".join(f"KEY.{name}" for name in member_names(dataset.features)),
        "containedIn": [{"@id": shard["@id"]} for shard in shards],
        "encodingFormat": "image/jpeg",
        "includes": f"*.{_FACES}",
    }


def _clips() -> Json:
    fields = [_field("clips", name, _column(name), description=told) for name, told in _COLUMNS.items()]
    # A speaker may be written `01`, which readers of the table take for the number 1; a shard's name is no number.
    speaker = _column("shard") | {"transform": {"regex": r"^(.+)-[0-9]+\.tar$"}}
    fields.insert(1, _field("clips", "speaker", speaker, description="subject; folds are made of these"))
    return {
        "@type": "cr:RecordSet",
        "@id": "clips",
        "name": "clips",
        "description": "What became of every source clip.",
        "key": {"@id": "clips/clip_id"},
        "field": fields,
    }


def _samples() -> Json:
    key = {"fileSet": {"@id": _FACES}, "extract": {"fileProperty": "filename"}, "transform": {"regex": "^([^.]+)"}}
    faces = {"fileSet": {"@id": _FACES}, "extract": {"fileProperty": "content"}}
    labels = [_field("samples", name, {"field": {"@id": f"clips/{name}"}}) for name in ("speaker", "emotion")]
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "Filmstrips of 16 aligned faces with their labels. mlcroissant unpacks shards into a cache that "
        "knows them by their names alone: give each folder its own CROISSANT_CACHE.",
        "field": [
            _field("samples", "clip_id", key) | {"references": {"field": {"@id": "clips/clip_id"}}},
            _field("samples", "faces", faces, "sc:ImageObject"),
            *labels,
        ],
    }


def _column(name: str) -> Json:
    return {"fileObject": {"@id": CLIPS_FILE}, "extract": {"column": name}}


def _field(
    records: str, name: str, source: Mapping[str, Any], kind: str = "sc:Text", description: str | None = None
) -> Json:
    told = {"description": description} if description else {}
    return {"@type": "cr:Field", "@id": f"{records}/{name}", "name": name, "dataType": kind, "source": source, **told}
