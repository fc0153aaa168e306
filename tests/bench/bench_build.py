"""CPU time of building a clip, beside the least it could take, both on one thread: python tests/bench/bench_build.py.

The floor is what no builder of these shards can avoid: decode every frame, run the model of the face mesh 16 times,
encode the filmstrip; of sequences (`--frames all`), run it once on every frame on which the builder looks for the face,
and encode every crop. A mesh reads a picture and a filmstrip has crops, so that there is a second floor with these
inputs: frames as RGB, pictures sampled for the mesh, crops. Clips are measured in turn, floor and build next to each
other, so that a noisy machine is as noisy for both; figures are the sums of each clip's best time.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from builder.worker import keep_freed_memory, limit_native_threads
from manifests.console import Parser, run_command, say
from manifests.text import pluralize

limit_native_threads()

if TYPE_CHECKING:
    from builder.datasets.base import ClipSource

CORPUS_CLIPS = 7442  # CREMA-D
CORES = 2


@dataclass(kw_only=True)
class Stopwatch:
    """Best CPU milliseconds of each named step."""

    best: dict[str, float]

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Run `work`, remember its CPU time if it is the best so far, return its result."""
        start = _cpu_seconds()
        result = work()
        spent = (_cpu_seconds() - start) * 1000
        self.best[name] = min(spent, self.best.get(name, spent))
        return result


def _cpu_seconds() -> float:
    """Of this process and of the programs it ran."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(
    sources: Sequence[ClipSource],
    root: Path,
    repeats: int,
    others: Mapping[str, Callable[[ClipSource], object]] | None = None,
) -> list[Stopwatch]:
    """CPU time of floor, whole build and each of its steps, per clip; and of other ways to build a clip, by name."""
    from builder.clip import ClipBuilder
    from builder.config import BuildConfig
    from builder.face_models import FaceMesh

    keep_freed_memory()
    builder = ClipBuilder(BuildConfig(dataset="crema-d"), root)
    mesh = FaceMesh().model
    watches = [Stopwatch(best={}) for _ in sources]
    for _ in range(repeats):
        for source, watch in zip(sources, watches, strict=True):
            _floor(source, builder.finder, mesh, watch)
            watch.time("build", lambda source=source: builder.build(source))
            _steps(source, builder.finder, watch)
            for name, other in (others or {}).items():
                watch.time(name, lambda other=other, source=source: other(source))
    return watches


def measure_sequences(sources: Sequence[ClipSource], root: Path, repeats: int) -> list[Stopwatch]:
    """CPU time of floor, inputs and build of sequences, per clip."""
    import cv2
    import numpy as np

    from builder.clip import ClipBuilder
    from builder.config import BuildConfig
    from builder.decoders.base import Listing
    from builder.face_models import INPUT_PX, FaceMesh, sample
    from builder.faces import warp
    from builder.sequence import plan_frames
    from manifests.sequence import decode, decode_frame, encode_frame
    from manifests.timeline import spread_instants

    keep_freed_memory()
    builder = ClipBuilder(BuildConfig(dataset="crema-d", frames="all"), root)
    mesh = FaceMesh().model
    watches = [Stopwatch(best={}) for _ in sources]
    for _ in range(repeats):
        for source, watch in zip(sources, watches, strict=True):
            built = watch.time("build", lambda source=source: builder.build(source))
            sequence = decode(built.members)
            crops = [decode_frame(jpeg, sequence.side_px) for jpeg in sequence.jpegs]
            seconds = np.array(sequence.timing.frame_seconds)
            plan = plan_frames(Listing(seconds=seconds, timeline=spread_instants(sequence.timing.span_seconds)), None)
            watch.time("floor: decode all frames", lambda source=source: _decode_all(source))
            small = [cv2.resize(crops[i], (INPUT_PX, INPUT_PX)) for i in {*plan.sampled, *plan.further}]
            watch.time("floor: bare face meshes", lambda small=small: [mesh(crop) for crop in small])
            watch.time("floor: encode all crops", lambda crops=crops: [encode_frame(crop) for crop in crops])
            recorded = _recorded_frames(source)
            (rgb, *_) = watch.time("inputs: convert all frames to RGB", lambda frames=recorded: _to_rgb(frames))
            maps = [np.array(each).reshape(2, 3) for each in sequence.transforms]
            looked_at = [_mesh_region(maps[i]) for i in {*plan.sampled, *plan.further}]
            watch.time(
                "inputs: sample pictures for the meshes",
                lambda frame=rgb, regions=looked_at: [sample(frame, each, cv2.BORDER_REPLICATE) for each in regions],
            )
            watch.time("inputs: warp all crops", lambda frame=rgb, maps=maps: [warp(frame, each) for each in maps])
    return watches


def _decode_all(source: ClipSource) -> int:
    """Decode every frame, keep none."""
    import av

    with av.open(str(source.video)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(frame.height > 0 for frame in container.decode(video=0))


def _recorded_frames(source: ClipSource) -> list[Any]:
    """All frames as the decoder stores them."""
    import av

    with av.open(str(source.video)) as container:
        return list(container.decode(video=0))


def _to_rgb(frames: Sequence[Any]) -> list[Any]:
    """The first frame as RGB, after all were converted."""
    from av.video.reformatter import VideoReformatter

    converter = VideoReformatter()
    return [converter.reformat(frame, format="rgb24", threads=1).to_ndarray() for frame in frames][:1]


def _mesh_region(to_crop: Any) -> Any:
    """[2, 3] the region of a frame that a crop shows, as one in which a mesh looks for the face."""
    import cv2

    from builder.face_models import INPUT_PX
    from manifests.schema import CROP_PX

    region = cv2.invertAffineTransform(to_crop)
    region[:, :2] *= CROP_PX / INPUT_PX
    return region


def _floor(source: ClipSource, finder: Any, mesh: Callable[[Any], Any], watch: Stopwatch) -> None:
    """Decode all frames, 16 bare meshes, encode the filmstrip; and what the last two need."""
    import cv2
    import numpy as np

    from builder import faces, media, timeline
    from builder.face_models import sample
    from manifests.schema import encode_faces

    video = media.decode(source, timeline.uniform).video
    maps = faces.transforms(finder.follow(video.frames), video.frame_seconds)
    regions = [_mesh_region(each) for each in maps]
    watch.time("floor: decode all frames", lambda: _decode_all(source))
    recorded = _recorded_frames(source)[:16]
    watch.time("inputs: convert 16 frames to RGB", lambda: _to_rgb(recorded))
    pictures = watch.time(
        "inputs: sample 16 pictures for the meshes",
        lambda: [sample(f, region, cv2.BORDER_REPLICATE) for f, region in zip(video.frames, regions, strict=True)],
    )
    watch.time("floor: 16 bare face meshes", lambda: [mesh(picture) for picture in pictures])
    crops = watch.time(
        "inputs: warp 16 crops", lambda: np.stack([faces.warp(f, m) for f, m in zip(video.frames, maps, strict=True)])
    )
    watch.time("floor: encode the filmstrip", lambda: encode_faces(crops))


def _steps(source: ClipSource, finder: Any, watch: Stopwatch) -> None:
    """The build's own steps, one by one."""
    import numpy as np

    from builder import faces, media, timeline
    from builder.spectrograms import spectrograms
    from manifests.schema import encode_audio, encode_faces, encode_spectrogram

    clip = watch.time("step: decode video and sound", lambda: media.decode(source, timeline.uniform))
    video, sound = clip.video, clip.sound
    followed = watch.time("step: find and follow the face", lambda: finder.follow(video.frames))
    maps = watch.time("step: fit transforms", lambda: faces.transforms(followed, video.frame_seconds))
    crops = watch.time(
        "step: warp 16 crops", lambda: np.stack([faces.warp(f, m) for f, m in zip(video.frames, maps, strict=True)])
    )
    arguments = (sound.samples, sound.start_seconds, video.timeline, ("mfcc",))
    windows = watch.time("step: spectrograms of both grids", lambda: spectrograms(*arguments))
    watch.time("step: encode the filmstrip", lambda: encode_faces(crops))
    watch.time("step: encode the sound", lambda: encode_audio(sound.samples))
    watch.time("step: encode the spectrograms", lambda: [encode_spectrogram(w) for w in windows.values()])


def describe(watches: Sequence[Stopwatch]) -> list[str]:
    """The table that is printed."""
    average = {name: mean(watch.best[name] for watch in watches) for name in watches[0].best}
    floor = sum(value for name, value in average.items() if name.startswith("floor"))
    build = average["build"]
    corpus_minutes = build * CORPUS_CLIPS / CORES / 60_000
    steps = {name: value for name, value in average.items() if name.startswith("step")}
    rest = build - sum(steps.values())
    inputs = {name: value for name, value in average.items() if name.startswith("inputs")}
    with_inputs = floor + sum(inputs.values())
    others = {name: value for name, value in average.items() if ":" not in name and name != "build"}
    return [
        f"CPU milliseconds a clip, one thread, mean over {pluralize(len(watches), 'clip')} of the best of each",
        *(f"  {value:7.1f}  {name}" for name, value in average.items() if name.startswith("floor")),
        f"  {floor:7.1f}  floor",
        *(f"  {value:7.1f}  {name}" for name, value in inputs.items()),
        f"  {with_inputs:7.1f}  floor with inputs",
        *(f"  {value:7.1f}  {name}" for name, value in steps.items()),
        *([f"  {rest:7.1f}  rest: hashing, statistics, records (what separate measurements leave)"] if steps else []),
        *(f"  {value:7.1f}  {name}" for name, value in others.items()),
        f"  {build:7.1f}  build",
        f"ratio {build / floor:.2f} (build / floor), {build / with_inputs:.2f} (build / floor with inputs)",
        f"{CORPUS_CLIPS} clips: {corpus_minutes:.1f} minutes on {CORES} cores",
    ]


def print_table(args: argparse.Namespace) -> int:
    """Measure and print."""
    from builder.datasets import scan_corpus

    root = (args.data or Path("data") / args.dataset).absolute()
    sources = scan_corpus(args.dataset, root).sources[: args.clips]
    measured = measure_sequences if args.frames == "all" else measure
    for line in describe(measured(sources, root, args.repeats)):
        say(line)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a few clips of a corpus."""
    parser = Parser(prog="python tests/bench/bench_build.py", description=__doc__)
    parser.set_defaults(run=print_table, debug=False)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--data", type=Path, help="the corpus's folder (default: data/DATASET)")
    parser.add_argument("--frames", default="16", choices=("16", "all"))
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    return run_command(parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
