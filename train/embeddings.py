"""Vectors of an encoder for every clip of a folder of shards, as a file that other tools read."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests.errors import UserError
from manifests.files import atomic_write, remove_partial_files
from manifests.folds import FoldError, FoldFile, Side, load_fold_file
from manifests.index import load_rows
from manifests.progress import ProgressBar, log_line
from train.classification import run_inference
from train.data.clip_table import ClipTable, load_all_clips, members_for
from train.data.fold_data import choose_labels
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.shard_folder import ShardFolder, open_scheme, prefetch_shards
from train.data.transforms import ClipTransform, NormalizationStats
from train.data.windows import EvenWindows
from train.distributed import Ranks
from train.fusion import Strategy, strategy_named
from train.lineage import Lineage
from train.models.own_encoder import OwnEncoder
from train.models.videomae import ENCODERS, Classifier, Encoder
from train.models.weights import fingerprint, initialize_from, load_weights
from train.own_code import is_import_path, load_strategy
from train.predict import Predictor, check_build
from train.provenance import Provenance
from train.runs import Run, folds_file

#: Suffixes of the files that can be written.
SUFFIXES = (".npz", ".parquet")
_BATCH = 16


class EmbeddingError(UserError):
    """An encoder, a layer or a file that cannot be used: what was found and what was expected."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingModel:
    """An encoder, with the norm of a classifier on top, and the input that it takes."""

    model: Classifier
    strategy: Strategy
    feature: str
    normalization: NormalizationStats | None
    """Of the training shards of a run; None for the statistics of all shards that vectors are computed for."""
    source: str
    """Where the weights come from."""
    lineage: Lineage
    """Every training that they descend from."""
    predictor: Predictor | None = None
    """The run that the model belongs to, if any: clips must be built as its training shards were."""

    @classmethod
    def of_run(cls, predictor: Predictor, source: str) -> EmbeddingModel:
        """The model of a finished run, or of an exported one."""
        run = predictor.provenance.run
        return cls(
            model=predictor.classifier.model,
            strategy=strategy_named(run.strategy),
            feature=run.protocol.feature,
            normalization=predictor.provenance.normalization,
            source=source,
            lineage=predictor.classifier.lineage,
            predictor=predictor,
        )

    @classmethod
    def of_weights(cls, weights: str, encoder: str | None, strategy: str, feature: str) -> EmbeddingModel:
        """Weights of a file, a folder or a hub id, and a strategy by its name or the import path of one's own.

        Raises EmbeddingError for an unknown encoder, FusionError, OwnCodeError, WeightsError.
        The norm before the classifier is that of the weights, or has no effect but to standardize a vector.
        """
        chosen = load_strategy(strategy) if is_import_path(strategy) else strategy_named(strategy)
        if encoder is not None and encoder not in ENCODERS:
            raise EmbeddingError(f"unknown encoder {encoder!r}; valid are {', '.join(ENCODERS)}")
        loaded = load_weights(weights, *([ENCODERS[encoder]] if encoder else ENCODERS.values()))
        model = Classifier(loaded.config, 1)
        initialize_from(model, loaded)
        return cls(
            model=model.eval(),
            strategy=chosen,
            feature=feature,
            normalization=None,
            source=weights,
            lineage=loaded.lineage,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Vectors of n clips, by clip id."""

    clips: tuple[str, ...]
    speakers: tuple[str, ...]
    emotions: tuple[str, ...]
    """As the corpus names them; "" for a clip without a label."""
    labels: tuple[str, ...]
    """Class of the emotion in the label scheme; "" for an emotion that it leaves out and a clip without a label."""
    folds: tuple[str, ...]
    """Fold of the fold scheme that tests the clip; "" for a clip that no fold tests, or if the scheme is unknown."""
    vectors: npt.NDArray[np.float32]
    """[n, D]."""
    settings: Mapping[str, Any]
    """What the vectors were computed of and with; JSON values."""

    def columns(self) -> dict[str, tuple[str, ...]]:
        """Name -> values of the columns of text."""
        return {
            "clip": self.clips,
            "speaker": self.speakers,
            "emotion": self.emotions,
            "label": self.labels,
            "fold": self.folds,
        }


def compute_embeddings(
    encoder: EmbeddingModel,
    folder: ShardFolder,
    ranks: Ranks,
    *,
    layer: int | None = None,
    fold_scheme: str | None = None,
    label_scheme: str | None = None,
    workers: int = 2,
) -> Embeddings:
    """Vectors for every available clip of a folder that has what the strategy reads, seen whole and not mirrored.

    `layer` counts blocks from 1, 0 is the patch embedding with positions: the vector is the mean of its tokens. Without
    a layer it is the input of the classifier's linear layer: the mean token after the last block, normalized.

    Schemes are by default those of the run for shards of its corpus, else the corpus's own. Folds of a table are read
    from the run; an exported one does not have them, so that no clip has a fold, which is logged.

    Raises EmbeddingError for a layer that the encoder does not have and for vectors that are not finite, PredictError
    for shards that were built in another way than those of the run, FoldError, LabelError, DataError.
    """
    model = encoder.model.to(ranks.device)
    if layer is not None and isinstance(model.encoder, OwnEncoder):
        raise EmbeddingError(
            f"layer: found {layer}, expected none with the encoder {model.encoder.config.path}: leave out LAYER= "
            "(--layer) for the input of the classifier"
        )
    if layer is not None and not 0 <= layer <= model.encoder.config.depth:
        raise EmbeddingError(
            f"layer: found {layer}, expected 0 (patch embedding) to {model.encoder.config.depth} (last block), or none "
            "for the input of the classifier"
        )
    provenance = encoder.predictor.provenance if encoder.predictor else None
    if provenance:
        check_build(provenance, folder, str(folder.path))
    own = provenance if provenance and folder.index.dataset in provenance.corpora else None
    names = [shard.name for shard in folder.index.shards if shard.name in folder.available]
    if not names:
        raise EmbeddingError(f"{folder.path}: found no shards, expected at least one; build or fetch some")
    clips, emotions = load_all_clips(folder, members_for(folder.index, encoder.strategy, encoder.feature), names)
    folds = _choose_folds(encoder, own, folder, fold_scheme)
    tested = _tested_in(folder, folds) if folds else {}
    if fold_scheme is None and folds:
        fold_scheme = folds.name
    if own and label_scheme is None:
        mapping, label_scheme = own.mapping_of(folder.index.dataset), own.run.protocol.label_scheme
    else:
        chosen = choose_labels(folder.index, label_scheme, emotions)
        mapping, label_scheme = chosen.mapping, chosen.name
    normalization = encoder.normalization or NormalizationStats.of(clips.statistics)
    vectors = _compute(encoder, folder, clips, normalization, names, ranks, layer, workers)
    seen = encoder.lineage.known_speakers(folder.index.dataset, load_rows(folder.path))
    order = sorted(range(len(clips)), key=lambda row: clips.keys[row])
    raw = [emotions[clips.labels[row]] for row in order]
    ids = [clips.keys[row].decode() for row in order]
    return Embeddings(
        clips=tuple(ids),
        speakers=tuple(clips.speakers[clips.shard[row]] for row in order),
        emotions=tuple(raw),
        labels=tuple(mapping.get(emotion, "") for emotion in raw),
        folds=tuple(tested.get(clip, "") for clip in ids),
        vectors=vectors[order],
        settings={
            "dataset": folder.index.dataset,
            "weights": encoder.source,
            "encoder_sha256": fingerprint(model.encoder),
            "strategy": encoder.strategy.name,
            **({"strategy_sha256": encoder.strategy.sha256} if encoder.strategy.path else {}),
            "feature": encoder.feature,
            "layer": "classifier input" if layer is None else layer,
            "normalization": asdict(normalization),
            "fold_scheme": fold_scheme,
            "label_scheme": label_scheme,
            "seen_speakers": sorted(seen & set(clips.speakers)),
        },
    )


def classifier_input(model: Classifier, video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> float32 [B, D], input of the classifier's linear layer: the mean token, normalized."""
    features = model.features(video).float()
    with torch.autocast(features.device.type, enabled=False):
        return model.fc_norm(features)


def mean_token(encoder: Encoder, video: Tensor, layer: int) -> Tensor:
    """[B, 3, T, H, W] -> float32 [B, D], the mean of the tokens after so many blocks, before any final norm."""
    tokens = encoder.patch_embed(video)
    tokens = tokens + encoder.pos_embed.to(tokens.dtype)
    for block in encoder.blocks[:layer]:
        tokens = block(tokens)
    return tokens.mean(dim=1, dtype=torch.float32)


def check_file(path: Path) -> None:
    """Raise EmbeddingError for a file that cannot be written: before anything is computed."""
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        found = "a folder" if path.is_dir() else f"{path.suffix or 'no suffix'}"
        raise EmbeddingError(f"{path}: found {found}, expected the name of a file ending with {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - an optional extra
        except ImportError as error:
            raise EmbeddingError(
                f"{path}: found no pyarrow ({error}), expected it for Parquet; pip install --constraint "
                "constraints.txt '.[parquet]', or choose a name ending with .npz"
            ) from error


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write a NumPy archive or a Parquet file, by suffix. Raises EmbeddingError for another one, OSError.

    Both have `clip`, `speaker`, `emotion`, `label`, `fold` and `vector`; the archive has an array `settings` with JSON,
    which the Parquet file has in its metadata.
    """
    check_file(path)
    data = _format_npz(embeddings) if path.suffix.lower() == ".npz" else _format_parquet(embeddings)
    remove_partial_files(path)
    atomic_write(path, data)


def _compute(
    encoder: EmbeddingModel,
    folder: ShardFolder,
    clips: ClipTable,
    normalization: NormalizationStats,
    names: list[str],
    ranks: Ranks,
    layer: int | None,
    workers: int,
) -> npt.NDArray[np.float32]:
    """[n, D]. Raises EmbeddingError unless all are finite."""
    model, config = encoder.model, encoder.model.encoder.config
    transform = ClipTransform(
        strategy=encoder.strategy,
        classes=1,
        feature=encoder.feature,
        normalization=normalization,
        input_range=config.input_range,
        input_size=config.input,
    )
    unlabelled = replace(clips, labels=np.zeros(len(clips), dtype=np.int64))
    sampler = ClipSampler(clips=len(clips), batch_size=_BATCH, shuffle=False)
    with prefetch_shards(folder, names) as prefetcher, ProgressBar(len(clips), "embedding") as bar:
        options = {"workers": workers, "pin": ranks.device.type == "cuda", "prefetcher": prefetcher}
        seconds = encoder.predictor.provenance.window_seconds if encoder.predictor else 0.0
        windows = EvenWindows(longest_seconds=seconds)
        loader = Loader(unlabelled, sampler, face_px=transform.face_px, windows=windows, **options)

        def embed(video: Tensor) -> Tensor:
            vectors = classifier_input(model, video) if layer is None else mean_token(model.encoder, video, layer)
            bar.step(by=len(video))
            return vectors

        vectors = run_inference(embed, loader, transform, ranks).numpy()
        if broken := np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
            raise EmbeddingError(
                f"{clips.keys[broken[0]].decode()}: found a vector that is not finite, expected numbers; "
                f"the weights of {encoder.source} or the statistics of the shards are out of range"
            )
    return vectors


def _choose_folds(
    encoder: EmbeddingModel, own: Provenance | None, folder: ShardFolder, scheme: str | None
) -> FoldFile | None:
    """A scheme by name or of a table, else that of a run of the corpus, else the corpus's default one.

    None for a folder of too few speakers, which has no folds, and, with a line in the log, for a run whose scheme is
    neither in its folder nor in that of the shards. Raises FoldError, TableError, DataError.
    """
    schemes = folder.index.fold_schemes
    if scheme is None and own:
        scheme = own.run.protocol.fold_scheme
        if own.run.reads_several or scheme not in schemes:
            return _folds_of_run(Path(encoder.source), own.run, folder)
    if scheme is None and not schemes:
        return None
    return open_scheme(folder, scheme, allow_shared_speakers=True)


def _folds_of_run(folder_of_run: Path, run: Run, folder: ShardFolder) -> FoldFile | None:
    """The folds of a table, or of one of several corpora, that a run has recorded.

    None, with a line in the log, if they are not of these shards.
    """
    name, scheme = folds_file(folder.index.dataset if run.reads_several else ""), run.protocol.fold_scheme
    path = folder_of_run / name
    problem = f"found no {name}"
    if path.is_file():
        try:
            file = load_fold_file(path, folder.speakers)
        except FoldError:
            problem = f"found {name} of other shards than {folder.path}, or a damaged one"
        else:
            if run.reads_several or file.name == scheme:
                return file
            problem = f"found folds of {file.name} in {name}"
    log_line(
        f"{folder_of_run}: {problem}, expected the folds of {scheme}, which it was trained with; no clip has a fold, "
        "choose others with SCHEME= (--fold-scheme)"
    )
    return None


def _tested_in(folder: ShardFolder, file: FoldFile) -> dict[str, str]:
    """Clip id -> the fold that tests it. Raises DataError."""
    tests: dict[str, list[tuple[str, Side]]] = {}
    for fold, sides in file.folds.items():
        for speaker in sides.test.subjects:
            tests.setdefault(speaker, []).append((fold, sides.test))
    return {
        row.clip_id: fold
        for row in load_rows(folder.path)
        for fold, side in tests.get(row.speaker, ())
        if row.shard and side.has(row)
    }


def _format_npz(embeddings: Embeddings) -> bytes:
    """Arrays of text and of float32: none has Python objects, so that `numpy.load` needs no permission to run code."""
    texts = {name: np.array(values, dtype=np.str_) for name, values in embeddings.columns().items()}
    file = io.BytesIO()
    settings = np.array(json.dumps(embeddings.settings, sort_keys=True))
    np.savez(file, allow_pickle=False, **texts, vector=embeddings.vectors, settings=settings)
    return file.getvalue()


def _format_parquet(embeddings: Embeddings) -> bytes:
    """A row for each clip, its vector a list of fixed length."""
    import pyarrow
    import pyarrow.parquet

    vectors = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(embeddings.vectors.ravel()), embeddings.vectors.shape[1]
    )
    columns = {name: pyarrow.array(values, pyarrow.string()) for name, values in embeddings.columns().items()}
    table = pyarrow.table({**columns, "vector": vectors})
    settings = json.dumps(embeddings.settings, sort_keys=True)
    file = io.BytesIO()
    pyarrow.parquet.write_table(table.replace_schema_metadata({"settings": settings}), file)
    return file.getvalue()
