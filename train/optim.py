"""AdamW over a classifier: which parameter is decayed, at what rate its layer learns, and how the rate goes."""

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
    """AdamW over the parameters that are trained; `set_rate` gives them their rates before each step."""
    groups = parameter_groups(model.named_parameters(), depth, recipe)
    return AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], depth: int, recipe: Recipe) -> list[dict[str, Any]]:
    """Trained parameters by how they learn: `scale` of the rate, `weight_decay`; biases, norms, positions have none."""
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_of(name, depth), parameter.ndim > 1 and not name.endswith("pos_embed")
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "scale": recipe.layer_decay ** (depth + 1 - layer),
                "weight_decay": recipe.weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_of(name: str, depth: int) -> int:
    """0 for the patch embedding and positions, i + 1 for block i, depth + 1 for all that comes after the blocks."""
    block = _BLOCK.match(name)
    if block:
        return int(block[1]) + 1
    return 0 if name.startswith(("encoder.patch_embed", "encoder.pos_embed")) else depth + 1


def rate_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Learning rate of optimizer step `step`, from 0, of the last layer. Pure."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.curve == "constant":
        return recipe.learning_rate
    done = (step - warmup) / max(recipe.epochs * steps_per_epoch - warmup, 1)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give each group its layer's share of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def clip_gradient(parameters: Iterable[nn.Parameter], most: float | None) -> Tensor:
    """Scale the gradient down to a norm of `most`, if that is given; its norm before, [] on its device."""
    return nn.utils.clip_grad_norm_(parameters, math.inf if most is None else most)
