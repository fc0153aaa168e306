"""The name of a corpus of one's own: where its shards are, what its index says, and whose shards are never touched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from builder import engines
from builder.__main__ import main
from builder.config import BuildConfig
from builder.datasets import DATASETS
from builder.doctor import Check
from builder.doctor import main as diagnose
from builder.features import FeaturesJob, make_features
from builder.naming import CorpusNameError, corpus_name
from builder.run import BuildJob, build
from manifests import corpora, index, program
from manifests.files import FolderError
from manifests.verify import verify
from tests.factories import corpora as trees
from tests.fakes import clip_builder
from tests.fakes.build_process import contents

SPEAKERS = {"A": {"a1": "ok", "a2": "ok"}, "B": {"b1": "ok", "b2": "ok"}, "C": {"c1": "ok", "c2": "ok"}}
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on a corpus of one's own, in an empty folder, without face models; its status and errors."""
    monkeypatch.setattr(engines, "ClipPool", clip_builder.FakePool)
    monkeypatch.setattr("builder.report.write_report", lambda folder: folder / "report.html")
    monkeypatch.chdir(tmp_path)

    def call(command: str, data: str = "", *, dataset: str = "folder", **options: str) -> tuple[int, str]:
        named = {"dataset": dataset} | ({"data": data} if data else {}) | options
        status = main([command, *(f"--{name}={value}" if value else f"--{name}" for name, value in named.items())])
        said = capsys.readouterr()
        return status, said.err if status else said.out

    return call


def corpus(folder: str, speakers: Mapping[str, Mapping[str, str]] = SPEAKERS) -> str:
    """A corpus below the current folder; its path."""
    clip_builder.corpus(Path(folder), speakers)
    return folder


def refused(result: tuple[int, str], *parts: str) -> bool:
    """Whether a command was refused in one line with these words, which advises nothing that would remove a shard."""
    status, said = result
    assert (status, said.count("\n")) == (2, 1), said
    assert all(part in said for part in parts), said
    return "PRUNE" not in said and "delete" not in said


# --- which name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "data", "name"),
    [
        (None, "/recordings/interviews", "interviews"),
        (None, "interviews/", "interviews"),
        (None, "interviews/x/..", "interviews"),
        ("mine", "/recordings/interviews", "mine"),
        ("M_1-a" + 59 * "b", "a b", "M_1-a" + 59 * "b"),
    ],
)
def test_it_is_the_given_one_or_that_of_the_folder(given: str | None, data: str, name: str) -> None:
    assert corpus_name("folder", given, Path(data)) == name


def test_of_the_current_folder_and_of_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interviews").mkdir()
    (tmp_path / "link").symlink_to("interviews")
    monkeypatch.chdir(tmp_path / "interviews")
    assert corpus_name("folder", None, Path()) == "interviews"
    assert corpus_name("folder", None, tmp_path / "link") == "link"


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "a b", "a.b", "Jörg", "x" * 65, "$(touch ran)", "a\nb"])
def test_one_that_is_no_id_is_refused(name: str) -> None:
    with pytest.raises(CorpusNameError, match=r"^NAME=: found .*expected 1 to 64 letters, digits, '_' and '-'; name"):
        corpus_name("folder", name, Path("data"))


@pytest.mark.parametrize("data", ["/", "/data/my clips", "/data/clips.2024", "/data/" + "x" * 65])
def test_a_folder_whose_name_is_no_id_needs_another(data: str) -> None:
    with pytest.raises(CorpusNameError, match=r"^name of .*: found .*expected 1 to 64 .*; name the corpus with NAME=$"):
        corpus_name("folder", None, Path(data))


@pytest.mark.parametrize("name", [*DATASETS, "Demo"])
def test_those_of_built_in_corpora_are_reserved(name: str) -> None:
    for given, data in ((name, "x"), (None, name)):
        with pytest.raises(CorpusNameError, match=rf"found '{name}', which DATASET= already uses; .*NAME=my-{name}$"):
            corpus_name("folder", given, Path(data))


@pytest.mark.parametrize("dataset", [name for name in DATASETS if name != corpora.OWN])
def test_built_in_corpora_have_theirs(dataset: str) -> None:
    assert corpus_name(dataset, None, Path("elsewhere")) == dataset
    with pytest.raises(CorpusNameError, match=r"^NAME=mine: found DATASET=.*; NAME= is for own corpora, leave it out$"):
        corpus_name(dataset, "mine", Path("elsewhere"))


def test_every_built_in_corpus_is_known_to_the_contract() -> None:
    """Which tells corpora of one's own from them."""
    assert corpora.CORPORA.keys() == DATASETS.keys()
    assert {name: corpora.dataset_setting(name) for name in DATASETS} == {name: name for name in DATASETS}
    assert corpora.dataset_setting("interviews") == "folder"


# --- where its shards are --------------------------------------------------------------------------------------


def test_folder_index_and_card_have_the_name(run: Run) -> None:
    data = corpus("recordings/interviews")
    assert "\nshards    shards/interviews (3 shards, " in run("shards", data)[1]
    assert "\nshards    shards/mine (3 shards, " in run("shards", data, name="mine")[1]
    for name in ("interviews", "mine"):
        folder = Path("shards") / name
        dataset = index.load_dataset(folder)
        assert (dataset.dataset, dataset.about["title"]) == (name, name)
        assert dataset.about["redistributable"] is False
        assert json.loads((folder / "folds/loso.json").read_bytes())["dataset"] == name
        assert json.loads((folder / "croissant.json").read_bytes())["name"] == name
        card = (folder / "README.md").read_text("utf-8")
        assert f"# {name}: aligned faces" in card and f"make verify DATASET={name} " in card
        assert verify(folder, full=True) == []
    assert {path.name for path in Path("shards").iterdir()} == {"interviews", "mine"}


def test_it_does_not_change_the_shards(run: Run) -> None:
    data = corpus("interviews")
    run("shards", data)
    run("shards", data, name="mine")
    made = [contents(Path("shards") / name) for name in ("interviews", "mine")]
    same = [
        {name: file for name, file in each.items() if name.startswith(("receipts/", "A", "B-", "C-"))} for each in made
    ]
    assert same[0] == same[1] and len(same[0]) == 6
    assert made[0] != made[1]


def test_recordings_of_a_name_are_in_the_folder_of_that_name(run: Run) -> None:
    corpus("data/mine")
    assert run("shards", name="mine")[0] == 0
    assert index.load_dataset(Path("shards/mine")).dataset == "mine"
    assert refused(run("plan"), "name of data/folder: found 'folder'", "NAME=my-folder")


def test_commands_find_the_shards_by_the_same_rule(run: Run) -> None:
    data = corpus("recordings/interviews")
    run("shards", data)
    run("shards", data, name="mine")
    for named, folder in (
        ({"data": data}, "interviews"),
        ({"data": data, "name": "mine"}, "mine"),
        ({"data": data, "name": "mine", "out": "shards/interviews"}, "interviews"),
        ({"dataset": "interviews"}, "interviews"),
        ({"dataset": "mine", "data": "data/mine"}, "mine"),
    ):
        assert run("report", **named) == (0, f"report    shards/{folder}/report.html\n")
    planned = run("plan", data, name="mine")[1]
    assert planned.startswith(
        "mine: 6 clips, 3 speakers, 3 shards\ninto      shards/mine: 3 of 3 shards already built\n"
    )
    assert refused(run("shards", dataset="interviews"), "unknown corpus 'interviews'", "DATASET=folder", "DATA=")


def test_the_console_command_has_the_rule(run: Run) -> None:
    assert program.run(["build", "--dataset", "folder", "--data", corpus("recordings/interviews")]) == 0
    assert index.load_dataset(Path("shards/interviews")).dataset == "interviews"


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["--dataset=folder", "--data=x/interviews"], "interviews"),
        (["--dataset=folder", "--name=mine"], "mine"),
        (["--dataset=interviews"], "interviews"),
        (["--dataset=demo"], "demo"),
    ],
)
def test_the_doctor_has_the_rule(arguments: list[str], out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[tuple[str, Path, Path]] = []

    def note(*places: object) -> list[Check]:
        looked_at.append(places)  # type: ignore[arg-type]
        return []

    monkeypatch.setattr("builder.doctor.run_checks", note)
    assert diagnose(arguments) == 0
    assert [place[2] for place in looked_at] == [Path("shards") / out]
    assert diagnose(["--dataset=folder", "--name=a/b"]) == 2


# --- shards of another corpus ----------------------------------------------------------------------------------

#: Data -> its speakers: each is another corpus than SPEAKERS.
OTHERS: dict[str, Mapping[str, Mapping[str, str]]] = {
    "other speakers": {"X": {"x1": "ok other"}, "Y": {"y1": "ok other"}},
    "the same speakers and names of files": {
        speaker: dict.fromkeys(clips, "ok other") for speaker, clips in SPEAKERS.items()
    },
    "the same speakers, fewer": {"A": {"a1": "ok other"}},
}


@pytest.mark.parametrize("other", OTHERS)
def test_of_the_same_name_are_left_alone(run: Run, other: str) -> None:
    """Folders of recordings are often called alike, and so are speakers."""
    run("shards", corpus("study-1/clips"))
    receipt = Path("shards/clips/receipts/A-000.json")  # one of its clips could not be read
    receipt.write_text(
        re.sub(r'"sha256":"[0-9a-f]{64}","shard"', '"sha256":null,"shard"', receipt.read_text(), count=1)
    )
    assert None in {row.sha256 for row in index.load_receipt(receipt).rows}
    before = contents(Path("shards/clips"))
    data = corpus("study-2/clips", OTHERS[other])
    for options in ({}, {"prune": ""}, {"name": "clips"}, {"out": "shards/clips", "prune": ""}):
        result = run("shards", data, **options)
        assert refused(result, "shards/clips: has shards of another corpus clips, ", data, "NAME= or OUT=")
        if "prune" not in options:
            status, planned = run("plan", data, **options)
            assert status == 0
            assert "into      shards/clips: has shards of another corpus clips, " in planned
    assert contents(Path("shards/clips")) == before
    assert run("shards", data, name="second")[0] == 0


def test_of_another_name_are_left_alone(run: Run) -> None:
    data = corpus("interviews")
    run("shards", data)
    before = contents(Path("shards/interviews"))
    for more in ({}, {"prune": ""}, {"feature": "logmel"}, {"align": "clip"}):
        result = run("shards", data, name="mine", out="shards/interviews", **more)
        assert refused(result, "shards/interviews: has shards of interviews, not of mine; choose another OUT=")
    assert contents(Path("shards/interviews")) == before


@pytest.mark.parametrize("options", [{}, {"name": "mine"}], ids=["", "named"])
def test_of_a_built_in_corpus_are_left_alone(run: Run, options: dict[str, str]) -> None:
    run("shards", str(trees.crema_d(Path("data").absolute())), dataset="crema-d", **{"allow-drops": ""})
    before = contents(Path("shards/crema-d"))
    result = run("shards", corpus("interviews"), out="shards/crema-d", **options)
    assert refused(result, f"has shards of crema-d, not of {options.get('name', 'interviews')}; choose another OUT=")
    assert contents(Path("shards/crema-d")) == before
    run("shards", "interviews")
    result = run("shards", "data", dataset="crema-d", out="shards/interviews", prune="")
    assert refused(result, "shards/interviews: has shards of interviews, not of crema-d; choose another OUT=\n")


def test_prune_is_advised_where_recordings_of_the_same_corpus_are_gone(run: Run) -> None:
    data = corpus("interviews")
    run("shards", data)
    table = Path(data, "clips.csv")
    table.write_text("\n".join(line for line in table.read_text().splitlines() if ",C," not in line) + "\n")
    status, said = run("shards", data)
    assert status == 2 and "C-000.tar" in said and "PRUNE=1 removes them" in said
    assert run("shards", data, prune="")[0] == 0
    assert [shard.name for shard in index.load_dataset(Path("shards/interviews")).shards] == ["A-000.tar", "B-000.tar"]


def test_prune_is_advised_where_a_table_gives_the_speakers_of_the_same_recordings_other_names(run: Run) -> None:
    data = corpus("interviews")
    run("shards", data)
    table = Path(data, "clips.csv")
    for speaker in SPEAKERS:
        table.write_text(table.read_text().replace(f",{speaker},", f",renamed-{speaker},"))
    status, said = run("shards", data)
    assert status == 2 and "A-000.tar" in said and "PRUNE=1 removes them" in said
    assert run("shards", data, prune="")[0] == 0
    shards = index.load_dataset(Path("shards/interviews")).shards
    assert [shard.name for shard in shards] == [f"renamed-{speaker}-000.tar" for speaker in SPEAKERS]


@pytest.mark.parametrize("left", ["recordings that changed", "a receipt that cannot be read", "no receipt"])
def test_the_same_corpus_is_built_again(run: Run, left: str) -> None:
    data, out = corpus("interviews"), Path("shards/interviews")
    run("shards", data)
    undisturbed = contents(out)
    if left == "recordings that changed":
        corpus("interviews", SPEAKERS | {"A": {"a1": "ok other", "a2": "ok other"}, "B": {"b1": "ok 2", "b2": "ok"}})
        undisturbed = {}
    for path in out.glob("receipts/*.json"):
        if left == "no receipt":
            path.unlink()
        elif left != "recordings that changed":
            path.write_text("{")
    assert run("shards", data)[0] == 0
    assert verify(out, full=True) == []
    assert not undisturbed or contents(out) == undisturbed


def test_clips_that_could_not_be_read_are_tried_again(run: Run) -> None:
    """Nothing of the first build says which recordings they were."""
    data = corpus("interviews")
    run("shards", data)
    for path in Path("shards/interviews/receipts").iterdir():
        path.write_text(re.sub(r'"sha256":"[0-9a-f]{64}","shard"', '"sha256":null,"shard"', path.read_text()))
        assert {row.sha256 for row in index.load_receipt(path).rows} == {None}
    assert run("shards", data)[0] == 0


def test_other_spectrograms_are_not_written_among_those_of_another_corpus(run: Run) -> None:
    run("shards", corpus("interviews"))
    run("shards", "interviews", name="mine")
    with pytest.raises(FolderError, match=r"mine: has shards of mine, not of interviews; choose another TO=$"):
        make_features(FeaturesJob(shards=Path("shards/interviews"), out=Path("shards/mine"), features=("logmel",)))


# --- shards that were built before corpora had names -----------------------------------------------------------


@pytest.fixture
def unnamed(run: Run, capsys: pytest.CaptureFixture[str]) -> Path:
    """As `make shards DATASET=folder` made them of data/folder."""
    out = Path("shards/folder")
    build(BuildJob(config=BuildConfig(dataset="folder"), data=Path(corpus("data/folder")), out=out))
    assert index.load_dataset(out).dataset == "folder"
    capsys.readouterr()
    return out


def test_unnamed_shards_stay_as_they_are(unnamed: Path, run: Run) -> None:
    before = contents(unnamed)
    assert run("shards", out=str(unnamed))[0] == 0
    assert contents(unnamed) == before
    Path("data/folder").rename("interviews")
    assert run("plan", "interviews", out=str(unnamed))[1].startswith("Recordings of one's own: 6 clips")
    assert run("shards", "interviews", out=str(unnamed))[0] == 0
    assert contents(unnamed) == before
    table = Path("interviews/clips.csv")
    table.write_text(table.read_text() + "d1.mp4,D,joy\n")
    Path("interviews/d1.mp4").write_text("ok")
    assert run("shards", "interviews", out=str(unnamed))[0] == 0
    dataset = index.load_dataset(unnamed)
    assert (dataset.dataset, len(dataset.shards)) == ("folder", 4)
    assert verify(unnamed, full=True) == []


def test_unnamed_shards_are_not_taken_for_another_corpus(unnamed: Path, run: Run) -> None:
    before = contents(unnamed)
    data = corpus("others", OTHERS["other speakers"])
    assert refused(run("shards", data, out=str(unnamed), prune=""), "another corpus folder", "/others; choose another")
    assert refused(run("shards", data, out=str(unnamed), name="others"), "has shards of folder, not of others")
    assert contents(unnamed) == before


def test_named_shards_in_a_folder_of_another_name_keep_theirs(run: Run) -> None:
    data = corpus("interviews")
    run("shards", data, name="mine", out="elsewhere")
    before = contents(Path("elsewhere"))
    assert run("shards", data, out="elsewhere")[0] == 0
    assert contents(Path("elsewhere")) == before
