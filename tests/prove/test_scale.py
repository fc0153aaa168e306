"""A million clips: every stage between recordings and training stays small, and grows with the clips, not faster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manifests import folds, index

sys.path.insert(0, str(Path(__file__).parent))

import scale

STAGES = (scale.plan, scale.write, scale.verify)
#: Of 210 speakers.
CLIPS = 4_200


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "CLIPS_A_SHARD", 10)
        patch.setattr(scale, "SHARDS_A_SPEAKER", 2)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More speakers than leave-one-speaker-out is for."""
    folder = tmp_path_factory.mktemp("scale") / "shards"
    scale.make_receipts(folder, CLIPS)
    scale.write(folder, CLIPS)
    return folder


@pytest.mark.parametrize("stage", ["verify, quick", "open a fold for training"])
def test_every_stage_works_on_what_was_made_up(stage: str, folder: Path) -> None:
    if stage.endswith("training"):
        pytest.importorskip("torch", reason="opening a fold needs the trainer")
    scale.STAGES[stage](folder, CLIPS)


def test_so_many_speakers_are_tested_in_ten_groups(folder: Path) -> None:
    dataset = index.load_dataset(folder)
    assert dataset.fold_schemes == (folds.GROUPED,)
    speakers = {shard.name: shard.speaker for shard in dataset.shards}
    path = folder / index.FOLDS / f"{folds.GROUPED}.json"
    assignment = folds.read_assignment(path.read_bytes(), speakers, str(path))
    tested = [subject for sides in assignment["folds"].values() for subject in sides["test"]["subjects"]]
    assert sorted(tested) == sorted(set(speakers.values()))
    assert path.stat().st_size < 60 * 10 * len(speakers)


def test_work_grows_with_the_clips_and_not_faster(tmp_path: Path) -> None:
    """Counted in calls of functions, which are the same on any machine: four times the clips, four times the calls."""
    calls = [[_calls(stage, tmp_path / str(clips), clips) for stage in STAGES] for clips in (CLIPS, CLIPS, 4 * CLIPS)]
    ratios = [more / fewer for fewer, more in zip(*calls[1:], strict=True)]  # the first ones also import
    assert ratios == pytest.approx([4.0] * len(STAGES), rel=0.1)


def _calls(stage: Callable[[Path, int], None], folder: Path, clips: int) -> int:
    if not folder.exists():
        scale.make_receipts(folder, clips)
    count = 0

    def profile(*_: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        stage(folder, clips)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_clips_stay_small(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    told = tmp_path / "figures.json"
    command = [sys.executable, scale.__file__, "--clips", "1000000", "--json", str(told)]
    subprocess.run(command, check=False, timeout=1000)  # its status also judges the time, which a busy machine has not
    figures = json.loads(told.read_bytes())
    assert [figure["stage"] for figure in figures] == list(scale.STAGES)
    assert max(figure["peak_bytes"] for figure in figures) < scale.MOST_BYTES
    for figure in figures:
        record_property("seen", f"{figure['stage']} {figure['seconds']:.0f} s, {figure['peak_bytes'] / 1e6:.0f} MB")
