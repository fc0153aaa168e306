"""Talking faces rendered from one photograph: appearance of a speaker, an expression, a jaw, a moving head.

The photograph is scikit-image's portrait of the astronaut Eileen Collins (NASA, public domain). Positions are in
its pixels ("portrait pixels"). A frame is rendered by two backward warps: the first opens the lips and drops the
jaw in the texture, the second warps the figure (geometry, expression, head pose) into the frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from builder.demo.speakers import Backdrop, Speaker, look_up
from builder.demo.utterances import FPS, Expression, FaceMotion, Take, smoothstep

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FRAME_PX = (480, 360)  # width, height
_TEXTURE_SCALE = 2  # texture pixels per portrait pixel
_CANVAS_PX = (512, 340)  # part of the portrait that is used
_GRID_PX = 2  # step of the grid the smooth displacements are computed on
_MIDLINE, _MIDDLE_Y = 224.5, 118.0  # of the face
_MOUTH_X, _MOUTH_HALF_WIDTH = 223.5, 20.5
_JAW_DROP_PX = 17.0  # opening of the lips at full voice

#: Outline of the figure, and of skin (face, ears, neck) within it.
_FIGURE = (
    (276, 31), (251, 19), (241, 19), (237, 16), (227, 16), (212, 22), (205, 21), (193, 29), (189, 35), (174, 43),
    (156, 58), (153, 68), (155, 98), (157, 104), (167, 115), (170, 117), (171, 124), (175, 130), (182, 133), (182, 141),
    (186, 153), (173, 153), (157, 156), (144, 163), (137, 161), (131, 167), (129, 172), (123, 178), (120, 194),
    (115, 196), (113, 204), (90, 227), (76, 235), (60, 253), (54, 267), (44, 282), (40, 294), (39, 306), (34, 315),
    (28, 345), (360, 345), (356, 310), (352, 286), (347, 282), (345, 272), (340, 262), (319, 243), (303, 233),
    (299, 219), (289, 203), (276, 189), (255, 173), (256, 163), (264, 149), (266, 139), (268, 135), (275, 133),
    (290, 117), (296, 107), (300, 92), (299, 72), (296, 66), (296, 58), (288, 43),
)  # fmt: skip
_SKIN = (
    (186, 77), (200, 82), (216, 85), (236, 84), (252, 83), (263, 90), (269, 104), (271, 122), (279, 128), (275, 137),
    (266, 142), (256, 166), (255, 188), (238, 192), (222, 190), (200, 186), (187, 180), (185, 152), (181, 138),
    (172, 129), (170, 117), (180, 120), (181, 98), (183, 84),
)  # fmt: skip
_EYES = ((203.7, 101.4), (246.8, 103.8))


@dataclass(frozen=True)
class Bump:
    """A smooth push: the portrait around (x, y) moves by (dx, dy), fading as a Gaussian of width `sigma`."""

    x: float
    y: float
    dx: float
    dy: float
    sigma: float


def _both(x: float, y: float, dx: float, dy: float, sigma: float) -> tuple[Bump, Bump]:
    """A push on the viewer's right (x relative to the midline) and its mirror image; dx > 0 is outwards."""
    return Bump(_MIDLINE + x, y, dx, dy, sigma), Bump(_MIDLINE - x, y, -dx, dy, sigma)


#: The portrait smiles: this relaxes it to a neutral face, to which the expressions are added.
_RELAX = (*_both(22, 140, -2.5, 5.0, 11), *_both(34, 124, 0.0, 1.5, 12), Bump(_MOUTH_X, 147, 0.0, -1.2, 8))
_EXPRESSIONS: Mapping[Expression, tuple[Bump, ...]] = {
    "smile": (
        *_both(23, 142, 5.0, -7.0, 10), *_both(35, 124, 1.0, -3.5, 12), *_both(21, 107, 0.0, -1.8, 5),
        *_both(22, 88, 0.0, -2.5, 10), Bump(_MOUTH_X, 149, 0.0, 2.0, 9),
    ),
    "frown": (
        *_both(24, 143, -1.5, 7.5, 9.5), Bump(_MOUTH_X, 146, 0.0, -3.0, 9), *_both(10, 90, -3.0, 5.5, 8),
        *_both(29, 91, 0.0, 2.5, 8), *_both(21, 98, 0.0, 1.5, 5), Bump(_MOUTH_X, 168, 0.0, -2.5, 11),
    ),
}  # fmt: skip
#: Opening of the lips, as a fraction of the maximum, and rounding, negative where they are spread, by vowel.
_PARTED = (1.0, 0.7, 0.4, 0.8, 0.45)
_ROUNDED = (0.0, -0.5, -0.8, 0.6, 1.0)
_ROUND = (*_both(20, 145, -7.0, 0.0, 9),)
_BLINK = tuple(Bump(x, y - 0.5, 0.0, 4.6, 4.4) for x, y in _EYES)
#: Apparent depth of a turn or nod: the nose moves further than the rest. Per unit of turn or nod.
_TURN = (Bump(_MIDLINE, 126, 1.0, 0.0, 26), Bump(_MIDLINE, 128, 0.5, 0.0, 9))
_NOD = (Bump(_MIDLINE, 126, 0.0, 1.0, 26), Bump(_MIDLINE, 128, 0.0, 0.5, 9))


def render_frames(speaker: str, take: Take, expression: Expression, motion: FaceMotion) -> Iterator[Image]:
    """Frames of a take, `take.frames` times [360, 480, 3] RGB, at 30000/1001 frames a second."""
    figure, backdrop, lit = _figure(speaker), _backdrop(speaker), _Lighting(look_up(speaker), motion)
    for colour, alpha in _moving(figure, look_up(speaker), take, expression, motion):
        yield lit(_over(colour, alpha, backdrop))


def render_crowd(
    speaker: str, bystander: str, take: Take, expression: Expression, motion: FaceMotion
) -> Iterator[Image]:
    """As `render_frames`, with a second, smaller face in the background."""
    figure, behind = _figure(speaker), look_up(bystander)
    camera = _camera(behind, (400.0, 170.0), 0.85)
    person = _pose(_figure(bystander), camera, _displacement(_figure(bystander), {}), 0.0)
    backdrop = _over(*person, _backdrop(speaker))
    aside, lit = (look_up(speaker).centre_px[0] - 170.0, 0.0), _Lighting(look_up(speaker), motion)
    for colour, alpha in _moving(figure, look_up(speaker), take, expression, motion, aside):
        yield lit(_over(colour, alpha, backdrop))


def render_empty(speaker: str, take: Take) -> Iterator[Image]:
    """As `render_frames`, without a person."""
    for _ in range(take.frames):
        yield _backdrop(speaker)


@dataclass(frozen=True)
class _Figure:
    """A speaker to animate: [680, 1024, 4] RGBA texture and displacement fields [170, 256, 2]."""

    texture: Image
    fields: Mapping[str, Floats]


def _moving(
    figure: _Figure, speaker: Speaker, take: Take, expression: Expression, motion: FaceMotion,
    aside_px: tuple[float, float] = (0.0, 0.0),
) -> Iterator[tuple[Image, Image]]:  # fmt: skip
    """Colour [360, 480, 3] and alpha [360, 480] of every frame."""
    seconds = np.arange(take.frames) / float(FPS)
    strength = motion.onset.at(seconds, take.duration_seconds)
    jaw, rounded = take.blend(seconds, _PARTED), take.blend(seconds, _ROUNDED)
    head = np.stack([a * np.sin(2 * np.pi * f * seconds + p) for a, f, p in motion.head], axis=1)
    x, y = (c - a + o for c, a, o in zip(speaker.centre_px, aside_px, motion.offset_px, strict=True))
    camera = _camera(speaker, (x, y), speaker.zoom)
    for i, (turn, nod, roll, sway, heave) in enumerate(head):
        to_blink = min((abs(seconds[i] - at) for at in motion.blinks_seconds), default=1.0)
        blink = float(smoothstep(np.array(1.0 - to_blink / 0.12)))
        weights = {expression: strength[i], "turn": turn, "nod": nod, "blink": blink, "round": rounded[i]}
        moved = _displacement(figure, weights, roll_degrees=roll, shift_px=(sway, heave))
        yield _pose(figure, camera, moved, jaw[i])


@dataclass(frozen=True)
class _Camera:
    """Framing of the portrait, constant in a clip."""

    to_portrait: Floats
    """[2, 3] affine map from frame pixels to portrait pixels."""
    grid: Floats
    """[360, 480, 2] portrait position of every frame pixel."""


def _camera(speaker: Speaker, centre_px: tuple[float, float], zoom: float) -> _Camera:
    across = (-1.0 if speaker.appearance.mirrored else 1.0) / zoom
    left, top = _MIDLINE - across * centre_px[0], _MIDDLE_Y - centre_px[1] / zoom
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in FRAME_PX))
    grid = np.stack([across * x + left, y / zoom + top], axis=-1).astype(np.float32)
    return _Camera(np.float32([[across, 0, left], [0, 1 / zoom, top]]), grid)


def _displacement(
    figure: _Figure, weights: Mapping[str, float], *, roll_degrees: float = 0.0, shift_px: tuple[float, float] = (0, 0)
) -> Floats:
    """[170, 256, 2] offset from each grid point to the texture position to sample, in portrait pixels."""
    bent = figure.fields["speaker"] + sum(np.float32(w) * figure.fields[name] for name, w in weights.items() if w)
    grid, looseness = _grid()
    pivot = np.array([_MIDLINE, 185.0], dtype=np.float32)
    angle = np.deg2rad(roll_degrees)
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float32)
    still = (grid - pivot - np.float32(shift_px)) @ back + pivot
    at = grid + looseness * (still - grid)
    sampled = cv2.remap(bent, at / _GRID_PX, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return at - sampled - grid


def _pose(figure: _Figure, camera: _Camera, displacement: Floats, jaw: float) -> tuple[Image, Image]:
    """The figure in the frame: colour [360, 480, 3] and alpha [360, 480]."""
    to_grid, mode = camera.to_portrait / _GRID_PX, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(displacement, to_grid, FRAME_PX, flags=mode, borderMode=cv2.BORDER_REPLICATE)
    at = (moved + camera.grid) * np.float32(_TEXTURE_SCALE)
    rgba = cv2.remap(_speak(figure.texture, jaw), at, None, cv2.INTER_LINEAR)
    return cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), rgba[..., 3]


def _over(colour: Image, alpha: Image, backdrop: Image) -> Image:
    weight = alpha.astype(np.float32) / np.float32(255)
    return cv2.blendLinear(colour, backdrop, weight, 1 - weight)


class _Lighting:
    """Frames [360, 480, 3] -> the same under the light and with the camera of a recording."""

    def __init__(self, speaker: Speaker, motion: FaceMotion) -> None:
        light, (middle_x, middle_y) = motion.light, speaker.centre_px
        x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in FRAME_PX))
        towards = (x - middle_x) * np.cos(light.direction_rad) + (y - middle_y) * np.sin(light.direction_rad)
        brightness = np.clip(1 + light.slope * towards / 100, 0.1, 2.0)[..., None]
        self.gain = (brightness * np.float32(light.gain_rgb)).astype(np.float32)
        self.curve = np.round(255 * (np.arange(256) / 255) ** light.gamma).astype(np.uint8)

    def __call__(self, frame: Image) -> Image:
        return cv2.multiply(cv2.LUT(frame, self.curve), self.gain, dtype=cv2.CV_8U)


# --- the mouth ---------------------------------------------------------------------------------------------------

_MOUTH_BOX = (176, 124, 272, 226)  # left, top, right, bottom of the area that the jaw moves
_LIPS_END = 168  # below it is only skin


@dataclass(frozen=True)
class _Mouth:
    """Grids over the mouth box [204, 192], in portrait pixels: the photographed lips and the line of closed lips."""

    x: Floats
    y: Floats
    upper: Floats
    """Lower edge of the photographed upper lip."""
    gap: Floats
    """Height of the photographed teeth."""
    line: Floats
    """Line on which the closed lips touch."""
    across: Floats
    """0 in the middle of the mouth, 1 in its corners."""

    def rows(self, part: slice) -> _Mouth:
        """Some rows of the grids."""
        return _Mouth(*(getattr(self, field.name)[part] for field in fields(self)))


@lru_cache(maxsize=1)
def _mouth() -> _Mouth:
    left, top, right, bottom = _MOUTH_BOX
    step = 1 / _TEXTURE_SCALE
    x, y = np.meshgrid(np.arange(left, right, step, np.float32), np.arange(top, bottom, step, np.float32))
    across = (x - _MOUTH_X) / _MOUTH_HALF_WIDTH
    inside = np.clip(1 - across**2, 0, 1)
    tilt = 0.03 * (x - _MOUTH_X) * np.exp(-(across**2) / 2)
    upper, gap = 139.9 + 3.5 * inside + tilt, 6.4 * inside
    return _Mouth(x, y, upper, gap, upper + 0.5 * gap, across)


def _speak(texture: Image, jaw: float) -> Image:
    """Copy of the texture with the lips closed (jaw 0) to wide open (1), and the chin moved accordingly."""
    m = _mouth()
    opening = np.float32(_JAW_DROP_PX * jaw)
    depth = np.clip((m.y - m.line) / 28, 0, 1)
    drop = opening * np.exp(-2.5 * (m.across / (1 + depth)) ** 2)
    top, bottom = m.line - 0.12 * drop, m.line + 0.88 * drop
    above = m.y - (top - m.upper) * smoothstep(1 - (top - m.y) / 11)
    chin = smoothstep((222 - m.y) / 44)
    below = m.y + 0.5 * m.gap * smoothstep(1 - (m.y - bottom) / 20) - 0.88 * drop * chin
    between = np.minimum(m.upper + (m.y - top), m.upper + 0.8 * m.gap)
    row = np.where(m.y < top, above, np.where(m.y > bottom, below, between)).astype(np.float32)
    parted = cv2.remap(texture, m.x * _TEXTURE_SCALE, row * _TEXTURE_SCALE, cv2.INTER_LINEAR)
    lips = slice(0, (_LIPS_END - _MOUTH_BOX[1]) * _TEXTURE_SCALE)
    _shade_mouth(parted[lips], m.rows(lips), top[lips], bottom[lips])
    spoken, (left, upper_row, right, lower_row) = texture.copy(), np.array(_MOUTH_BOX) * _TEXTURE_SCALE
    spoken[upper_row:lower_row, left:right] = parted
    return spoken


def _shade_mouth(parted: Image, m: _Mouth, top: Floats, bottom: Floats) -> None:
    """Darken the inside of the mouth below the teeth, and the line of closed lips."""
    inside = smoothstep(m.y - top + 0.5) * smoothstep(bottom - m.y + 0.5)
    corners = smoothstep((bottom - top) / 1.5)
    hollow = inside * corners * smoothstep((m.y - top - 0.45 * m.gap) / 2.5 + np.abs(m.across) ** 4)
    seam = 0.5 * np.exp(-(((m.y - top) / 0.8) ** 2)) * smoothstep((1.05 - np.abs(m.across)) * 6)
    shade = np.clip(np.maximum(0.92 * hollow, seam), 0, 1)[..., None]
    dark = np.array([48, 16, 18], dtype=np.float32)
    parted[..., :3] = np.round(parted[..., :3] * (1 - shade) + dark * shade)


# --- displacement fields -----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _grid() -> tuple[Floats, Floats]:
    """[170, 256, 2] portrait x and y of the grid's points, and [170, 256, 1] how much each follows the head's motion.

    Above the chin it is 1, below the neck 0.
    """
    width, height = _CANVAS_PX
    x, y = np.meshgrid(np.arange(0, width, _GRID_PX, np.float32), np.arange(0, height, _GRID_PX, np.float32))
    grid = np.stack([x, y], axis=-1)
    return grid, smoothstep((222 - grid[..., 1:].astype(np.float64)) / 48).astype(np.float32)


def _field(bumps: tuple[Bump, ...]) -> Floats:
    """[170, 256, 2] sum of pushes."""
    grid, _ = _grid()
    total = np.zeros_like(grid)
    for bump in bumps:
        squared = (grid[..., 0] - bump.x) ** 2 + (grid[..., 1] - bump.y) ** 2
        total += np.exp(-squared / (2 * bump.sigma**2))[..., None] * np.float32([bump.dx, bump.dy])
    return total


# --- the speaker's texture and room ------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _figure(speaker: str) -> _Figure:
    look = look_up(speaker).appearance
    geometry = (
        *_RELAX,
        *_both(45, 132, look.face_width, 0, 19),
        *_both(37, 162, look.jaw_width, 0, 15),
        *_both(21.5, 102, look.eye_distance, 0, 13),
        *_both(11, 127, look.nose_width, 0, 7),
        *_both(21, 141, look.mouth_width, 0, 10),
        Bump(_MIDLINE, 178, 0, look.chin_length, 16),
        Bump(_MIDLINE, 127, 0, look.nose_length, 9),
        *_both(21, 90, 0, look.brow_drop, 9),
        *_both(21.5, 96, 0, -look.eye_opening, 5),
        *_both(21.5, 109, 0, look.eye_opening, 5),
        Bump(_MIDLINE, 25, 0, -look.hair_height, 30),
        *_both(68, 75, look.hair_width, 0, 26),
    )
    bumps = {"speaker": geometry, "turn": _TURN, "nod": _NOD, "blink": _BLINK, "round": _ROUND, **_EXPRESSIONS}
    return _Figure(_texture(look_up(speaker)), {name: _field(pushes) for name, pushes in bumps.items()})


@lru_cache(maxsize=1)
def _portrait() -> Floats:
    """[340, 512, 3] the photograph, RGB in 0..1."""
    from skimage import data  # slow to import, and only rendering needs it

    width, height = _CANVAS_PX
    return data.astronaut()[:height, :width].astype(np.float32) / 255


def _texture(speaker: Speaker) -> Image:
    look, rgb = speaker.appearance, _portrait()
    figure, skin = _mask(_FIGURE, 0.7), _mask(_SKIN, 1.5)
    head = _mask(_FIGURE, 3.0) * smoothstep((152 - np.indices(rgb.shape[:2])[0]) / 12.0).astype(np.float32)
    strands = np.clip(rgb @ np.float32([0.3, 0.5, 0.2]) * 1.25, 0, 1) ** look.hair_gamma
    rgb = _blend(rgb, strands[..., None] * np.float32(look.hair_rgb), head * (1 - skin))
    rgb = _blend(rgb, rgb**look.skin_gamma * np.float32(look.skin_gain), skin)
    rgb = _blend(rgb, rgb * np.float32([0.55, 0.55, 0.58]), look.stubble * _beard())
    rgb = _lit(_recolor_suit(rgb, look.suit_hue), speaker)
    rgba, scale = np.dstack([rgb, figure]), _TEXTURE_SCALE
    large = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    texture = np.round(np.clip(large, 0, 1) * 255).astype(np.uint8)
    if look.glasses:
        _draw_glasses(texture)
    return texture


def _blend(a: Floats, b: Floats, weight: Floats) -> Floats:
    return a + (b - a) * weight[..., None]


def _mask(outline: tuple[tuple[int, int], ...], blur_px: float) -> Floats:
    """[340, 512] 1 inside the outline, with blurred edges."""
    width, height = _CANVAS_PX
    mask = np.zeros((height, width), dtype=np.float32)
    cv2.fillPoly(mask, [np.array(outline, dtype=np.int32)], 1.0, lineType=cv2.LINE_AA)
    return np.clip(cv2.GaussianBlur(mask, (0, 0), blur_px), 0, 1)


def _beard() -> Floats:
    """[340, 512] weight of a beard: jaw and upper lip, not the lips."""
    y, x = np.indices(_CANVAS_PX[::-1], dtype=np.float32)
    ring = ((x - _MOUTH_X) / 46) ** 2 + ((y - 140) / 42) ** 2
    lips = ((x - _MOUTH_X) / 25) ** 2 + ((y - 147) / 11) ** 2
    low = smoothstep((y - 122 - 0.008 * (x - _MOUTH_X) ** 2 * (np.abs(x - _MOUTH_X) < 20)) / 14)
    grown = low * smoothstep((1.05 - ring) * 4) * smoothstep((lips - 0.8) * 2)
    return (grown * _mask(_SKIN, 2.0)).astype(np.float32)


def _recolor_suit(rgb: Floats, hue_shift: int) -> Floats:
    """Shift the hue of the orange suit."""
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)  # float: hue in degrees
    orange = (hsv[..., 0] < 30) & (hsv[..., 1] > 0.5) & (np.indices(rgb.shape[:2])[0] > 190)
    hsv[..., 0] = np.where(orange, (hsv[..., 0] + 2 * hue_shift) % 360, hsv[..., 0])
    hsv[..., 1] = np.where(orange, hsv[..., 1] * 0.7, hsv[..., 1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _lit(rgb: Floats, speaker: Speaker) -> Floats:
    x = (np.arange(rgb.shape[1], dtype=np.float32) - _MIDLINE) / 60
    side = -speaker.light if speaker.appearance.mirrored else speaker.light
    return rgb * (speaker.exposure * (1 + side * np.tanh(x)))[None, :, None]


def _draw_glasses(texture: Image) -> None:
    rim = (28, 24, 30, 255)
    points = [np.array(eye) * _TEXTURE_SCALE * 16 for eye in _EYES]  # in sixteenths, cv2's shift of 4
    for x, y in points:
        centre, axes = (round(x), round(y + 48)), (round(14.5 * 32), round(11.5 * 32))
        cv2.ellipse(texture, centre, axes, 3, 0, 360, rim, 2, cv2.LINE_AA, 4)
    (left_x, left_y), (right_x, right_y) = points
    for start, end in (((left_x + 464, left_y), (right_x - 464, right_y)),
                       ((left_x - 464, left_y), (left_x - 768, left_y - 64)),
                       ((right_x + 464, right_y), (right_x + 768, right_y - 64))):  # fmt: skip
        cv2.line(texture, tuple(map(round, start)), tuple(map(round, end)), rim, 2, cv2.LINE_AA, 4)


@lru_cache(maxsize=2)
def _backdrop(speaker: str) -> Image:
    """[360, 480, 3] the speaker's room, out of focus."""
    who = look_up(speaker)
    width, height = FRAME_PX
    y, x = np.indices((height, width), dtype=np.float32)
    pattern, blur = _pattern(who.backdrop, x, y)
    falloff = 1.08 - 0.35 * np.hypot((x - width / 2) / width, (y - height / 3) / height)
    room = np.float32(who.backdrop_rgb) * falloff[..., None] * pattern
    return np.round(np.clip(cv2.GaussianBlur(room, (0, 0), blur), 0, 1) * 255).astype(np.uint8)


def _pattern(backdrop: Backdrop, x: Floats, y: Floats) -> tuple[Floats, float]:
    """[360, 480, 3] factor on the wall's colour, and the blur in pixels."""
    rng = np.random.default_rng(7)
    if backdrop == "blinds":
        return np.repeat(1 + 0.18 * np.sign(np.sin(2 * np.pi * y / 24))[..., None], 3, axis=2), 3.0
    if backdrop == "shelf":
        books = (rng.uniform(0.5, 1.3, (5, 30, 1)) * rng.uniform(0.75, 1.25, (5, 30, 3))).astype(np.float32)
        boards = np.where(y % 80 > 70, np.float32(0.4), np.float32(1.0))
        return books[(y // 80).astype(int), (x // 17).astype(int)] * boards[..., None], 4.0
    if backdrop == "lights":
        dots = np.zeros((*x.shape, 3), dtype=np.float32)
        for cx, cy, radius in rng.uniform((0, 0, 8), (x.shape[1], x.shape[0], 24), size=(26, 3)):
            colour = rng.uniform(0.4, 1.6, size=3)
            dots += np.where(np.hypot(x - cx, y - cy) < radius, 1.0, 0.0)[..., None] * np.float32(colour)
        return 1 + dots, 5.0
    return np.ones((*x.shape, 3), dtype=np.float32), 1.0
