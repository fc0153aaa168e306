"""From a configuration to everything that a training of tokenizers needs, checked before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manifests.index import Dataset
from manifests.kinds import SEQUENCES
from manifests.text import pluralize
from train.config import TOKENIZERS, ConfigError, TrainConfig, settings_hash
from train.data.batches import SequenceBatch
from train.data.clip_table import ClipTable
from train.data.loader import Loader
from train.data.missing import FACES, SOUND
from train.data.sampler import ClipSampler
from train.data.windows import WHOLE_CLIPS
from train.distributed import Ranks
from train.fusion import Strategy
from train.lineage import RANDOM
from train.models.tokenizer_files import save_tokenizers
from train.models.vqvae import (
    SIDE_PX,
    AudioTokenizer,
    AudioTokenizerConfig,
    Tokenizers,
    VisualTokenizer,
    VisualTokenizerConfig,
    calibrate,
)
from train.pretraining.base import MODEL, BasePretraining, lineage_after, open_for_pretraining, open_unlabelled
from train.provenance import about_of, build_of, describe_build
from train.recipes import Tokenizing
from train.report.render import render_template
from train.run_setup import check_batch, describe_seen, make_sampler, windows_of
from train.tokenizers.objective import MEASURED_FACES, Reference, Tokenization, faces_of, measure, power_of, present
from train.tokenizers.page import write_page

#: Frames a second of the sequences that tokenizers read.
RATE_HZ = 25


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizerSetup(BasePretraining):
    """A training of tokenizers that is ready to run."""

    result_file: ClassVar[str] = "tokenizers.json"

    model: Tokenizers
    settings: Tokenizing
    """Of its recipe."""

    @property
    def kind(self) -> str:
        """As of every pre-training: runs are `runs/<corpora>/tokenizers`."""
        return TOKENIZERS

    @property
    def depth(self) -> int:
        """There are no blocks."""
        return 0

    @property
    def wrapped_model(self) -> nn.Module:
        """The model for several ranks, not compiled: codebooks change in it."""
        if self.ranks.world_size == 1:
            return self.model
        device_ids = [self.ranks.device] if self.ranks.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=device_ids, find_unused_parameters=True)

    @property
    def measured(self) -> ClipTable:
        """Clips that reconstructions are measured on: of validation speakers or, without any, those trained on."""
        return self.validation_clips if self.validates else self.data.training

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
        """Batches of clips, in random order for training; else with all faces that are measured."""
        return self._loader(clips, make_sampler(self.config, self.ranks, clips, training=training), training=training)

    def make_whole_loader(self, clips: ClipTable) -> Loader:
        """All of some clips, in their order, on every rank, with all faces that are measured."""
        return self._loader(clips, ClipSampler(clips=len(clips), batch_size=16, shuffle=False), training=False)

    def _loader(self, clips: ClipTable, sampler: ClipSampler, *, training: bool) -> Loader:
        if not training:
            clips = replace(clips, members=replace(clips.members, faces=MEASURED_FACES))
        return Loader(
            clips,
            sampler,
            face_px=SIDE_PX,
            windows=windows_of(self.config, "train") if training else WHOLE_CLIPS,
            workers=self.config.workers,
            pin=self.ranks.device.type == "cuda",
            prefetcher=self.data.prefetcher,
        )

    def result(self) -> dict[str, Any]:
        """With scores, of the model whose norms are calibrated."""
        if not self.model.audio.fixed:
            calibrate(self.model.audio, self.reference.power)
        scores = measure(self.model.eval(), self.make_loader(self.measured), self.reference, self.ranks)
        return {**super().result(), "scores": scores}

    def save_model(self, result: Mapping[str, Any]) -> None:
        """As of every pre-training, with a card."""
        data, recipe = self.data, self.config.recipe
        about = about_of(data.trained_parts)
        card = render_template(
            "tokenizers.md.j2",
            corpora=data.name,
            about=about,
            recipe=recipe.name,
            epochs=self.epochs,
            clips=len(data.training),
            measured="validation speakers" if self.validates else "the training clips",
            scores=result["scores"],
            sizes={"sound": len(self.model.audio.codebook), "faces": len(self.model.visual.codebook)},
            lineage=self.lineage,
        )
        details = {"recipe": recipe.name, "tokenizers": asdict(self.settings), "build": build_of(data.parts), **about}
        folder = self.folder / MODEL
        save_tokenizers(self.model, folder, licence=self.licence, lineage=self.lineage, details=details, card=card)

    def write_page(self, result: Mapping[str, Any]) -> None:
        """As of every pre-training."""
        write_page(self, result["scores"])


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
    corpora = open_for_pretraining(config)
    for part in corpora.parts:
        check_kind(part.folder.index, part.name)
    data = open_unlabelled(config, corpora, _strategy(settings))
    if config.selection == "last":
        data = data.with_validation()
    model = make_tokenizers(settings, config.seed)
    log(f"{pluralize(len(data.training), 'clip')} of {data.name}; {describe_sizes(model)}")
    shapes = json.dumps([asdict(model.audio.config), asdict(model.visual.config)])
    return TokenizerSetup(
        config=replace(config, recipe=recipe.for_clips(len(data.training))),
        settings=settings,
        data=data,
        model=model.to(ranks.device),
        origin="random weights",
        licence="this project's own",
        lineage=lineage_after(config, data, RANDOM),
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
