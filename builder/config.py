"""Settings of a build that determine its output bytes; how the build is run does not change them."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from builder.timeline import FIXED_STEP_FRAMES, fixed, uniform
from manifests.errors import UserError
from manifests.index import KEEP_INCOMPLETE
from manifests.kinds import PAIRS, SEQUENCES
from manifests.schema import CROP_PX, FEATURE_ROWS, MASKED_SCHEMA_VERSION, SCHEMA_VERSION
from manifests.schema import digest as digest
from manifests.sequence import SIDES_PX

if TYPE_CHECKING:
    from builder.decoders.base import MakeTimeline

Crop = Literal["aligned", "voxceleb", "marlin", "openface"]
Align = Literal["frame", "clip", "none"]
Decoder = Literal["pyav", "ffmpeg"]
Keep = Literal["complete", "incomplete"]
FrameChoice = Literal["16", "all"]

TIMELINES = ("uniform", "fixed")
CLIPS_PER_SHARD = 100
MAX_RATE_HZ = 240

#: The face models, files of mediapipe's package. Their hashes are recorded, so that its version does not matter.
DETECTOR = "face_detection/face_detection_full_range_sparse.tflite"
MESH = "face_landmark/face_landmark.tflite"
#: Packages whose version can change the output bytes.
VERSIONED = (
    "multimae-der",
    "ai-edge-litert",
    "av",
    "librosa",
    "numpy",
    "scipy",
    "simplejpeg",
    "soundfile",
    "soxr",
    "webdataset",
)
OPENCV_NAMES = ("opencv-contrib-python-headless", "opencv-python-headless", "opencv-contrib-python", "opencv-python")


class ConfigError(UserError):
    """A setting is not one of the valid ones; the message lists them."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Settings that determine the output bytes; saved with the shards and hashed."""

    dataset: str
    timeline: str = "uniform"
    """`uniform`: 16 instants over the clip. `fixed`: every `step_frames`-th frame from the start."""
    step_frames: int = FIXED_STEP_FRAMES
    """For `fixed` only; the paper uses 6."""
    features: tuple[str, ...] = ("mfcc",)
    """Spectrograms to store: keys of `manifests.schema.FEATURE_ROWS`."""
    crop: Crop = "aligned"
    """`aligned`: by the head's pose. Others: as the training faces of published encoders were cropped. Builds before
    this setting, which aligned by the distance between the eyes in the picture, have none."""
    align: Align = "frame"
    """For `aligned` only: one transform a frame, one a clip, or the face's box."""
    decoder: Decoder = "pyav"
    keep: Keep = "complete"
    """`incomplete`: clips with only one modality are built, too, and every sample says what is present."""
    frames: FrameChoice = "16"
    """`16`: shards of pairs, those of the timeline's instants. `all`: of sequences, every frame."""
    size_px: int = CROP_PX
    """For `all` only: side of a crop."""
    rate_hz: float | None = None
    """For `all` only: frames a second, those nearest in time; None for the recording's own frames."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the corpus, e.g. CREMA-D's `labels: voted`."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("timeline", self.timeline, TIMELINES),
            ("crop", self.crop, get_args(Crop)),
            ("align", self.align, get_args(Align)),
            ("decoder", self.decoder, get_args(Decoder)),
            ("keep", self.keep, get_args(Keep)),
            ("frames", self.frames, get_args(FrameChoice)),
            ("size_px", self.size_px, SIDES_PX),
            *(("feature", feature, tuple(FEATURE_ROWS)) for feature in self.features),
        ):
            if value not in allowed:
                raise ConfigError(f"{name}: found {value!r}, expected one of {', '.join(map(str, allowed))}")
        if self.crop != "aligned" and self.align != "frame":
            raise ConfigError(
                f"align: found {self.align!r} with crop {self.crop!r}, which is aligned in its own way; "
                "leave align out, or use crop 'aligned' (make: ALIGN=, CROP=)"
            )
        if not self.features or len(set(self.features)) < len(self.features):
            raise ConfigError(
                f"features: found {', '.join(self.features) or 'none'}, expected one or more of "
                f"{', '.join(FEATURE_ROWS)}, each once (make: FEATURE=)"
            )
        if not 1 <= self.step_frames <= 1000:
            raise ConfigError(f"step_frames: found {self.step_frames}, expected 1 to 1000")
        if self.rate_hz is not None and not 1 <= self.rate_hz <= MAX_RATE_HZ:
            raise ConfigError(f"rate_hz: found {self.rate_hz}, expected 1 to {MAX_RATE_HZ} frames a second")
        if self.frames == "all" and self.timeline != "uniform":
            raise ConfigError(
                f"timeline: found {self.timeline!r} with frames 'all', which stores every frame; leave timeline out, "
                "or use frames '16' (make: TIMELINE=, FRAMES=)"
            )
        if self.frames != "all" and (self.size_px, self.rate_hz) != (CROP_PX, None):
            raise ConfigError(
                f"size_px, rate_hz: found {self.size_px} and {self.rate_hz} with frames {self.frames!r}, which has 16 "
                f"crops of {CROP_PX} pixels; leave them out, or use frames 'all' (make: SIZE=, RATE=, FRAMES=)"
            )

    @property
    def kind(self) -> str:
        """Kind of the shards, as in `manifests.kinds`."""
        return SEQUENCES if self.frames == "all" else PAIRS

    @property
    def make_timeline(self) -> MakeTimeline:
        """The timeline as a function of a clip's frame times."""
        if self.timeline == "fixed":
            return partial(fixed, step_frames=self.step_frames)
        return uniform


def identity(config: BuildConfig) -> dict[str, Any]:
    """Everything besides the recordings that determines the output bytes: settings, versions, models."""
    settings = asdict(config)
    if config.timeline != "fixed":
        settings["step_frames"] = FIXED_STEP_FRAMES  # has no effect on other timelines
    masked = config.keep == KEEP_INCOMPLETE
    if not masked:
        del settings["keep"]  # the bytes are those of builds made before there was this setting
    if config.frames == "16":  # likewise
        del settings["frames"], settings["size_px"], settings["rate_hz"]
    return {
        "schema_version": MASKED_SCHEMA_VERSION if masked else SCHEMA_VERSION,
        "config": settings,
        "versions": versions(),
        "models": model_hashes(),
    }


def model_path(name: str) -> Path:
    """A face model's file in mediapipe's package, found without importing it. Raises ModuleNotFoundError."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'mediapipe'", name="mediapipe")
    return Path(spec.origin).parent / "modules" / name


def model_hashes() -> dict[str, str]:
    """SHA-256 of the face models' files; empty without mediapipe's package."""
    with suppress(ModuleNotFoundError):
        return {name: hashlib.sha256(model_path(name).read_bytes()).hexdigest() for name in (DETECTOR, MESH)}
    return {}


def versions() -> dict[str, str]:
    """Package -> version, for the installed packages in VERSIONED and OpenCV."""
    found = {}
    for name in (*VERSIONED, *OPENCV_NAMES):
        with suppress(metadata.PackageNotFoundError):
            found.setdefault("opencv" if name in OPENCV_NAMES else name, metadata.version(name))
    return found
