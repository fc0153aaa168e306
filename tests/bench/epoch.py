"""Start an epoch in its own process as training does, and print the seconds of each step as one line of JSON."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from itertools import chain, count, islice
from pathlib import Path

import torch

from manifests.folds import LOSO
from manifests.labels import identity_scheme
from train.data.clip_table import load_clips, members_for
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.shard_folder import fold_sides, open_folder, prefetch_shards
from train.fusion import strategy_named

BATCH = 32


def main() -> None:
    """Print the seconds of each step after `--clips` clips were read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=1, help="number of clips to read, in as many epochs as necessary")
    options = parser.parse_args()
    torch.set_num_threads(1)
    marks = [time.perf_counter()]
    folder = open_folder(options.folder)
    marks.append(time.perf_counter())
    side = fold_sides(folder, folder.index.shards[0].speaker, LOSO)["train"]
    scheme = identity_scheme(folder.index.dataset, side.clips)
    clips = load_clips(folder, side, scheme, members_for(folder.index, strategy_named("cfas"), "mfcc"))
    marks.append(time.perf_counter())
    with closing(prefetch_shards(folder, clips.shards)) as on_way:
        loader = Loader(clips, ClipSampler(clips=len(clips), batch_size=BATCH), prefetcher=on_way)
        batches = chain.from_iterable(map(loader.epoch, count()))
        next(batches)
        marks.append(time.perf_counter())
        for _batch in islice(batches, options.clips // BATCH):
            pass
    steps = ("open folder", "load clips", "start of an epoch")
    print(json.dumps({step: b - a for step, a, b in zip(steps, marks, marks[1:], strict=False)}))  # noqa: T201


if __name__ == "__main__":
    main()
