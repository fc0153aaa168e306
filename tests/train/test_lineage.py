"""Weights know every speaker they descend from, wherever they are copied, and no test fold meets one of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from manifests.index import Row, load_rows
from manifests.records import SchemaError
from tests.factories.shards import SPEAKERS
from tests.factories.small_trainings import SMALL
from train import cli, run_setup
from train.lineage import MAX_RECORDINGS, METADATA_KEY, RANDOM, Ancestor, Lineage, parse_lineage, sketch_recordings
from train.models.checkpoint_formats import WeightsError
from train.models.checkpoint_io import dump_weights
from train.models.videomae import ENCODERS, Encoder
from train.models.weights import load_classifier, load_weights
from train.runs import read_result

pytestmark = pytest.mark.usefixtures("small_encoder")


@pytest.fixture
def train(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Train on a fold; its exit status and output."""

    def call(fold: str, runs: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
        named = {"shards": shards, "runs": tmp_path / runs, "encoder": "tiny", "recipe": "tiny", "epochs": 1}
        named |= {"strategy": "cfas", "fold": fold, **options}
        status = cli.run(["train", *(f"--{name}={value}" for name, value in named.items()), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def model(tmp_path: Path, runs: str, fold: str) -> Path:
    return tmp_path / runs / "folder" / "cfas" / f"fold-{fold}" / "model"


def read_config(run: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((run / "config.json").read_text())["config"]
    return config


def test_a_run_that_trained_on_a_test_speaker_is_refused_as_weights(train, tmp_path: Path) -> None:
    """The experiment that reported 100 % on an "unseen" speaker."""
    assert train("anna", "first")[0] == 0
    weights = model(tmp_path, "first", "anna")
    status, out, err = train("ben", "second", weights=weights)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert (
        f"{weights}: were trained or validated on ben of folder, whom fold ben tests; expected unseen speakers" in err
    )
    assert "these weights can be tested on fold anna of loso, or choose other --weights" in err
    assert not (tmp_path / "second").exists()
    assert train("anna", "second", weights=weights)[0] == 0  # whom these weights have not seen


def test_the_folder_of_a_run_serves_as_weights_and_names_the_encoder(train, tmp_path: Path) -> None:
    train("anna", "first")
    run = model(tmp_path, "first", "anna").parent
    arguments = ["train", f"--shards={read_config(run)['shards']}", f"--runs={tmp_path / 'second'}", "--recipe=tiny"]
    assert cli.run([*arguments, "--epochs=1", "--fold=anna", f"--weights={run}"]) == 0
    assert read_result(model(tmp_path, "second", "anna").parent).run.protocol.encoder == "tiny"


def test_weights_of_an_unknown_encoder_are_refused_with_the_known_ones(train, tmp_path: Path) -> None:
    other = replace(SMALL, width=20)
    (tmp_path / "other.safetensors").write_bytes(dump_weights(Encoder(other), RANDOM))
    status, _, err = train("anna", "first", weights=tmp_path / "other.safetensors", encoder="tiny")
    assert (status, err.count("\n")) == (2, 1)
    assert "found width 20, expected 16 as requested" in err
    with pytest.raises(WeightsError, match=r"\(width x depth 20 x 1\), expected one of 16 x 1, 384 x 12, 768 x 12"):
        load_weights(tmp_path / "other.safetensors", *ENCODERS.values())


def test_a_copy_of_the_weights_alone_is_refused_too(train, tmp_path: Path) -> None:
    train("anna", "first")
    alone = shutil.copy(model(tmp_path, "first", "anna") / "model.safetensors", tmp_path / "renamed.safetensors")
    status, _, err = train("ben", "second", weights=alone)
    assert (status, err.count("\n")) == (2, 1)
    assert "were trained or validated on ben of folder" in err


def test_the_chain_from_pre_training_to_the_second_fine_tuning_has_every_speaker(train, tmp_path: Path) -> None:
    """Pre-trained without labels on another speaker, fine-tuned, exported, fine-tuned."""
    pre_training = Ancestor(
        dataset="folder", speakers=("eve",), labels=None, strategy="faces", build="any", licence="CC0 1.0"
    )
    (tmp_path / "pre.safetensors").write_bytes(dump_weights(Encoder(SMALL), RANDOM.after(pre_training)))
    status, _, err = train("anna", "first", weights=tmp_path / "pre.safetensors")
    assert status == 0
    assert "pre.safetensors: were trained on clips with any, here crop " in err
    run = model(tmp_path, "first", "anna").parent
    protocol = read_result(run).run.protocol
    assert protocol.supervision == "self-supervised"
    assert protocol.lineage.startswith(
        "random weights, then self-supervised on folder; were trained on clips with any, "
    )
    assert cli.run(["export", "--run", str(run), "--out", str(tmp_path / "export")]) == 0
    card = (tmp_path / "export" / "README.md").read_text()
    assert "eve" in card and "folder, without labels" in card
    assert train("anna", "second", weights=tmp_path / "export")[0] == 0
    last = load_classifier(model(tmp_path, "second", "anna"))
    assert last.lineage.speakers("folder") == {"eve", *SPEAKERS} - {"anna"}
    assert [each.labels is None for each in last.lineage.ancestors] == [True, False, False]
    assert last.lineage.speakers("another") == frozenset()
    protocol = read_result(model(tmp_path, "second", "anna").parent).run.protocol
    assert protocol.supervision == "supervised"
    assert protocol.selection == "UAR of validation speakers, whom the initial weights know"


def test_every_training_of_a_chain_remembers_its_recordings(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose initial weights have read the same rows, to find whom they know."""

    def hashed(folder: Path) -> Iterator[Row]:
        return (replace(row, sha256=hashlib.sha256(row.clip_id.encode()).hexdigest()) for row in load_rows(folder))

    monkeypatch.setattr(run_setup, "load_rows", hashed)
    train("anna", "first")
    train("anna", "second", weights=model(tmp_path, "first", "anna"))
    first, second = load_weights(model(tmp_path, "second", "anna"), SMALL).lineage.ancestors
    assert first.recordings
    assert second.recordings == first.recordings


def test_a_recording_is_known_whatever_its_corpus_is_called() -> None:
    """Built as a corpus of one's own, or under another name; and corpora of one's own may have the same speakers."""
    rows = [
        Row(clip_id=f"{name}-1", speaker=name, emotion="joy", status="built", source="x", sha256=digit * 64)
        for name, digit in (("anna", "a"), ("ben", "b"))
    ]
    facts = {"labels": "x", "strategy": "cfas", "build": "b", "licence": "l"}
    seen = RANDOM.after(
        Ancestor(dataset="folder", speakers=("1", "ben"), recordings=sketch_recordings(["a" * 64]), **facts)
    )
    assert seen.known_speakers("crema-d", rows) == {"anna"}
    assert seen.known_speakers("folder", rows) == {"1", "anna", "ben"}  # the same corpus, with anna renamed
    older = RANDOM.after(Ancestor(dataset="folder", speakers=("ben",), **facts))
    assert older.known_speakers("folder", rows) == {"ben"}
    assert parse_lineage(seen.dump(), "x") == seen
    many = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(MAX_RECORDINGS + 7)]
    assert len(sketch_recordings(many)) == 10 * MAX_RECORDINGS
    assert sketch_recordings(many)[:10] == min(many)[:10]


@pytest.mark.parametrize(
    ("trained_on", "tested_on", "known"),
    [
        ("clips", "clips", {"anna", "ben"}),  # a common recording: it is the same corpus
        ("folder", "clips", {"anna"}),  # built before corpora had names, and again since
        ("interviews", "clips", {"anna"}),
        ("crema-d", "crema-d", {"anna", "ben"}),  # of a built-in corpus there is only one
    ],
)
def test_recordings_decide_on_corpora_of_ones_own_whatever_their_names(
    trained_on: str, tested_on: str, known: set[str]
) -> None:
    rows = [
        Row(clip_id=f"{name}-1", speaker=name, emotion="joy", status="built", source="x", sha256=digit * 64)
        for name, digit in (("anna", "a"), ("ben", "b"))
    ]
    facts = {"labels": "x", "strategy": "cfas", "build": "b", "licence": "l", "speakers": ("anna", "ben")}
    seen = RANDOM.after(Ancestor(dataset=trained_on, recordings=sketch_recordings(["a" * 64]), **facts))
    assert seen.known_speakers(tested_on, rows) == known
    without = RANDOM.after(Ancestor(dataset=trained_on, **facts))  # of a version that did not remember recordings
    assert without.known_speakers(tested_on, rows) == ({"anna", "ben"} if trained_on == tested_on else set())


def test_two_corpora_of_ones_own_with_one_name_are_told_apart_by_their_recordings() -> None:
    rows = [Row(clip_id="ben-1", speaker="ben", emotion="joy", status="built", source="x", sha256="b" * 64)]
    facts = {"labels": "x", "strategy": "cfas", "build": "b", "licence": "l", "speakers": ("anna", "ben")}
    seen = RANDOM.after(Ancestor(dataset="clips", recordings=sketch_recordings(["a" * 64]), **facts))
    assert seen.known_speakers("clips", rows) == frozenset()
    assert RANDOM.known_speakers("clips", rows) == frozenset()


def test_a_speaker_of_ones_own_corpus_whose_recordings_were_too_many_to_remember_is_known() -> None:
    rows = [
        Row(clip_id=f"{name}-1", speaker=name, emotion="joy", status="built", source="x", sha256=digit * 64)
        for name, digit in (("anna", "0"), ("ben", "f"), ("cleo", "e"))
    ]
    many = [f"{number:010x}".ljust(64, "0") for number in range(MAX_RECORDINGS)]
    facts = {"labels": "x", "strategy": "cfas", "build": "b", "licence": "l", "speakers": ("anna", "ben")}
    seen = RANDOM.after(Ancestor(dataset="clips", recordings=sketch_recordings([*many, "f" * 64]), **facts))
    assert seen.known_speakers("clips", rows) == {"anna", "ben"}


def test_of_a_dialogue_only_the_speakers_that_were_trained_on_are_known() -> None:
    """In one's own corpus; whether those of another one were is unknown, so that all of them count."""
    rows = [
        Row(clip_id=f"{name}-1", speaker=name, emotion="joy", status="built", source="x", sha256="a" * 64)
        for name in ("anna", "ben")
    ]
    facts = {"labels": "x", "strategy": "cfas", "build": "b", "licence": "l", "speakers": ("anna",)}
    seen = RANDOM.after(Ancestor(dataset="clips", recordings=sketch_recordings(["a" * 64]), **facts))
    assert seen.known_speakers("clips", rows) == {"anna"}
    assert seen.known_speakers("interviews", rows) == {"anna", "ben"}


def test_what_published_weights_saw_is_said(train, tmp_path: Path) -> None:
    """Crops of another profile, or an origin that may contain anybody."""
    origin = Lineage(origin="MARLIN", supervision="self-supervised", crop="marlin")
    (tmp_path / "a.safetensors").write_bytes(dump_weights(Encoder(SMALL), origin))
    status, _, err = train("anna", "first", weights=tmp_path / "a.safetensors")
    assert status == 0
    assert "a.safetensors: were trained on clips with crop marlin, here crop " in err
    origin = Lineage(origin="VideoMAE, supervised on unknown data", supervision="supervised")
    (tmp_path / "b.safetensors").write_bytes(dump_weights(Encoder(SMALL), origin))
    status, _, err = train("anna", "second", weights=tmp_path / "b.safetensors")
    assert status == 0
    assert (
        "b.safetensors: VideoMAE, supervised on unknown data: they may have been trained on speakers of the test" in err
    )
    lineage = read_result(model(tmp_path, "second", "anna").parent).run.protocol.lineage
    assert "they may have been trained on speakers of the test fold" in lineage


def test_a_weights_file_kept_while_training_has_the_lineage(train, tmp_path: Path, shards: Path) -> None:
    """As somebody may take it from a run that is not finished."""
    status, _, _ = train("anna", "first", "--save-steps=1")
    assert status == 0
    state = safetensors.torch.load_file(model(tmp_path, "first", "anna") / "model.safetensors")
    text = _metadata(model(tmp_path, "first", "anna") / "model.safetensors")[METADATA_KEY]
    assert parse_lineage(text, "x").speakers("folder") == {*SPEAKERS} - {"anna"}
    assert state


def _metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_weights_without_their_lineage_are_refused_or_unknown(train, tmp_path: Path) -> None:
    train("anna", "first")
    folder = model(tmp_path, "first", "anna")
    file = folder / "model.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(file), file)  # as another program saves it
    with pytest.raises(WeightsError, match="found no lineage, which every training writes; train or export it again"):
        load_weights(folder, SMALL)
    alone = shutil.copy(file, tmp_path / "alone.safetensors")
    assert load_weights(alone, SMALL).lineage.kind == "supervised"  # it has a head
    (tmp_path / "encoder.safetensors").write_bytes(safetensors.torch.save(Encoder(SMALL).state_dict()))
    assert load_weights(tmp_path / "encoder.safetensors", SMALL).lineage.kind == "unknown"
    decoder = {**Encoder(SMALL).state_dict(), "mask_token": torch.zeros(1, 1, 8)}
    (tmp_path / "masked.safetensors").write_bytes(safetensors.torch.save(decoder))
    found = load_weights(tmp_path / "masked.safetensors", SMALL).lineage
    assert (found.kind, str(found)) == ("self-supervised", "VideoMAE, self-supervised on unknown data")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[]", "found \\[\\], expected an object"),
        ('{"supervision": "magic"}', "found 'magic', expected random, self-supervised, supervised, unknown"),
        ('{"ancestors": [{"dataset": "x"}]}', r"ancestors\[0\]: found no"),
        ('{"ancestors": ' + "[" * 100_000, ""),
    ],
)
def test_a_lineage_of_a_stranger_is_checked(tmp_path: Path, text: str, message: str) -> None:
    state = Encoder(SMALL).state_dict()
    (tmp_path / "x.safetensors").write_bytes(safetensors.torch.save(state, metadata={METADATA_KEY: text}))
    with pytest.raises(WeightsError, match=f"x.safetensors: found a lineage that cannot be read .*{message}"):
        load_weights(tmp_path / "x.safetensors", SMALL)


def test_lineage_survives_json_and_says_itself_in_words() -> None:
    ancestor = Ancestor(dataset="demo", speakers=("S01",), labels="demo-4", strategy="cfas", build="b", licence="l")
    lineage = Lineage(origin="MARLIN", supervision="self-supervised").after(ancestor).after(ancestor)
    assert parse_lineage(lineage.dump(), "x") == lineage
    assert str(lineage) == "MARLIN, then supervised on demo"
    assert json.loads(lineage.dump())["ancestors"][1]["speakers"] == ["S01"]
    joint = [replace(ancestor, dataset=name, labels=None, corpora=2) for name in ("mead", "voxceleb2")]
    assert str(lineage.after(joint[0]).after(joint[1]).after(ancestor)) == (
        "MARLIN, then supervised on demo, then self-supervised on mead and voxceleb2"
    )
    with pytest.raises(SchemaError, match=r"x\.origin: found 1, expected text"):
        parse_lineage('{"origin": 1}', "x")


def test_the_same_weights_are_the_same_bytes() -> None:
    """safetensors writes the metadata in another order each time."""
    encoder = Encoder(SMALL)
    ancestor = Ancestor(dataset="démo", speakers=("S01",), labels="l", strategy="s", build='a"b', licence="l")
    files = {dump_weights(encoder, RANDOM.after(ancestor)) for _ in range(20)}
    assert len(files) == 1
    loaded = safetensors.torch.load(files.pop())
    assert all(torch.equal(loaded[name], value) for name, value in encoder.state_dict().items())
