"""VQ-MAE-AV's page names commands for the rows of its paper's tables: they make the variants of these rows."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import train
from train import cli
from train.config import TrainConfig
from train.fusion import TOKEN_STRATEGIES
from train.lineage import RANDOM
from train.models.vq_mae_heads import EmotionClassifier
from train.models.vq_mae_weights import VqMaeWeights
from train.optim import freeze_parameters, lr_at
from train.recipes import RECIPES, TokenPretraining
from train.report.vq_mae import ROWS, ReportedRow
from train.token_models import model_shape, variant_of
from train.token_variants import Variant, parse_variant, pretraining_changes

PAGE = (Path(train.__file__).parent / "docs" / "vq-mae-av.md").read_text()
GENERATIVE = re.search(r"`G='(.*)'`", PAGE)
#: Tables, printed accuracy, and commands of each line of the page's table.
LINES = [
    (found[1].split(", "), found[2], re.findall(r"`(make [^`]*)`", found[3]))
    for found in re.finditer(r"^\| (\d(?:, \d)*) \| (\d\d\.\d\d) \| (`make .*) \|$", PAGE, re.MULTILINE)
]
EXAMPLE = [line for line in PAGE.split("```")[1].splitlines() if line.startswith(("make pretrain", "make train"))]
#: Setting of make -> option.
OPTIONS = {"MODEL": "--model", "DEPTH": "--depth", "FUSION": "--fusion", "HEAD": "--head", "WEIGHTS": "--weights"}


def config_of(command: str) -> TrainConfig:
    """What a command of make trains, of a corpus that is not the demo."""
    assert GENERATIVE
    _, name, *settings = shlex.split(command.replace("$G", GENERATIVE[1]))
    words = {"MODEL": "vq-mae-av"} | dict(each.split("=", 1) for each in settings)
    arguments = [f"{option}={words[setting]}" for setting, option in OPTIONS.items() if setting in words]
    args = cli._parser().parse_args([name, *arguments, *words.get("ARGS", "").split()])
    (strategy,) = args.strategy
    recipe = cli._recipe(args, demo=False, strategy=strategy)
    return TrainConfig(shards="", strategy=strategy, fold="1", encoder="vq-mae-av", recipe=recipe, weights=args.weights)


def made_by(commands: list[str]) -> tuple[str, Variant]:
    """Modality and variant of the classifier that commands make."""
    *before, tuning = map(config_of, commands)
    assert bool(before) == bool(tuning.weights)
    shape, _ = model_shape(replace(before[0] if before else tuning, weights=None))
    weights = None
    if before:
        settings = before[0].recipe.token_pretraining
        assert settings is not None and before[0].strategy == tuning.strategy
        if len(shape.shapes) == 1:  # as `prepare_vq_mae` does
            settings = replace(settings, contrastive=0.0)
        weights = VqMaeWeights(
            config=shape,
            state={},
            head="",
            classes=(),
            licence="",
            lineage=RANDOM,
            details=json.loads(json.dumps({"pretraining": asdict(settings)})),
            tokenizer="",
            sha256="",
            source="",
        )
    assert tuning.recipe.vq_mae is not None
    with torch.device("meta"):
        model = EmotionClassifier(shape, 8, tuning.recipe.vq_mae.head)
    freeze_parameters(model, tuning.recipe.freeze)
    return TOKEN_STRATEGIES[tuning.strategy].modality, variant_of(model, weights, tuning.recipe)


def rows_of(modality: str, variant: Variant) -> set[ReportedRow]:
    return {row for row in ROWS if row.variant and row.modality == modality and row.variant.includes(variant)}


@pytest.mark.parametrize(("tables", "accuracy", "commands"), LINES, ids=[f"{line[0]} {line[1]}" for line in LINES])
def test_commands_fill_the_rows_that_are_named(tables: list[str], accuracy: str, commands: list[str]) -> None:
    found = {(row.table, row.accuracy) for row in rows_of(*made_by(commands)) if row.corpus == "ravdess"}
    assert found == {(table, accuracy) for table in tables}


def test_every_row_of_the_paper_has_commands() -> None:
    named = {(table, accuracy) for tables, accuracy, _ in LINES for table in tables}
    assert named == {(row.table, row.accuracy) for row in ROWS if row.variant and row.corpus == "ravdess"}


def test_the_example_is_in_no_row() -> None:
    modality, variant = made_by(EXAMPLE)
    assert (variant.losses, variant.head) == ("both", "attention")
    assert not rows_of(modality, variant)


def test_what_differs_from_the_paper_is_marked_or_in_no_row() -> None:
    pretrain, tune = "make pretrain", "make train WEIGHTS=... HEAD=query2emo"
    modality, separate = made_by([f"{pretrain} ARGS='--set token_pretraining.separate=true'", tune])
    assert "losses both (separate passes), tuned" in str(separate)
    assert rows_of(modality, separate) == rows_of(modality, replace(separate, pretraining_changes=())) != set()
    modality, partly = made_by(['make pretrain "$G"', "make train WEIGHTS=... ARGS='--set freeze=encoder.codebooks.*'"])
    assert partly.start == "partly" and not rows_of(modality, partly)
    for variant in (separate, partly):
        assert parse_variant(str(variant)) == variant


@pytest.mark.parametrize(
    ("settings", "marks"),
    [
        (["decoded=0.05"], ("decoded 5 %",)),
        (["within_instants=true"], ("within instants",)),
        (["concentration=[2, 1]"], ("concentration 2 and 1",)),
        (["temperature=0.1"], ("temperature 0.1",)),
        (["contrastive=0.5"], ("generative 1 and contrastive 0.5",)),
        (["generative=2", "contrastive=2"], ()),
        (["contrastive=0", "separate=true", "temperature=0.1"], ()),
        (["generative=0", "decoded=0.05", "within_instants=true"], ()),
        (["generative=0.1", "contrastive=0"], ()),
    ],
)
def test_a_pretraining_with_other_settings_is_marked(settings: list[str], marks: tuple[str, ...]) -> None:
    words = " ".join(f"--set token_pretraining.{each.replace(' ', '')}" for each in settings)
    _, variant = made_by([f"make pretrain ARGS='{words}'", "make train WEIGHTS=... HEAD=query2emo"])
    assert (variant.pretraining_changes, variant.tuning_changes) == (marks, ())
    assert parse_variant(str(variant)) == variant


@pytest.mark.parametrize(
    ("settings", "marks"),
    [
        (["training_share=0.25"], ("25 % of the labels",)),
        (["loss=cross-entropy"], ("cross-entropy",)),
        (["label_smoothing=0"], ("label smoothing 0",)),
        (["augmentation.modality_dropout=0.3"], ("modality dropout 0.3",)),
        (["loss=cross-entropy", "class_weights=balanced"], ("cross-entropy", "balanced class weights")),
        (["sampling=balanced"], ("sampling balanced",)),
    ],
)
def test_a_fine_tuning_with_other_settings_is_marked(settings: list[str], marks: tuple[str, ...]) -> None:
    words = " ".join(f"--set {each}" for each in settings)
    modality, variant = made_by(['make pretrain "$G"', f"make train WEIGHTS=... ARGS='{words}'"])
    assert (variant.pretraining_changes, variant.tuning_changes) == ((), marks)
    assert str(variant).endswith(f", tuned ({', '.join(marks)})")
    assert parse_variant(str(variant)) == variant
    assert rows_of(modality, variant) == rows_of(modality, replace(variant, tuning_changes=())) != set()
    _, scratch = made_by([f"make train ARGS='{words}'"])
    assert (scratch.start, scratch.tuning_changes) == ("scratch", marks)


def test_what_was_called_separate_before_other_settings_were_named_is_read() -> None:
    variant = parse_variant("tiny: depth 3, fusion saf-saf, head mean, losses both (separate passes), tuned")
    assert variant is not None
    assert (variant.losses, variant.pretraining_changes, variant.start) == ("both", ("separate passes",), "tuned")


def test_the_page_names_all_that_the_demos_pretraining_has_in_its_own_way() -> None:
    settings = RECIPES["pretrain-vq-mae-av-tiny"].token_pretraining
    assert settings is not None
    named = re.findall(r"^\| `(\w+) = [\w.]+` \| ([^|]+) \|", PAGE, re.MULTILINE)
    assert sorted(pretraining_changes(settings)) == sorted(mark for _, mark in named)
    same = {field: getattr(TokenPretraining(), field) for field, _ in named}
    assert pretraining_changes(replace(settings, **same)) == ()


def test_the_page_says_how_the_rate_goes_here_and_in_the_code_of_the_authors() -> None:
    steps, recipe = 10, replace(RECIPES["pretrain-vq-mae-av"], learning_rate=1.0)
    ours = [lr_at(step, steps, recipe) for step in range(recipe.epochs * steps)]
    theirs = [min((e + 1) / 100, (math.cos(math.pi * e / 160) + 1) / 2) for e in range(160)]
    assert f"reaches {max(ours):.1f}, and\n  adds up to {sum(ours) / steps:.0f} over the epochs" in PAGE
    most = f"at most {max(theirs):.2f}, in epoch {theirs.index(max(theirs))}"
    assert f"{most}, and {sum(theirs):.1f} in all" in PAGE
