"""Folders of shards of tokens, made without recordings and tokenizers: codes that depend on a clip's emotion."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manifests import folds, index, kinds
from manifests.index import Dataset, Receipt, Row, SpectrogramSums
from tests.factories.shards import SETTINGS, SPEAKERS, _promised, _tar, sign

if "tokens" not in kinds.KINDS:
    kinds.KINDS["tokens"] = kinds.Kind(
        **{**vars(kinds.KINDS["pairs"]), "members": lambda _: ("audio.npy", "visual.npy", "json")}
    )
    kinds._MEMBERS |= {"audio.npy", "visual.npy"}

#: Emotion -> whether it is aroused, which is heard only, and whether it is pleasant, which is seen only.
EMOTIONS = {"joy": (1, 1), "anger": (1, 0), "calm": (0, 1), "sadness": (0, 0)}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def make_codes(key: str, emotion: str, faces: int) -> dict[str, np.ndarray]:
    """Codes of sound and faces: both move with one hidden rhythm, so that either tells something of the other."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    aroused, pleasant = EMOTIONS[emotion]
    rhythm = np.repeat(rng.integers(0, 4, faces // 5 + 1), 5)[:faces]
    audio = 16 * np.repeat(rhythm, 2)[:, None] + 64 * aroused + rng.integers(0, 3, (2 * faces, 64))
    visual = 32 * rhythm[:, None, None] + 128 * pleasant + rng.integers(0, 3, (faces, 24, 24))
    return {"audio.npy": audio.astype(np.uint8), "visual.npy": visual.astype("<u2")}


def make_token_folder(
    out: Path, *, speakers: Sequence[str] = SPEAKERS, takes: int = 2, faces: int = 60, dataset: str = "folder"
) -> Path:
    """Finished shards of clips `<speaker>-<emotion>-<take>` of so many faces."""
    for name in (index.RECEIPTS, index.FOLDS):
        (out / name).mkdir(parents=True)
    statistics = {f"mfcc_{grid}": SpectrogramSums.of(np.zeros((grid, 13, 224), np.float16)) for grid in (16, 8)}
    receipts = []
    for speaker in speakers:
        path, rows, samples = out / f"{speaker}-000.tar", [], {}
        for emotion in EMOTIONS:
            for take in range(takes):
                key = f"{speaker}-{emotion}-{take}"
                members = {name: npy(codes) for name, codes in make_codes(key, emotion, faces).items()}
                samples[key] = members | {"json": json.dumps({"clip_id": key}).encode()}
                described = {"clip_id": key, "speaker": speaker, "emotion": emotion, "sentence": None}
                rows.append(Row(**described, status="built", source=f"{key}.mp4", shard=path.name))
        path.write_bytes(_tar(samples))
        receipt = Receipt(
            shard=path.name,
            speaker=speaker,
            plan="0" * 64,
            sha256=index.file_sha256(path),
            bytes=path.stat().st_size,
            members=index.member_byte_ranges(path),
            rows=tuple(rows),
            statistics=statistics,
        )
        (out / index.receipt_name(path.name)).write_bytes(index.dump_receipt(receipt))
        receipts.append(receipt)
    shards = tuple(_promised(out, receipt) for receipt in receipts)
    rows = [row for receipt in receipts for row in receipt.rows]
    scheme = folds.leave_one_speaker_out(dataset, speakers)
    assignment = folds.assign(scheme, {each.name: each.speaker for each in shards}, [vars(row) for row in rows])
    described = Dataset(
        dataset=dataset,
        kind="tokens",
        complete=True,
        identity={"config": {"dataset": dataset, "features": ["mfcc"], **SETTINGS}},
        about={"title": "A folder", "licence": "CC0 1.0", "citation": "Nobody, 2026"},
        label_schemes=(),
        fold_schemes=(folds.LOSO,),
        counts={"built": len(rows)},
        shards=shards,
    )
    (out / index.FOLDS / f"{folds.LOSO}.json").write_bytes(folds.dump_fold_file(assignment))
    (out / index.CLIPS_FILE).write_bytes(index.dump_rows(rows))
    (out / index.DATASET_FILE).write_bytes(index.dump_dataset(described))
    (out / "README.md").write_text("made by a test\n")
    sign(out)
    return out
