"""The objective of VQ-MAE-AV's pre-training: codes of hidden tokens, and pairs of sound and face (paper 3.6).

No label is used. What a model has learned is measured on clips of validation speakers that have both sound and a face,
with masks that are always the same. All hidden codes are predicted then, whatever share of the tokens a training
decodes (`decoded`):

    accuracy            of hidden codes, with coupled masks as in training
    place               the same of a guess that knows no clip: at each place of the window, the most frequent code
                        that training clips have there
    unigram             the same of the most frequent code of the measured clips, whatever the place
    accuracy_90         with 90 % of each modality hidden
    accuracy_90_swapped
                        the same, the codes of the other modality being those of another clip
    accuracy_90_alone   the same, the other modality hidden wholly
    accuracy_other      of a modality that is hidden wholly, from the other one, all of which is visible
    accuracy_other_swapped
                        the same, from the other modality of another clip
    retrieval           how often a clip's face is the most similar one to its sound, among those of 15 other clips,
                        evenly spaced over all: each global token is of one modality only
    retrieval_near      the same among the 15 clips that follow, mostly of the same speaker: whose voice it is, and how
                        long a clip lasts, says less there

What a modality says of the other one is the difference to the swapped accuracy: as many tokens are visible, at the same
places. `accuracy_90_alone` is no such control: it is of one and the same model, which sees fewer tokens there than ever
in training, and says nothing of a model of one modality. The other clip is the next one of the table, mostly of the
same speaker, and of the last one the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from train.classification import autocast
from train.data.augment import ClipDraws
from train.data.clip_table import ClipTable
from train.data.loader import Loader
from train.data.missing import FACES, SOUND, WHOLLY
from train.data.token_masks import TokenMasks, draw_fixed_masks, draw_masks
from train.data.token_reader import TokenBatch
from train.data.token_transform import window_codes
from train.distributed import Ranks
from train.models.vq_mae_av import AUDIO, VISUAL, Predicted, VqMaeConfig
from train.models.vq_mae_losses import HiddenCodes, nt_xent
from train.recipes import TokenPretraining

#: Epoch that masks of a validation are drawn from, which no training has: the same after each epoch.
VALIDATION_EPOCH = 0
#: Clips whose faces are compared with a sound.
RETRIEVED_AMONG = 16
#: Name of a measure -> whether its other clips are those that follow, or evenly spaced ones.
RETRIEVALS = {"retrieval": False, "retrieval_near": True}
#: Cosines that differ by less are a tie: corpora have clips with the same recording of a face.
_TIE = 1e-5
_HIDDEN = 0.9
_MODALITIES = {AUDIO: SOUND, VISUAL: FACES}


@dataclass(kw_only=True)
class Measures:
    """Sums over clips, of all ranks once `HiddenCodesObjective.measure` gives them."""

    sums: dict[str, float] = field(default_factory=dict)
    """Name -> sum of losses, of right codes, or of codes."""
    counts: dict[str, Tensor] = field(default_factory=dict)
    """Modality -> int64 [K] hidden codes."""
    pooled: dict[str, Tensor] = field(default_factory=dict)
    """Modality -> unit vectors [clips, D] of the global tokens of all clips; {} without."""

    def scores(self) -> dict[str, float]:
        """Numbers for the log."""
        clips = self.sums["clips"]
        losses = ("loss", "generative", "contrastive")
        scores = {f"validation_{name}": self.sums[name] / clips for name in losses if name in self.sums}
        for name, counts in self.counts.items():
            scores[f"{name}_unigram"] = float(counts.max() / counts.sum().clamp(min=1))
        for name in self.sums:
            if name.startswith("right "):
                scores[name.removeprefix("right ")] = self.sums[name] / max(self.sums[f"codes {name[6:]}"], 1)
        if self.pooled:
            scores |= {name: float(self.retrieved(near=near).mean()) for name, near in RETRIEVALS.items()}
        return scores

    def retrieved(self, *, near: bool) -> Tensor:
        """float [clips] 1 where the most similar face is that of the clip, 1 / n in a tie of n, else 0."""
        audio, visual = (self.pooled[name] for name in (AUDIO, VISUAL))
        count = len(audio)
        apart = 1 if near else max(1, count // RETRIEVED_AMONG)
        steps = apart * torch.arange(min(RETRIEVED_AMONG, count))
        others = (torch.arange(count)[:, None] + steps) % count  # its own first
        similarity = (audio[:, None] * visual[others]).sum(-1)
        best = similarity >= similarity.amax(dim=1, keepdim=True) - _TIE
        return best[:, 0] / best.sum(1)


class _Condition(NamedTuple):
    """What a model is shown of clips, and what is measured then."""

    hidden: dict[str, float]
    """Modality -> share of its tokens that is hidden."""
    measured: dict[str, str]
    """Modality -> name of the accuracy of its hidden codes."""
    swapped: str = ""
    """Modality whose codes are those of another clip; "" for none."""
    pooled: str = ""
    """Modality whose global token is compared, as the only one that is visible; "" for none."""


@dataclass(kw_only=True, eq=False)
class HiddenCodesObjective:
    """Trains a `VqMae`; the last epoch is kept."""

    shape: VqMaeConfig
    settings: TokenPretraining
    ranks: Ranks
    most: int
    """Clips that a rank has in a step, at most."""
    make_loader: Callable[[ClipTable], Loader]
    """Batches of clips in their order, in windows of a validation."""
    common_codes: Callable[[], Mapping[str, Tensor]]
    """What `most_frequent_codes` finds in training clips, which is counted once, when it is first measured."""
    seed: int = 0
    selects_epoch: bool = False

    def loss(self, model: Callable[..., Predicted], batch: TokenBatch, epoch: int) -> Tensor:
        """Sum of the clips' losses, []; the contrastive one compares them with the clips of all ranks."""
        draws = ClipDraws(keys=batch.draw_keys, seed=self.seed, epoch=epoch)
        masks = draw_masks(self.settings, self._tokens, draws).to(batch.labels.device)
        losses, _ = self._losses(model, window_codes(batch, 0, self.shape), masks, batch.missing)
        return losses["loss"].sum()

    def validate(self, model: nn.Module, loader: Loader, ranks: Ranks, micro_batches: int) -> dict[str, float]:  # noqa: ARG002
        """What `Measures.scores` has of the clips of a loader."""
        return self.measure(model, loader).scores()

    def describe(self, scores: dict[str, float]) -> str:
        """Loss, accuracies beside those of the most frequent code of each place, and retrieval."""
        parts = [f"{scores['validation_loss']:.3f}"]
        for name in self.shape.shapes:
            if f"{name}_accuracy" in scores:
                right, place = (100 * scores[f"{name}_{what}"] for what in ("accuracy", "place"))
                parts.append(f"{name} codes {right:.1f} % (of the place {place:.1f})")
        if "retrieval" in scores:
            parts.append(f"face from sound {100 * scores['retrieval']:.1f} %")
        return ", ".join(parts)

    @torch.inference_mode()
    def measure(self, model: nn.Module, loader: Loader) -> Measures:
        """Measures of all clips of a loader, the same on every rank. Leaves the model in evaluation mode.

        Every clip has all modalities of the model.
        """
        model.eval()
        device, sums = self.ranks.device, dict[str, Tensor]()
        settings, conditions = replace(self.settings, decoded=1.0), self._conditions(len(loader.clips))
        swaps = any(condition.swapped for condition in conditions)
        counts = {name: torch.zeros(shape.codes, device=device) for name, shape in self.shape.shapes.items()}
        alone: dict[str, list[Tensor]] = {name: [] for name in self.shape.shapes}

        def add(name: str, value: Tensor) -> None:
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64, device=device)) + value.sum()

        for batch, codes, swapped in self._batches(loader, swaps=swaps):
            draws = ClipDraws(keys=batch.draw_keys, seed=self.seed, epoch=VALIDATION_EPOCH)
            masks = draw_masks(settings, self._tokens, draws).to(device)
            losses, found = self._losses(model, codes, masks, batch.missing)
            add("clips", torch.ones(len(batch), device=device))
            for name, each in losses.items():
                add(name, each)
            for name, logits in found.logits.items():
                expected = self._hidden(codes, masks, name)
                add(f"right {name}_accuracy", expected.correct(logits.argmax(-1)))
                add(f"codes {name}_accuracy", expected.counts)
                guessed = {name: self.common_codes()[name].expand_as(codes[name])}
                add(f"right {name}_place", expected.correct(self._hidden(guessed, masks, name).codes))
                add(f"codes {name}_place", expected.counts)
                kept = expected.codes[expected.hidden].flatten()
                counts[name] += torch.bincount(kept, minlength=len(counts[name]))
            for condition in conditions:
                visible, decoded = draw_fixed_masks(condition.hidden, self._tokens, draws).to(device)
                # Of a modality that is not measured a token is enough: of all of them, logits are the largest tensor.
                few = {name: each if name in condition.measured else each[:, :1] for name, each in decoded.items()}
                fixed = TokenMasks(visible, few)
                shown = {name: (swapped if name == condition.swapped else codes)[name] for name in codes}
                found = self._predict(model, shown, fixed)
                for name, measure in condition.measured.items() if found.logits else ():
                    expected = self._hidden(codes, fixed, name)
                    add(f"right {measure}", expected.correct(found.logits[name].argmax(-1)))
                    add(f"codes {measure}", expected.counts)
                if condition.pooled and found.pooled:
                    alone[condition.pooled].append(functional.normalize(found.pooled[condition.pooled].float(), dim=1))
        clips = torch.from_numpy(np.concatenate(loader.sampler.batches(0))).to(device)
        pooled = {}
        for name, parts in alone.items():
            if parts:
                vectors = torch.zeros(loader.sampler.clips, parts[0].shape[1], device=device)
                vectors[clips] = torch.cat(parts)
                pooled[name] = self.ranks.sum(vectors).cpu()
        return Measures(
            sums={name: float(self.ranks.sum(each)) for name, each in sums.items()},
            counts={name: self.ranks.sum(each).cpu() for name, each in counts.items() if self.settings.generative},
            pooled=pooled,
        )

    def _batches(
        self, loader: Loader, *, swaps: bool
    ) -> Iterator[tuple[TokenBatch, dict[str, Tensor], dict[str, Tensor]]]:
        """Batches on the device, their codes, and with `swaps` the codes of the next clip of each; else their own.

        The next clip is that of the table, and of the last one the first: it depends on neither batches nor ranks.
        """
        loaders = [loader]
        if swaps:
            loaders.append(self.make_loader(loader.clips.take(np.roll(np.arange(len(loader.clips)), -1))))
        for batches in zip(*(each.epoch(0) for each in loaders), strict=True):
            moved = [cast(TokenBatch, each.to(self.ranks.device)) for each in batches]
            yield moved[0], window_codes(moved[0], 0, self.shape), window_codes(moved[-1], 0, self.shape)

    @property
    def _tokens(self) -> dict[str, int]:
        return {name: shape.tokens for name, shape in self.shape.shapes.items()}

    def _conditions(self, clips: int) -> list[_Condition]:
        """What is measured of so many clips; there is no other one of a single clip."""
        names, settings = list(self.shape.shapes), self.settings
        most = dict.fromkeys(names, _HIDDEN)
        conditions = [_Condition(most, {name: f"{name}_accuracy_90" for name in names})]
        for name, other in ((AUDIO, VISUAL), (VISUAL, AUDIO)) if len(names) > 1 else ():
            from_other = {name: 1.0, other: 0.0}
            conditions += [
                _Condition({name: _HIDDEN, other: 1.0}, {name: f"{name}_accuracy_90_alone"}),
                _Condition(from_other, {name: f"{name}_accuracy_other"}, pooled=other),
            ]
            if clips > 1:
                conditions += [
                    _Condition(most, {name: f"{name}_accuracy_90_swapped"}, swapped=other),
                    _Condition(from_other, {name: f"{name}_accuracy_other_swapped"}, swapped=other),
                ]
        return [each for each in conditions if settings.generative or (each.pooled and settings.contrastive)]

    def _predict(self, model: Callable[..., Predicted], codes: Mapping[str, Tensor], masks: TokenMasks) -> Predicted:
        with autocast(self.ranks.device):
            return model(codes, *masks, self.shape.slots)

    def _hidden(self, codes: Mapping[str, Tensor], masks: TokenMasks, name: str) -> HiddenCodes:
        return HiddenCodes.of(codes[name], masks.visible[name], masks.decoded[name], self.shape.shapes[name].tube)

    def _losses(
        self,
        model: Callable[..., Predicted],
        codes: Mapping[str, Tensor],
        masks: TokenMasks,
        missing: Sequence[int],
    ) -> tuple[dict[str, Tensor], Predicted]:
        """Name -> losses of clips [B], their weighted sum as `loss`; and what the model predicts.

        A modality that a clip's recording does not have is hidden wholly and not predicted; such a clip is in no pair.
        """
        device = self.ranks.device
        lacking = {name: _lacking(missing, name).to(device) for name in self.shape.shapes}
        visible = {name: mask & ~lacking[name][:, None] for name, mask in masks.visible.items()}
        masks = TokenMasks(visible, masks.decoded)
        found = self._predict(model, codes, masks)
        losses, settings = dict[str, Tensor](), self.settings
        if found.logits:
            parts = [
                self._hidden(codes, masks, name).cross_entropy(logits).masked_fill(lacking[name], 0)
                for name, logits in found.logits.items()
            ]
            losses["generative"] = torch.stack(parts).sum(0)
        if found.pooled:
            pooled = [
                functional.normalize(found.pooled[name].float(), dim=1).masked_fill(lacking[name][:, None], 0)
                for name in (AUDIO, VISUAL)
            ]
            everybody = [self.ranks.gather(each, self.most) for each in pooled]
            first = self.ranks.rank * self.most
            contrastive = nt_xent(tuple(pooled), tuple(everybody), first, settings.temperature)
            losses["contrastive"] = contrastive.masked_fill(lacking[AUDIO] | lacking[VISUAL], 0)
        weighted = [getattr(settings, name) * each for name, each in losses.items()]
        return {"loss": torch.stack(weighted).sum(0), **losses}, found


@torch.inference_mode()
def most_frequent_codes(loader: Loader, shape: VqMaeConfig, ranks: Ranks) -> dict[str, Tensor]:
    """Modality -> the most frequent code of a loader's clips at each place of a window, int64 [*grid], on the device.

    All ranks call it together, and get the same. Clips that lack a modality do not count for it; of several codes that
    are the most frequent it is the lowest. Counts take places x codes x 4 bytes: 59 MB for the paper's faces.
    """
    counts = {
        name: torch.zeros(math.prod(each.grid), each.codes, dtype=torch.int32, device=ranks.device)
        for name, each in shape.shapes.items()
    }
    for batch in loader.epoch(0):
        for name, codes in window_codes(batch.to(ranks.device), 0, shape).items():
            places = torch.arange(len(counts[name]), device=ranks.device)
            for clip in codes.long().flatten(1)[~_lacking(batch.missing, name).to(ranks.device)]:
                counts[name][places, clip] += 1
    return {name: ranks.sum(each).argmax(dim=1).view(shape.shapes[name].grid) for name, each in counts.items()}


def _lacking(missing: Sequence[int], name: str) -> Tensor:
    """bool [B] True for a clip whose recording has nothing of a modality."""
    return torch.tensor([WHOLLY.get(code) == _MODALITIES[name] for code in missing], dtype=torch.bool)


def speaker_interval(retrieved: Tensor, speakers: tuple[str, ...]) -> tuple[float, float] | None:
    """95 % bootstrap interval, over the choice of speakers, of the share of clips that were retrieved.

    None for a single speaker.
    """
    names, places = np.unique(speakers, return_inverse=True)
    if len(names) < 2:
        return None
    right, clips = np.bincount(places, retrieved.numpy()), np.bincount(places)
    chosen = np.random.default_rng(0).integers(len(names), size=(2000, len(names)))
    shares = right[chosen].sum(1) / clips[chosen].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975)).tolist()
    return low, high
