"""The objective of a classifier: cross-entropy of its classes, and recall of validation speakers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from train import metrics
from train.data.augment import uniform_noise
from train.data.batches import ClipBatch
from train.data.loader import CachedLoader, Loader
from train.data.missing import Missing
from train.data.transforms import CachedTransform, ClipTransform, View, evaluation_views
from train.distributed import Ranks
from train.models.vq_mae_losses import asymmetric_loss
from train.recipes import Recipe


@dataclass(kw_only=True, eq=False)
class Classification:
    """Trains logits of classes; the best epoch is selected by UAR, then by loss."""

    transform: ClipTransform | CachedTransform
    """Batches -> model input."""
    recipe: Recipe
    seed: int
    noise_per_clip: int = 0
    """Numbers that the model takes for each clip if the recipe drops branches or channels."""
    class_weights: Tensor | None = None
    """[C] factor of a clip's loss by its class; None for no factor."""
    selects_epoch: bool = True

    def loss(self, model: Callable[..., Tensor], batch: ClipBatch, epoch: int) -> Tensor:
        """Sum of the clips' cross-entropies, [], each the mean over the draws of the clip."""
        inputs, targets = self.transform.training_input(batch, epoch)
        noise = self.noise(batch.draw_keys, epoch, targets.device)
        with autocast(targets.device):
            logits = model(inputs, *noise).float()
        # Of an empty batch the loss is 0, with a gradient all the same.
        if self.recipe.loss == "asymmetric":
            losses = asymmetric_loss(logits, targets, self.recipe.label_smoothing)
        else:
            losses = sum_of_losses(logits, targets, self.recipe.label_smoothing, self.class_weights)
        return losses / self.recipe.repeated_augmentation

    def noise(self, keys: tuple[str, ...], epoch: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """What decides which branches and channels a model drops for some clips; nothing if it drops none.

        Drawn on the CPU from (seed, epoch, clip) and passed with the batch, so that the model, compiled or not, has no
        generator whose numbers would depend on the rank, the micro-batch or the device.
        """
        if not (self.recipe.drop_path or self.recipe.head_dropout):
            return ()
        draws = self.recipe.repeated_augmentation
        noise = uniform_noise(keys, self.noise_per_clip, seed=self.seed, epoch=epoch, draws=draws)
        return (noise.to(device, non_blocking=True),)

    def validate(
        self, model: nn.Module, loader: Loader | CachedLoader, ranks: Ranks, micro_batches: int
    ) -> dict[str, float]:
        """Loss and scores of the clips of a loader."""
        views = evaluation_views(flip=False, crops=1, side=self.recipe.test_crop_side)
        logits = run_inference(model, loader, self.transform, ranks, micro_batches, views)
        confusion = metrics.confusion_matrix(loader.labels.numpy(), logits.argmax(1).numpy(), logits.shape[1])
        return {
            "validation_loss": float(functional.cross_entropy(logits, loader.labels)),
            "validation_uar": float(metrics.uar(confusion)),
            "validation_war": float(metrics.war(confusion)),
        }

    def describe(self, scores: dict[str, float]) -> str:
        """Loss and UAR."""
        return f"{scores['validation_loss']:.3f}, UAR {100 * scores['validation_uar']:.2f} %"


@torch.inference_mode()
def run_inference(
    model: Callable[[Tensor], Tensor],
    loader: Loader | CachedLoader,
    transform: ClipTransform | CachedTransform,
    ranks: Ranks,
    micro_batches: int = 1,
    views: Sequence[View] = (View(),),
    missing: Missing | None = None,
) -> Tensor:
    """float32 [clips, C], or other outputs of a model, for all clips of a loader in their order, on every rank's CPU.

    Of several views of a clip the probabilities are averaged, and the result is their logarithm, [clips, C]: logits
    whose softmax is that average. With `missing`, clips lack a part of a modality. The sampler must not shuffle.
    Leaves a module in evaluation mode.
    """
    if isinstance(model, nn.Module):
        model.eval()
    sampler, outputs = loader.sampler, []
    for batch in loader.epoch(0):
        for part in batch.split(sampler.micro_batch_size(micro_batches)):
            moved, seen = part.to(ranks.device), []
            for view in views:
                inputs, _ = transform.evaluation_input(moved, view, missing)
                with autocast(ranks.device):
                    seen.append(model(inputs).float())
            outputs.append(seen[0] if len(seen) == 1 else _average_views(torch.stack(seen)))
    clips = torch.from_numpy(np.concatenate(sampler.batches(0))).to(ranks.device)
    logits = torch.zeros(sampler.clips, *outputs[0].shape[1:], device=ranks.device)
    logits[clips] = torch.cat(outputs)
    return ranks.sum(logits).cpu()


def sum_of_losses(logits: Tensor, targets: Tensor, label_smoothing: float, class_weights: Tensor | None) -> Tensor:
    """Sum over clips of their cross-entropy, [], times each clip's weight, if any.

    Args:
        logits: [B, C] float32.
        targets: [B, C] shares of the classes.
        label_smoothing: share of the targets that is spread evenly over all classes; it does not change the weights.
        class_weights: [C]; a clip's weight is their mean in the shares of its targets.
    """
    options = {"label_smoothing": label_smoothing}
    if class_weights is None:
        return functional.cross_entropy(logits, targets, reduction="sum", **options)
    return (functional.cross_entropy(logits, targets, reduction="none", **options) * (targets @ class_weights)).sum()


def _average_views(logits: Tensor) -> Tensor:
    """[views, B, C] -> [B, C] logarithm of the mean of the probabilities."""
    return (logits.double().log_softmax(-1).logsumexp(0) - math.log(len(logits))).float()


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 for matrix products on a GPU; float32 on a CPU, where results are to be exact."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
