"""Weights of masked autoencoders: from transformers and official files, to transformers and to classifiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import VideoMAEForPreTraining, VideoMAEModel

from tests.train.test_mae import SMALL, SMALL_DECODER, reference, split_mask
from tests.train.test_weights import MARLIN, marlin
from train.lineage import RANDOM, Ancestor
from train.models.checkpoint_formats import WeightsError
from train.models.mae import MaskedAutoencoder
from train.models.mae_weights import (
    TRANSFORMERS,
    initialize_autoencoder,
    load_pretrained,
    save_autoencoder,
)
from train.models.videomae import Classifier
from train.models.weights import initialize_from, load_weights

EPS = 1e-6
ENCODER, DECODER = replace(SMALL, layer_norm_eps=EPS), replace(SMALL_DECODER, layer_norm_eps=EPS)
LINEAGE = RANDOM.after(
    Ancestor(dataset="demo", speakers=("S01",), labels=None, strategy="cfas", build="", licence="none")
)


def randomized(seed: int = 0) -> MaskedAutoencoder:
    """An autoencoder whose biases and norms are random, too."""
    model, generator = MaskedAutoencoder(ENCODER, DECODER), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def clip() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A video, its mask, visible and hidden tokens."""
    generator = torch.Generator().manual_seed(5)
    video = torch.randn(2, 3, 4, 32, 32, generator=generator)
    hidden = torch.stack([torch.randperm(32, generator=generator) < 24 for _ in range(2)])
    return video, hidden, *split_mask(hidden)


def save(model: MaskedAutoencoder, folder: Path) -> None:
    save_autoencoder(model, folder, licence="none", lineage=LINEAGE, details={"masks": 1})


def test_what_transformers_saves_can_be_trained_on(tmp_path: Path) -> None:
    theirs = reference()
    theirs.save_pretrained(tmp_path)
    weights = load_pretrained(tmp_path, SMALL)
    assert weights.decoder_config == SMALL_DECODER
    ours = MaskedAutoencoder(weights.encoder.config, weights.decoder_config)
    assert initialize_autoencoder(ours, weights) == "encoder and decoder"
    video, hidden, visible, decoded = clip()
    with torch.no_grad():
        expected = theirs(video.transpose(1, 2), bool_masked_pos=hidden).logits
        torch.testing.assert_close(ours(video, visible, decoded), expected, rtol=1e-5, atol=1e-5)


def test_transformers_loads_what_is_saved_here(tmp_path: Path) -> None:
    model = randomized()
    save(model, tmp_path)
    video, hidden, visible, decoded = clip()
    theirs, info = VideoMAEForPreTraining.from_pretrained(tmp_path / TRANSFORMERS, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs.decoder.norm.eps = DECODER.final_norm_eps
    with torch.no_grad():
        found = theirs.eval()(video.transpose(1, 2), bool_masked_pos=hidden).logits
        torch.testing.assert_close(found, model(video, visible, decoded), rtol=1e-5, atol=1e-5)
        encoder = VideoMAEModel.from_pretrained(tmp_path / TRANSFORMERS).eval()
        tokens = encoder(video.transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(tokens, model.encoder(video), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["model", "module", None])
def test_official_files_have_our_names(tmp_path: Path, wrapper: str | None) -> None:
    model = randomized()
    state = model.state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "checkpoint.pth")
    weights = load_pretrained(tmp_path / "checkpoint.pth", replace(ENCODER))
    other = MaskedAutoencoder(ENCODER, DECODER)
    # The heads of a decoder this narrow do not follow from its weights.
    weights = replace(weights, decoder_config=DECODER)
    assert initialize_autoencoder(other, weights) == "encoder and decoder"
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_ours_go_on_and_begin_classifiers(tmp_path: Path) -> None:
    model = randomized()
    save(model, tmp_path)
    weights = load_pretrained(tmp_path, ENCODER)
    other = MaskedAutoencoder(ENCODER, weights.decoder_config)
    assert initialize_autoencoder(other, weights) == "encoder and decoder"
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert weights.encoder.lineage == LINEAGE
    assert weights.encoder.lineage.kind == "self-supervised"
    loaded = load_weights(tmp_path, ENCODER)
    assert loaded.lineage == LINEAGE
    assert not loaded.config.final_norm
    classifier = Classifier(ENCODER, 4)
    initialize_from(classifier, loaded)
    video = clip()[0]
    plain = model.encoder
    plain.norm = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(classifier.encoder(video), plain(video))
    again = load_weights(tmp_path / TRANSFORMERS, ENCODER)
    assert again.lineage == LINEAGE
    for name, tensor in loaded.encoder.items():
        assert torch.equal(tensor, again.encoder[name])


def test_an_encoder_alone_begins_with_a_random_decoder(tmp_path: Path) -> None:
    model = randomized()
    torch.save({f"encoder.{name}": t for name, t in model.encoder.state_dict().items()}, tmp_path / "a.pth")
    weights = load_pretrained(tmp_path / "a.pth", ENCODER)
    assert weights.decoder == {}
    other = MaskedAutoencoder(ENCODER, DECODER)
    before = other.decoder.head.weight.clone()
    assert initialize_autoencoder(other, weights) == "encoder; the decoder begins with random weights"
    assert torch.equal(other.encoder.norm.weight, model.encoder.norm.weight)
    assert torch.equal(other.decoder.head.weight, before)


def test_of_another_kind_of_decoder_only_the_encoder_is_used(tmp_path: Path) -> None:
    torch.save(marlin(full=True), tmp_path / "marlin.pt")
    weights = load_pretrained(tmp_path / "marlin.pt", MARLIN)
    assert (weights.decoder, weights.decoder_config) == ({}, None)


@pytest.mark.parametrize("changes", [{"positions": "stored"}, {"input_range": "unit"}])
def test_what_transformers_cannot_be_is_not_written_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    model = MaskedAutoencoder(replace(ENCODER, **changes), DECODER)
    save(model, tmp_path)
    assert not (tmp_path / TRANSFORMERS).exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / TRANSFORMERS}: not written: ")
    assert all(f"{name} {value}" in line for name, value in changes.items())
    weights = load_pretrained(tmp_path, ENCODER)
    other = MaskedAutoencoder(weights.encoder.config, weights.decoder_config)
    assert initialize_autoencoder(other, weights) == "encoder and decoder"
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_another_decoder_is_not_loaded(tmp_path: Path) -> None:
    save(randomized(), tmp_path)
    other = MaskedAutoencoder(ENCODER, replace(DECODER, depth=1))
    assert initialize_autoencoder(other, load_pretrained(tmp_path, ENCODER)).startswith("encoder; the decoder begins")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"decoder.blocks.0.mlp.fc1.weight": None}, "found no mask token and MLP"),
        ({"decoder.head.bias": None}, "found an incomplete decoder"),
        ({"decoder.norm.bias": torch.full((16,), float("nan"))}, "found NaN or infinity in 'decoder.norm.bias'"),
        ({"decoder.blocks.7.extra": torch.zeros(2)}, "found an incomplete decoder"),
        ({"decoder.head.weight": torch.zeros(10, 16)}, "found an incomplete decoder"),
        ({"encoder_to_decoder.weight": torch.zeros(16, 7)}, "found an incomplete decoder"),
    ],
)
def test_damaged_decoders_are_refused(tmp_path: Path, damage: dict[str, torch.Tensor | None], message: str) -> None:
    state = {**randomized().state_dict(), **damage}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        weights = load_pretrained(tmp_path / "a.pth", ENCODER)
        depth = weights.decoder_config.depth
        initialize_autoencoder(
            MaskedAutoencoder(ENCODER, replace(DECODER, depth=depth)),
            replace(weights, decoder_config=replace(DECODER, depth=depth)),
        )
