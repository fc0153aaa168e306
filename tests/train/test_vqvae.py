"""VQ-MAE-AV's tokenizers: sizes, the released model's codes, the codebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from train.models.codebook import Codebook, perplexity
from train.models.vqvae import (
    AudioTokenizer,
    AudioTokenizerConfig,
    BatchNorm,
    Tokenizer,
    VisualTokenizer,
    VisualTokenizerConfig,
    calibrate,
    itakura_saito,
)

GOLDEN = Path(__file__).parents[2] / "../shared/golden/speech_vqvae_reference.npz"
#: Layer of the released model -> ours.
NAMES = {
    "_encoder._conv_1": "encoder.0",
    "_encoder.norm1": "encoder.1",
    "_encoder._conv_2": "encoder.3",
    "_encoder.norm2": "encoder.4",
    "_encoder._conv_3": "encoder.6",
    "_encoder.norm3": "encoder.7",
    "_encoder._residual_stack._layers.0._block": "encoder.8.layers",
    "_encoder._residual_stack._layers.1._block": "encoder.9.layers",
    "_pre_vq_conv": "encoder.11",
    "_decoder._conv_1": "decoder.0",
    "_decoder._residual_stack._layers.0._block": "decoder.1.layers",
    "_decoder._residual_stack._layers.1._block": "decoder.2.layers",
    "_decoder._conv_trans_1": "decoder.4",
    "_decoder.norm1_dec": "decoder.5",
    "_decoder._conv_trans_2_bis": "decoder.7",
    "_decoder.norm2_dec": "decoder.8",
    "_decoder._conv_trans_2": "decoder.10",
}


def count(model: Tokenizer) -> int:
    """Parameters, with the codebook once."""
    return sum(parameter.numel() for parameter in model.parameters()) + model.codebook.numel()


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (AudioTokenizer(), 23_065),
        (AudioTokenizer(AudioTokenizerConfig(residual_layers=2)), 31_257),
        (VisualTokenizer(), 751_111),
        (VisualTokenizer(VisualTokenizerConfig(hidden=256, residual_hidden=256)), 4_285_447),
    ],
)
def test_sizes_are_those_of_the_authors_models(model: Tokenizer, parameters: int) -> None:
    assert count(model) == parameters


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    if not GOLDEN.is_file():
        pytest.skip("the released speech model is not here")
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def released(golden: dict[str, Tensor]) -> AudioTokenizer:
    """Ours, with the released model's weights."""
    model = AudioTokenizer(AudioTokenizerConfig(residual_layers=2))
    state = {name.removeprefix("weights/"): tensor for name, tensor in golden.items() if name.startswith("weights/")}
    ours = {
        "quantizer.vectors": state.pop("_vq_vae._embedding.weight"),
        "quantizer.sums": state.pop("_vq_vae._ema_w"),
        "quantizer.counts": state.pop("_vq_vae._ema_cluster_size"),
        "quantizer.steps": torch.tensor(1),
        "fixed": torch.tensor(0),
    }
    for name, tensor in state.items():
        layer = next(layer for layer in NAMES if name.startswith(f"{layer}."))
        ours[f"{NAMES[layer]}{name.removeprefix(layer)}"] = tensor
    model.load_state_dict(ours)
    return model.eval()


@torch.no_grad()
def test_the_released_weights_give_the_released_codes(golden: dict[str, Tensor], released: AudioTokenizer) -> None:
    codes = released.encode(golden["power"])
    assert codes.shape == (80, 64)
    assert int((codes == golden["codes"]).sum()) == 5_120


@torch.no_grad()
def test_the_released_codes_give_the_released_spectra(golden: dict[str, Tensor], released: AudioTokenizer) -> None:
    found = released.decode(golden["codes"].long())
    torch.testing.assert_close(found, golden["reconstruction"], rtol=1e-3, atol=1e-6)
    assert float(itakura_saito(golden["power"], found).mean()) == pytest.approx(4.86, abs=0.01)
    torch.testing.assert_close(released(golden["power"]).reconstruction, found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "frame", "places"),
    [
        (AudioTokenizer(), (513,), (64,)),
        (VisualTokenizer(VisualTokenizerConfig(hidden=8, residual_hidden=4)), (3, 96, 96), (24, 24)),
    ],
)
@pytest.mark.parametrize("frames", [0, 1, 3])
def test_a_frame_is_encoded_without_its_neighbours(
    model: Tokenizer, frame: tuple[int, ...], places: tuple[int, ...], frames: int
) -> None:
    batch = torch.rand(frames, *frame, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        found = model(batch)
        assert found.codes.shape == (frames, *places)
        assert found.reconstruction.shape == batch.shape
        assert found.commitment.shape == (frames,)
        assert torch.equal(found.codes, model.encode(batch))
        alone = [model.encode(batch[i : i + 1]) for i in range(frames)]
        assert torch.equal(found.codes, torch.cat(alone) if alone else found.codes)
        torch.testing.assert_close(model.decode(found.codes), found.reconstruction, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_encoder_through_the_codes() -> None:
    torch.manual_seed(0)
    model = AudioTokenizer()
    power = torch.rand(4, 513)
    found = model(power)
    model.losses(power, found.reconstruction).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert float(model.encoder[0].weight.grad.abs().sum()) > 0


@torch.no_grad()
def test_calibrated_norms_give_what_the_batch_they_were_calibrated_on_gave() -> None:
    torch.manual_seed(0)
    model = AudioTokenizer()
    power = torch.rand(256, 513).square() * torch.logspace(-3, 3, 513)
    for _ in range(3):
        model(power)
    before = model.codebook.clone()
    calibrate(model, power)
    assert torch.equal(model.codebook, before)
    assert not model.training
    assert {norm.momentum for norm in model.modules() if isinstance(norm, BatchNorm)} == {0.1}
    found = model.encoder(power[:, None])
    model.train()
    torch.testing.assert_close(found, model.encoder(power[:, None]), rtol=1e-3, atol=1e-3)


def test_vectors_become_means_of_their_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    book = Codebook(8, 2, decay=0.5)
    for _ in range(40):
        latents = centres[torch.randint(4, (200,), generator=generator)]
        latents = latents + 0.1 * torch.randn(200, 2, generator=generator)
        book.restart(latents)
        book.update(latents, book.nearest(latents))
    torch.testing.assert_close(book(book.nearest(centres)), centres, rtol=0, atol=0.1)


def test_codes_that_are_not_used_start_again_at_latents() -> None:
    book = Codebook(8, 2, decay=0.9, dead_share=0.1)
    latents = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    book.restart(latents)
    assert {tuple(row) for row in book.vectors.tolist()} <= {tuple(row) for row in latents.tolist()}
    with torch.no_grad():
        book.update(latents, book.nearest(latents))
        book.counts[3], book.vectors[3] = 0.0, 1e6
    before = book.vectors.clone()
    book.restart(latents)
    kept = torch.arange(8) != 3
    assert torch.equal(book.vectors[kept], before[kept])
    assert tuple(book.vectors[3].tolist()) in {tuple(row) for row in latents.tolist()}


def test_restarts_depend_on_seed_and_step_alone() -> None:
    latents = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for seed in (0, 0, 1):
        book = Codebook(8, 2, seed=seed)
        torch.manual_seed(len(found))
        book.restart(latents)
        found.append(book.vectors)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_perplexity_counts_equally_used_codes() -> None:
    assert float(perplexity(torch.tensor([5, 5, 5, 5, 0, 0]))) == pytest.approx(4)
    assert float(perplexity(torch.tensor([7, 0, 0]))) == pytest.approx(1)
    assert float(perplexity(torch.zeros(3))) == pytest.approx(1)


def test_itakura_saito_is_zero_for_equal_spectra_and_counts_ratios() -> None:
    power = torch.tensor([[1.0, 4.0], [1.0, 1.0]])
    estimate = torch.tensor([[1.0, 4.0], [2.0, 0.5]])
    expected = ((0.5 - np.log(0.5) - 1) + (2 - np.log(2) - 1)) / 2
    torch.testing.assert_close(
        itakura_saito(power, estimate), torch.tensor([0.0, float(expected)]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("broken", [{"codes": 257}, {"hidden": 3}, {"width": 0}])
def test_sizes_that_make_no_audio_tokenizer_are_refused(broken: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="audio tokenizer: found"):
        AudioTokenizerConfig(**broken)


@pytest.mark.parametrize("broken", [{"codes": 65537}, {"hidden": 3}, {"residual_layers": 0}])
def test_sizes_that_make_no_visual_tokenizer_are_refused(broken: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="visual tokenizer: found"):
        VisualTokenizerConfig(**broken)
