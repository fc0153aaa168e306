"""Tables of the recipes in Markdown, from their files: what they set, and how far they move an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.optim import sum_of_rates
from train.recipes.files import RECIPES, SUFFIX
from train.recipes.recipe import Recipe

_FOLDER = Path(__file__).parent
#: Batch size that published learning rates are for.
_BASE_BATCH = 256

#: Column -> recipe.
COMPARED = {
    "ours": "finetune",
    "VideoMAE-L": "finetune-videomae",
    "MAE-DFER": "finetune-mae-dfer",
    "HiCMAE": "finetune-hicmae",
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A recipe on a corpus."""

    column: str
    """Of `COMPARED`."""
    corpus: str
    clips: int
    """Of the training side."""
    depth: int
    """Blocks of the encoder."""


#: Ours on what is left of a fold after a fifth of the training speakers is withheld for validation: RAVDESS 16 actors
#: of 60 clips; CREMA-D four fifths of 7,442, less a fifth; IEMOCAP four of five sessions of 5,531 clips, less a fifth.
#: The published ones on what they trained on: MAFW four of five folds of 9,172, CREMA-D four of five of 7,442.
TRAININGS = (
    Training(column="ours", corpus="RAVDESS", clips=960, depth=24),
    Training(column="ours", corpus="CREMA-D", clips=4_762, depth=24),
    Training(column="ours", corpus="IEMOCAP", clips=3_540, depth=24),
    Training(column="HiCMAE", corpus="CREMA-D", clips=5_953, depth=12),
    Training(column="MAE-DFER", corpus="MAFW", clips=7_337, depth=16),
    Training(column="VideoMAE-L", corpus="Kinetics-400", clips=240_436, depth=24),
)

_ROWS: tuple[tuple[str, Callable[[Recipe], str]], ...] = (
    ("batch", lambda r: f"{r.batch}"),
    ("length (warm-up)", lambda r: _length(r)),
    ("peak learning rate; per 256 clips", lambda r: f"{_rate(r.learning_rate)}; {_per_256(r, r.learning_rate)}"),
    ("minimum learning rate per 256 clips", lambda r: _per_256(r, r.min_learning_rate)),
    ("layer decay; weight decay; betas", lambda r: f"{r.layer_decay:g}; {r.weight_decay:g}; {_join(r.betas, '/')}"),
    ("gradient norm", lambda r: "-" if r.max_grad_norm is None else f"{r.max_grad_norm:g}"),
    ("drop path; head dropout", lambda r: f"{r.drop_path:g}; {r.head_dropout:g}"),
    ("head initialization scale", lambda r: _rate(r.head_init_scale)),
    ("label smoothing", lambda r: f"{r.label_smoothing:g}"),
    ("mixup; cutmix", lambda r: _join((r.augmentation.mixup, r.augmentation.cutmix))),
    ("cutmix instead of mixup", lambda r: f"{r.augmentation.mix_switch:g}"),
    ("sound is mixed, too", lambda r: "yes" if r.augmentation.mix_spectrograms else "no"),
    ("RandAugment", lambda r: _rand_augment(r)),
    ("random erasing", lambda r: f"{r.augmentation.erase:g}"),
    ("crop area", lambda r: _join(r.augmentation.crop_area, " to ")),
    ("crop aspect", lambda r: _join(r.augmentation.crop_aspect, " to ")),
    ("shift", lambda r: f"{r.augmentation.shift:g}"),
    ("flip", lambda r: f"{r.augmentation.flip:g}"),
    ("time mask; frequency mask", lambda r: _join((r.augmentation.time_mask, r.augmentation.frequency_mask))),
    ("gain, dB", lambda r: f"{r.augmentation.gain_db:g}"),
    ("draws of a clip in a step", lambda r: f"{r.repeated_augmentation}"),
    ("last small batch", lambda r: "left out" if r.drop_last else "trained"),
    ("test views of a stored clip", lambda r: f"{r.test_crops * (1 + r.test_flip)}"),
    ("side of a test view", lambda r: f"{r.test_crop_side:g}"),
)


def describe_recipes() -> str:
    """Name and first comment line of every recipe."""
    width = max(map(len, RECIPES))
    lines = []
    for name in RECIPES:
        comment = (_FOLDER / f"{name}{SUFFIX}").read_text("utf-8").splitlines()[0].removeprefix("# ")
        lines.append(f"{name:<{width}}  {comment}")
    return "\n".join(lines)


def format_tables() -> str:
    """Two tables: the values of ours and of the published recipes, and the sums of their learning rates."""
    recipes = {column: RECIPES[name] for column, name in COMPARED.items()}
    values = [[name, *map(show, recipes.values())] for name, show in _ROWS]
    sums = []
    for training in TRAININGS:
        recipe = recipes[training.column].for_clips(training.clips)
        steps = recipe.epochs * recipe.steps_per_epoch(training.clips)
        rates = sum_of_rates(training.clips, training.depth, recipe)
        name = f"{training.column}, {training.corpus}"
        sums.append(
            [name, f"{training.clips:,}", f"{training.depth}", f"{steps:,}", *(f"{rate:.2g}" for rate in rates)]
        )
    heading = ["recipe, corpus", "training clips", "blocks", "steps", "patch embedding", "middle block", "head"]
    return f"{_table(['', *recipes], values)}\n\n{_table(heading, sums)}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def _length(recipe: Recipe) -> str:
    if recipe.steps is not None:
        return f"{recipe.steps} steps ({recipe.warmup_steps})"
    return f"{recipe.epochs} epochs ({recipe.warmup_epochs:g})"


def _rand_augment(recipe: Recipe) -> str:
    settings = recipe.augmentation
    if not settings.rand_augment_operations:
        return "-"
    numbers = settings.rand_augment_magnitude, settings.rand_augment_operations, settings.rand_augment_magnitude_std
    return "rand-m{:g}-n{}-mstd{:g}-inc1".format(*numbers)


def _per_256(recipe: Recipe, rate: float) -> str:
    return _rate(rate * _BASE_BATCH / recipe.batch)


def _rate(number: float) -> str:
    """`2.1875e-4`, `1e-3`, `1`."""
    if not 0 < number < 0.01:
        return f"{number:g}"
    mantissa, _, exponent = f"{number:.6e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _join(numbers: Iterable[float], separator: str = "; ") -> str:
    return separator.join(f"{number:g}" for number in numbers)
