"""The dataset card: what the hub reads of it, what people read in it, and that nothing in a file can write its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from builder.datasets import get_corpus
from manifests import card as cards
from manifests import folds
from manifests.card import ClipCounts
from manifests.index import Dataset, Row, load_dataset, load_rows

LICENCES = {"ravdess": "cc-by-nc-sa-4.0", "crema-d": "odbl", "iemocap": "other", "demo": "other"}


def of_corpus(name: str, **changes: Any) -> Dataset:
    """An index without shards, of a corpus that has terms."""
    corpus = get_corpus(name)
    about = corpus.about()
    identity = {"config": {"features": ["mfcc"], "align": "frame"}}
    return replace(Dataset(dataset=name, complete=True, identity=identity, about=about), **changes)


def kept(speaker: str, clips: int, emotion: str = "joy") -> list[Row]:
    shard = f"{speaker}-000.tar"
    return [
        Row(clip_id=f"{speaker}-{i}", speaker=speaker, emotion=emotion, status="built", source="x", shard=shard)
        for i in range(clips)
    ]


def dataset_card(dataset: Dataset, rows: Iterable[Row]) -> str:
    tally = ClipCounts()
    for row in rows:
        tally.add(row)
    return cards.dataset_card(dataset, tally)


def front(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("corpus", LICENCES)
def test_hub_is_told_licence_name_tags_tasks_and_size(corpus: str) -> None:
    head = front(dataset_card(of_corpus(corpus), kept("1001", 999)))
    assert head["license"] == LICENCES[corpus]
    assert head["pretty_name"] == get_corpus(corpus).title
    assert {"webdataset", "emotion-recognition"} <= set(head["tags"])
    assert head["task_categories"] == ["video-classification", "audio-classification"]
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"] == [{"split": "clips", "path": "*.tar"}]
    assert [column["name"] for column in head["dataset_info"]["features"]][:2] == ["faces.jpg", "mfcc_16.npy"]


@pytest.mark.parametrize(("clips", "size"), [(0, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K")])
def test_size_category_counts_clips_that_were_kept(clips: int, size: str) -> None:
    lost = Row(clip_id="x", speaker="b", emotion="joy", status="dropped", reason="no_face", source="x")
    assert front(dataset_card(of_corpus("demo"), [*kept("a", clips), lost]))["size_categories"] == [size]


def test_the_hubs_own_library_reads_the_head(whole: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.DatasetCard((whole / "README.md").read_text(encoding="utf-8"))
    assert card.data.license == "other"
    assert card.data.configs[0]["config_name"] == "default"


def test_fold_table_has_speakers_and_clips_of_each_side() -> None:
    """Counted a second time, from the committed scheme."""
    rows = [row for speaker in range(1001, 1092) for row in kept(str(speaker), speaker % 7 + 1)]
    clips = Counter(row.speaker for row in rows)
    card = dataset_card(of_corpus("crema-d", fold_schemes=("crema-d-5fold", "loso")), rows)
    for fold, speakers in folds.load_scheme("crema-d-5fold").folds.items():
        sides = [f"{len(side)} speakers, {sum(clips[s] for s in side)} clips" for side in vars(speakers).values()]
        assert f"| crema-d-5fold | {fold} | {' | '.join(sides)} |" in card.splitlines()
    assert "| loso | 91, one for each speaker |" in card


def test_fold_table_leaves_out_speakers_that_were_not_built() -> None:
    card = dataset_card(of_corpus("crema-d", fold_schemes=("crema-d-5fold",)), kept("1001", 3))
    assert "| crema-d-5fold | 1 | 1 speaker, 3 clips | 0 speakers, 0 clips | 0 speakers, 0 clips |" in card


def test_schemes_that_this_version_does_not_know_are_named() -> None:
    card = dataset_card(of_corpus("demo", fold_schemes=("by-moon",)), kept("a", 1))
    assert "| by-moon | see `folds/by-moon.json` |" in card
    assert "## Folds" not in dataset_card(of_corpus("demo"), kept("a", 1))


def test_terms_say_what_the_licence_asks_or_forbids() -> None:
    ravdess = dataset_card(of_corpus("ravdess"), [])
    assert "CC BY-NC-SA 4.0. May be passed on" in ravdess
    assert "name the source, nothing commercial, pass on under the same licence only" in ravdess
    assert "Livingstone SR, Russo FA (2018)" in ravdess
    iemocap = dataset_card(of_corpus("iemocap"), [])
    assert "**Must not be passed on**" in iemocap
    assert "May be passed on" not in iemocap


def test_an_index_that_says_nothing_of_terms_allows_nothing() -> None:
    card = dataset_card(of_corpus("demo", about={"redistributable": "true", "title": 7}), [])
    assert "not stated. **Must not be passed on**" in card
    assert "# demo: aligned faces" in card


def test_recordings_of_ones_own_ask_for_no_citation() -> None:
    assert "Please cite" in dataset_card(of_corpus("demo", about={"citation": "Nobody, 2026"}), [])
    assert "Please cite" not in dataset_card(of_corpus("folder", about={"citation": "none"}), [])


def test_people_are_spoken_of_and_how_to_withdraw_one(whole: Path) -> None:
    card = (whole / "README.md").read_text(encoding="utf-8")
    assert "Face crops and voices are personal data" in card
    assert "python -m manifests withdraw FOLDER SPEAKER" in card
    assert "make fetch FROM=https://... DATASET=folder FOLD=1" in card
    assert "sha256sum -c SHA256SUMS" in card


def test_code_in_the_card_runs(whole: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (whole / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("path/of/this/folder", str(whole)) + "\nprint(sum(1 for _ in _))"
    code = code.replace("\ndatasets.", "\n_ = datasets.")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=whole, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr


HOSTILE = (
    "<script>alert(1)</script>",
    "![x](http://a.example/x.png)",
    "[x](javascript:alert(1))",
    "a|b",
    "`code`",
    "two\nlines\n\n# heading",
    "---\nlicense: mit\n---",
    '"quoted": {yaml: [1]}',
    "\x1b[31mred\x07\x85\u2028\ud7ff\ufffe",
    "$x$ &amp; *bold* ~~gone~~",
    "    code",
    "```\nfence",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_files_is_shown_as_it_is(text: str) -> None:
    """In every place that takes text from a file: only our own headings, no link, picture, HTML or second head."""
    card, plain = (_saying_everywhere(words) for words in (text, "x"))
    assert set(front(card)) == set(front(plain))
    assert front(card)["license"] == "other"
    body = card.split("\n---\n", 1)[1]
    assert kinds(body) == kinds(plain.split("\n---\n", 1)[1])
    assert all(c.isprintable() or c == "\n" for c in card)


def _saying_everywhere(text: str) -> str:
    about = dict.fromkeys(("title", "homepage", "licence", "citation"), text) | {"redistributable": True}
    identity = {"config": {"features": ["mfcc"], "options": {text: text}}}
    return dataset_card(of_corpus("demo", about=about, identity=identity), kept("a", 1, emotion=text))


def kinds(markdown: str) -> list[str]:
    """What Markdown makes of it, without the plain text."""
    found: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(markdown):
        found += [token.type, *(child.type for child in token.children or [])]
    return [kind for kind in found if kind not in ("text", "text_special", "softbreak")]


def test_it_counts_what_the_table_of_clips_tells(whole: Path) -> None:
    assert dataset_card(load_dataset(whole), load_rows(whole)) == (whole / "README.md").read_text(encoding="utf-8")


def test_a_corpus_of_many_speakers_has_a_line_for_each_of_its_ten_folds() -> None:
    rows = [row for speaker in range(300) for row in kept(f"s{speaker:03d}", 2)]
    lines = dataset_card(of_corpus("demo", fold_schemes=("speakers-10fold",)), rows).splitlines()
    sides = "30 speakers, 60 clips | 54 speakers, 108 clips | 216 speakers, 432 clips"
    assert [line for line in lines if "speakers-10fold" in line] == [
        f"| speakers-10fold | {fold} | {sides} |" for fold in range(1, 11)
    ]
