"""What loading costs beside bare decoding of the same bytes, in the same run: python tests/bench/bench_load.py FOLDER.

Bare decoding is simplejpeg on each filmstrip and numpy on each spectrogram, the bytes already in memory and the result
thrown away: what no loader can save. Of sequences it is simplejpeg on the 16 frames of a whole clip, and soundfile on
its sound. Rates are clips a second of CPU time, all threads together, so that a machine busy with other things measures
the same; the ways take turns, and the median of each one's rounds counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simplejpeg
import soundfile
import torch
from PIL import Image

from manifests.kinds import PAIRS, SEQUENCES
from manifests.sequence import FRAMES_MEMBER, MEMBERS
from manifests.text import pluralize
from manifests.timeline import nearest_frames, spread_instants
from train.data.batches import PairBatch
from train.data.clip_table import ClipTable, load_all_clips, members_for
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.shard_folder import open_folder
from train.fusion import STRATEGIES, strategy_named

Way = Callable[[], Iterable[Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; exit status 1 if our loader is slower than it must be, 2 if it cannot be measured."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    try:
        rates = rates_of(options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(table(rates))
    ours = min(rate for name, rate in rates.items() if name.startswith("loader"))
    return int(ours < options.least * rates["bare decoding"])


def rates_of(options: argparse.Namespace) -> dict[str, float]:
    """Clips a CPU second of each way to read a folder, bare decoding first. Raises DataError, OSError."""
    folder = open_folder(options.folder)
    members = members_for(folder.index, strategy_named(options.strategy), options.feature)
    clips, _ = load_all_clips(folder, members)
    return measure(_ways(clips, options), rounds=options.rounds, clips=len(clips))


def measure(ways: Mapping[str, Way], rounds: int, clips: int) -> dict[str, float]:
    """Clips a CPU second of each way to go through `clips` clips once: the median of rounds, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            for _result in way():
                pass
            seconds[name].append(time.process_time() - start)
    return {name: clips / median(times[1:]) for name, times in seconds.items()}


def table(rates: Mapping[str, float]) -> str:
    """A line a way, with its share of the first one's rate."""
    bare = next(iter(rates.values()))
    lines = (f"{name:<28}{rate:9.1f} clips/s a core {rate / bare:6.2f}\n" for name, rate in rates.items())
    return "".join(lines)


def _ways(clips: ClipTable, options: argparse.Namespace) -> dict[str, Way]:
    """What is measured, bare decoding first."""
    sampler = ClipSampler(clips=len(clips), batch_size=options.batch_size)
    ways: dict[str, Way] = {"bare decoding": _bare(clips)}
    for workers in options.workers:
        ways[f"loader, {pluralize(workers, 'worker')}"] = _epochs(Loader(clips, sampler, workers=workers))
    if options.others:
        tars = [str(clips.folder / name) for name in clips.shards]
        for name, way in OTHERS[clips.members.kind].items():
            if importlib.util.find_spec(name):
                ways[f"{name}'s own loader"] = way(tars, clips.members.suffixes, options.batch_size)
    return ways


def _bare(clips: ClipTable) -> Way:
    """Decode bytes that are in memory already, and drop the result."""
    tars = [(clips.folder / name).read_bytes() for name in clips.shards]
    samples = []
    for shard, places in zip(clips.shard, clips.byte_ranges.tolist(), strict=True):
        data = [tars[shard][offset : offset + size] for offset, size in places]
        members = dict(zip(clips.members.suffixes, data, strict=True))
        samples.append(list(_used(members)))
    return lambda: ([_DECODERS[suffix.rpartition(".")[2]](data) for suffix, data in sample] for sample in samples)


def _used(members: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """What is decoded of a clip: all that is read of pairs; of sequences 16 frames, nearest to the whole's instants."""
    if FRAMES_MEMBER in members:
        meta = json.loads(members["json"])
        instants = spread_instants(tuple(meta["timing"]["span_seconds"])).instants_seconds
        for frame in nearest_frames(np.array(meta["timing"]["frame_seconds"]), instants).tolist():
            offset, size = meta["byte_ranges"][frame]
            yield "frame.jpg", members[FRAMES_MEMBER][offset : offset + size]
    yield from ((suffix, data) for suffix, data in members.items() if suffix not in (FRAMES_MEMBER, "json"))


#: Suffix of a file -> how the libraries that we use decode it.
_DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    "jpg": lambda data: simplejpeg.decode_jpeg(data, colorspace="RGB"),
    "npy": lambda data: np.load(io.BytesIO(data), allow_pickle=False),
    "flac": lambda data: soundfile.read(io.BytesIO(data), dtype="int16"),
}


def _epochs(loader: Loader) -> Callable[[], Iterable[PairBatch]]:
    return lambda: loader.epoch(0)


def _webdataset(tars: Sequence[str], members: tuple[str, ...], batch_size: int) -> Way:
    import webdataset

    pipeline = webdataset.WebDataset(list(tars), shardshuffle=False, empty_check=False)
    return lambda: pipeline.decode("rgb8", only=list(members)).to_tuple(*members).batched(batch_size)


def _webdataset_frames(tars: Sequence[str], _: tuple[str, ...], batch_size: int) -> Way:
    """As a user of webdataset writes it, who decodes only what is used."""
    import webdataset

    def decode(sample: Mapping[str, bytes]) -> tuple[Any, ...]:
        *frames, (_, sound) = _used({suffix: sample[suffix] for suffix in MEMBERS})
        images = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for _, jpeg in frames]
        return np.stack(images), soundfile.read(io.BytesIO(sound), dtype="int16")

    pipeline = webdataset.WebDataset(list(tars), shardshuffle=False, empty_check=False)
    return lambda: pipeline.map(decode).batched(batch_size, collation_fn=list)


def _hugging_face(tars: Sequence[str], members: tuple[str, ...], batch_size: int) -> Way:
    import datasets

    stream = datasets.load_dataset("webdataset", data_files={"train": list(tars)}, split="train", streaming=True)
    return lambda: stream.select_columns(list(members)).with_format("numpy").iter(batch_size)


#: Kind of shards -> package -> its way to read them.
OTHERS: Mapping[str, Mapping[str, Callable[[Sequence[str], tuple[str, ...], int], Way]]] = {
    PAIRS: {"webdataset": _webdataset, "datasets": _hugging_face},
    SEQUENCES: {"webdataset": _webdataset_frames},
}


def parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    parser = argparse.ArgumentParser(prog="bench_load.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of shards")
    parser.add_argument("--strategy", default="cfas", choices=[*STRATEGIES], metavar="NAME", help="what is read")
    parser.add_argument("--feature", default="mfcc", help="spectrogram that is read")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="loader threads")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--least", type=float, default=0.85, metavar="SHARE", help="of bare decoding's rate")
    parser.add_argument("--others", action="store_true", help="measure other loaders too, where installed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
