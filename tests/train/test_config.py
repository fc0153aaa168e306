"""Configurations: checked where they are made, and the same after they were written down."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from manifests.records import SchemaError, from_json
from train.config import TOKENIZERS, ConfigError, TrainConfig, device_for, settings_hash
from train.fusion import FusionError
from train.recipes import RECIPES, Recipe


def config(**changes: Any) -> TrainConfig:
    values = {"shards": "shards/demo", "strategy": "cfas", "fold": "1", "encoder": "tiny", "recipe": RECIPES["tiny"]}
    return TrainConfig(**{**values, **changes})


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_configuration_survives_json(recipe: Recipe) -> None:
    strategy = TOKENIZERS if recipe.tokenizers else "vq-mae-av" if recipe.vq_mae else "cfas"
    made = config(recipe=recipe, strategy=strategy, weights="weights.pth", seed=3)
    assert from_json(TrainConfig, json.loads(json.dumps(made.to_json())), "config.json") == made


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strategy": "cfs"}, FusionError, "unknown strategy 'cfs'; valid are cfas"),
        ({"encoder": "giant"}, ConfigError, "unknown encoder 'giant'; valid are tiny, small, base, large, huge"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"micro_batches": 0}, ConfigError, "micro_batches"),
        ({"check": "none"}, ConfigError, "hashes, sizes"),
        ({"compile": "yes"}, ConfigError, "auto, on, off"),
        ({"recipe": RECIPES["linear-probe"]}, ConfigError, "--weights"),
    ],
)
def test_configuration_that_cannot_be_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        config(**changes)


def test_configuration_of_a_stranger_is_checked() -> None:
    with pytest.raises(SchemaError, match=r"config\.json: found .*steps"):
        from_json(TrainConfig, {**config().to_json(), "steps": 3}, "config.json")


def test_settings_hash_knows_what_may_change_a_score() -> None:
    base = settings_hash(config(), "a", "b")
    assert settings_hash(config(workers=0, fold="2", seed=1, runs="other", save_steps=7), "a", "b") == base
    others = [
        settings_hash(config(), "c", "b"),
        settings_hash(config(), "a", "c"),
    ]
    assert len({base, *others, settings_hash(config(recipe=RECIPES["finetune"]), "a", "b")}) == 4


def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no GPU"):
        device_for("cuda")
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda"):
        device_for("gpu")


def test_each_local_rank_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_for("auto", 3) == torch.device("cuda", 3)
    assert device_for("cuda:1", 3) == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", "64cce1b7a787893a254bd5603157a99f54c892fbd6921907aef43e951cffe743"),
        ("finetune", "c2c76a3685038bd000e0dc21d5483d88fc78db7428ab9effc432f05a31f6cf23"),
        ("linear-probe", "2fba4cb62dd8474812f0d760a609c338ac96af66411ee0cc243684244598a545"),
    ],
)
def test_new_fields_of_recipes_leave_finished_runs_valid(name: str, expected: str) -> None:
    """Hashes from before `class_weights` and the others: these count only where they are set."""
    assert settings_hash(config(recipe=RECIPES[name].without_windows(), weights="w"), "a", "b") == expected
    changes: list[dict[str, Any]] = [{"class_weights": "balanced"}, {"sampling": "balanced"}, {"freeze": ("head.*",)}]
    changes += [{"window_seconds": 2.5}]
    if not RECIPES[name].freeze_encoder:
        share = replace(RECIPES[name].augmentation, window_share=(0.5, 0.75))
        changes += [{"test_crop_side": 0.9}, {"augmentation": share}]
    recipes = [replace(RECIPES[name].without_windows(), **each) for each in changes]
    others = {settings_hash(config(recipe=each, weights="w"), "a", "b") for each in recipes}
    assert len({expected, *others}) == 1 + len(changes)
