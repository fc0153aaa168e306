"""A new corpus is one module and one entry in `DATASETS`: that is enough to scan, build, describe and split it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from builder import datasets, engines
from builder.__main__ import main
from builder.datasets.base import Corpus
from manifests import index
from manifests.verify import verify
from tests.fakes import clip_builder

#: What somebody would write as builder/datasets/toy.py.
MODULE = '''
"""TOY: SPEAKER-EMOTION-TAKE.mp4, all in one folder."""

from builder.datasets.base import ClipSource, Corpus, CorpusNotFoundError, Scan
from manifests.corpora import CorpusFacts, Licence
from manifests.schema import Clip


def scan(root, options):
    videos = sorted(root.glob("*-*-*.mp4"))
    if not videos:
        raise CorpusNotFoundError("found no clip of TOY")
    wanted = [path for path in videos if options["takes"] == "all" or path.stem.endswith("-1")]
    return Scan(sources=tuple(source(path) for path in wanted), expected_clips=12)


def source(path):
    speaker, emotion, _ = path.stem.split("-")
    return ClipSource(clip=Clip(clip_id=path.stem, speaker=speaker, emotion=emotion), video=path)


CORPUS = Corpus(
    name="toy",
    title="TOY: three speakers",
    homepage="https://toy.example",
    citation="Somebody (2026) TOY",
    facts=CorpusFacts(licence=Licence(text="CC0 1.0", redistributable=True, spdx_id="CC0-1.0")),
    scan=scan,
    options={"takes": ("all", "first")},
    how_to_get="ask somebody",
    shards_gb=0.001,
)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    (tmp_path / "toy.py").write_text(MODULE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("builder.datasets.toy", tmp_path / "toy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "builder.datasets.toy", module)
    spec.loader.exec_module(module)
    corpus: Corpus = module.CORPUS
    monkeypatch.setitem(datasets.DATASETS, "toy", corpus)
    return corpus


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for speaker in ("ann", "ben", "cy"):
        for emotion in ("joy", "fear"):
            for take in (1, 2):
                clip_builder.source(folder, f"{speaker}-{emotion}-{take}")
    return folder


def test_it_is_planned_built_described_and_split(
    toy: Corpus, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "ClipPool", clip_builder.FakePool)
    monkeypatch.setattr("builder.report.write_report", lambda folder: folder / "report.html")
    out = tmp_path / "shards"
    where = ["--dataset", "toy", "--data", str(data), "--out", str(out)]
    assert main(["plan", *where]) == 0
    planned = capsys.readouterr().out
    assert planned.startswith("TOY: three speakers: 12 clips of 12 in the complete corpus, 3 speakers, 3 shards\n")
    assert main(["shards", *where]) == 0
    assert "\nfolds     loso\n" in capsys.readouterr().out
    dataset = index.load_dataset(out)
    assert (dataset.dataset, dataset.fold_schemes, dataset.label_schemes) == ("toy", ("loso",), ())
    assert dataset.about == toy.about() | {"licence": "CC0 1.0", "redistributable": True}
    assert dataset.counts == {"built": 12}
    assert dataset.identity["config"]["options"] == {"takes": "all"}
    assert verify(out, full=True) == []


def test_its_options_and_its_absence_are_handled_as_those_of_others(
    toy: Corpus, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(datasets.scan_corpus("toy", data, {"takes": "first"}).sources) == 6
    assert main(["plan", "--dataset", "toy", "--data", str(data), "--option", "takes=second"]) == 2
    assert capsys.readouterr().err == "error: toy: option takes is 'second'; valid are: all, first\n"
    (tmp_path / "empty").mkdir()
    assert main(["plan", "--dataset", "toy", "--data", str(tmp_path / "empty")]) == 2
    assert "found no clip of TOY; make corpus DATASET=toy explains how to obtain" in capsys.readouterr().err
    assert main(["corpus", "--dataset", "toy"]) == 2
    assert capsys.readouterr().err == "error: TOY: three speakers: cannot be downloaded; ask somebody\n"
