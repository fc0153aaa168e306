"""Facts about corpora: complete, consistent with the builder, and all that a new corpus has to add."""

from __future__ import annotations

import re

import pytest

from builder.datasets import DATASETS
from manifests import corpora, folds, labels
from manifests.corpora import CORPORA, CorpusFacts, LabelScheme, corpus_facts

each_corpus = pytest.mark.parametrize("name", CORPORA)


def test_every_corpus_of_the_builder_has_facts() -> None:
    assert CORPORA.keys() == DATASETS.keys()


@each_corpus
def test_licences_are_those_that_the_builder_records(name: str) -> None:
    licence = CORPORA[name].licence
    assert licence is not None
    assert (licence.text, licence.redistributable) == tuple(
        DATASETS[name].about()[key] for key in ("licence", "redistributable")
    )


@each_corpus
def test_published_licences_have_all_identifiers(name: str) -> None:
    licence = CORPORA[name].licence
    assert licence is not None
    published = (licence.spdx_id, licence.hub_id, licence.url, licence.conditions)
    assert all(published) or not any(published)


@each_corpus
def test_label_schemes_are_of_their_corpus(name: str) -> None:
    assert all(scheme.dataset == name for scheme in CORPORA[name].label_schemes)


def test_a_corpus_without_an_entry_has_the_defaults() -> None:
    facts = corpus_facts("toy")
    assert facts == CorpusFacts()
    assert facts.recording_group("anna") == "anna"
    assert (labels.label_schemes_for("toy"), folds.fold_schemes_for("toy")) == ((), ("loso",))


def test_a_new_corpus_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = LabelScheme(name="toy-2", dataset="toy", classes=("a", "b"), mapping={"x": "a", "y": "b"})
    facts = CorpusFacts(label_schemes=(scheme,), fold_schemes=("toy-5fold",), speaker_group=re.compile("pair[0-9]"))
    monkeypatch.setattr(corpora, "CORPORA", {**CORPORA, "toy": facts})
    assert labels.label_schemes_for("toy") == ("toy-2",)
    assert folds.fold_schemes_for("toy") == ("toy-5fold", "loso")
    made = folds.leave_one_speaker_out("toy", [f"pair{pair}{who}" for pair in range(4) for who in "ab"])
    for speaker, fold in made.folds.items():
        assert len(fold.train) + len(fold.validation) == 6  # the partner is left out
        assert {s[:5] for s in (*fold.train, *fold.validation)}.isdisjoint({speaker[:5]})
        assert {s[:5] for s in fold.train}.isdisjoint({s[:5] for s in fold.validation})
