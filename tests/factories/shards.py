"""Complete folders of shards, made without any recording and with the contract alone."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from manifests import folds, index
from manifests.index import Dataset, Receipt, Row, Shard, SpectrogramSums
from manifests.schema import Clip, Sample, Timing, encode, spectrogram_shape

SPEAKERS = ("anna", "ben", "cleo", "dora")
EMOTIONS = ("fear", "joy")
#: Of a build, as far as they change what a clip looks like.
SETTINGS = {"timeline": "uniform", "step_frames": 6, "crop": "aligned", "align": "frame", "decoder": "pyav"}


def make_folder(
    out: Path,
    *,
    dataset: str = "folder",
    speakers: Sequence[str] = SPEAKERS,
    emotions: Sequence[str | None] = EMOTIONS,
    takes: int = 2,
    features: Sequence[str] = ("mfcc",),
    label_schemes: tuple[str, ...] = (),
    sentences: Sequence[str] = (),
) -> Path:
    """Finished shards of clips `<speaker>-<emotion>-<take>`, `takes` of each, with folds that leave one speaker out.

    `sentences` are those of the takes, in turn.
    """
    for name in (index.RECEIPTS, index.FOLDS):
        (out / name).mkdir(parents=True)
    said = [sentences[take % len(sentences)] if sentences else None for take in range(takes)]
    receipts = [_write_shard(out, speaker, emotions, said, features) for speaker in speakers]
    shards = tuple(_promised(out, receipt) for receipt in receipts)
    rows = [row for receipt in receipts for row in receipt.rows]
    named = {shard.name: shard.speaker for shard in shards}
    scheme = folds.leave_one_speaker_out(dataset, speakers)
    assignment = folds.assign(scheme, named, [vars(row) for row in rows])
    described = Dataset(
        dataset=dataset,
        complete=True,
        identity={"config": {"dataset": dataset, "features": list(features), **SETTINGS}},
        about={"title": "A folder", "licence": "CC0 1.0", "citation": "Nobody, 2026"},
        label_schemes=label_schemes,
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


def sign(folder: Path) -> None:
    """Make SHA256SUMS agree with what is there, as whoever tampers with a folder would."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != index.SUMS_FILE)
    sums = {path.relative_to(folder).as_posix(): index.file_sha256(path) for path in files}
    (folder / index.SUMS_FILE).write_bytes(index.dump_checksums(sums))


def make_sample(clip: Clip, features: Sequence[str] = ("mfcc",)) -> Sample:
    """A sample that depends on the clip's id alone: smooth faces, noise for spectrograms."""
    rng = np.random.default_rng(zlib.crc32(clip.clip_id.encode()))
    return Sample(
        clip=clip,
        timing=Timing(
            span_seconds=(0.0, 1.6),
            instants_seconds=tuple(0.05 + 0.1 * i for i in range(16)),
            frame_seconds=tuple(0.05 + 0.1 * i for i in range(16)),
            step_seconds=0.1,
            audio_start_seconds=0.0,
        ),
        faces=np.kron(rng.integers(0, 256, (16, 7, 7, 3), np.uint8), np.ones((1, 32, 32, 1), np.uint8)),
        spectrograms={
            f"{feature}_{grid}": rng.normal(-40, 20, spectrogram_shape(f"{feature}_{grid}")).astype(np.float16)
            for feature in features
            for grid in (16, 8)
        },
        audio=rng.integers(-3000, 3000, 400, np.int16),
        transforms=((1.0, 0.0, 0.0, 0.0, 1.0, 0.0),) * 16,
        face_found=(True,) * 16,
        flags=(),
        source={"path": f"{clip.clip_id}.mp4"},
    )


def _write_shard(
    out: Path, speaker: str, emotions: Sequence[str | None], said: Sequence[str | None], features: Sequence[str]
) -> Receipt:
    clips = [
        Clip(clip_id=f"{speaker}-{emotion}-{take}", speaker=speaker, emotion=emotion, sentence=sentence)
        for emotion in emotions
        for take, sentence in enumerate(said)
    ]
    samples = [make_sample(clip, features) for clip in clips]
    path = out / f"{speaker}-000.tar"
    path.write_bytes(_tar({sample.clip.clip_id: encode(sample) for sample in samples}))
    receipt = Receipt(
        shard=path.name,
        speaker=speaker,
        plan="0" * 64,
        sha256=index.file_sha256(path),
        bytes=path.stat().st_size,
        members=index.member_byte_ranges(path),
        rows=tuple(_row(clip, path.name) for clip in clips),
        statistics=_statistics(samples),
    )
    (out / index.receipt_name(path.name)).write_bytes(index.dump_receipt(receipt))
    return receipt


def _row(clip: Clip, shard: str) -> Row:
    return Row(
        clip_id=clip.clip_id,
        speaker=clip.speaker,
        emotion=clip.emotion,
        sentence=clip.sentence,
        status="built",
        source=f"{clip.clip_id}.mp4",
        shard=shard,
    )


def _tar(samples: Mapping[str, Mapping[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _statistics(samples: Sequence[Sample]) -> dict[str, SpectrogramSums]:
    names = samples[0].spectrograms
    sums = {name: [SpectrogramSums.of(sample.spectrograms[name]) for sample in samples] for name in names}
    return {name: sum(parts[1:], start=parts[0]) for name, parts in sums.items()}


def _promised(out: Path, receipt: Receipt) -> Shard:
    return Shard(
        name=receipt.shard,
        speaker=receipt.speaker,
        sha256=str(receipt.sha256),
        bytes=receipt.bytes,
        samples=len(receipt.members),
        receipt_sha256=index.file_sha256(out / index.receipt_name(receipt.shard)),
    )
