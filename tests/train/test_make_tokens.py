"""Shards of tokens made of sequences: the same bytes however they are made, after kills too, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests import index, sequence, tokens
from manifests.files import FolderError
from manifests.index import ManifestError
from manifests.kinds import PAIRS
from manifests.verify import verify
from manifests.withdraw import withdraw
from tests.factories.both_kinds import SPEAKERS, folder_of
from tests.factories.token_shards import sequences
from tests.kills import killed_at_random
from train import cli
from train.config import ConfigError
from train.data.fold_data import open_fold
from train.data.spectrograms import clip_power
from train.lineage import RANDOM, Ancestor
from train.models.checkpoint_formats import WeightsError
from train.models.tokenizer_files import load_tokenizers, save_tokenizers
from train.models.vqvae import AudioTokenizer, Tokenizers, VisualTokenizer, VisualTokenizerConfig, calibrate
from train.tokenizers.shards import TokensJob, make_tokens

CPU = torch.device("cpu")
LINEAGE = RANDOM.after(
    Ancestor(dataset="folder", speakers=("ben",), labels=None, strategy="tokenizers", build="", licence="none")
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sequences(tmp_path_factory.mktemp("finished") / "shards" / "folder")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """Tokenizers whose codebooks have seen a clip."""
    torch.manual_seed(0)
    small = VisualTokenizerConfig(hidden=8, residual_hidden=4)
    model = Tokenizers(AudioTokenizer(), VisualTokenizer(small)).train()
    clip = sequence.decode(members_of(source)["ben-joy"])
    power = clip_power(clip.audio)
    faces = torch.from_numpy(np.stack([sequence.decode_frame(jpeg, 96) for jpeg in clip.jpegs])).permute(0, 3, 1, 2)
    with torch.no_grad():
        for _ in range(3):
            model(power, faces.float() / 255)
    calibrate(model.audio, power)
    folder = tmp_path_factory.mktemp("weights") / "runs" / "folder" / "tokenizers-anna" / "model"
    save_tokenizers(model, folder, licence="none", lineage=LINEAGE, details={}, card="# Tokenizers\n")
    return folder


def members_of(folder: Path) -> dict[str, dict[str, bytes]]:
    """Clip id -> member suffix -> bytes."""
    found = {}
    for shard in index.load_dataset(folder).shards:
        data = (folder / shard.name).read_bytes()
        for key, places in index.load_receipt(folder / shard.receipt).members.items():
            found[key] = {suffix: data[offset : offset + size] for suffix, (offset, size) in places.items()}
    return found


def job(source: Path, weights: Path, out: Path, **options: Any) -> TokensJob:
    return TokensJob(shards=source, weights=str(weights), out=out, device=CPU, **options)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_codes_are_those_of_the_tokenizers(source: Path, weights: Path, tmp_path: Path) -> None:
    made = make_tokens(job(source, weights, tmp_path / "tokens"))
    assert verify(tmp_path / "tokens", full=True) == []
    tokenizers = load_tokenizers(weights)
    assert made.tokenizer == tokenizers.sha256
    assert (made.clips, made.resumed) == (8, 0)
    assert made.bytes < made.source_bytes
    before, after = members_of(source), members_of(tmp_path / "tokens")
    assert before.keys() == after.keys()
    for key, members in after.items():
        clip, found = sequence.decode(before[key]), tokens.decode(members)
        with torch.no_grad():
            audio = tokenizers.model.audio.encode(clip_power(clip.audio)).numpy()
            crops = np.stack([sequence.decode_frame(jpeg, 96) for jpeg in clip.jpegs])
            faces = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
            visual = tokenizers.model.visual.encode(faces).numpy()
        np.testing.assert_array_equal(found.audio, audio)
        np.testing.assert_array_equal(found.visual, visual)
        assert len(np.unique(found.audio)) > 1
        assert len(np.unique(found.visual)) > 1
        assert (found.clip, found.flags, found.face_found) == (clip.clip, clip.flags, clip.face_found)
        assert found.timing.frame_seconds == clip.timing.frame_seconds
        assert (found.timing.rate_hz, found.timing.spectra_hz) == (25.0, 50.0)
        assert found.timing.audio_start_seconds == clip.timing.audio_start_seconds
        assert len(found.audio) == 1 + len(clip.audio) // 320
        assert found.tokenizer == tokenizers.sha256


def test_the_index_is_that_of_the_sequences(source: Path, weights: Path, tmp_path: Path) -> None:
    make_tokens(job(source, weights, tmp_path / "tokens"))
    before, after = index.load_dataset(source), index.load_dataset(tmp_path / "tokens")
    assert (after.kind, after.dataset, after.fold_schemes) == ("tokens", before.dataset, before.fold_schemes)
    assert after.counts == before.counts
    assert (tmp_path / "tokens" / "clips.jsonl").read_bytes() == (source / "clips.jsonl").read_bytes()
    for scheme in after.fold_schemes:
        assert (tmp_path / "tokens" / f"folds/{scheme}.json").read_bytes() == (
            source / f"folds/{scheme}.json"
        ).read_bytes()
    receipts = [index.load_receipt(folder / after.shards[0].receipt) for folder in (source, tmp_path / "tokens")]
    assert receipts[0].statistics == receipts[1].statistics
    made_of = tokens.token_source(after.identity, "dataset.json")
    assert made_of.index_sha256 == index.file_sha256(source / "dataset.json")
    assert made_of.versions["device"] == "cpu"
    assert made_of.lineage == json.loads(LINEAGE.dump())


def test_any_number_of_workers_gives_the_same_bytes(source: Path, weights: Path, tmp_path: Path) -> None:
    """And any number of threads that torch had before; how many frames are encoded at a time is no setting."""
    make_tokens(job(source, weights, tmp_path / "one", workers=1))
    torch.set_num_threads(3)
    make_tokens(job(source, weights, tmp_path / "many", workers=5))
    assert torch.get_num_threads() == 3
    assert content(tmp_path / "many") == content(tmp_path / "one")


def test_it_resumes_and_makes_damaged_shards_again(source: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    make_tokens(job(source, weights, out))
    whole = content(out)
    assert make_tokens(job(source, weights, out)).resumed == len(SPEAKERS)
    (out / "anna-000.tar").write_bytes(b"damaged")
    (out / "receipts" / "ben-000.json").unlink()
    assert make_tokens(job(source, weights, out)).resumed == len(SPEAKERS) - 2
    assert content(out) == whole


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_end_with_the_same_bytes(source: Path, weights: Path, tmp_path: Path) -> None:
    make_tokens(job(source, weights, tmp_path / "whole"))
    whole, out = content(tmp_path / "whole"), tmp_path / "tokens"
    servers = get_context("forkserver")
    servers.set_forkserver_preload(["train.__main__"])

    def ended() -> None:
        assert content(out) == whole
        shutil.rmtree(out)

    def killed() -> None:
        if (out / "dataset.json").is_file() and index.load_dataset(out).complete and (out / "SHA256SUMS").is_file():
            assert not [problem for problem in verify(out, full=True) if problem.file.endswith(".tar")]

    killed_at_random(lambda: servers.Process(target=_make, args=(source, weights, out)), killed, ended, 20)


def _make(source: Path, weights: Path, out: Path) -> None:
    make_tokens(job(source, weights, out))


def test_other_tokenizers_need_another_folder(source: Path, weights: Path, tmp_path: Path) -> None:
    make_tokens(job(source, weights, tmp_path / "tokens"))
    other = Tokenizers(AudioTokenizer(), VisualTokenizer(VisualTokenizerConfig(hidden=8, residual_hidden=4)))
    save_tokenizers(other, tmp_path / "other", licence="none", lineage=LINEAGE, details={}, card="")
    with pytest.raises(FolderError, match=r"was built differently .tokens_from.tokenizer: .*choose another TO="):
        make_tokens(job(source, tmp_path / "other", tmp_path / "tokens"))
    known = replace(LINEAGE.ancestors[0], recordings="0123456789" * 1000)
    save_tokenizers(other, tmp_path / "other", licence="none", lineage=RANDOM.after(known), details={}, card="")
    with pytest.raises(FolderError, match=r"lineage.ancestors: .* -> SHA-256 \w{12}; .*choose another TO=") as caught:
        make_tokens(job(source, tmp_path / "other", tmp_path / "tokens"))
    assert len(str(caught.value)) < 700


def test_a_withdrawal_goes_on_to_tokens_that_are_made_later(source: Path, weights: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    withdraw(copy, ["dora"])
    make_tokens(job(copy, weights, tmp_path / "tokens"))
    dataset = index.load_dataset(tmp_path / "tokens")
    assert dataset.withdrawn == ("dora",)
    assert {shard.speaker for shard in dataset.shards} == {*SPEAKERS} - {"dora"}


def test_incomplete_clips_keep_their_masks(weights: Path, tmp_path: Path) -> None:
    present = {"faces_present": (True, False) * 20, "sound_present": (True,) * 40}
    masked = sequences(tmp_path / "folder", **present)
    make_tokens(job(masked, weights, tmp_path / "tokens"))
    assert verify(tmp_path / "tokens", full=True) == []
    for members in members_of(tmp_path / "tokens").values():
        assert tokens.decode(members).faces_present == present["faces_present"]


def test_damaged_or_other_shards_are_refused(source: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found pairs, expected sequences of 96 pixels at 25 frames a second"):
        make_tokens(job(folder_of(tmp_path / "pairs", PAIRS), weights, tmp_path / "out"))
    with pytest.raises(FolderError, match="the new shards need a separate folder"):
        make_tokens(job(source, weights, source / "tokens"))
    with pytest.raises(WeightsError, match=r"found none of model.safetensors"):
        make_tokens(job(source, tmp_path, tmp_path / "out"))
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    tar = copy / "anna-000.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(ManifestError, match=r"anna-000.tar: found .* bytes, expected"):
        make_tokens(job(copy, weights, tmp_path / "out"))


def test_a_fold_of_tokens_cannot_be_read_as_pictures(source: Path, weights: Path, tmp_path: Path) -> None:
    make_tokens(job(source, weights, tmp_path / "tokens"))
    with pytest.raises(Exception, match="found shards of tokens, expected"):
        open_fold(tmp_path / "tokens", "anna", strategy="faces")


def test_a_command_makes_them_beside_the_sequences(
    source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "sequences"))
    assert cli.run(["tokens", str(copy), f"--weights={weights}", "--device=cpu"]) == 0
    out = tmp_path / "folder-tokens-anna"
    said = capsys.readouterr().out
    assert f"shards    {out} (4 shards, 0 already made)" in said
    assert "clips     8, " in said
    assert json.loads((out / "dataset.json").read_text())["kind"] == "tokens"
    assert cli.run(["tokens", str(copy), f"--weights={tmp_path}", "--device=cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["visual.npy", "audio.npy"])
def test_sizes_are_those_of_the_codes(source: Path, weights: Path, tmp_path: Path, name: str) -> None:
    make_tokens(job(source, weights, tmp_path / "tokens"))
    for members in members_of(tmp_path / "tokens").values():
        found = tokens.decode(members)
        sizes = {"visual.npy": 2 * 24 * 24 * len(found.visual), "audio.npy": 64 * len(found.audio)}
        assert sizes[name] < len(members[name]) <= sizes[name] + 128
