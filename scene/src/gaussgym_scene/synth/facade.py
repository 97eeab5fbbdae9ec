"""House fronts: what is painted on them and which fields lie back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gaussgym_scene import materials
from gaussgym_scene import textures as tx

TEXEL_M = 0.011
STOREY_M = 2.9
PLASTER = [
    (0.80, 0.72, 0.55), (0.77, 0.62, 0.50), (0.70, 0.73, 0.70), (0.82, 0.79, 0.72), (0.64, 0.45, 0.36), (0.60, 0.66, 0.72),
    (0.78, 0.68, 0.42),
]  # fmt: skip
DOORS = ((0.42, 0.16, 0.12), (0.16, 0.27, 0.36), (0.18, 0.33, 0.22), (0.38, 0.26, 0.15))
SIGNS = (
    "CAFE",
    "BAKERY",
    "BOOKS",
    "FLOWERS",
    "TAILOR",
    "OPTIK",
    "MUSEUM",
    "BICYCLES",
    "HOTEL",
    "PHARMACY",
    "WINE",
    "RECORDS",
)


@dataclass(frozen=True)
class Facade:
    """A painted front; x from the left, y from below [m]."""

    paint: tx.Paint
    x_breaks: NDArray[np.float64]
    y_breaks: NDArray[np.float64]
    depth: NDArray[np.float64]
    """How far each field stands out [m], shape `[ny, nx]`."""


def paint_facade(width: float, below: float, rng: tx.Rng) -> Facade:
    """Paint a house front of two to three storeys, `below` metres of which are under the ground."""
    storeys = int(rng.integers(2, 4))
    height = below + storeys * STOREY_M + float(rng.uniform(0.5, 1.2))
    paint = _wall(height, width, rng)
    h = paint.shape[0]
    columns = max(2, round(width / rng.uniform(1.7, 2.4)))
    pitch = width / columns
    opening = min(rng.uniform(0.85, 1.15), pitch - 0.45)
    lefts = (np.arange(columns) + 0.5) * pitch - opening / 2
    x_breaks = np.unique(np.concatenate([[0, width], lefts, lefts + opening]).round(4)).astype(np.float64)
    sill, lintel = rng.uniform(0.75, 0.95), rng.uniform(2.2, 2.4)
    y_breaks, depth = [0.0], []
    door = int(rng.integers(columns))
    style = _Style(rng)
    _plinth(paint, below, rng)
    for storey in range(storeys):
        floor = below + storey * STOREY_M
        low = floor + (sill if storey else 0.0)
        y_breaks += [low, floor + lintel]
        depth += [np.zeros(2 * columns + 1), np.zeros(2 * columns + 1)]
        shop = storey == 0 and rng.random() < 0.6
        for column in range(columns):
            bottom = floor if storey == 0 and column == door else floor + (0.45 if shop else sill)
            box = _box(h, lefts[column], bottom, lefts[column] + opening, floor + lintel)
            if storey == 0 and column == door:
                style.door(paint, box, rng)
            elif shop:
                style.shop_window(paint, box, rng)
            else:
                style.window(paint, box, rng)
            if storey or column == door:
                depth[-1][2 * column + 1] = -0.16
        if shop:
            _sign(paint, _box(h, 0.25, floor + lintel + 0.12, width - 0.25, floor + lintel + 0.45), rng)
    y_breaks += [height - 0.3, height]
    depth += [np.zeros(2 * columns + 1), np.full(2 * columns + 1, 0.18)]
    _cornice(paint, rng)
    return Facade(paint, x_breaks, np.array(y_breaks), np.array(depth))


def _wall(height: float, width: float, rng: tx.Rng) -> tx.Paint:
    kind = rng.random()
    if kind < 0.35:
        color = [None, (0.62, 0.52, 0.38), (0.5, 0.46, 0.42)][rng.integers(3)]
        return materials.bricks((height, width), TEXEL_M, rng, color=color)
    paint = materials.concrete(
        (height, width), TEXEL_M, rng, color=tx.jitter(PLASTER[rng.integers(len(PLASTER))], rng, 0.06)
    )
    if kind > 0.85:
        courses = (np.arange(paint.shape[0]) * TEXEL_M) % 0.42 < 0.025
        paint[courses] *= 0.75
    return paint


def _box(h: int, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
    """Rows and columns (top, left, bottom, right) of a rectangle given from below [m]."""
    return h - round(y1 / TEXEL_M), round(x0 / TEXEL_M), h - round(y0 / TEXEL_M), round(x1 / TEXEL_M)


class _Style:
    """The colours that the openings of one house share."""

    def __init__(self, rng: tx.Rng) -> None:
        self.frame = tx.jitter(
            [(0.88, 0.87, 0.83), (0.30, 0.22, 0.15), (0.25, 0.33, 0.30)][rng.integers(3)], rng
        )
        self.trim = tx.jitter(
            [(0.78, 0.75, 0.68), (0.55, 0.50, 0.45), (0.86, 0.84, 0.80)][rng.integers(3)], rng
        )
        self.wood = tx.jitter(DOORS[rng.integers(len(DOORS))], rng)
        self.shutters = rng.random() < 0.4
        self.panes = (int(rng.integers(2, 4)), int(rng.integers(2, 5)))

    def surround(self, paint: tx.Paint, box: tuple[int, int, int, int], margin: int) -> None:
        """Paint the stone around an opening, with a shadow below its lintel."""
        top, left, bottom, right = box
        view = paint[max(0, top - margin) : bottom + margin // 2, max(0, left - margin) : right + margin]
        view[...] = self.trim * (
            0.9 + 0.1 * np.clip(view.mean(axis=2, keepdims=True) / max(0.05, view.mean()), 0.5, 1.5)
        )

    def window(self, paint: tx.Paint, box: tuple[int, int, int, int], rng: tx.Rng) -> None:
        """A window with bars, reflections, and curtains half of the time."""
        self.surround(paint, box, 9)
        top, left, bottom, right = box
        if self.shutters:
            wide = (right - left) // 2
            for x in (left - wide - 4, right + 4):
                if x >= 0 and x + wide <= paint.shape[1]:
                    slats = 0.8 + 0.2 * ((np.arange(bottom - top) // 4) % 2)
                    paint[top:bottom, x : x + wide] = self.wood * slats[:, None, None] * rng.uniform(0.9, 1.1)
        view = paint[top:bottom, left:right]
        shape = view.shape[:2]
        glow = (
            0.20
            + 0.10 * tx.noise(shape, rng, cell_px=40, octaves=5)
            + 0.12 * np.linspace(1, 0, shape[0])[:, None]
        )
        view[...] = np.clip(glow, 0.04, 0.7)[..., None] * np.array([0.85, 0.95, 1.08])
        if rng.random() < 0.5:
            part = int(shape[1] * rng.uniform(0.15, 0.4))
            folds = 0.75 + 0.15 * np.sin(np.arange(part) * rng.uniform(0.5, 0.9))
            cloth = tx.jitter(rng.uniform(0.5, 0.9, 3), rng)
            view[:, :part] = folds[None, :, None] * cloth
            view[:, -part:] = folds[None, :, None] * cloth
        if rng.random() < 0.35:
            size = int(0.25 * shape[1])
            x = int(rng.uniform(0.1, 0.6) * shape[1])
            leaf = materials.grass((size * TEXEL_M, size * TEXEL_M), TEXEL_M, rng)
            spot = view[-size:, x : x + size]
            spot[...] = leaf[: spot.shape[0], : spot.shape[1]]
        self._bars(view, self.panes)

    def shop_window(self, paint: tx.Paint, box: tuple[int, int, int, int], rng: tx.Rng) -> None:
        """A display window with a photograph and smaller notices."""
        self.surround(paint, box, 7)
        top, left, bottom, right = box
        view = paint[top:bottom, left:right]
        view[...] = 0.16 + 0.07 * tx.noise(view.shape[:2], rng, cell_px=30, octaves=5)[..., None]
        h, w = view.shape[:2]
        for _ in range(int(rng.integers(2, 5))):
            ph, pw = int(h * rng.uniform(0.2, 0.55)), int(w * rng.uniform(0.3, 0.8))
            y, x = int(rng.uniform(0.05, 0.95) * (h - ph)), int(rng.uniform(0.05, 0.95) * (w - pw))
            tx.poster(view, rng, box=(y, x, y + ph, x + pw))
        self._bars(view, (1, 1))

    def door(self, paint: tx.Paint, box: tuple[int, int, int, int], rng: tx.Rng) -> None:
        """A wooden door with panels, a light above it, a number and a letter slot."""
        self.surround(paint, box, 9)
        top, left, bottom, right = box
        view = paint[top:bottom, left:right]
        h, w = view.shape[:2]
        leaf = materials.planks((w * TEXEL_M, h * TEXEL_M), TEXEL_M, rng, color=self.wood)
        view[...] = np.swapaxes(leaf, 0, 1)[:h, :w]
        light = h // 6
        view[:light] = 0.25 + 0.1 * tx.noise((light, w), rng, cell_px=20)[..., None]
        for y0, y1 in ((0.22, 0.5), (0.56, 0.92)):
            for x0, x1 in ((0.1, 0.45), (0.55, 0.9)):
                panel = view[int(y0 * h) : int(y1 * h), int(x0 * w) : int(x1 * w)]
                panel *= 0.82
                panel[:2] *= 0.6
                panel[:, :2] *= 0.6
        view[int(0.53 * h) : int(0.55 * h), int(0.3 * w) : int(0.7 * w)] = (0.75, 0.66, 0.4)
        self._bars(view, (1, 1))
        number = _text(str(rng.integers(1, 99)), 22, (0.95, 0.95, 0.95), (0.12, 0.2, 0.42))
        y, x = top + int(0.3 * h), right + 8
        if x + number.shape[1] < paint.shape[1]:
            paint[y : y + number.shape[0], x : x + number.shape[1]] = number

    def _bars(self, view: tx.Paint, panes: tuple[int, int]) -> None:
        h, w = view.shape[:2]
        for k in range(panes[0] + 1):
            x = min(round(k * (w - 5) / panes[0]), w - 5)
            view[:, x : x + 5] = self.frame
        for k in range(panes[1] + 1):
            y = min(round(k * (h - 5) / panes[1]), h - 5)
            view[y : y + 5] = self.frame


def _plinth(paint: tx.Paint, below: float, rng: tx.Rng) -> None:
    """Darken the foot of the wall: stone, damp and splashes."""
    h, w = paint.shape[:2]
    row = h - round((below + rng.uniform(0.3, 0.6)) / TEXEL_M)
    tx.blend(paint[row:], tx.jitter((0.45, 0.43, 0.40), rng, 0.1), np.full((h - row, w), 0.75, np.float32))
    above = np.arange(h, 0, -1, dtype=np.float32)[:, None] * TEXEL_M - below
    damp = np.exp(-np.clip(above, 0, None) / 0.25) * (1 + 0.4 * tx.noise((h, w), rng, cell_px=60, octaves=4))
    tx.shade(paint, -0.35 * np.clip(damp, 0, 1.3))


def _cornice(paint: tx.Paint, rng: tx.Rng) -> None:
    rows = round(0.3 / TEXEL_M)
    tx.blend(
        paint[:rows], tx.jitter((0.6, 0.56, 0.5), rng, 0.15), np.full((rows, paint.shape[1]), 0.7, np.float32)
    )
    paint[rows : rows + 14] *= np.linspace(0.55, 1, 14)[:, None, None]


def _sign(paint: tx.Paint, box: tuple[int, int, int, int], rng: tx.Rng) -> None:
    top, left, bottom, right = box
    back = tx.jitter(rng.uniform(0.1, 0.5, 3), rng)
    view = paint[top:bottom, left:right]
    view[...] = back * (1 + 0.1 * tx.noise(view.shape[:2], rng, cell_px=40)[..., None])
    word = _text(SIGNS[rng.integers(len(SIGNS))], bottom - top - 8, (0.93, 0.88, 0.72), tuple(back))
    word = word[: bottom - top, : right - left]
    x = int(rng.uniform(0.1, 0.9) * (right - left - word.shape[1]))
    view[: word.shape[0], x : x + word.shape[1]] = word


def _text(text: str, size_px: int, color: tuple[float, ...], back: tuple[float, ...]) -> tx.Paint:
    font = ImageFont.load_default(size_px)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (round(right - left) + 8, round(bottom - top) + 8))
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, fill=255, font=font)
    ink = np.asarray(image, np.float32)[..., None] / 255
    return np.asarray(back, np.float32) * (1 - ink) + np.asarray(color, np.float32) * ink
