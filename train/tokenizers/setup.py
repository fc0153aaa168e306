"""From a configuration to everything that a training of tokenizers needs, checked before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from manifests.files import atomic_write
from manifests.index import Dataset
from manifests.joined_folds import WHOLE
from manifests.kinds import SEQUENCES
from manifests.labels import NO_LABELS
from manifests.text import pluralize
from train.checkpoint import Checkpoints
from train.config import TOKENIZERS, ConfigError, TrainConfig, settings_hash
from train.data.batches import SequenceBatch
from train.data.clip_table import ClipTable
from train.data.corpora import Corpora, open_corpora, open_whole
from train.data.fold_data import FoldData, open_fold
from train.data.loader import Loader
from train.data.missing import FACES, SOUND
from train.data.sampler import ClipSampler
from train.data.shard_folder import Check
from train.data.windows import WHOLE_CLIPS
from train.distributed import Ranks
from train.fusion import Strategy
from train.lineage import RANDOM, Lineage
from train.metric_logger import MetricLogger
from train.models.vqvae import (
    SIDE_PX,
    AudioTokenizer,
    AudioTokenizerConfig,
    Tokenizers,
    VisualTokenizer,
    VisualTokenizerConfig,
)
from train.optim import make_optimizer
from train.provenance import build_of, describe_build
from train.recipes import Tokenizing
from train.run_setup import (
    ancestor_of,
    check_batch,
    check_same_settings,
    config_record,
    describe_seen,
    make_sampler,
    windows_of,
)
from train.runs import RUN_CONFIG_FILE
from train.tokenizers.objective import Reference, Tokenization, faces_of, power_of, present
from train.trainer import Trainer

#: Written last into the folder of a run: it is finished.
RESULT_FILE = "tokenizers.json"
#: Folder of the model in that of a run.
MODEL = "model"
#: Frames a second of the sequences that tokenizers read.
RATE_HZ = 25


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizerSetup:
    """A training of tokenizers that is ready to run."""

    config: TrainConfig
    settings: Tokenizing
    """Of its recipe."""
    data: FoldData
    """Without labels."""
    model: Tokenizers
    """On the device."""
    lineage: Lineage
    """Of the weights after this training."""
    ranks: Ranks
    log: Callable[[str], None]
    identity: dict[str, Any]
    """What must be equal to resume, beside the settings."""

    @property
    def folder(self) -> Path:
        """Folder of this run: `runs/<corpora>/tokenizers`, with the fold and the seed, if any."""
        config = self.config
        fold = "" if config.fold == WHOLE else f"-{config.fold}"
        seed = f"-seed-{config.seed}" if config.seed else ""
        return Path(config.runs) / self.data.name / f"{TOKENIZERS}{fold}{seed}"

    @property
    def epochs(self) -> int:
        """Epochs to train."""
        assert self.config.recipe.epochs is not None
        return self.config.recipe.epochs

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of this training."""
        return Checkpoints(folder=self.folder, lineage=self.lineage)

    @property
    def part(self) -> str:
        """There is one."""
        return ""

    @property
    def validates(self) -> bool:
        """Whether there are validation speakers."""
        return self.config.selection != "last"

    @property
    def measured(self) -> ClipTable:
        """Clips that reconstructions are measured on: of validation speakers or, without any, those trained on."""
        return self.data.clips("validation") if self.validates else self.data.training

    @cached_property
    def reference(self) -> Reference:
        """Spectra of all training clips, or of so many as there are spectra, and the mean of their faces."""
        clips, most = self.data.training, self.settings.calibration_spectra
        if len(clips) > most:
            clips = clips.take(np.linspace(0, len(clips) - 1, most).round().astype(np.int64))
        spectra, face, faces = list[Tensor](), torch.zeros(3, SIDE_PX, SIDE_PX, dtype=torch.float64), 0
        for batch in self.make_whole_loader(clips).epoch(0):
            sequences = cast(SequenceBatch, batch)
            heard, seen = present(sequences, SOUND), present(sequences, FACES)
            for row in range(len(batch)):
                if heard[row]:
                    power = power_of(sequences, row)
                    chosen = torch.linspace(0, len(power) - 1, min(-(-most // len(clips)), len(power))).round().long()
                    spectra.append(power[chosen])
            shown = faces_of(sequences).unflatten(0, (len(batch), -1))[seen].flatten(0, 1)
            face, faces = face + shown.double().sum(dim=0), faces + len(shown)
        device = self.ranks.device
        return Reference(torch.cat(spectra).to(device), (face / max(faces, 1)).float().to(device))

    @property
    def objective(self) -> Tokenization:
        """What is learned."""
        return Tokenization(
            settings=self.settings,
            reference=lambda: self.reference,
            fixed_after=self.epochs - round(self.settings.fixed_share * self.epochs),
            seed=self.config.seed,
        )

    def make_loader(self, clips: ClipTable, *, training: bool = False) -> Loader:
        """Batches of clips, in random order for training."""
        return self._loader(clips, make_sampler(self.config, self.ranks, clips, training=training), training=training)

    def make_whole_loader(self, clips: ClipTable) -> Loader:
        """All of some clips, in their order, on every rank."""
        return self._loader(clips, ClipSampler(clips=len(clips), batch_size=16, shuffle=False), training=False)

    def _loader(self, clips: ClipTable, sampler: ClipSampler, *, training: bool) -> Loader:
        return Loader(
            clips,
            sampler,
            face_px=SIDE_PX,
            windows=windows_of(self.config, "train") if training else WHOLE_CLIPS,
            workers=self.config.workers,
            pin=self.ranks.device.type == "cuda",
            prefetcher=self.data.prefetcher,
        )

    def make_trainer(self, logger: MetricLogger) -> Trainer:
        """The training loop of this run, its model wrapped for several ranks."""
        config, ranks, model = self.config, self.ranks, self.model
        on_gpu = ranks.device.type == "cuda"
        return Trainer(
            model=model,
            compiled_model=model  # not compiled: codebooks change in it
            if ranks.world_size == 1
            else DistributedDataParallel(
                model, device_ids=[ranks.device] if on_gpu else None, find_unused_parameters=True
            ),
            objective=self.objective,
            optimizer=make_optimizer(model, 0, config.recipe),
            config=config,
            train_loader=self.make_loader(self.data.training, training=True),
            val_loader=self.make_loader(self.measured) if self.validates else None,
            ranks=ranks,
            checkpoints=self.checkpoints,
            logger=logger,
        )

    def is_finished(self) -> bool:
        """Whether the tokenizers are there. Raises ConfigError if they were trained with other settings."""
        started = self.checkpoints.started or (self.folder / RESULT_FILE).is_file()
        check_same_settings(self.folder / RUN_CONFIG_FILE, self._config_record()["identity"], started=started)
        return (self.folder / RESULT_FILE).is_file()

    def write_config(self) -> None:
        """Write config.json, unless the run is resumed."""
        path = self.folder / RUN_CONFIG_FILE
        if self.ranks.is_main and not (path.is_file() and self.checkpoints.started):
            atomic_write(path, (json.dumps(self._config_record(), indent=1, sort_keys=True) + "\n").encode())
        self.ranks.barrier()

    def _config_record(self) -> dict[str, Any]:
        return config_record(self.config, self.ranks, self.identity)


def prepare_tokenizers(config: TrainConfig, ranks: Ranks, log: Callable[[str], None]) -> TokenizerSetup:
    """Open and check everything that a training of tokenizers needs. Raises the errors of `open_fold`, ConfigError.

    `config.fold` is a fold whose test speakers are left out, or `whole` for all speakers, a fifth of whom validate;
    with the selection `last` validation speakers are trained on, too.
    """
    recipe, settings = config.recipe, config.recipe.tokenizers
    if settings is None:
        raise ConfigError(f"recipe {recipe.name}: found no table tokenizers, expected a recipe such as tokenizers")
    if config.micro_batches > 1:
        raise ConfigError(
            f"micro_batches: found {config.micro_batches}, expected 1: batch norms and codebooks see a whole batch"
        )
    check_batch(recipe, ranks)
    corpora = _open(config)
    for part in corpora.parts:
        check_kind(part.folder.index, part.name)
    data = open_fold(
        corpora,
        config.fold,
        strategy=_strategy(settings),
        feature=config.feature,
        label_scheme=NO_LABELS,
        unlabelled=True,
        validation=config.selection != "last",
        check=cast(Check, config.check),
    )
    if config.selection == "last":
        data = data.with_validation()
    lineage = RANDOM
    for trained in data.trained_parts:
        lineage = lineage.after(ancestor_of(config, trained, labels=None))
    model = make_tokenizers(settings, config.seed)
    log(f"{pluralize(len(data.training), 'clip')} of {data.name}; {describe_sizes(model)}")
    shapes = json.dumps([asdict(model.audio.config), asdict(model.visual.config)])
    return TokenizerSetup(
        config=replace(config, recipe=recipe.for_clips(len(data.training))),
        settings=settings,
        data=data,
        model=model.to(ranks.device),
        lineage=lineage,
        ranks=ranks,
        log=log if ranks.is_main else lambda _: None,
        identity={
            "build": describe_build(build_of(data.parts)),
            "windows": describe_seen(recipe, data),
            "settings": settings_hash(config, shapes, data.sha256),
        },
    )


def make_tokenizers(settings: Tokenizing, seed: int) -> Tokenizers:
    """Tokenizers with random weights on the CPU, the same for the same seed."""
    torch.manual_seed(seed)
    following = {"decay": settings.decay, "dead_share": settings.dead_share, "seed": seed}
    audio = AudioTokenizerConfig(residual_layers=settings.audio_residual_layers)
    visual = VisualTokenizerConfig(hidden=settings.visual_hidden, residual_hidden=settings.visual_residual_hidden)
    return Tokenizers(AudioTokenizer(audio, **following), VisualTokenizer(visual, **following))


def describe_sizes(model: Tokenizers) -> str:
    """How large both are, in words."""
    sizes = {
        name: sum(each.numel() for each in tokenizer.parameters()) + tokenizer.codebook.numel()
        for name, tokenizer in (("sound", model.audio), ("faces", model.visual))
    }
    return ", ".join(f"tokenizer of {name}: {size:,} parameters" for name, size in sizes.items())


def _strategy(settings: Tokenizing) -> Strategy:
    """What is read of a clip: so many faces, and its sound."""
    return Strategy(name=TOKENIZERS, faces=settings.faces, windows=16, order=0, rule=lambda pairs: pairs.faces)


def _open(config: TrainConfig) -> Corpora:
    if config.fold == WHOLE:
        return open_whole(config.locations, validation=config.selection != "last")
    schemes = [config.fold_scheme] if isinstance(config.fold_scheme, str) else config.fold_scheme or ()
    return open_corpora(config.locations, schemes=schemes, allow_shared_speakers=config.allow_shared_speakers)


def check_kind(dataset: Dataset, where: str | Path) -> None:
    """Raise ConfigError, beginning with `where`, for shards whose frames a tokenizer cannot take."""
    kind, build = dataset.kind, dataset.identity["config"]
    side_px, rate_hz = build.get("size_px"), build.get("rate_hz")
    if (kind, side_px, rate_hz) != (SEQUENCES, SIDE_PX, RATE_HZ):
        frames = f" of {side_px} pixels at {f'{rate_hz:g}' if rate_hz else 'any number of'} frames a second"
        raise ConfigError(
            f"{where}: found {kind}{frames if kind == SEQUENCES else ''}, expected {SEQUENCES} of {SIDE_PX} pixels at "
            f"{RATE_HZ} frames a second: build them with make shards FRAMES=all RATE={RATE_HZ} SIZE={SIDE_PX}"
        )
