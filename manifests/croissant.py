"""Croissant metadata, `croissant.json`: describes the folder for dataset search engines and generic tools.

`templates/croissant.json` has the parts common to all folders: the vocabulary and two record sets, the clips and the
samples. Each shard is a file object with size and SHA-256; the pictures in all shards are one file set (with a second,
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
from manifests.schema import dump_json

_TEMPLATE = Path(__file__).parent / "templates" / "croissant.json"


def croissant(dataset: Dataset, *, clips_bytes: int, clips_sha256: str) -> bytes:
    """Content of `croissant.json` for an index, with the size and hash of its `clips.jsonl`."""
    metadata: dict[str, Any] = json.loads(_TEMPLATE.read_bytes())
    licence, kind, picture = licensing.known_licence(dataset), dataset.sample_kind, dataset.members[0]
    digest = hashlib.sha256("".join(sorted(shard.sha256 for shard in dataset.shards)).encode()).hexdigest()
    facts = {
        "name": licensing.about(dataset, "title") or dataset.dataset,
        "description": f"{kind.summary} of audiovisual emotion clips, in WebDataset shards of one speaker "
        f"each. {licensing.about(dataset, 'title')}",
        "license": licence.url if licence else licensing.about(dataset, "licence"),
        "citeAs": licensing.about(dataset, "citation"),
        "url": licensing.about(dataset, "homepage"),
        "rai:personalSensitiveInformation": licensing.PERSONAL_DATA,
        "version": f"{dataset.schema_version}.0.0+{digest[:12]}",
    }
    metadata |= {key: value for key, value in facts.items() if value}
    (faces,), (clips, samples) = metadata["distribution"], metadata["recordSet"]
    members = ", ".join(f"KEY.{name}" for name in dataset.members)
    faces |= {"@id": picture, "name": picture, "includes": f"*.{picture}", "encodingFormat": kind.picture_type}
    faces["description"] = f"{kind.picture}. A sample's members share a key: {members}"
    samples["description"] = f"{kind.record} with their labels. {samples['description']}"
    for column in samples["field"][:2]:  # of the samples' own two columns; the others are those of the clips
        column["source"]["fileSet"] = {"@id": picture}
    samples["field"][1]["dataType"] = kind.picture_class
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
