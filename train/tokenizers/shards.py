"""Shards of tokens: the codes of finished shards of sequences, for trainings that need neither pictures nor sound.

A clip is encoded by itself, in parts of a fixed size and by one thread: its codes depend on nothing but the clip, the
tokenizers, the version of torch and the kind of device.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from manifests import index, sequence, tokens
from manifests.derived import derive, open_source, read_members
from manifests.download import cancellable_pool
from manifests.files import describe_os_error
from manifests.index import Dataset, ManifestError, Receipt, Row
from manifests.kinds import TOKENS
from manifests.progress import ProgressBar
from manifests.schema import SAMPLE_RATE_HZ, SchemaError
from manifests.shard_writer import ClipResult, ShardName, write_shard
from manifests.tokens import Codebooks, TokenSample, TokenSource, TokenTiming
from train.data.spectrograms import POWER_HOP_SAMPLES, clip_power
from train.models.tokenizer_files import TrainedTokenizers, load_tokenizers
from train.models.vqvae import Tokenizer
from train.tokenizers.setup import check_kind

#: Frames that are encoded at a time: a number of its own, so that nothing else changes a code.
_FACES, _SPECTRA = 64, 1024
#: Packages whose version can change a code.
_VERSIONED = ("multimae-der", "simplejpeg", "torch")


@dataclass(frozen=True, kw_only=True)
class TokensJob:
    """Sequences, tokenizers, and the folder to write."""

    shards: Path
    """Finished shards of sequences; they are only read."""
    weights: str
    """Folder of tokenizers, or of the run that trained them, or hub id."""
    out: Path
    device: torch.device
    workers: int = 2
    """Threads; their number does not change the result."""


@dataclass(frozen=True, kw_only=True)
class TokensSummary:
    """Shards of tokens."""

    dataset: Dataset
    tokenizer: str
    """SHA-256 of the tokenizers."""
    clips: int
    bytes: int
    """Of all tars."""
    source_bytes: int
    """Of those of the sequences."""
    resumed: int
    """Shards that were finished before."""


def make_tokens(job: TokensJob) -> TokensSummary:
    """Write shards of the codes of all clips of `job.shards`, and their index.

    If it is killed at any point, the same call resumes and gives the same bytes. Raises WeightsError for no tokenizers,
    ConfigError for shards that are no sequences of the tokenizers' size and rate, FolderError for a folder that cannot
    be used, ManifestError for damaged shards, BusyError, OSError.
    """
    tokenizers = load_tokenizers(job.weights)
    check_kind(index.load_dataset(job.shards), job.shards)
    source = open_source(job.shards, job.out)
    described = replace(source, kind=TOKENS, identity=_describe_identity(source, job, tokenizers))
    encoder = _ClipEncoder(tokenizers, job.device)

    def write(shards: Sequence[ShardName]) -> None:
        sizes = {shard.name: shard.samples for shard in source.shards}
        clips = sum(sizes.get(shard.name, 0) for shard in shards)
        with (
            ProgressBar(clips, "encoding") as progress,
            cancellable_pool(job.workers, threading.Event()) as pool,
        ):
            for shard in shards:
                receipt = index.load_receipt(job.shards / index.receipt_name(shard.name))
                encode = partial(_encode_row, encoder, job.shards / shard.name, receipt, progress)
                write_shard(job.out, shard, pool.map(encode, receipt.rows), receipt.statistics)

    with _exact():
        written, resumed = derive(job.shards, job.out, described, write)
    return TokensSummary(
        dataset=written.dataset,
        tokenizer=tokenizers.sha256,
        clips=sum(shard.samples for shard in written.dataset.shards),
        bytes=sum(shard.bytes for shard in written.dataset.shards),
        source_bytes=sum(shard.bytes for shard in source.shards),
        resumed=resumed,
    )


class _ClipEncoder:
    """Encodes clips; any thread may."""

    def __init__(self, tokenizers: TrainedTokenizers, device: torch.device) -> None:
        self._model = tokenizers.model.to(device)
        self._sha256 = tokenizers.sha256
        self._codebooks = _codebooks(tokenizers)
        self._device = device

    def __call__(self, members: Mapping[str, bytes]) -> TokenSample:
        """Members of a sample of sequences -> its codes. Raises SchemaError."""
        clip = sequence.decode(members)
        crops = np.stack([sequence.decode_frame(jpeg, clip.side_px) for jpeg in clip.jpegs])
        faces = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2)
        power = clip_power(clip.audio, self._device)
        timing = clip.timing
        return TokenSample(
            clip=clip.clip,
            timing=TokenTiming(
                span_seconds=timing.span_seconds,
                frame_seconds=timing.frame_seconds,
                rate_hz=timing.rate_hz,
                audio_start_seconds=timing.audio_start_seconds,
                spectra_hz=SAMPLE_RATE_HZ / POWER_HOP_SAMPLES,
            ),
            visual=_encode(self._model.visual, [part.float() / 255 for part in faces.split(_FACES)]).astype(np.uint16),
            audio=_encode(self._model.audio, power.split(_SPECTRA)).astype(np.uint8),
            codebooks=self._codebooks,
            tokenizer=self._sha256,
            face_found=clip.face_found,
            flags=clip.flags,
            source=clip.source,
            faces_present=clip.faces_present,
            sound_present=clip.sound_present,
        )


@torch.inference_mode()
def _encode(tokenizer: Tokenizer, parts: Sequence[torch.Tensor]) -> npt.NDArray[np.int64]:
    """Codes of all frames of some parts of a clip."""
    return torch.cat([tokenizer.encode(part) for part in parts]).cpu().numpy()


def _encode_row(encoder: _ClipEncoder, tar: Path, receipt: Receipt, progress: ProgressBar, row: Row) -> ClipResult:
    """The codes of a clip of a finished shard; a dropped one stays dropped. Raises ManifestError."""
    if row.shard is None:
        return ClipResult(row=row, members=None, statistics={})
    try:
        members = tokens.encode(encoder(read_members(tar, receipt, row.clip_id)))
    except SchemaError as error:
        raise ManifestError(f"{tar}: {row.clip_id}: {error}") from error
    except OSError as error:
        raise ManifestError(describe_os_error(error)) from error
    progress.step()
    return ClipResult(row=replace(row, shard=None), members=members, statistics={})


def _describe_identity(source: Dataset, job: TokensJob, tokenizers: TrainedTokenizers) -> dict[str, Any]:
    """Identity of the sequences, and what made tokens of them."""
    versions = {name: metadata.version(name) for name in _VERSIONED}
    made_of = TokenSource(
        index_sha256=index.file_sha256(job.shards / index.DATASET_FILE),
        tokenizer=tokenizers.sha256,
        codebooks=_codebooks(tokenizers),
        lineage=json.loads(tokenizers.lineage.dump()),
        versions={**versions, "device": job.device.type},
    )
    return {**source.identity, tokens.SOURCE_KEY: asdict(made_of)}


def _codebooks(tokenizers: TrainedTokenizers) -> Codebooks:
    model = tokenizers.model
    return Codebooks(audio=len(model.audio.codebook), visual=len(model.visual.codebook))


@contextmanager
def _exact() -> Iterator[None]:
    """Numbers that depend on neither threads nor a choice of algorithms, for the duration of the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
    try:
        with torch.backends.cudnn.flags(**flags):
            yield
    finally:
        torch.set_num_threads(threads)
