"""AdamW for a classifier: weight decay by parameter, learning rate by layer, and the learning rate schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from train.recipes import Recipe

_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")


def make_optimizer(model: nn.Module, depth: int, recipe: Recipe) -> AdamW:
    """AdamW over the parameters that are trained; `set_lr` sets their learning rates before each step."""
    groups = parameter_groups(model.named_parameters(), depth, recipe)
    return AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], depth: int, recipe: Recipe) -> list[dict[str, Any]]:
    """Trained parameters with their `scale` of the learning rate and `weight_decay`: 0 for biases and norms."""
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_index(name, depth), parameter.ndim > 1
        scale, decay = recipe.layer_decay ** (depth + 1 - layer), recipe.weight_decay if decayed else 0.0
        group = groups.setdefault((layer, decayed), {"params": [], "scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_index(name: str, depth: int) -> int:
    """0 for the patch embedding, i + 1 for block i, depth + 1 for everything after the blocks."""
    block = _BLOCK.match(name)
    if block:
        return int(block[1]) + 1
    return 0 if name.startswith("encoder.patch_embed") else depth + 1


def lr_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Learning rate of the last layer at optimizer step `step`, from 0, of a recipe in epochs. Pure."""
    warmup = recipe.warmup_steps or round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (step - warmup) / max(recipe.epochs * steps_per_epoch - warmup, 1)
    falling = recipe.learning_rate - recipe.min_learning_rate
    return recipe.min_learning_rate + falling * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def sum_of_rates(clips: int, depth: int, recipe: Recipe) -> tuple[float, float, float]:
    """Sum over all steps of the learning rates of the patch embedding, the middle block and the head of an encoder.

    How far a training can move each of them, whatever its steps and batches are: AdamW moves a weight by about its rate
    in each step. `clips` is the size of the training side, `depth` the number of blocks.
    """
    recipe = recipe.for_clips(clips)
    per_epoch = recipe.steps_per_epoch(clips)
    total = math.fsum(lr_at(step, per_epoch, recipe) for step in range(recipe.epochs * per_epoch))
    patches, middle, head = (total * recipe.layer_decay ** (depth + 1 - layer) for layer in (0, depth // 2, depth + 1))
    return patches, middle, head


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set each group's learning rate, scaled for its layer."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradient down to a norm of `max_norm`, if any; its norm before that, [] on its device."""
    return nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
