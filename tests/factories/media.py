"""Small real recordings whose truth is known by construction: what is shown and heard at which instant.

Everything is muxed packet by packet through PyAV, so every presentation time is chosen here and not by a tool.
Frames carry a *stamp*, their own number in a code of light and dark cells, so that a test can tell which frame
it was given; sound carries tones or one click.

Lossy sound coders put out `PRIMING_SAMPLES` before the first true sample. MP4 carries the compensation (an edit
list), FLV and AVI cannot. `Sound` hides the difference: in every container sample k is heard at
`start_seconds + k / rate_hz` and the stream's first presentation time is `start_seconds`; where the container
cannot compensate, the coder's priming takes the place of the first `PRIMING_SAMPLES` samples.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from builder.datasets.base import ClipSource, Region
from manifests.schema import Clip

Frames = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.int16]

SIZE_PX = (120, 160)  # height, width
NTSC = Fraction(30000, 1001)
#: Samples a coder emits before the first true one; `_encode_sound` checks them.
PRIMING_SAMPLES: Mapping[str, int] = {"aac": 1024, "libmp3lame": 1105, "pcm_s16le": 0}
#: Ticks a second of each container's picture clock; AVI counts frames instead.
CLOCK_HZ: Mapping[str, int] = {"mp4": 90_000, "flv": 1000}
CLICK_SECONDS = 0.001
MP3_PACKET_SAMPLES = 1152


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A video stream to be muxed."""

    frames: Sequence[Frames]
    """n times [H, W, 3] RGB; a lazy sequence is fine."""
    ticks: Sequence[int]
    """Presentation time of each frame in units of `time_base`, plus one entry: the end of the last frame."""
    time_base: Fraction
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    rotation_degrees: int = 0
    """0, 90, 180 or 270: counter-clockwise turn that the container asks a player to make. `frames` are upright;
    what is coded lies turned the other way."""

    pixel_aspect: Fraction = Fraction(1)
    """Width of a coded pixel over its height."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Presentation time of each frame."""
        return tuple(float(tick * self.time_base) for tick in self.ticks[:-1])

    @property
    def end_seconds(self) -> float:
        """When the last frame ends."""
        return float(self.ticks[-1] * self.time_base)


@dataclass(frozen=True, kw_only=True)
class Sound:
    """An audio stream to be muxed."""

    samples: Samples
    """[n, channels]"""
    rate_hz: int = 48_000
    start_seconds: float = 0.0
    codec: str = "aac"
    bit_rate: int | None = None
    chunk_seconds: float = 0.04
    """Length of one packet of uncompressed sound."""


@dataclass(frozen=True, kw_only=True)
class Clapper:
    """A clapper clip: one white frame and one click at the same presentation instant."""

    path: Path
    clap_seconds: float
    frame_seconds: tuple[float, ...]
    end_seconds: float
    audio_start_seconds: float


# --- what is shown ---------------------------------------------------------------------------------------------

_CORNERS = (0, 3, 12, 15)  # of the 4x4 cells: the first is always lit, the others never; shows which way is up
_BITS = tuple(cell for cell in range(16) if cell not in _CORNERS)
LIT_RGB = (255, 128, 0)  # orange: red and blue differ, so swapped channels show


def stamp(index: int, size_px: tuple[int, int] = SIZE_PX) -> Frames:
    """[H, W, 3] picture that says its number (0..2047) in each half, and which half that is."""
    height, width = size_px
    frame = np.zeros((height, width, 3), np.uint8)
    for side, columns in enumerate((slice(0, width // 2), slice(width // 2, width))):
        lit = [cell for bit, cell in enumerate(_BITS) if (index << 1 | side) >> bit & 1]
        for box in _boxes(height, width // 2, (0, *lit)):
            frame[:, columns][box] = LIT_RGB
    return frame


def read_stamp(half: Frames) -> tuple[int, str]:
    """Left or right half of a picture -> (frame number, "left" or "right"). Raises ValueError if not upright."""
    height, width = half.shape[:2]
    inner = _boxes(height, width, range(16), margin=0.3)
    cells = [bool(half[box][..., 0].mean() > 128) for box in inner]
    if [cells[corner] for corner in _CORNERS] != [True, False, False, False]:
        raise ValueError(f"no upright stamp: cells {np.reshape(cells, (4, 4)).astype(int).tolist()}")
    value = sum(cells[cell] << bit for bit, cell in enumerate(_BITS))
    return value >> 1, ("left", "right")[value & 1]


def stamps(count: int, size_px: tuple[int, int] = SIZE_PX) -> list[Frames]:
    """The first `count` stamped frames."""
    return [stamp(index, size_px) for index in range(count)]


def flashes(count: int, white: int, size_px: tuple[int, int] = SIZE_PX) -> list[Frames]:
    """Black frames with a white one at index `white`."""
    return [np.full((*size_px, 3), 255 * (index == white), np.uint8) for index in range(count)]


def _boxes(height: int, width: int, cells: Sequence[int], margin: float = 0.0) -> Iterator[tuple[slice, slice]]:
    rows, columns = (np.linspace(0, length, 5) for length in (height, width))
    for cell in cells:
        sides = (rows[cell // 4 :][:2], columns[cell % 4 :][:2])
        yield tuple(slice(round(a + margin * (b - a)), round(b - margin * (b - a))) for a, b in sides)


# --- when it is shown ------------------------------------------------------------------------------------------


def steady(frames: Sequence[Frames], container: str, *, rate: Fraction = NTSC, start_seconds: float = 0.0) -> Picture:
    """Frames at a constant rate, on the container's clock (FLV rounds to 1 ms; AVI starts on a whole frame)."""
    time_base = Fraction(1, CLOCK_HZ[container]) if container in CLOCK_HZ else 1 / Fraction(rate)
    start = round(Fraction(start_seconds) / time_base)
    ticks = [start + round(index / rate / time_base) for index in range(len(frames) + 1)]
    return Picture(frames=frames, ticks=ticks, time_base=time_base)


def varying(frames: Sequence[Frames], *, start_seconds: float = 0.0, seed: int = 0) -> Picture:
    """Frames that last 10 to 110 ms each, as a telephone in poor light records them."""
    steps = np.random.default_rng(seed).integers(900, 9900, len(frames))
    ticks = round(90_000 * start_seconds) + np.concatenate([[0], np.cumsum(steps)])
    return Picture(frames=frames, ticks=[int(tick) for tick in ticks], time_base=Fraction(1, 90_000))


# --- what is heard ---------------------------------------------------------------------------------------------


def tone(hz: float, seconds: float, rate_hz: int = 48_000, amplitude: float = 0.5) -> Samples:
    """[n] sine."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return _int16(amplitude * np.sin(2 * np.pi * hz * time))


def click(at_seconds: float, seconds: float, rate_hz: int = 48_000) -> Samples:
    """[n] silence with one 1 ms raised-cosine pulse centred on `at_seconds`, to a fraction of a sample."""
    phase = (np.arange(round(seconds * rate_hz)) / rate_hz - at_seconds) / CLICK_SECONDS
    return _int16(0.9 * np.where(np.abs(phase) < 0.5, 0.5 + 0.5 * np.cos(2 * np.pi * phase), 0.0))


def scale(seconds: int, hz: Callable[[int], float], rate_hz: int) -> Samples:
    """[n] a tone whose frequency says which second it is: `hz(second)`."""
    frequency = np.repeat([hz(second) for second in range(seconds)], rate_hz)
    return _int16(0.5 * np.sin(2 * np.pi * np.cumsum(frequency) / rate_hz))


def mono(samples: Samples, **settings: object) -> Sound:
    """One channel."""
    return Sound(samples=samples[:, None], **settings)  # type: ignore[arg-type]


def _int16(wave: npt.NDArray[np.float64]) -> Samples:
    return np.round(32767 * wave).astype(np.int16)


# --- files -----------------------------------------------------------------------------------------------------


def write(
    path: Path,
    picture: Picture | None = None,
    sound: Sound | None = None,
    *,
    container: str = "mp4",
    options: Mapping[str, str] | None = None,
) -> Path:
    """Mux one recording. `sound` without samples leaves an audio stream that holds no packet."""
    if container == "avi":
        return _write_avi(path, picture, sound)
    settings = dict(options or {})
    if container == "mp4" and sound:  # edit lists count in this clock; the default 1 ms would move streams
        settings["movie_timescale"] = str(math.lcm(CLOCK_HZ["mp4"], sound.rate_hz))
    _mux(path, picture, sound, container, settings)
    return path


def _write_avi(path: Path, picture: Picture | None, sound: Sound | None) -> Path:
    """AVI streams begin at 0 unless the stream header's `dwStart` says otherwise; the muxer never sets it."""
    frame_delay = picture.ticks[0] if picture else 0
    sound_delay = round(sound.start_seconds * sound.rate_hz) if sound else 0
    packet, rest = divmod(sound_delay, 1 if sound is None or sound.codec.startswith("pcm") else MP3_PACKET_SAMPLES)
    if rest:
        raise ValueError(f"AVI delays MP3 by whole packets of {MP3_PACKET_SAMPLES} samples, found {sound_delay}")
    if picture:
        picture = replace(picture, ticks=[tick - frame_delay for tick in picture.ticks])
    _mux(path, picture, replace(sound, start_seconds=0.0) if sound else None, "avi", {})
    for kind, delay in ((b"vids", frame_delay), (b"auds", packet)):
        if delay:
            _set_avi_start(path, kind, delay)
    return path


def _set_avi_start(path: Path, kind: bytes, ticks: int) -> None:
    data = bytearray(path.read_bytes())
    header = data.index(b"strh")
    while data[header + 8 : header + 12] != kind:
        header = data.index(b"strh", header + 4)
    struct.pack_into("<I", data, header + 8 + 28, ticks)
    path.write_bytes(data)


def _mux(path: Path, picture: Picture | None, sound: Sound | None, container: str, options: Mapping[str, str]) -> None:
    with av.open(str(path), "w", format=container, options=dict(options)) as output:
        packets = []
        if picture:
            packets += _encode_picture(output, picture)
        if sound:
            packets += _encode_sound(output, sound, compensated=container == "mp4")
        assert container == "mp4" or all(packet.dts >= 0 for packet in packets), "the muxer would move all streams"
        output.start_encoding()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)


def _encode_picture(output: av.container.OutputContainer, picture: Picture) -> list[av.Packet]:
    stream = output.add_stream(picture.codec, rate=_rate(picture), options=dict(picture.options))
    quarters = picture.rotation_degrees // 90
    stream.height, stream.width = np.rot90(picture.frames[0], -quarters).shape[:2]
    stream.pix_fmt = picture.pix_fmt
    stream.codec_context.time_base = picture.time_base
    stream.codec_context.thread_count = 1  # the same bytes on every machine
    stream.codec_context.sample_aspect_ratio = picture.pixel_aspect
    if picture.codec != "libx264":
        stream.codec_context.bit_rate = 2_000_000
    if quarters:
        stream.set_display_rotation(picture.rotation_degrees)
    packets: list[av.Packet] = []
    for pixels, (tick, end) in zip(picture.frames, itertools.pairwise(picture.ticks), strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(pixels, -quarters)), format="rgb24")
        frame.pts, frame.duration, frame.time_base = tick, end - tick, picture.time_base
        packets += stream.encode(frame)
    packets += stream.encode(None)
    lasting = {tick: end - tick for tick, end in itertools.pairwise(picture.ticks)}
    for packet in packets:  # not every encoder hands the frames' durations on
        packet.duration = int(lasting[packet.pts] * picture.time_base / packet.time_base)
    return packets


def _rate(picture: Picture) -> Fraction:
    span = (picture.ticks[-1] - picture.ticks[0]) * picture.time_base
    return (len(picture.frames) / span).limit_denominator(1001)


def _encode_sound(output: av.container.OutputContainer, sound: Sound, *, compensated: bool) -> list[av.Packet]:
    stream = output.add_stream(sound.codec, rate=sound.rate_hz)
    stream.layout = {1: "mono", 2: "stereo"}[sound.samples.shape[1]]
    if sound.bit_rate:
        stream.codec_context.bit_rate = sound.bit_rate
    if not len(sound.samples):
        return []
    start = round(sound.start_seconds * sound.rate_hz)
    priming = PRIMING_SAMPLES[sound.codec]
    skipped = 0 if compensated else priming
    packets: list[av.Packet] = []
    chunk = round(sound.chunk_seconds * sound.rate_hz)
    for first in range(skipped, len(sound.samples), chunk):
        interleaved = np.ascontiguousarray(sound.samples[first : first + chunk]).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = sound.rate_hz, start + first, Fraction(1, sound.rate_hz)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    assert packets[0].pts == start + skipped - priming, f"{sound.codec}: priming is not {priming} samples"
    return packets


def sound_with_cover(path: Path, samples: Samples, rate_hz: int) -> Path:
    """An MP3 file with a cover picture, which decoders list as a video stream."""
    raw = ffmpeg.input("pipe:", f="s16le", ar=rate_hz, ac=1)
    cover = ffmpeg.input(f"color=red:size={SIZE_PX[1]}x{SIZE_PX[0]}:duration=1:rate=1", f="lavfi")
    settings = {"c:v": "mjpeg", "c:a": "libmp3lame", "disposition:v": "attached_pic", "frames:v": 1}
    command = ffmpeg.output(raw.audio, cover.video, str(path), **settings)
    command.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), input=samples.tobytes(), quiet=True)
    return path


def clapper(
    path: Path,
    picture: Picture,
    *,
    container: str,
    white: int,
    sound_codec: str,
    rate_hz: int = 44_100,
    audio_start_seconds: float = 0.0,
) -> Clapper:
    """Mux `picture`'s clock with black frames, frame `white` white, and a click at that frame's time."""
    clap = picture.seconds[white]
    shown = replace(picture, frames=flashes(len(picture.frames), white))
    length = picture.end_seconds - audio_start_seconds
    sound = mono(
        click(clap - audio_start_seconds, length, rate_hz),
        rate_hz=rate_hz,
        start_seconds=audio_start_seconds,
        codec=sound_codec,
        bit_rate=None if sound_codec.startswith("pcm") else 128_000,
    )
    write(path, shown, sound, container=container)
    return Clapper(
        path=path,
        clap_seconds=clap,
        frame_seconds=picture.seconds,
        end_seconds=picture.end_seconds,
        audio_start_seconds=audio_start_seconds,
    )


# --- damage ----------------------------------------------------------------------------------------------------


def cut(path: Path, fraction: float) -> Path:
    """Keep only the first part of a file, wherever that ends."""
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    return path


def cut_at_packet(path: Path, fraction: float) -> Path:
    """Cut a file between two packets of picture, so that nothing that is left of it is damaged."""
    packets = _packets(path, "video")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(packets[int(fraction * len(packets))])])
    return path


def damage(path: Path, kind: str, *, zeros: bool = False, share: float = 0.2, centre: float = 0.5) -> Path:
    """Overwrite a share of the packets of the "video" or "audio" stream, around `centre`, with noise or zeros."""
    packets = _packets(path, kind)
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0)
    count = max(1, round(share * len(packets)))
    first = round(centre * len(packets)) - count // 2
    for packet in packets[first : first + count]:
        place = data.index(packet)
        data[place : place + len(packet)] = bytes(len(packet)) if zeros else noise.bytes(len(packet))
    path.write_bytes(data)
    return path


def _packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as recording:
        stream = next(stream for stream in recording.streams if stream.type == kind)
        return [bytes(packet) for packet in recording.demux(stream) if packet.size]


# --- sources ---------------------------------------------------------------------------------------------------


def source(
    video: Path,
    *,
    sound: Path | None = None,
    sound_first: bool = False,
    segment_seconds: tuple[float, float] | None = None,
    region: Region = "full",
) -> ClipSource:
    """A corpus's word on one clip."""
    clip = Clip(clip_id="clip", speaker="speaker", emotion="neutral")
    return ClipSource(
        clip=clip,
        video=video,
        sound=sound,
        sound_first=sound_first,
        segment_seconds=segment_seconds,
        region=region,
    )
