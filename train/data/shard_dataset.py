"""Clips of one side of a fold as a map-style dataset, for a `DataLoader` and a training loop of one's own.

    dataset = ShardDataset("shards/crema-d", fold=3, side="train")
    for batch in DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2): ...

The trainer itself reads with `train.data.loader.Loader`, which decodes whole batches in threads and is faster.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from manifests.folds import SIDES
from manifests.kinds import PAIRS
from manifests.schema import FRAMES, GRIDS
from train.data import DataError
from train.data.clip_table import ClipTable
from train.data.corpora import Location, open_corpora
from train.data.fold_data import open_fold
from train.data.kinds import READERS
from train.data.missing import WHOLLY
from train.data.readers import Reader, split_spectrogram
from train.data.shard_folder import Check
from train.data.transforms import NormalizationStats
from train.data.windows import EvenWindows, RandomWindows, Windows
from train.fusion import Strategy

#: Feature of shards that have several, unless another is asked for.
_FEATURE = "mfcc"


class ShardDataset(Dataset[dict[str, Any]]):
    """Clips of one side of a fold: a dict for each, which the default `collate_fn` makes a batch of.

    `faces`: float32 [16, 3, 224, 224] RGB in 0..1, or uint8 in 0..255. `spectrograms`: float32 [windows, rows, 224] in
    the unit of the feature (dB-like), or normalized. `label`: int, index into `classes`, or -1 for all clips where
    there are no labels, as in torchvision (`CrossEntropyLoss(ignore_index=-1)`). `key` and `speaker`: text.
    `missing`: text, "" or the modality that the recording does not have (`sound`, `faces`; its values are then those of
    silence, or 0). Tensors are new for each item: they own their memory and can be changed.

    Of shards with every frame (`FRAMES=all`), whose faces may be smaller, the 16 instants are those of pairs, or with
    `window_share` those of a part of the clip, drawn from torch's random numbers as transforms of torchvision draw.

    Shards are hashed once, when the dataset is made, and remote ones downloaded; afterwards the dataset can be pickled
    and used by any number of processes. Clips without a class in the label scheme are left out, those without a label
    among them; with `label_scheme="none"`, and of shards without any label, all clips are used.
    """

    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels; () where there are no labels."""
    normalization: NormalizationStats
    """`mean` and `std` of each row of the spectrograms over the training shards of the fold, whatever the side is."""

    def __init__(
        self,
        location: str | Path | Sequence[str | Path],
        fold: str | int,
        side: str = "train",
        *,
        feature: str | None = None,
        windows: int = 16,
        normalize: bool = False,
        face_dtype: torch.dtype = torch.float32,
        window_seconds: float = 0.0,
        window_share: tuple[float, float] | None = None,
        fold_scheme: str | Sequence[str] | None = None,
        label_scheme: str | None = None,
        allow_shared_speakers: bool = False,
        check: Check = "hashes",
    ) -> None:
        """Open one side of a fold; nothing is decoded.

        Args:
            location: folder of shards: a path or an address; or several, of different corpora. These have as many
                folds as the corpus with the fewest, named by numbers, and each speaker and clip id has its corpus in
                front: `crema-d/1001`.
            fold: name of the test fold, or its number from 1 unless folds are named by numbers.
            side: `train`, `validation` or `test`.
            feature: spectrogram; the only one in the shards, or `mfcc`.
            windows: spectrograms of a clip, 16 or 8.
            normalize: whether each row of the spectrograms has mean 0 and deviation 1 over the training shards.
            face_dtype: `torch.float32`, faces in 0..1, or `torch.uint8`, a quarter of the memory.
            window_seconds: longest part of a clip that is seen; 0 for the whole clip. As the next, of sequences only.
            window_share: least and greatest length of a random part, as shares of the longest one; None for the longest
                one itself, at the clip's centre.
            fold_scheme: the corpus's default if not given; of several corpora one for each.
            label_scheme: the corpus's default if not given, of several corpora their common classes; `none` for all
                clips, without labels.
            allow_shared_speakers: whether a table of `fold_scheme` may have a speaker on several sides.
            check: `hashes` reads every byte of the shards once; `sizes` trusts local shards of the right size.

        Raises DataError for settings, shards or a side that cannot be used, FoldError, LabelError, ManifestError or
        StoreError.
        """
        for name, found, valid in (("side", side, SIDES), ("windows", windows, GRIDS), ("check", check, _CHECKS)):
            if found not in valid:
                raise DataError(f"{name}: found {found!r}, expected {', '.join(map(str, valid))}")
        if face_dtype not in (torch.float32, torch.uint8):
            raise DataError(f"face_dtype: found {face_dtype}, expected torch.float32 or torch.uint8")
        share = window_share or (1.0, 1.0)
        if not (0.1 <= share[0] <= share[1] <= 1 and window_seconds >= 0):
            raise DataError(
                f"window_seconds, window_share: found {window_seconds}, {window_share}; expected 0 or more, and two "
                "fractions from 0.1 to 1, the least first"
            )
        locations: list[Location] = [location] if isinstance(location, str | Path) else [*location]
        schemes = [fold_scheme] if isinstance(fold_scheme, str) else [*(fold_scheme or ())]
        corpora = open_corpora(locations, schemes=schemes, allow_shared_speakers=allow_shared_speakers)
        folder = corpora.parts[0].folder
        if folder.index.kind == PAIRS and (window_seconds or window_share):
            raise DataError(
                f"{folder.path}: found shards of pairs, which show whole clips; expected shards with every frame for "
                "window_seconds or window_share: build them with FRAMES=all (--frames all)"
            )
        fold = corpora.resolve_fold(str(fold))
        data = open_fold(
            corpora,
            fold,
            strategy=Strategy(name="dataset", faces=FRAMES, windows=windows, order=0, rule=_no_fusion),
            feature=feature or (corpora.features[0] if len(corpora.features) == 1 else _FEATURE),
            label_scheme=label_scheme,
            validation=side == "validation",
            unlabelled=True,
            check=check,
        )
        for part in data.parts:
            if missing := part.folder.missing([part.sides[side]]):
                expected = len(part.sides[side].shards)
                commands = part.corpus.fetch_commands(fold, side)
                raise DataError(
                    f"{part.folder.path}: of {expected} {side} shards of fold {fold} found {expected - len(missing)}; "
                    f"fetch the rest: {', '.join(commands)}"
                )
        with data.prefetcher as prefetcher:
            self._clips: ClipTable = data.clips(side)
            prefetcher.wait(self._clips.shards)
        self.classes = tuple(data.label_scheme.classes)
        self.normalization = NormalizationStats.of(data.training.statistics)
        self._face_dtype = face_dtype
        self._scale = _columns(self.normalization) if normalize else None
        random = RandomWindows(longest_seconds=window_seconds, share=share)
        self._windows: Windows = random if window_share else EvenWindows(longest_seconds=window_seconds)
        self._reader: tuple[int, Reader] | None = None

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One clip; see the class. Raises IndexError, and DataError naming the shard for one that is damaged."""
        clip = range(len(self))[operator.index(index)]
        draw = int(torch.randint(1 << 62, ())) if isinstance(self._windows, RandomWindows) else 0
        pending = self._process_reader().start(np.array([clip]), epoch=draw)
        pending.fill([0])
        batch = pending.finish()
        feature, _ = split_spectrogram(self._clips.members.spectrogram)
        faces, spectrograms = batch.faces(FRAMES)[0], batch.rows(feature)[0]
        if self._scale is not None:
            mean, std = self._scale
            spectrograms = (spectrograms - mean) / std
        return {
            "faces": faces if self._face_dtype == torch.uint8 else faces.float().div_(255),
            "spectrograms": spectrograms,
            "label": int(self._clips.labels[clip]),
            "key": self._clips.clip_id(clip),
            "speaker": self._clips.speakers[self._clips.shard[clip]],
            "missing": WHOLLY.get(int(self._clips.missing[clip]), ""),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: each process opens its own."""
        return {**vars(self), "_reader": None}

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """[n] label of each clip, without decoding it: for samplers and class weights."""
        return self._clips.labels.copy()

    @property
    def speakers(self) -> tuple[str, ...]:
        """n speakers, one for each clip."""
        return self._clips.clip_speakers

    @property
    def keys(self) -> tuple[str, ...]:
        """n clip ids."""
        return self._clips.ids

    def _process_reader(self) -> Reader:
        """The reader of this process; one that was inherited by a fork could have a lock that is never released."""
        if self._reader is None or self._reader[0] != os.getpid():
            self._reader = os.getpid(), READERS[self._clips.members.kind](self._clips, windows=self._windows)
        return self._reader[1]


_CHECKS = ("hashes", "sizes")


def _columns(normalization: NormalizationStats) -> tuple[Tensor, Tensor]:
    """Mean and deviation, [rows, 1] float32 each."""
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None] for values in vars(normalization).values())
    return mean, std


def _no_fusion(_: Any) -> Tensor:
    raise AssertionError("a dataset gives faces and spectrograms as they are")
