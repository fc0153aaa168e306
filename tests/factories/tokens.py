"""Folders of shards of tokens, made without recordings and tokenizers: codes that depend on a clip's emotion."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from manifests import folds, index, tokens
from manifests.index import Dataset, Receipt, Row, SpectrogramSums
from manifests.schema import Clip
from manifests.tokens import Codebooks, TokenSample, TokenTiming
from tests.factories.shards import SETTINGS, SPEAKERS, _promised, _tar, sign
from train.lineage import RANDOM, Lineage

CODEBOOKS = Codebooks(audio=256, visual=512)
TOKENIZER = "a" * 64
#: Emotion -> whether it is aroused, which is heard only, and whether it is pleasant, which is seen only.
EMOTIONS = {"joy": (1, 1), "anger": (1, 0), "calm": (0, 1), "sadness": (0, 0)}


def make_codes(key: str, emotion: str, faces: int) -> dict[str, np.ndarray]:
    """Codes of sound and faces: both move with one hidden rhythm, so that either tells something of the other."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    aroused, pleasant = EMOTIONS[emotion]
    rhythm = np.repeat(rng.integers(0, 4, faces // 5 + 1), 5)[:faces]
    audio = 16 * np.repeat(rhythm, 2)[:, None] + 64 * aroused + rng.integers(0, 3, (2 * faces, 64))
    visual = 32 * rhythm[:, None, None] + 128 * pleasant + rng.integers(0, 3, (faces, 24, 24))
    return {"audio": audio.astype(np.uint8), "visual": visual.astype(np.uint16)}


def make_sample(clip: Clip, codes: dict[str, np.ndarray], lead: int = 0, tokenizer: str = TOKENIZER) -> TokenSample:
    """A sample of codes, of which `lead` spectra are before the first face."""
    faces = len(codes["visual"])
    return TokenSample(
        clip=clip,
        timing=TokenTiming(
            span_seconds=(0.0, 0.04 * faces),
            frame_seconds=tuple(0.04 * place for place in range(faces)),
            rate_hz=25.0,
            audio_start_seconds=-0.02 * lead,
            spectra_hz=50.0,
        ),
        codebooks=CODEBOOKS,
        tokenizer=tokenizer,
        face_found=(True,) * faces,
        flags=(),
        source={"path": f"{clip.clip_id}.mp4"},
        **codes,
    )


def make_token_folder(
    out: Path,
    *,
    speakers: Sequence[str] = SPEAKERS,
    takes: int = 2,
    faces: int = 60,
    dataset: str = "folder",
    lineage: Lineage = RANDOM,
    tokenizer: str = TOKENIZER,
    flags: Mapping[str, tuple[str, ...]] | None = None,
) -> Path:
    """Finished shards of clips `<speaker>-<emotion>-<take>` of so many faces; `flags` are of some of these."""
    for name in (index.RECEIPTS, index.FOLDS):
        (out / name).mkdir(parents=True)
    statistics = {f"mfcc_{grid}": SpectrogramSums.of(np.zeros((grid, 13, 224), np.float16)) for grid in (16, 8)}
    receipts = []
    for speaker in speakers:
        path, rows, samples = out / f"{speaker}-000.tar", [], {}
        for emotion in EMOTIONS:
            for take in range(takes):
                key = f"{speaker}-{emotion}-{take}"
                described = {"clip_id": key, "speaker": speaker, "emotion": emotion, "sentence": None}
                samples[key] = tokens.encode(
                    make_sample(Clip(**described), make_codes(key, emotion, faces), tokenizer=tokenizer)
                )
                known = (flags or {}).get(key, ())
                status = "flagged" if known else "built"
                rows.append(Row(**described, status=status, flags=known, source=f"{key}.mp4", shard=path.name))
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
    source = {
        "index_sha256": "0" * 64,
        "tokenizer": tokenizer,
        "codebooks": vars(CODEBOOKS),
        "lineage": json.loads(lineage.dump()),
        "versions": {},
    }
    described = Dataset(
        dataset=dataset,
        kind="tokens",
        complete=True,
        identity={"config": {"dataset": dataset, "features": ["mfcc"], **SETTINGS}, tokens.SOURCE_KEY: source},
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
