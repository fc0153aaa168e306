"""Recipe files: those of the project, those of users, values replaced on the command line, and the published values."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from train import cli
from train.data.augment import Augmentation
from train.optim import lr_at
from train.recipes import (
    NO_AUGMENTATION,
    RECIPES,
    Pretraining,
    Recipe,
    RecipeError,
    Tokenizing,
    dump_toml,
    load_recipe,
    override,
    recipe_named,
)
from train.recipes.table import TRAININGS, format_tables

ROOT = Path(__file__).parents[2]
LEAST = "epochs = 2\nbatch = 4\nlearning_rate = 1e-3\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """A recipe file of this text."""

    def write(text: str, name: str = "own.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write


# The project's files

#: Field -> published value: scripts and argument defaults of VideoMAE, MAE-DFER's log, HiCMAE's script.
PUBLISHED: dict[str, dict[str, Any]] = {
    "finetune-videomae": {"batch": 128, "learning_rate": 1e-3, "epochs": 35, "repeated_augmentation": 2},
    "finetune-mae-dfer": {"batch": 96, "learning_rate": 3.75e-4, "epochs": 100, "repeated_augmentation": 1},
    "finetune-hicmae": {"batch": 56, "learning_rate": 56 / 256 * 1e-3, "epochs": 50, "repeated_augmentation": 1},
}
COMMON: dict[str, Any] = {
    "steps": None,
    "warmup_epochs": 5,
    "warmup_steps": 0,
    "schedule": "cosine",
    "layer_decay": 0.75,
    "weight_decay": 0.05,
    "betas": (0.9, 0.999),
    "max_grad_norm": None,
    "label_smoothing": 0.1,
    "drop_path": 0.1,
    "head_dropout": 0.0,
    "head_init_scale": 1e-3,
    "drop_last": True,
    "test_flip": False,
    "test_crops": 1,
    "test_crop_side": 1.0,
    "window_seconds": 0.0,
    "test_windows": 1,
    "freeze_encoder": False,
}
COMMON_AUGMENTATION: dict[str, Any] = {
    "crop_area": (0.08, 1.0),
    "crop_aspect": (0.75, 1.3333),
    "shift": 0.0,
    "flip": 0.5,
    "colour": 0.0,
    "rand_augment_operations": 4,
    "rand_augment_magnitude": 7,
    "rand_augment_magnitude_std": 0.5,
    "erase": 0.25,
    "time_mask": 0.0,
    "frequency_mask": 0.0,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mix_switch": 0.5,
    "mix_probability": 1.0,
    "modality_dropout": 0.0,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_published_values(name: str) -> None:
    found = asdict(RECIPES[name])
    augmentation = found.pop("augmentation")
    expected = {**COMMON, **PUBLISHED[name]}
    expected["learning_rate"] = pytest.approx(expected["learning_rate"])
    assert {field: found[field] for field in expected} == expected
    assert {field: augmentation[field] for field in COMMON_AUGMENTATION} == COMMON_AUGMENTATION
    assert found["min_learning_rate"] == pytest.approx(1e-6 * found["batch"] / 256)
    assert augmentation["mix_spectrograms"] == (name != "finetune-hicmae")
    assert augmentation["gain_db"] == (1.65 if name == "finetune-hicmae" else 0.0)


def test_probe_is_the_notebooks() -> None:
    probe = recipe_named("linear-probe")
    assert (probe.epochs, probe.batch, probe.learning_rate, probe.weight_decay) == (100, 16, 1e-2, 0.05)
    assert probe.freeze_encoder
    assert probe.schedule == "constant"
    assert probe.augmentation == NO_AUGMENTATION


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_of_a_file_has_a_comment_or_follows_one(name: str) -> None:
    """What is ours says why; the published ones name their source in the first lines."""
    text = (ROOT / "train" / "recipes" / f"{name}.toml").read_text("utf-8")
    assert text.startswith("# ")
    assert max(map(len, text.splitlines())) <= 120
    if name == "finetune":
        lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
        plain = [line for line in lines if "#" not in line]
        assert {line.split()[0] for line in plain} <= {  # the comment is above
            *("layer_decay", "rand_augment_magnitude", "rand_augment_magnitude_std", "frequency_mask")
        }


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_under_its_name(name: str) -> None:
    assert load_recipe(ROOT / "train" / "recipes" / f"{name}.toml") == RECIPES[name] == recipe_named(name)
    assert RECIPES[name].name == name


def test_ours_moves_an_encoder_as_far_as_hicmae_on_every_corpus() -> None:
    """Sums of learning rates at the patch embedding and the middle block, which HiCMAE's are 0.014 and 0.077 of."""
    table = format_tables().splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line.rstrip(" |").split(" | ") for line in table}
    patches, middle, _ = map(float, rows["HiCMAE, CREMA-D"][-3:])
    assert (patches, middle) == (0.014, 0.077)
    assert list(map(float, rows["MAE-DFER, MAFW"][-3:-1])) == [0.011, 0.11]
    for training in TRAININGS:
        if training.column == "ours":
            found = list(map(float, rows[f"ours, {training.corpus}"][-3:-1]))
            assert 1 <= found[0] / patches < 1.2
            assert 1 <= found[1] / middle < 1.2


def test_the_page_has_the_tables_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes", "--table"]) == 0
    printed = capsys.readouterr().out
    page = (ROOT / "train" / "docs" / "recipes.md").read_text("utf-8")
    for table in printed.strip().split("\n\n"):
        assert table in page, "recipes.md: replace the tables by the output of `python -m train recipes --table`"


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert next(iter(RECIPES)) == "finetune"


# Files of users


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_what_is_shown_is_a_file_of_the_same_recipe(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "saved.toml"
    assert cli.run(["train", "--recipe", recipe.name, "--show-recipe"]) == 0
    path.write_text(capsys.readouterr().out)
    assert load_recipe(path) == recipe
    assert cli.run(["train", "--recipe", str(path), "--show-recipe"]) == 0
    assert capsys.readouterr().out == path.read_text()
    changed = ["--set", "augmentation.erase=0", "--set", "drop_path=0.05", "--set", "max_grad_norm=none"]
    if not (recipe.freeze_encoder or recipe.pretraining or recipe.tokenizers or recipe.vq_mae):
        assert cli.run(["train", "--recipe", recipe.name, "--show-recipe", *changed]) == 0
        path.write_text(capsys.readouterr().out)
        erased = replace(recipe.augmentation, erase=0.0)
        assert load_recipe(path) == replace(recipe, augmentation=erased, drop_path=0.05, max_grad_norm=None)


def test_what_a_file_leaves_out_has_the_default(write: Callable[..., Path]) -> None:
    found = load_recipe(write(LEAST))
    assert found == Recipe(name="own", epochs=2, batch=4, learning_rate=1e-3)
    assert load_recipe(write(f'name = "mine"\n{LEAST}')).name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LEAST}lerning_rate = 1e-3", "own.toml: found field 'lerning_rate'; the nearest is 'learning_rate'"),
        (f"{LEAST}[augmentation]\nmixups = 1", "own.toml: augmentation: found field 'mixups'; the nearest is 'mixup'"),
        (f"{LEAST}[augmentations]\n", "own.toml: found field 'augmentations'; the nearest is 'augmentation'"),
        ('batch = 4\nlearning_rate = "fast"', "own.toml: learning_rate: found 'fast', expected a finite number"),
        ("epochs = 2.5\nbatch = 4\nlearning_rate = 1", "own.toml: epochs: found 2.5, expected a whole number"),
        ("epochs = true\nbatch = 4\nlearning_rate = 1", "own.toml: epochs: found True, expected a whole number"),
        ("epochs = 2\nbatch = 4\nlearning_rate = nan", "own.toml: learning_rate: found nan, expected a finite number"),
        (f"{LEAST}betas = [0.9]", "own.toml: betas: found 1 values, expected 2"),
        (f"{LEAST}drop_last = 1", "own.toml: drop_last: found 1, expected true or false"),
        (f"{LEAST}augmentation = 3", "own.toml: augmentation: found 3, expected an object"),
        (f"{LEAST}[augmentation]\ncrop_area = [0, 2]", "own.toml: augmentation: crop_area: found (0.0, 2.0)"),
        (f"{LEAST}layer_decay = 2024-01-01", "own.toml: layer_decay: found datetime.date(2024, 1, 1), expected"),
        (f"{LEAST}layer_decay = 1.5", "layer_decay: found 1.5, expected above 0, up to 1"),
        (f"{LEAST}steps = 5", "steps: found 5, expected either epochs or steps"),
        ("batch = 4\nlearning_rate = 1", "steps: found None, expected either epochs or steps"),
        ("epochs = 2\nlearning_rate = 1", "own.toml: found no batch, expected one"),
        ("epochs = 2\nbatch =", "own.toml: not TOML: "),
        (f"epochs = 1{'0' * 5000}\nbatch = 4\nlearning_rate = 1", "own.toml: not TOML: "),
        ("epochs = " + "[" * 9000, "own.toml: not TOML: "),
        (f'name = "a\\u001b[31m"\n{LEAST}', "expected 1 to 80 letters"),
        (f'"\\u001b[31m" = 1\n{LEAST}', "found field "),
    ],
    ids=lambda value: re.sub(r"[^\w.]+", "-", value)[:40],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_refused_in_one_line(
    write: Callable[..., Path], text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(text)
    assert cli.run(["train", "--show-recipe", "--recipe", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert "\x1b" not in err
    assert str(path) in err


def test_files_are_read_safely(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(LEAST)
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    large = write(f"{LEAST}# {'x' * (1 << 16)}", "large.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    for wrong in (link, large, tmp_path / "pipe.toml", tmp_path / "nowhere.toml", Path("/dev/zero")):
        with pytest.raises(OSError):
            load_recipe(wrong)
    (tmp_path / "bytes.toml").write_bytes(b"epochs = 2\xff")
    with pytest.raises(RecipeError, match=r"bytes\.toml: not TOML"):
        load_recipe(tmp_path / "bytes.toml")


def test_unknown_recipe_lists_the_valid_ones() -> None:
    with pytest.raises(
        RecipeError, match=r"unknown recipe 'probe'; valid are finetune, .*, tiny, .*, or a file probe\.toml"
    ):
        recipe_named("probe")


# Values on the command line


def test_a_shortened_recipe_has_its_whole_schedule() -> None:
    """The rates of a refit are those of the recipe at the same share of the training; its last is the lowest."""
    by_epochs = Recipe(name="base", epochs=20, batch=4, learning_rate=1e-3, warmup_epochs=4, min_learning_rate=1e-5)
    by_steps = replace(by_epochs, warmup_epochs=0, warmup_steps=40)
    assert by_epochs.shortened(20) is by_epochs
    for whole in (by_epochs, by_steps):
        short = whole.shortened(5)
        rates = [lr_at(step, 10, short) for step in range(50)]
        rising, falling = range(10), range(10, 50)  # after a step, and before it
        assert rates[:10] == pytest.approx([lr_at(4 * step + 3, 10, whole) for step in rising])
        assert rates[10:] == pytest.approx([lr_at(4 * step, 10, whole) for step in falling])
        assert rates[-1] == min(rates[10:]) < 2e-5
    one = replace(by_epochs, warmup_epochs=2).shortened(1)
    assert (one.epochs, one.warmup_epochs) == (1, 0.1)


def test_any_field_can_be_replaced() -> None:
    """Every field of both tables, by a value of its own type."""
    values: dict[str, str] = {"name": "other", "steps": "7", "schedule": "constant", "betas": "[0.8, 0.9]"}
    values |= {"class_weights": "balanced", "sampling": "balanced", "freeze": '["head.*"]', "test_crop_side": "0.9"}
    values |= {"loss": "asymmetric"}
    values |= {"window_seconds": "1.5"}
    base = Recipe(name="base", epochs=4, batch=4, learning_rate=1e-3, test_crop_side=0.8, window_seconds=2.0)
    for field in fields(Recipe):
        if field.name in ("augmentation", "corpus_weights", "freeze_encoder", "pretraining", "tokenizers"):
            continue
        if field.name in ("vq_mae", "token_pretraining"):  # which take other fields
            continue
        default = getattr(base, field.name)
        text = (
            values.get(field.name)
            or {bool: "true", int: "5", float: "0.0005"}[type(0.0 if default is None else default)]
        )
        text = "8" if field.name == "batch" else text
        changed = override(base, [f"{field.name}={text}"])
        assert getattr(changed, field.name) != default, field.name
    for field in fields(Augmentation):
        default = getattr(NO_AUGMENTATION, field.name)
        text = "[0.5, 0.9]" if isinstance(default, tuple) else {bool: "false", int: "3", float: "0.25"}[type(default)]
        changed = override(base, [f"augmentation.{field.name}={text}"])
        assert getattr(changed.augmentation, field.name) != default, field.name
    pretrained = replace(base, pretraining=Pretraining())
    for field in fields(Pretraining):
        default = getattr(Pretraining(), field.name)
        text = {bool: "true", float: "0.25", type(None): "3"}[type(default)]
        changed = override(pretrained, [f"pretraining.{field.name}={text}"])
        assert getattr(changed.pretraining, field.name) != default, field.name
    tokenized = replace(base, tokenizers=Tokenizing())
    for field in fields(Tokenizing):
        text = {int: "2", float: "0.5"}[type(getattr(Tokenizing(), field.name))]
        changed = override(tokenized, [f"tokenizers.{field.name}={text}"])
        assert getattr(changed.tokenizers, field.name) == float(text), field.name
    with pytest.raises(RecipeError, match=r"--set pretraining.motion: recipe base has no pretraining, expected one"):
        override(base, ["pretraining.motion=true"])


def test_later_settings_win_and_text_needs_no_quotes() -> None:
    base = recipe_named("finetune")
    assert override(base, []) == base
    changed = override(base, ["drop_path=0.3", "drop_path = 0.2", "schedule=constant", 'name="mine"'])
    assert (changed.drop_path, changed.schedule, changed.name) == (0.2, "constant", "mine")
    assert override(base, ["max_grad_norm=none"]).max_grad_norm is None


def test_a_list_of_one_text_needs_no_brackets() -> None:
    base = recipe_named("finetune")
    for text in ("encoder.patch_embed.*", '"encoder.patch_embed.*"', '["encoder.patch_embed.*"]'):
        assert override(base, [f"freeze={text}"]).freeze == ("encoder.patch_embed.*",)


def test_another_length_keeps_the_share_of_the_warm_up() -> None:
    base = recipe_named("finetune")
    shorter = override(base, ["steps=1000"])
    assert (shorter.steps, shorter.warmup_steps, shorter.epochs) == (1000, 100, None)
    in_epochs = override(base, ["epochs=20"])
    assert (in_epochs.steps, in_epochs.epochs, in_epochs.warmup_epochs, in_epochs.warmup_steps) == (None, 20, 2.0, 0)
    both = override(recipe_named("finetune-hicmae"), ["steps=700", "warmup_steps=10"])
    assert (both.steps, both.epochs, both.warmup_epochs, both.warmup_steps) == (700, None, 0, 10)
    with pytest.raises(RecipeError, match="either epochs or steps"):
        override(base, ["steps=3", "epochs=2"])


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("pretrain-")])
def test_fewer_epochs_are_never_refused_for_the_warm_up(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_named(name)
    assert cli.run(["pretrain", "--recipe", name, "--epochs=2", "--show-recipe"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    whole, warmup = (
        (recipe.epochs, recipe.warmup_epochs) if recipe.steps is None else (recipe.steps, recipe.warmup_steps)
    )
    assert shown["warmup_epochs"] / shown["epochs"] == pytest.approx(warmup / whole)
    assert cli.run(["pretrain", "--recipe", name, "--epochs=2", "--set=warmup_epochs=1", "--show-recipe"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["warmup_epochs"] == 1


@pytest.mark.parametrize(
    ("name", "batch", "rate"), [("videomae", 512, 1.5e-4), ("mae-dfer", 160, 3e-4), ("videomae-v2", 64, 1e-3)]
)
def test_rates_of_official_pretrainings_are_per_256_clips(name: str, batch: int, rate: float) -> None:
    """Draws of a clip do not count, and the minimum is scaled, too."""
    recipe = recipe_named(f"pretrain-{name}")
    found = recipe.with_batch(256)
    assert (recipe.batch, found.learning_rate, found.min_learning_rate) == (
        batch,
        pytest.approx(rate),
        pytest.approx(1e-5),
    )


def test_short_options_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--recipe", "finetune", "--epochs", "7", "--batch", "32", "--learning-rate", "1e-3", "--show-recipe"]
    assert cli.run([*arguments, "--set", "epochs=9"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert (shown["epochs"], shown["batch"], shown["learning_rate"]) == (9, 32, 1e-3)
    assert shown["min_learning_rate"] == pytest.approx(1.25e-7)  # scaled with the batch


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("layer_decy=0.5", "--set: found field 'layer_decy'; the nearest is 'layer_decay'"),
        ("augmentation.mixp=0.5", "--set: augmentation: found field 'mixp'; the nearest is 'mixup'"),
        ("augmentation.mixp=none", "found field 'mixp'; the nearest is 'mixup'"),
        (
            "other.mixup=0.5",
            "found no such field, expected one of NAME, augmentation.NAME, pretraining.NAME, tokenizers.NAME",
        ),
        (
            "augmentation={mixup=1.0}",
            "--set augmentation: found no such field, expected one of NAME, augmentation.NAME",
        ),
        ("layer_decay", "--set: found 'layer_decay', expected NAME=VALUE"),
        ("layer_decay=half", "--set: layer_decay: found 'half', expected a finite number"),
        ("layer_decay=0.5\nbatch=4", "--set: layer_decay: found '0.5\\nbatch=4', expected a finite number"),
        ("batch=none", "--set: found no batch, expected one"),
        ("class_weights=true", "--set: class_weights: found true, expected one of none, balanced"),
        ("sampling=1", "--set: sampling: found 1, expected one of shuffle, balanced"),
        ("freeze=[head.*]", "--set: freeze: found '[head.*]', expected a list"),
        ("drop_path=1", "drop_path: found 1.0, expected 0 to below 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        override(recipe_named("finetune"), [setting])


# Values of a recipe


def test_rates_go_with_the_batch() -> None:
    large = recipe_named("finetune").with_batch(256)
    assert (large.learning_rate, large.min_learning_rate) == pytest.approx((1e-3, 1e-6))


def test_steps_are_as_many_whole_epochs_as_they_take() -> None:
    base = Recipe(name="own", steps=100, batch=4, learning_rate=1e-3)
    assert base.for_clips(13).epochs == 25  # 4 steps an epoch
    assert replace(base, drop_last=True).for_clips(13).epochs == 34  # 3
    assert base.for_clips(1000).epochs == 1
    assert replace(base, epochs=3, steps=None).for_clips(13).epochs == 3
    message = "found 3 training clips, expected at least the 4 of a step: .*; choose at most BATCH=3 "
    with pytest.raises(RecipeError, match=message):
        replace(base, drop_last=True).for_clips(3)
    with pytest.raises(RecipeError, match=r"choose at most BATCH=20 \(--batch\)$"):
        recipe_named("finetune").for_clips(21)  # mixed in pairs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: found 0, expected at least 1"),
        ({"epochs": None, "steps": 0}, "steps: found 0, expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: found nan"),
        ({"min_learning_rate": 1.0}, "min_learning_rate: found 1.0, expected 0 up to learning_rate"),
        ({"schedule": "step"}, "cosine, constant"),
        ({"warmup_epochs": 2}, "warmup_epochs: found 2, expected less than the whole"),
        ({"warmup_epochs": 1, "warmup_steps": 1}, "either warmup_epochs or warmup_steps"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"head_dropout": 1.0}, "head_dropout"),
        ({"head_init_scale": 0.0}, "head_init_scale"),
        ({"repeated_augmentation": 0}, "repeated_augmentation"),
        ({"test_crops": 3}, "test_crops: found 3, expected one of 1, 5"),
        ({"test_crop_side": 1.1}, "test_crop_side: found 1.1, expected 0.5 to 1"),
        ({"test_crops": 5}, "test_crop_side: found 1.0, expected below 1 with several test_crops"),
        ({"freeze_encoder": True, "test_crop_side": 0.9}, "one view with freeze_encoder"),
        ({"freeze_encoder": True, "augmentation": Augmentation(flip=0.5)}, "none with freeze_encoder"),
        ({"freeze_encoder": True, "drop_path": 0.1}, "no dropout with freeze_encoder"),
        ({"freeze_encoder": True, "test_flip": True}, "one view with freeze_encoder"),
        ({"freeze_encoder": True, "repeated_augmentation": 2}, "repeated_augmentation: found 2, expected 1"),
        ({"batch": 3, "augmentation": Augmentation(mixup=0.8)}, "even batch"),
        ({"batch": 3, "augmentation": Augmentation(cutmix=0.8)}, "even batch"),
        ({"window_seconds": 0.05}, "window_seconds: found 0.05, expected 0, or 0.1 to 3600"),
        ({"window_seconds": -1.0}, "window_seconds: found -1.0"),
        ({"window_seconds": 2.0, "test_windows": 0}, "test_windows: found 0, expected 1 to 64"),
        ({"test_windows": 2}, "test_windows: found 2, expected 1 without window_seconds"),
        ({"freeze_encoder": True, "window_seconds": 2.0, "test_windows": 2}, "one view with freeze_encoder"),
        ({"name": "a b"}, "expected 1 to 80 letters"),
    ],
)
def test_recipe_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        Recipe(**{"name": "own", "epochs": 2, "batch": 4, "learning_rate": 1e-3, **changes})


def test_a_dumped_recipe_has_all_that_is_set() -> None:
    for recipe in RECIPES.values():
        shown = tomllib.loads(dump_toml(recipe))
        values = {**asdict(recipe), "betas": list(recipe.betas), "freeze": list(recipe.freeze)}
        values["corpus_weights"] = list(recipe.corpus_weights)
        shown.pop("augmentation"), values.pop("augmentation")
        for table in ("pretraining", "tokenizers", "vq_mae", "token_pretraining"):
            assert (shown.pop(table, None) is None) == (values.pop(table) is None)
        assert shown == {name: value for name, value in values.items() if value is not None}
