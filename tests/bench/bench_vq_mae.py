"""What VQ-MAE-AV costs on a device, beside a plain PyTorch version of the same arithmetic in the same run.

Whole steps of pre-training and of fine-tuning: forward, backward, AdamW, on the same codes and masks with the same
weights. The plain version is what one would write first: attention by matrix products and a softmax, hidden tokens
masked out rather than left out. Then how many clips the loader reads from shards of tokens a second with one core:
what a device takes must not be more than some cores give.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from train import cost
from train.classification import autocast
from train.config import ConfigError, device_for
from train.data.augment import ClipDraws
from train.data.clip_table import load_all_clips, members_for
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.shard_folder import open_folder
from train.data.token_masks import draw_masks
from train.data.windows import RandomWindows
from train.fusion import strategy_named
from train.models import vq_mae_av
from train.models.vq_mae_av import MODELS, WINDOW_SECONDS, VqMae, VqMaeConfig
from train.models.vq_mae_heads import EmotionClassifier
from train.models.vq_mae_losses import HiddenCodes, asymmetric_loss, nt_xent
from train.recipes import RECIPES, TokenPretraining

Step = Callable[[], Tensor]
_CLASSES = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; exit status 2 for what cannot be measured."""
    options = _parser().parse_args(arguments)
    try:
        device = device_for(options.device)
        rates = measure(MODELS[options.encoder], device, batch=options.batch, rounds=options.rounds)
        sys.stdout.write(table(rates, options.encoder, device, cost.measure_flops(device)))
        if options.shards:
            clips, share = loader_rate(options.shards)
            sys.stdout.write(f"\nloader: {clips:,.0f} clips/s a core, of {share:,.0f} kB each\n")
    except (ConfigError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def measure(config: VqMaeConfig, device: torch.device, *, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Stage -> version -> clips a second; the ways take turns, and the median of each one's rounds counts."""
    rates = {}
    stages = {"pre-training": _pretraining(config, device, batch), "fine-tuning": _tuning(config, device, batch)}
    for stage, (ours, plain) in stages.items():
        seconds: dict[str, list[float]] = {"ours": [], "plain PyTorch": []}
        for _ in range(rounds + 1):
            for name, step in (("ours", ours), ("plain PyTorch", plain)):
                cost.synchronize(device)
                began = time.perf_counter()
                step()
                cost.synchronize(device)
                seconds[name].append(time.perf_counter() - began)
        rates[stage] = {name: batch / median(times[1:]) for name, times in seconds.items()}
    return rates


def table(rates: dict[str, dict[str, float]], name: str, device: torch.device, flops: float) -> str:
    """A line for each stage and version: clips/s, tokens/s, and the share of the rate of large matrix products."""
    config = MODELS[name]
    tokens = sum(shape.tokens for shape in config.shapes.values())
    visible = {each: shape.tokens // 2 for each, shape in config.shapes.items()}
    work = {
        stage: cost.TRAINING_PASSES
        * cost.token_flop(config, visible if stage == "pre-training" else None, decodes=stage == "pre-training")
        for stage in rates
    }
    lines = [f"{name} on {device}, {flops / 1e12:.2f} TFLOP/s of large matrix products\n"]
    for stage, versions in rates.items():
        for version, clips in versions.items():
            share = 100 * clips * work[stage] / flops
            lines.append(
                f"{stage:<14}{version:<16}{clips:10.1f} clips/s {clips * tokens:12,.0f} tokens/s  {share:5.1f} % MFU"
                f"  {clips / versions['plain PyTorch']:5.2f}\n"
            )
    return "".join(lines)


def loader_rate(folder: str) -> tuple[float, float]:
    """Clips a second of CPU time that one thread reads from shards of tokens, and kB of a clip."""
    opened = open_folder(Path(folder))
    clips, _ = load_all_clips(opened, members_for(opened.index, strategy_named("vq-mae-av"), "mfcc"))
    loader = Loader(
        clips,
        ClipSampler(clips=len(clips), batch_size=min(128, len(clips))),
        windows=RandomWindows(longest_seconds=WINDOW_SECONDS),
        workers=0,
    )
    rates = []
    for epoch in range(1, 6):
        began = time.process_time()
        for _ in loader.epoch(epoch):
            pass
        rates.append(len(clips) / (time.process_time() - began))
    return median(rates[1:]), float(clips.byte_ranges[:, :, 1].sum(1).mean()) / 1e3


def _pretraining(config: VqMaeConfig, device: torch.device, batch: int) -> tuple[Step, Step]:
    settings: TokenPretraining | None = RECIPES["pretrain-vq-mae-av"].token_pretraining
    assert settings is not None
    tokens = {name: shape.tokens for name, shape in config.shapes.items()}
    draws = ClipDraws(keys=tuple(map(str, range(batch))), seed=0, epoch=1)
    masks, codes = draw_masks(settings, tokens, draws).to(device), _codes(config, device, batch)

    def make(slots: int | None) -> Step:
        torch.manual_seed(0)
        model = VqMae(config).to(device)
        called = _compiled(model, device, slots)

        def loss() -> Tensor:
            found = called(codes, *masks, slots)
            hidden = {
                name: HiddenCodes.of(codes[name], masks.visible[name], masks.decoded[name], config.shapes[name].tube)
                for name in tokens
            }
            total = sum(hidden[name].cross_entropy(logits).sum() for name, logits in found.logits.items())
            pair = tuple(torch.nn.functional.normalize(each.float(), dim=1) for each in found.pooled.values())
            return total + nt_xent(pair, pair, 0).sum()

        return _step(model, loss, device)

    return make(config.slots), _plain(make(None))


def _tuning(config: VqMaeConfig, device: torch.device, batch: int) -> tuple[Step, Step]:
    codes = _codes(config, device, batch)
    targets = torch.eye(_CLASSES, device=device)[torch.arange(batch, device=device) % _CLASSES]

    def make(slots: int | None) -> Step:
        torch.manual_seed(0)
        model = EmotionClassifier(config, _CLASSES, "attention").to(device)
        called = _compiled(model, device, slots)
        return _step(model, lambda: asymmetric_loss(called((codes, None)), targets, 0.1), device)

    return make(config.slots), _plain(make(None))


def _codes(config: VqMaeConfig, device: torch.device, batch: int) -> dict[str, Tensor]:
    return {
        name: torch.randint(shape.codes, (batch, *shape.grid), device=device) for name, shape in config.shapes.items()
    }


def _compiled(model: torch.nn.Module, device: torch.device, slots: int | None) -> Callable[..., Tensor]:
    """As a training calls it: compiled on a GPU, but not the plain version, which has no slots."""
    return torch.compile(model) if device.type == "cuda" and slots is not None else model


def _step(model: torch.nn.Module, loss: Callable[[], Tensor], device: torch.device) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> Tensor:
        with autocast(device):
            total = loss()
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.detach()

    return step


def _plain(step: Step) -> Step:
    """The same with attention by matrix products and a softmax."""

    def plain() -> Tensor:
        with _plain_attention():
            return step()

    return plain


@contextmanager
def _plain_attention() -> Iterator[None]:
    before = vq_mae_av.F
    vq_mae_av.F = _PlainFunctions()
    try:
        yield
    finally:
        vq_mae_av.F = before


class _PlainFunctions:
    """In place of `torch.nn.functional`."""

    @staticmethod
    def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None) -> Tensor:
        """[B, A, q, d], [B, A, k, d], [B, A, k, d], bool [B, 1, 1, k] -> [B, A, q, d]."""
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        return scores.softmax(-1) @ value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", choices=MODELS, default="vq-mae-av")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", help="shards of tokens, whose loading is measured")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
