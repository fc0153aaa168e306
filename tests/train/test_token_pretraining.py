"""Pre-training of a VQ-MAE-AV from shards of tokens: what is learned, resumed, shared by processes, and refused."""

from __future__ import annotations

import html
import json
import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from manifests.schema import SchemaError
from manifests.tokens import TokenTiming
from tests.factories.small_trainings import counted
from tests.factories.tokens import make_codes, make_token_folder
from train.config import TrainConfig
from train.data import DataError
from train.data.augment import ClipDraws
from train.data.fold_data import open_fold
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.token_masks import draw_masks
from train.data.token_reader import TokenBatch, place_codes
from train.data.token_transform import window_codes
from train.data.windows import EvenWindows, Placement, RandomWindows
from train.distributed import Ranks
from train.lineage import RANDOM
from train.models.checkpoint_formats import WeightsError
from train.models.tokenizer_files import load_tokenizers, save_tokenizers
from train.models.vq_mae_av import MODELS, CodeShape, Predicted, VqMaeConfig, split_tubes
from train.models.vqvae import AudioTokenizer, Tokenizers, VisualTokenizer, VisualTokenizerConfig
from train.pretraining import vq_mae, vq_mae_page
from train.pretraining.hidden_codes import VALIDATION_EPOCH, HiddenCodesObjective, Measures
from train.pretraining.page import read_epochs
from train.pretraining.run import run_pretraining
from train.pretraining.setup import prepare_pretraining
from train.pretraining.vq_mae import VqMaePretraining
from train.recipes import RECIPES, TokenPretraining
from train.trainer import Stopped

#: As `tiny`, but narrower, and with tubes of a whole face.
NARROW = VqMaeConfig(
    depth=1,
    decoder_depth=1,
    width=16,
    heads=2,
    audio=CodeShape(grid=(100, 64), tube=(10, 16), codes=256, code_width=8),
    visual=CodeShape(grid=(50, 24, 24), tube=(5, 12, 12), codes=512, code_width=4),
)
ALONE = Ranks(device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(MODELS, "tiny", NARROW)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_token_folder(tmp_path_factory.mktemp("tokens") / "folder")


def setup(shards: Path, runs: Path, **changes: Any) -> VqMaePretraining:
    """A pre-training of few epochs; `changes` are of the recipe, its table, or the configuration."""
    recipe = replace(RECIPES["pretrain-vq-mae-av-tiny"], epochs=3, batch=8, warmup_epochs=1, validation_steps=0)
    table = {"decoded": 0.05} | {name: changes.pop(name) for name in ("generative", "contrastive") if name in changes}
    recipe = replace(recipe, token_pretraining=replace(recipe.token_pretraining, **table))
    known = set(TrainConfig.__dataclass_fields__)
    recipe = replace(recipe, **{name: value for name, value in changes.items() if name not in known})
    settings = {"strategy": "vq-mae-av", "fold": "anna", "encoder": "tiny", **changes}
    settings = {name: value for name, value in settings.items() if name in known}
    config = TrainConfig(shards=str(shards), runs=str(runs), recipe=recipe, **settings)
    return prepare_pretraining(config, ALONE, lambda line: None)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def loader_of(shards: Path, strategy: str = "vq-mae-av", **options: Any) -> Loader:
    clips = open_fold(shards, "anna", strategy=strategy).training
    return Loader(clips, ClipSampler(clips=len(clips), batch_size=3, shuffle=False), **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_are_those_of_the_codes(shards: Path, workers: int) -> None:
    loader = loader_of(shards, windows=EvenWindows(longest_seconds=2.0, count=3), workers=workers)
    for batch in loader.epoch(1):
        assert (batch.audio.dtype, batch.visual.dtype) == (torch.uint8, torch.uint16)
        for row, key in enumerate(batch.keys):
            codes = make_codes(key, key.split("-")[1], 60)
            for window, start in enumerate((0, 5, 10)):
                assert np.array_equal(batch.visual[row, window], codes["visual"][start : start + 50])
                assert np.array_equal(batch.audio[row, window], codes["audio"][2 * start : 2 * start + 100])
    (first,) = [next(iter(loader_of(shards, "vq-mae-a").epoch(1)))]
    assert first.visual.shape == (3, 1, 0, 24, 24)


def test_random_windows_are_those_of_seed_epoch_and_clip(shards: Path) -> None:
    windows = RandomWindows(longest_seconds=2.0, seed=1)
    first, again = (next(iter(loader_of(shards, windows=windows).epoch(epoch))) for epoch in (1, 1))
    other = next(iter(loader_of(shards, windows=windows).epoch(2)))
    assert torch.equal(first.visual.int(), again.visual.int())
    assert not torch.equal(first.visual.int(), other.visual.int())


@pytest.mark.parametrize(("faces", "spectra"), [(20, 40), (20, 41), (20, 39), (20, 37), (1, 1), (60, 100)])
def test_short_clips_wrap_round_in_step(faces: int, spectra: int) -> None:
    audio, visual = np.zeros((spectra, 64), np.uint8), np.zeros((faces, 24, 24), np.uint16)
    heard, seen = place_codes(audio, visual, 0, Placement(1.0, 0.7))
    length = min(faces, -(-spectra // 2))
    assert (len(heard), len(seen)) == (100, 50)
    assert seen.tolist() == [place % length for place in range(50)]
    assert (np.abs(heard // 2 - np.repeat(seen, 2)) <= 1).all() and heard.max() < spectra
    alone, _ = place_codes(audio, None, 0, Placement(1.0, 0.0))
    assert alone.max() < spectra


@pytest.mark.parametrize(("lead", "face", "spectrum"), [(3, 0, 3), (0, 0, 0), (-1, 1, 1), (-2, 1, 0), (-3, 2, 1)])
def test_faces_and_sound_begin_at_one_time(lead: int, face: int, spectrum: int) -> None:
    audio, visual = np.zeros((200, 64), np.uint8), np.zeros((60, 24, 24), np.uint16)
    heard, seen = place_codes(audio, visual, lead, Placement(1.0, 0.0))
    assert seen.tolist() == [*range(face, face + 50)]
    assert heard.tolist() == [*range(spectrum, spectrum + 100)]


@pytest.mark.parametrize("lead", [-120, 200, 1 << 20])
def test_faces_and_sound_without_a_common_time_are_refused(lead: int) -> None:
    audio, visual = np.zeros((200, 64), np.uint8), np.zeros((60, 24, 24), np.uint16)
    with pytest.raises(SchemaError, match="found faces and sound without a time in common"):
        place_codes(audio, visual, lead, Placement(1.0, 0.0))


@pytest.mark.parametrize(
    ("timing", "message"),
    [
        ({"rate_hz": 30.0}, "found 30 faces and 50 spectra a second, expected 25 and 50"),
        ({"audio_start_seconds": 900.0}, "anna-000.tar.*anna-.*found faces and sound without a time in common"),
    ],
)
def test_clips_that_are_not_in_step_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timing: dict[str, float], message: str
) -> None:
    monkeypatch.setattr("tests.factories.tokens.TokenTiming", lambda **known: TokenTiming(**{**known, **timing}))
    shards = make_token_folder(tmp_path / "folder")
    clips = open_fold(shards, "ben", strategy="vq-mae-av").training
    loader = Loader(clips, ClipSampler(clips=len(clips), batch_size=3, shuffle=False), workers=0)
    with pytest.raises(DataError, match=message):
        next(iter(loader.epoch(1)))


@pytest.mark.parametrize("separate", [False, True])
def test_what_clips_lack_is_not_learned(tmp_path: Path, separate: bool) -> None:
    lacking = {f"{speaker}-joy-0": ("no_sound",) for speaker in ("ben", "cleo", "dora")}
    lacking |= {f"{speaker}-joy-1": ("no_face",) for speaker in ("ben", "cleo", "dora")}
    ours = setup(make_token_folder(tmp_path / "folder", flags=lacking), tmp_path / "runs")
    ours.model.separate = separate
    batch = next(iter(ours.make_loader(ours.data.training).epoch(1)))
    assert sorted(batch.missing) == [0, 0, 0, 0, 0, 0, 1, 2]
    silent, faceless = batch.missing.index(1), batch.missing.index(2)

    def loss(changed: TokenBatch, **settings: float) -> torch.Tensor:
        objective = replace(ours.objective, settings=replace(ours.settings, **settings))
        return objective.loss(ours.model, changed, 1)

    def changed(audio_row: int, visual_row: int) -> TokenBatch:
        audio, visual = batch.audio.clone(), batch.visual.clone()
        audio[audio_row], visual[visual_row] = 255 - audio[audio_row], 1
        return replace(batch, audio=audio, visual=visual)

    assert torch.equal(loss(changed(silent, faceless)), loss(batch))
    assert not torch.equal(loss(changed(faceless, silent)), loss(batch))
    nobody = replace(batch, missing=(1, 2) * 4)
    assert loss(nobody, generative=0.0).item() == 0
    assert 0 < loss(nobody).item() < loss(batch).item()
    loss(nobody).backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in ours.model.parameters())
    assert len(ours.data.clips("validation")) == 8
    assert len(ours.validation_clips) == 6
    run_pretraining(ours)
    result = json.loads((ours.folder / "pretraining.json").read_text())
    assert sum(clips for _, clips in result["retrieval"]["speakers"].values()) == 6


def test_kinds_of_shards_and_strategies_must_fit(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found shards of tokens, expected those of another kind, or a strategy"):
        open_fold(shards, "anna", strategy="cfas")


def test_it_learns_and_keeps_the_last_epoch(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path, epochs=60, learning_rate=1e-2, validation_steps=60)
    before = {name: tensor.clone() for name, tensor in ours.model.state_dict().items()}
    found = run_pretraining(ours)
    epochs = read_epochs(ours.folder)
    last = epochs[-1]
    assert last["train_loss"] < epochs[0]["train_loss"] - 0.2
    assert last["validation_loss"] < epochs[0]["validation_loss"] - 0.1
    for name in ("audio", "visual"):
        assert 0 < last[f"{name}_unigram"] < 1
        assert 0 < last[f"{name}_place"] < 1
        assert {
            f"{name}_accuracy{what}" for what in ("_90", "_90_alone", "_90_swapped", "_other", "_other_swapped")
        } <= last.keys()
    assert {name for name, tensor in state_of(ours.folder).items() if torch.equal(before[name], tensor)} == set()
    result = json.loads((ours.folder / "pretraining.json").read_text())
    assert result["validation"]["retrieval"] == pytest.approx(last["retrieval"])
    assert sum(clips for _, clips in result["retrieval"]["speakers"].values()) == len(ours.data.clips("validation"))
    assert (ours.folder / "report.html").read_text().count("data:image/png;base64") == 1
    assert run_pretraining(setup(shards, tmp_path, epochs=60, learning_rate=1e-2, validation_steps=60)) == found


def test_the_most_frequent_code_of_each_place_is_that_of_training_clips_that_have_the_modality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {f"{speaker}-joy-0": ("no_sound",) for speaker in ("ben", "cleo", "dora")}
    ours = setup(make_token_folder(tmp_path / "folder", flags=lacking), tmp_path / "runs")
    clips = ours.data.training
    assert len(clips) == 16
    windows = {"audio": [], "visual": []}
    for key, missing in zip(clips.keys, clips.missing, strict=True):
        codes = make_codes(key.decode(), key.decode().split("-")[1], 60)
        windows["visual"].append(codes["visual"][5:55])
        if not missing:
            windows["audio"].append(codes["audio"][10:110])
    assert [len(each) for each in windows.values()] == [14, 16]
    for name, each in windows.items():
        counts = np.array([(np.stack(each) == code).sum(0) for code in range(256)])
        assert np.array_equal(ours.common_codes[name].numpy(), counts.argmax(0))
    monkeypatch.setattr(vq_mae, "COUNTED_CLIPS", 5)
    counted = []
    monkeypatch.setattr(vq_mae, "most_frequent_codes", lambda loader, *_: counted.append(loader.clips) or {})
    few = setup(tmp_path / "folder", tmp_path / "runs")
    assert few.common_codes == few.objective.common_codes() == {}
    (drawn,) = counted  # once
    assert len({*drawn.ids}) == 5 and {*drawn.ids} < {*clips.ids}
    assert list(drawn.ids) != list(clips.ids[:5])


def test_a_guess_by_place_is_measured_on_the_codes_that_the_model_predicts(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path)
    loader = ours.make_loader(ours.validation_clips)
    sums = ours.objective.measure(ours.model, loader).sums
    right, count = dict.fromkeys(NARROW.shapes, 0), dict.fromkeys(NARROW.shapes, 0)
    for batch in loader.epoch(0):
        draws = ClipDraws(keys=batch.draw_keys, seed=0, epoch=VALIDATION_EPOCH)
        masks = draw_masks(TokenPretraining(), {name: each.tokens for name, each in NARROW.shapes.items()}, draws)
        for name, shape in NARROW.shapes.items():
            codes = split_tubes(window_codes(batch, 0, NARROW)[name].long(), shape.tube)
            guessed = split_tubes(ours.common_codes[name][None], shape.tube)
            hidden = ~masks.visible[name]
            right[name] += int((codes == guessed)[hidden].sum())
            count[name] += codes[hidden].numel()
    for name in NARROW.shapes:
        assert sums[f"right {name}_place"] == right[name] > 0
        assert sums[f"codes {name}_place"] == sums[f"codes {name}_accuracy"] == count[name]


def test_what_is_measured_is_of_all_hidden_codes_whatever_a_training_decodes(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path)
    few, all_codes = (
        replace(ours.objective, settings=replace(ours.settings, decoded=share)).measure(
            ours.model, ours.make_loader(ours.validation_clips)
        )
        for share in (0.05, 1.0)
    )
    assert few.sums == all_codes.sums
    assert few.scores() == all_codes.scores()
    for name, shape in NARROW.shapes.items():
        codes = shape.codes_per_token * round(0.9 * shape.tokens)
        assert few.sums[f"codes {name}_accuracy_90"] == 8 * codes
        assert few.sums[f"codes {name}_accuracy_90_alone"] == 8 * codes
        assert few.sums[f"codes {name}_accuracy_other"] == 8 * shape.codes_per_token * shape.tokens


class Shown(torch.nn.Module):
    """Predicts code 0, with any codes, and keeps what it was shown: name -> codes and visible tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = []

    def forward(self, codes: Any, visible: Any, decoded: Any, slots: int) -> Predicted:
        self.calls.append({name: (codes[name].int(), visible[name]) for name in codes})
        shapes = {
            name: (*decoded[name].shape, shape.codes_per_token, shape.codes) for name, shape in NARROW.shapes.items()
        }
        return Predicted({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, {})


@pytest.mark.parametrize("batch", [3, 8])
def test_a_swapped_modality_is_that_of_the_next_clip_with_the_same_masks(
    shards: Path, tmp_path: Path, batch: int
) -> None:
    """Of all clips, whatever is in a batch."""
    ours, model = setup(shards, tmp_path, batch=batch), Shown()
    clips = ours.validation_clips
    assert len(clips) == 8
    ours.objective.measure(model, ours.make_loader(clips))
    names = [name for each in ours.objective._conditions(8) for name in ["+".join(each.measured.values())]]
    names = ["coupled", *names]
    assert len(model.calls) == len(names) * -(-8 // batch)
    shown = {
        condition: {
            name: [torch.cat([call[name][what] for call in model.calls[place :: len(names)]]) for what in (0, 1)]
            for name in NARROW.shapes
        }
        for place, condition in enumerate(names)
    }
    own = {name: codes for name, (codes, _) in shown["coupled"].items()}
    for name, other in (("audio", "visual"), ("visual", "audio")):
        for measure, fair in (("90", "audio_accuracy_90+visual_accuracy_90"), ("other", f"{name}_accuracy_other")):
            swapped = shown[f"{name}_accuracy_{measure}_swapped"]
            assert torch.equal(swapped[name][0], own[name])
            assert torch.equal(swapped[other][0], own[other].roll(-1, 0))
            assert not torch.equal(swapped[other][0], own[other])
            for each in NARROW.shapes:
                assert torch.equal(shown[fair][each][0], own[each])
                assert torch.equal(swapped[each][1], shown[fair][each][1])


def test_accuracies_of_swapped_clips_are_of_the_clip_s_own_codes_and_need_another_clip(
    shards: Path, tmp_path: Path
) -> None:
    ours = setup(shards, tmp_path)
    clips = ours.validation_clips
    found = ours.objective.measure(Shown(), ours.make_loader(clips)).sums
    for name in NARROW.shapes:
        for measure in ("90", "other"):
            for what in ("right", "codes"):
                key = f"{what} {name}_accuracy_{measure}"
                assert found[f"{key}_swapped"] == found[key] > 0  # what is predicted is the same, and so is the truth
    one = ours.objective.measure(ours.model, ours.make_loader(clips.take(np.array([0])))).scores()
    assert "audio_accuracy_other" in one
    assert not any(name.endswith("_swapped") for name in one)


def test_a_line_of_the_log_has_the_guess_by_place() -> None:
    objective = HiddenCodesObjective(
        shape=NARROW, settings=TokenPretraining(), ranks=ALONE, most=8, make_loader=lambda _: None, common_codes=dict
    )
    scores = {"validation_loss": 5.0, "audio_accuracy": 0.08, "audio_place": 0.057, "audio_unigram": 0.02}
    assert objective.describe(scores) == "5.000, audio codes 8.0 % (of the place 5.7)"


def test_the_most_similar_face_is_sought_among_neighbours_and_ties_are_shared() -> None:
    clips = 20
    faces = torch.eye(clips)
    measures = Measures(pooled={"audio": faces.clone(), "visual": faces})
    assert measures.retrieved(near=True).tolist() == [1.0] * clips
    measures.pooled["audio"] = faces.roll(-1, 0)  # the sound of each is that of the next
    assert measures.retrieved(near=True).tolist() == [0.0] * clips
    measures.pooled["audio"] = faces.roll(-17, 0)  # that of one that is not among the 15 that follow: all are alike
    assert measures.retrieved(near=True).tolist() == pytest.approx([1 / 16] * clips)
    same = faces.clone()
    same[3] = same[5]  # the same recording of a face in two clips
    measures.pooled = {"audio": same, "visual": same.clone()}
    assert measures.retrieved(near=True).tolist() == [
        0.5 if clip == 3 else 1.0 for clip in range(clips)
    ]  # 3 is not among the next of 5


def test_the_most_similar_face_is_sought_among_clips_of_all_speakers() -> None:
    """Of 64 clips of four speakers, who look alike in all of theirs, 16 that are evenly spaced are four of each."""
    looks = torch.eye(4).repeat_interleave(16, dim=0)
    measures = Measures(pooled={"audio": looks, "visual": looks.clone()})
    assert measures.retrieved(near=False).tolist() == pytest.approx([1 / 4] * 64)
    found = measures.retrieved(near=True)
    assert found[0] == pytest.approx(1 / 16), "all that follow are of the same speaker"
    assert found[15] == pytest.approx(1), "none of them is"


def test_stopped_and_resumed_it_is_the_same(shards: Path, tmp_path: Path) -> None:
    run_pretraining(whole := setup(shards, tmp_path / "whole"))
    for stop in (1, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.run_fold.stop_on_signal", lambda _, n=stop: nullcontext(counted(n)))
            with pytest.raises(Stopped):
                run_pretraining(setup(shards, tmp_path / f"parts{stop}"))
        run_pretraining(rest := setup(shards, tmp_path / f"parts{stop}"))
        for name in ("model/model.safetensors", "model/config.json", "pretraining.json"):
            assert (rest.folder / name).read_bytes() == (whole.folder / name).read_bytes()


_RANK = """
import sys
import torch
from pathlib import Path
from tests.train import test_token_pretraining as tests
from train.distributed import init_distributed
from train.pretraining.run import run_pretraining
torch.set_num_threads(1)
tests.MODELS["tiny"] = tests.NARROW
with init_distributed("cpu") as ranks:
    tests.ALONE = ranks
    made = tests.setup(Path(sys.argv[1]), Path(sys.argv[2]), epochs=2, batch=10)
    run_pretraining(made)
    del made
"""


def test_two_processes_learn_what_one_does(shards: Path, tmp_path: Path) -> None:
    """Batches of 10 of 16 clips: the last step has 6, three for each rank, and the contrastive loss compares all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    joined = {**shared, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(shards), str(tmp_path / "two")],
            env={**joined, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        run_pretraining(one := setup(shards, tmp_path / "one", epochs=2, batch=10))
        assert [process.wait(timeout=200) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    two = tmp_path / "two" / one.folder.relative_to(tmp_path / "one")
    for name, tensor in state_of(one.folder).items():
        torch.testing.assert_close(state_of(two)[name], tensor, rtol=0, atol=5e-4)
    scores = [json.loads((folder / "pretraining.json").read_text())["validation"] for folder in (one.folder, two)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"generative": 0.0}, {"encoder", "pools"}),
        ({"contrastive": 0.0}, {"encoder", "decoder"}),
        ({"strategy": "vq-mae-a"}, {"encoder", "decoder"}),
        ({"strategy": "vq-mae-v"}, {"encoder", "decoder"}),
    ],
)
def test_ablations_have_only_what_they_train(
    shards: Path, tmp_path: Path, changes: dict[str, Any], parts: set[str]
) -> None:
    run_pretraining(ours := setup(shards, tmp_path, **changes))
    assert {name.partition(".")[0] for name in state_of(ours.folder)} == parts
    last = read_epochs(ours.folder)[-1]
    assert ("retrieval" in last) == ("pools" in parts)
    assert any(name.endswith("_accuracy") for name in last) == ("decoder" in parts)
    page = html.unescape((ours.folder / "report.html").read_text())
    seen = {"vq-mae-a": "sound", "vq-mae-v": "faces"}.get(ours.config.strategy, "sound and faces")
    generative, contrastive, both = "decoder" in parts, "pools" in parts, "strategy" not in changes
    said = {
        "Masked pre-training on codes. ": generative,
        f"The encoder sees the visible tokens of {seen}, and a decoder predicts the codes of hidden ones.": generative,
        "90 % of the tokens hidden": generative,
        "the most frequent code of the place in training clips": generative,
        "hidden ones first, in a step; all when measured": generative,
        "true: a decoder with random weights at first attends within the instant": generative,
        "1 x generative": generative,
        "the other modality": generative and both,
        "Dirichlet(1, 1), coupled": generative and both,
        "the first of Dirichlet(1, 1)": not both,
        "Global tokens of a clip's sound and face, of two separate passes": contrastive,
        "true: contrastive tokens are of two separate passes, each of one modality, all visible": contrastive,
        "1 x contrastive": contrastive,
        "among the clip and 7 that follow, mostly of the same speaker": contrastive,
        "by chance": contrastive,
        "12.5": contrastive,
    }
    assert {text: text in page for text in said} == said
    assert "<td>-</td>" not in page


def test_a_page_says_of_which_passes_the_losses_are(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path)

    def introduced(**settings: Any) -> str:
        return vq_mae_page._introduce(replace(ours, settings=replace(ours.settings, **settings)))

    assert "of the masked pass, are drawn together. No label" in introduced(separate=False)
    assert introduced(separate=False, generative=0.0).startswith("Masked pre-training on codes. Global tokens")
    assert introduced(separate=True, generative=0.0).startswith("Pre-training on codes. Global tokens")


def test_accuracies_are_drawn_above_a_guess_by_place() -> None:
    line = {"epoch": 1, "train_loss": 2.0, "validation_loss": 3.0, "retrieval": 0.1, "retrieval_near": 0.2}
    line |= {f"audio_{name}": share for name, share in (("accuracy", 0.5), ("place", 0.25), ("unigram", 0.125))}
    (_, rates) = vq_mae_page.draw_curves.__wrapped__([line]).axes
    dotted = {each.get_label(): each for each in rates.lines if each.get_linestyle() == ":"}
    assert dotted.keys() == {"sound, code of the place", "face by sound, near"}
    assert dotted["sound, code of the place"].get_ydata().tolist() == [25.0]


def test_it_begins_with_weights(shards: Path, tmp_path: Path) -> None:
    run_pretraining(first := setup(shards, tmp_path / "first"))
    second = setup(shards, tmp_path / "second", weights=str(first.folder / "model"))
    assert second.origin.endswith("encoder and decoder and pools")
    for name, tensor in state_of(first.folder).items():
        assert torch.equal(second.model.state_dict()[name], tensor)
    with pytest.raises(ValueError, match="found vq-mae-av, expected weights of vq-mae-a"):
        setup(shards, tmp_path / "third", weights=str(first.folder / "model"), strategy="vq-mae-a")
    with pytest.raises(ValueError, match="were trained or validated on ben of folder, whom fold ben tests"):
        setup(shards, tmp_path / "third", weights=str(first.folder / "model"), fold="ben")
    folder = first.folder / "model"
    config = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"tokenizer": None}, "its config.json: tokenizer: .*; get it again"),
        ({"sha256": "0" * 64}, "found other weights than config.json describes; get both again"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(WeightsError, match=message):
            setup(shards, tmp_path / "third", weights=str(folder))


def test_what_cannot_be_is_refused(shards: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"micro_batches": 2}, "expected 1: the contrastive loss compares all clips of a step"),
        ({"strategy": "vq-mae-a", "generative": 0.0}, "found the contrastive loss only"),
        ({"strategy": "cfas"}, r"found strategy cfas, expected MODEL= \(vq-mae-v, vq-mae-a, vq-mae-av\)"),
        ({"encoder": "large"}, "unknown encoder 'large'; valid are vq-mae-av, tiny"),
    ):
        with pytest.raises(ValueError, match=message):
            setup(shards, tmp_path, **changes)


def test_it_begins_with_the_codebooks_and_paints_with_the_tokenizers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = VisualTokenizer(VisualTokenizerConfig(hidden=8, residual_hidden=4))
    folders = [tmp_path / "tokenizers", tmp_path / "others"]
    for folder in folders:
        model = Tokenizers(AudioTokenizer(), small).eval()
        save_tokenizers(model, folder, licence="none", lineage=RANDOM, details={}, card="")
    found = load_tokenizers(folders[0])
    shards = make_token_folder(tmp_path / "folder", tokenizer=found.sha256)
    with pytest.raises(ValueError, match="found other tokenizers than those that made the codes of folder"):
        setup(shards, tmp_path / "runs", tokenizers=str(folders[1]))
    ours = setup(shards, tmp_path / "runs", tokenizers=str(folders[0]))
    assert ours.origin == "random weights and the codebooks of the tokenizers"
    assert torch.equal(ours.model.encoder.codebooks["visual"].weight, found.model.visual.codebook)
    run_pretraining(ours)
    page = (ours.folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 3
    assert "Measured on validation speakers" in page
    assert "of two separate passes, each of one modality, all visible" in page
    assert "5 % of the tokens of each modality, hidden ones first" in page


def test_all_processes_together_paint_the_clips_of_one_and_say_whose_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Tokenizers(AudioTokenizer(), VisualTokenizer(VisualTokenizerConfig(hidden=8, residual_hidden=4))).eval()
    save_tokenizers(model, tmp_path / "tokenizers", licence="none", lineage=RANDOM, details={}, card="")
    tokenizers = str(tmp_path / "tokenizers")
    shards = make_token_folder(tmp_path / "folder", tokenizer=load_tokenizers(tokenizers).sha256)
    painted = []

    def draw(clips: list[Any], title: str, names: tuple[str, str]) -> bytes:
        painted.append((len(clips), title, names))
        return b""

    monkeypatch.setattr(vq_mae_page, "draw_spectra", draw)
    monkeypatch.setattr(vq_mae_page, "draw_faces", draw)
    for selection, whose in (("validation", "not trained on"), ("last", "trained on")):
        ours = setup(shards, tmp_path / selection, tokenizers=tokenizers, selection=selection)
        vq_mae_page._paint(replace(ours, ranks=replace(ALONE, world_size=2)))
        assert painted[-2:] == [(3, f"80 % hidden, of clips that were {whose}", ("codes", "painted"))] * 2
    run_pretraining(ours)
    page = (ours.folder / "report.html").read_text()
    assert "Nothing was measured: all speakers were trained on." in page
    assert "alidation speakers" not in page
