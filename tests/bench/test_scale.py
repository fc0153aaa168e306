"""A million clips can be planned, indexed, verified and trained on: each within a minute of one core and 2 GB."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="opening a fold needs the trainer")

from manifests import folds, index
from tests.bench import scale

#: Of 270 and 540 speakers: too many for folds that leave one speaker out.
SMALL, TWICE = 1_800, 3_600


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of clips -> synthetic shards and their recordings; two clips per shard, for many speakers."""

    def make(folder: Path, clips: int) -> None:
        scale.make_folder(folder, clips)
        scale.make_table(folder.parent / "recordings", clips)
        scale.write_index(folder, clips)

    return make_both(tmp_path_factory.mktemp("scale"), make)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of clips -> synthetic shards of sequences without labels; two clips per shard, for many speakers."""

    def make(folder: Path, clips: int) -> None:
        scale.make_sequences(folder, clips)
        scale.write_sequence_index(folder, clips)

    return make_both(tmp_path_factory.mktemp("sequences"), make)


def make_both(home: Path, make: Callable[[Path, int], None]) -> dict[int, Path]:
    """Number of clips -> folder of a corpus that `make` made."""
    folders = {clips: home / str(clips) / "shards" for clips in (SMALL, TWICE)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "CLIPS_PER_SHARD", 2)
        for clips, folder in folders.items():
            folder.parent.mkdir()
            make(folder, clips)
    return folders


def count_calls(work: Callable[[Path, int], int | None], folder: Path, clips: int) -> int:
    """Number of function calls of a stage, in all threads."""
    count = 0

    def on_event(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    threading.setprofile(on_event)
    sys.setprofile(on_event)
    try:
        work(folder, clips)
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return count


def check_work(work: Callable[[Path, int], int | None], folders: Mapping[int, Path]) -> None:
    """Twice the clips take no more than twice the calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "CLIPS_PER_SHARD", 2)
        work(folders[SMALL], SMALL)  # imports and caches, once per process
        small, twice = (count_calls(work, folders[clips], clips) for clips in (SMALL, TWICE))
    assert 1.2 * small < twice < 2.1 * small


@pytest.mark.slow
@pytest.mark.parametrize("stage", scale.STAGES)
def test_twice_the_clips_take_no_more_than_twice_the_work(stage: str, corpora: dict[int, Path]) -> None:
    check_work(scale.STAGES[stage], corpora)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [stage for stage in scale.SEQUENCE_STAGES if stage != "sequences, loader"])
def test_twice_the_sequences_take_no_more_than_twice_the_work(stage: str, sequences: dict[int, Path]) -> None:
    check_work(scale.SEQUENCE_STAGES[stage], sequences)


def test_sequences_without_labels_are_whole_and_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "CLIPS_PER_SHARD", 2)
    monkeypatch.setattr(scale, "READ", 96)
    folder, clips = tmp_path / "shards", 60
    scale.make_sequences(folder, clips)
    for work in scale.SEQUENCE_STAGES.values():
        work(folder, clips)
    assert index.load_dataset(folder).kind == "sequences"
    assert {row.emotion for row in index.load_rows(folder)} == {None}


def test_an_index_of_many_clips_is_small_and_its_folds_are_ten(corpora: dict[int, Path]) -> None:
    small, twice = (corpora[clips] for clips in (SMALL, TWICE))
    dataset = index.load_dataset(twice)
    assert (len(dataset.shards), dataset.counts) == (TWICE // 2, {"built": TWICE})
    assert dataset.fold_schemes == (folds.TEN_FOLDS,)
    shards = {shard.name: shard.speaker for shard in dataset.shards}
    path = twice / "folds" / f"{folds.TEN_FOLDS}.json"
    for sides in folds.read_fold_file(path.read_bytes(), shards, str(path)).folds.values():
        assert sorted(name for side in folds.SIDES for name in sides[side].shards) == sorted(shards)
        assert sum(sum(sides[side].clips.values()) for side in folds.SIDES) == TWICE
    for name in ("dataset.json", "croissant.json", "SHA256SUMS", "clips.jsonl", path.relative_to(twice)):
        assert (twice / name).stat().st_size < 2.1 * (small / name).stat().st_size


@pytest.mark.slow
def test_the_bench_prints_the_cost_of_each_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--clips", "600", "--sequences", "600", "--json", str(tmp_path / "costs.json")]) == 0
    costs = json.loads((tmp_path / "costs.json").read_text())
    assert [cost["stage"] for cost in costs] == [*scale.STAGES, *scale.SEQUENCE_STAGES]
    assert all(cost["clips"] == 600 and cost["peak_bytes"] > 10**7 for cost in costs)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(costs)


def test_a_stage_over_the_limit_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = scale.Cost(stage="rows", clips=200, seconds=61.0, cpu_seconds=60.5, peak_bytes=10**8)
    monkeypatch.setattr(scale, "measure", lambda _: [cost])
    assert scale.main(["--clips", "200", "--sequences"]) == 1
    assert "more than 60 s, 2000 MB, or 67 MB of growth" in capsys.readouterr().out


def test_a_loader_that_grows_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cost = scale.Cost(
        stage="loader", clips=200, seconds=1.0, cpu_seconds=1.0, peak_bytes=10**8, grown_bytes=scale.MOST_GROWN_BYTES
    )
    for grown, status in ((0, 0), (1, 1)):
        grows = replace(cost, grown_bytes=scale.MOST_GROWN_BYTES + grown)
        monkeypatch.setattr(scale, "measure_sequences", lambda _, grows=grows: [grows])
        assert scale.main(["--clips", "--sequences", "200"]) == status
    assert "grown by 67 MB" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_clips_stay_small(record_property: Callable[[str, object], None]) -> None:
    costs = list(scale.measure(1_000_000))
    assert [cost.stage for cost in costs] == list(scale.STAGES)
    assert max(cost.peak_bytes for cost in costs) <= scale.MOST_BYTES
    seen = (f"{cost.stage} {cost.cpu_seconds:.0f} s, {cost.peak_bytes / 1e6:.0f} MB" for cost in costs)
    record_property("seen", "; ".join(seen))
