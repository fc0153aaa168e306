"""AdamW for a classifier: weight decay by parameter, learning rate by layer, and the learning rate schedule."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from manifests.text import pluralize, shorten_list
from train.recipes import Recipe, RecipeError

#: `encoder.module` is an encoder of one's own.
_BLOCK = re.compile(r"encoder\.(?:module\.)?(?:fused\.blocks\.\w+|blocks)\.(\d+)\.")
#: Blocks of a VQ-MAE-AV in which each modality attends to both: below all others.
_FIRST_BLOCK = re.compile(r"encoder\.fused\.cross\.")
_PATCH_EMBED = re.compile(r"encoder\.(?:(?:module\.)?patch_embed|codebooks|project|places)")


def freeze_parameters(model: nn.Module, patterns: Sequence[str]) -> None:
    """Leave the parameters whose names match one of the glob patterns as they are: no gradient, no state, no decay.

    Raises RecipeError for a pattern that matches no name, or where nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matched:
            nearest = shorten_list(difflib.get_close_matches(pattern, parameters, n=3, cutoff=0.0))
            raise RecipeError(f"freeze: found no parameter that matches {pattern[:80]!r}; the nearest are {nearest}")
        for name in matched:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise RecipeError(f"freeze: found that {shorten_list(patterns)} match all parameters, expected some to train")


def describe_trained(model: nn.Module) -> str:
    """How many numbers of a model are trained, such as "12,345 of 67,890 parameters are trained (8 tensors frozen)"."""
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = pluralize(sum(not parameter.requires_grad for parameter in parameters), "tensor")
    return f"{trained:,} of {sum(p.numel() for p in parameters):,} parameters are trained ({frozen} frozen)"


def make_optimizer(model: nn.Module, depth: int, recipe: Recipe) -> AdamW:
    """AdamW over the parameters that are trained; `set_lr` sets their learning rates before each step."""
    groups = parameter_groups(model.named_parameters(), depth, recipe)
    return AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], depth: int, recipe: Recipe) -> list[dict[str, Any]]:
    """Trained parameters with their `scale` of the learning rate and `weight_decay`.

    It is 0 for biases, norms, and learned tokens and positions, which are [1, N, D].
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        layer, decayed = (
            layer_index(name, depth),
            parameter.ndim > 1 and not (parameter.ndim == 3 and len(parameter) == 1),
        )
        scale, decay = recipe.layer_decay ** (depth + 1 - layer), recipe.weight_decay if decayed else 0.0
        group = groups.setdefault((layer, decayed), {"params": [], "scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_index(name: str, depth: int) -> int:
    """0 for the patch embedding, i + 1 for block i, depth + 1 for everything after the blocks.

    Blocks of cross-attention fusion count as block 0: `depth` is without them.
    """
    block = _BLOCK.match(name)
    if block:
        return int(block[1]) + 1
    if _FIRST_BLOCK.match(name):
        return 1
    return 0 if _PATCH_EMBED.match(name) else depth + 1


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
