"""Recipes and configurations: checked where they are made, and the same after they were written down."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from typing import Any

import pytest
import torch

from manifests.records import SchemaError, from_json
from train.config import ConfigError, TrainConfig, device_for, settings_hash
from train.data.transforms import Augmentation
from train.fusion import FusionError
from train.recipes import NO_AUGMENTATION, RECIPES, Recipe, RecipeError, dump_toml, recipe_named


def config(**changes: Any) -> TrainConfig:
    values = {"shards": "shards/demo", "strategy": "cfas", "fold": "1", "encoder": "tiny", "recipe": RECIPES["tiny"]}
    return TrainConfig(**{**values, **changes})


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_shown_recipe_is_toml_with_all_that_is_set(recipe: Recipe) -> None:
    shown = tomllib.loads(dump_toml(recipe))
    expected = json.loads(json.dumps(asdict(recipe)))
    assert shown == {name: value for name, value in expected.items() if value is not None}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_configuration_survives_json(recipe: Recipe) -> None:
    made = config(recipe=recipe, weights="weights.pth", seed=3)
    assert from_json(TrainConfig, json.loads(json.dumps(made.to_json())), "config.json") == made


def test_probe_is_the_notebooks() -> None:
    probe = recipe_named("linear-probe")
    assert (probe.epochs, probe.batch, probe.learning_rate, probe.weight_decay) == (100, 16, 1e-2, 0.05)
    assert probe.freeze_encoder
    assert probe.schedule == "constant"
    assert probe.augmentation == NO_AUGMENTATION


def test_finetune_is_the_papers_at_a_bearable_rate() -> None:
    tune = recipe_named("finetune")
    assert (tune.epochs, tune.warmup_epochs, tune.batch, tune.layer_decay) == (50, 5, 64, 0.75)
    assert tune.learning_rate == pytest.approx(2.5e-4)
    assert tune.augmentation.mixup == 0.2


def test_rate_goes_with_the_batch() -> None:
    assert recipe_named("finetune").with_batch(256).learning_rate == pytest.approx(1e-3)


def test_unknown_recipe_lists_the_valid_ones() -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'probe'; valid are linear-probe, finetune, tiny"):
        recipe_named("probe")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "at least one epoch"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"schedule": "step"}, "cosine, constant"),
        ({"warmup_epochs": 2}, "less warm-up"),
        ({"layer_decay": 0.0}, "layer decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"drop_path": 1.0}, "rates"),
        ({"freeze_encoder": True, "augmentation": Augmentation()}, "no augmentation with freeze_encoder"),
        ({"cache_inputs": True, "augmentation": Augmentation()}, "no augmentation but mixup with cache_inputs"),
        ({"batch": 3, "augmentation": Augmentation()}, "even batch"),
    ],
)
def test_recipe_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(**{"name": "own", "epochs": 2, "batch": 4, "learning_rate": 1e-3, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strategy": "cfs"}, FusionError, "unknown strategy 'cfs'; valid are cfas"),
        ({"encoder": "huge"}, ConfigError, "unknown encoder 'huge'; valid are tiny, base, large"),
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
    assert settings_hash(config(workers=0, fold="2", runs="other", save_steps=7), "a", "b") == base
    others = [
        settings_hash(config(seed=1), "a", "b"),
        settings_hash(config(), "c", "b"),
        settings_hash(config(), "a", "c"),
    ]
    assert len({base, *others, settings_hash(config(recipe=RECIPES["finetune"]), "a", "b")}) == 5


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
