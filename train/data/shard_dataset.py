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
from manifests.schema import FRAMES, GRIDS
from train.data import DataError
from train.data.clip_table import FACES, ClipTable
from train.data.corpora import Location, open_corpora
from train.data.fold_data import open_fold
from train.data.loader import ClipReader, member_shape
from train.data.missing import WHOLLY
from train.data.shard_folder import Check
from train.data.transforms import NormalizationStats, split_filmstrips
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
        locations: list[Location] = [location] if isinstance(location, str | Path) else [*location]
        schemes = [fold_scheme] if isinstance(fold_scheme, str) else [*(fold_scheme or ())]
        corpora = open_corpora(locations, schemes=schemes, allow_shared_speakers=allow_shared_speakers)
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
        self._reader: tuple[int, ClipReader] | None = None

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One clip; see the class. Raises IndexError, and DataError naming the shard for one that is damaged."""
        clip = range(len(self))[operator.index(index)]
        arrays = {}
        for member, suffix in enumerate(self._clips.members):
            arrays[suffix] = np.empty(member_shape(suffix), np.uint8 if suffix == FACES else np.float16)
            self._process_reader().decode(clip, member, arrays[suffix])
        faces = split_filmstrips(torch.from_numpy(arrays.pop(FACES))[None], FRAMES)[0].contiguous()
        spectrograms = torch.from_numpy(arrays.popitem()[1]).float()
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

    def _process_reader(self) -> ClipReader:
        """The reader of this process; one that was inherited by a fork could have a lock that is never released."""
        if self._reader is None or self._reader[0] != os.getpid():
            self._reader = os.getpid(), ClipReader(self._clips)
        return self._reader[1]


_CHECKS = ("hashes", "sizes")


def _columns(normalization: NormalizationStats) -> tuple[Tensor, Tensor]:
    """Mean and deviation, [rows, 1] float32 each."""
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None] for values in vars(normalization).values())
    return mean, std


def _no_fusion(_: Any) -> Tensor:
    raise AssertionError("a dataset gives faces and spectrograms as they are")
