"""Croissant metadata, `croissant.json`: describes the folder for dataset search engines and generic tools.

`templates/croissant.json` has the parts common to all folders: the vocabulary and two record sets, the clips and the
samples. Each shard is a file object with size and SHA-256; the faces in all shards are one file set (with a second one,
mlcroissant takes time quadratic in the shards). A clip's speaker is read from its shard's name, because readers parse
a speaker `01` as the number 1. There is no date: a folder depends only on the recordings and the settings.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from manifests import licensing
from manifests.index import CLIPS_FILE, Dataset
from manifests.schema import dump_json, member_names

_TEMPLATE = Path(__file__).parent / "templates" / "croissant.json"


def croissant(dataset: Dataset, *, clips_bytes: int, clips_sha256: str) -> bytes:
    """Content of `croissant.json` for an index, with the size and hash of its `clips.jsonl`."""
    metadata: dict[str, Any] = json.loads(_TEMPLATE.read_bytes())
    licence = licensing.known_licence(dataset)
    digest = hashlib.sha256("".join(sorted(shard.sha256 for shard in dataset.shards)).encode()).hexdigest()
    facts = {
        "name": licensing.about(dataset, "title") or dataset.dataset,
        "description": "Aligned face crops, spectrograms and sound of audiovisual emotion clips, in WebDataset shards "
        f"of one speaker each. {licensing.about(dataset, 'title')}",
        "license": licence.url if licence else licensing.about(dataset, "licence"),
        "citeAs": licensing.about(dataset, "citation"),
        "url": licensing.about(dataset, "homepage"),
        "rai:personalSensitiveInformation": licensing.PERSONAL_DATA,
        "version": f"{dataset.schema_version}.0.0+{digest[:12]}",
    }
    metadata |= {key: value for key, value in facts.items() if value}
    (faces,), (clips, samples) = metadata["distribution"], metadata["recordSet"]
    faces["description"] += ", ".join(f"KEY.{name}" for name in member_names(dataset.features))
    faces["containedIn"] = [{"@id": shard.name} for shard in dataset.shards]
    files = [_file_object(CLIPS_FILE, clips_bytes, clips_sha256, "application/jsonlines")]
    files += [_file_object(shard.name, shard.bytes, shard.sha256, "application/x-tar") for shard in dataset.shards]
    metadata["distribution"] = [*files, faces] if dataset.shards else files
    metadata["recordSet"] = [clips, samples] if dataset.shards else [clips]
    return (dump_json(metadata) + "\n").encode()


def _file_object(name: str, size: int, sha256: str, media_type: str) -> dict[str, str]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": media_type,
        "sha256": sha256,
    }
