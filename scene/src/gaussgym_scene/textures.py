"""Paint for procedural scenes: photographs that scikit-image ships, and noise in many octaves.

No painted area repeats itself: a photograph enters as a blend of randomly cut, turned and mirrored pieces, and stones,
planks, stains and windows are drawn one by one from the seed. Feature matching in structure from motion needs that.

The photographs are scikit-image's `gravel`, `grass`, `coffee`, `chelsea` (CC0), `rocket` and `hubble_deep_field` (public
domain); its `brick` shows a wall in perspective and is not used. They are read from the installed package, offline.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from gaussgym_scene.errors import InputError

Gray = NDArray[np.floating]
"""Values, shape `[h, w]`."""
Paint = NDArray[np.floating]
"""sRGB in 0..1 (not clipped before `finish`), shape `[h, w, 3]`."""
Rng = np.random.Generator

POSTERS = ("coffee.png", "chelsea.png", "rocket.jpg", "hubble_deep_field.jpg")


@cache
def photo(name: str) -> Paint:
    """Read a photograph that scikit-image's wheel holds.

    Args:
        name: File name in its data folder, such as `gravel.png`.

    Returns:
        Shape `[h, w, 3]` in 0..1. Shared: do not write into it.

    Raises:
        InputError: If scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError(
            "scikit-image is not installed, procedural scenes take their photographs from it; "
            "pip install 'gaussgym-scene[textures]'"
        )
    path = Path(spec.origin).parent / "data" / name
    if not path.is_file():
        raise InputError(f"{path}: not found, expected scikit-image to ship it; reinstall scikit-image")
    image = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    image.setflags(write=False)
    return image


def noise(shape: tuple[int, int], rng: Rng, *, cell_px: float, octaves: int = 4, gain: float = 0.55) -> Gray:
    """Smooth random values in several octaves.

    Args:
        shape: Rows and columns.
        rng: Where the randomness comes from.
        cell_px: Wavelength of the coarsest octave [px]; each further octave halves it.
        octaves: At most this many; those finer than 2 px are left out.
        gain: Amplitude of each octave over that of the coarser one.

    Returns:
        Mean about 0, standard deviation about 1, shape `shape`.
    """
    cells = [cell_px / 2**k for k in range(octaves) if k == 0 or cell_px / 2**k >= 2]
    total, before, energy = np.zeros((1, 1), np.float32), 1, sum(gain ** (2 * k) for k in range(len(cells)))
    for k, cell in enumerate(cells):
        # Each octave is drawn where it spans about 4 px, and the sum so far is enlarged to that resolution.
        factor = max(1, int(cell / 4))
        size = (-(-shape[1] // factor), -(-shape[0] // factor))
        knots = rng.standard_normal((int(size[1] * factor / cell) + 4, int(size[0] * factor / cell) + 4))
        x, y = 1 + rng.random(2)
        box = (x, y, x + size[0] * factor / cell, y + size[1] * factor / cell)
        layer = Image.fromarray(knots.astype(np.float32)).resize(size, Image.Resampling.BICUBIC, box=box)
        total = np.float32(gain**k) * np.asarray(layer) + (_enlarge(total, factor, before, size) if k else 0)
        before = factor
    total = _enlarge(total, 1, before, (shape[1], shape[0]))
    return total / np.float32(0.75 * energy**0.5)


def _enlarge(layer: Gray, factor: int, before: int, size: tuple[int, int]) -> Gray:
    """Resample a layer of one value in `before` px to one in `factor` px and (columns, rows) `size`."""
    if factor == before and layer.shape == size[::-1]:
        return layer
    box = (
        0,
        0,
        min(layer.shape[1], size[0] * factor / before),
        min(layer.shape[0], size[1] * factor / before),
    )
    return np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BILINEAR, box=box))


def grain(name: str, shape: tuple[int, int], rng: Rng, *, zoom: float = 1.0, tile_px: int = 192) -> Gray:
    """Spread a photograph's brightness over an area without repeating it.

    Random crops overlap by half under cosine windows, divided by the root of the summed squares so that contrast
    stays the same everywhere (the variance-preserving blend of Heitz & Neyret, 2018).

    Args:
        name: The photograph, see `photo`.
        shape: Rows and columns.
        rng: Where the randomness comes from.
        zoom: Texels a pixel of the photograph.
        tile_px: Size of the crops [px].

    Returns:
        Mean about 0, standard deviation about 1, shape `shape`.
    """
    source = _standard_gray(name, zoom)
    half = max(4, min(tile_px, *source.shape) // 2)
    size = 2 * half
    window = np.sin((np.arange(size) + 0.5) * np.pi / size).astype(np.float32) ** 2
    weight = np.outer(window, window)
    rows, cols = -(-shape[0] // half) + 1, -(-shape[1] // half) + 1
    total = np.zeros(((rows + 1) * half, (cols + 1) * half), np.float32)
    for row in range(rows):
        for col in range(cols):
            y, x = rng.integers(0, source.shape[0] - size + 1), rng.integers(0, source.shape[1] - size + 1)
            crop = source[y : y + size, x : x + size]
            turn = int(rng.integers(8))
            crop = np.rot90(crop[:, ::-1] if turn >= 4 else crop, turn % 4)
            total[row * half : row * half + size, col * half : col * half + size] += weight * crop
    # Windows are separable and overlap twice along each axis, so the sum of their squares is a product of two profiles.
    profile = np.sqrt(window[:half] ** 2 + window[half:] ** 2)
    norm_y, norm_x = (np.tile(profile, n // half + 2)[:n] for n in shape)
    return total[half : half + shape[0], half : half + shape[1]] / np.outer(norm_y, norm_x)


@cache
def _standard_gray(name: str, zoom: float) -> Gray:
    gray = photo(name).mean(axis=2)
    size = (max(16, round(gray.shape[1] * zoom)), max(16, round(gray.shape[0] * zoom)))
    gray = np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC))
    return ((gray - gray.mean()) / gray.std()).astype(np.float32)


def finish(paint: Paint) -> NDArray[np.uint8]:
    """Round to 8 bits."""
    return (np.clip(paint, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def fill(shape: tuple[int, int], color: ArrayLike) -> Paint:
    """An area of one colour."""
    return np.broadcast_to(np.asarray(color, np.float32), (*shape, 3)).copy()


def shade(paint: Paint, amount: Gray) -> Paint:
    """Multiply brightness in place by 1 + amount `[h, w]`."""
    paint *= (1 + amount)[..., None]
    return paint


def blend(paint: Paint, color: ArrayLike, amount: Gray) -> Paint:
    """Mix a colour `[3]` or a picture `[h, w, 3]` in place, 0..1 of it."""
    paint += amount[..., None] * (np.asarray(color, np.float32) - paint)
    return paint


def jitter(color: ArrayLike, rng: Rng, amount: float = 0.05) -> NDArray[np.float32]:
    """A colour near another one: brightness varies by `amount`, hue by an eighth of it."""
    varied = np.asarray(color) * (1 + amount * rng.standard_normal()) + amount / 8 * rng.standard_normal(3)
    return np.clip(varied, 0.02, 0.98).astype(np.float32)


def blocks(
    shape: tuple[int, int],
    rng: Rng,
    *,
    palette: Sequence[ArrayLike],
    block_px: tuple[float, float],
    joint_px: float,
    joint_color: ArrayLike,
    variation: float = 0.12,
    bond: float = 0.5,
    wobble_px: float = 0.0,
    bevel: float = 0.2,
    mixing: float = 0.35,
) -> Paint:
    """Rows of stones, bricks, slabs or planks, each of its own colour.

    Args:
        shape: Rows and columns.
        rng: Where the randomness comes from.
        palette: Colours to draw from; the first are the most frequent.
        block_px: Height and mean width of a block [px].
        joint_px: Width of the joints [px].
        joint_color: Their colour.
        variation: Standard deviation of the blocks' brightness.
        bond: Shift of every second row, in widths; shifts vary around it.
        wobble_px: How far joints stray from straight lines [px].
        bevel: How much darker a block is at its edge.
        mixing: Chance of a block to take a palette colour other than the first.
    """
    h, w = shape
    bh, bw = block_px
    rows, cols = int(h / bh) + 5, int(w / bw) + 12
    shift = bond * (np.arange(rows) % 2) + 0.15 * rng.standard_normal(rows) * (bond > 0) + 4
    stretch = 0.16 * rng.uniform(-1, 1, (rows, cols + 1))  # how far the joints stand off an even division
    colors = np.asarray(palette, np.float32)
    pick = np.where(rng.random((rows, cols)) < mixing, rng.integers(0, len(colors), (rows, cols)), 0)
    block = colors[pick] * (1 + variation * rng.standard_normal((rows, cols, 1)))
    block += variation / 12 * rng.standard_normal((rows, cols, 3))
    block, joint = block.astype(np.float32).reshape(-1, 3), np.asarray(joint_color, np.float32)
    shift, stretch = shift.astype(np.float32), stretch.astype(np.float32).ravel()
    strays = [noise(shape, rng, cell_px=1.3 * bw, octaves=2) for _ in range(2)] if wobble_px else []
    paint = np.empty((h, w, 3), np.float32)
    for start in range(0, h, 64):  # in bands that fit the processor's cache
        band = slice(start, min(h, start + 64))
        y, x = np.mgrid[band, :w].astype(np.float32)
        if strays:
            y, x = y + wobble_px * strays[0][band], x + wobble_px * strays[1][band]
        y, x = y * np.float32(1 / bh), x * np.float32(1 / bw)
        row = np.clip(np.floor(y).astype(np.int32) + 2, 0, rows - 1)
        x += shift[row]
        col = np.clip(x.astype(np.int32), 1, cols - 2)
        inner, at = x - col, row * (cols + 1) + col
        col += (inner >= 1 + stretch[at + 1]).astype(np.int32) - (inner < stretch[at]).astype(np.int32)
        inner, at = x - col, row * (cols + 1) + col
        fraction = y - np.floor(y)
        along = np.minimum(inner - stretch[at], 1 + stretch[at + 1] - inner)
        edge = np.minimum(along * np.float32(bw), np.minimum(fraction, 1 - fraction) * np.float32(bh))
        soft = np.clip((edge - joint_px / 2) * np.float32(1 / max(1.0, joint_px / 2)) + 0.5, 0, 1)
        worn = 1 + np.float32(bevel) * (np.clip(edge * np.float32(1 / (0.3 * bh)), 0, 1) - 1)
        face = np.take(block, row * cols + col, axis=0) * (worn * soft)[..., None]
        paint[band] = face + (1 - soft)[..., None] * joint
    return paint


def stains(
    paint: Paint, rng: Rng, *, number: int, radius_px: tuple[float, float], dark: float = 0.25
) -> Paint:
    """Add irregular spots, darker or lighter, in place: the landmarks of an otherwise even surface."""
    h, w = paint.shape[:2]
    for _ in range(number):
        radius = float(rng.uniform(*radius_px))
        cy, cx = rng.uniform(0, h), rng.uniform(0, w)
        reach = int(1.8 * radius) + 2
        y0, y1 = max(0, int(cy) - reach), min(h, int(cy) + reach)
        x0, x1 = max(0, int(cx) - reach), min(w, int(cx) + reach)
        if y1 - y0 < 3 or x1 - x0 < 3:
            continue
        yy, xx = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        lumpy = noise((y1 - y0, x1 - x0), rng, cell_px=max(4.0, radius * 0.8), octaves=3)
        distance = np.hypot(yy - cy, (xx - cx) * rng.uniform(0.6, 1.6)) / radius + 0.3 * lumpy
        amount = np.clip((1 - distance) / 0.25, 0, 1) * rng.uniform(0.3, 1)
        view = paint[y0:y1, x0:x1]
        if rng.random() < 0.75:
            shade(view, -dark * amount)
        else:
            blend(view, jitter((0.72, 0.70, 0.66), rng, 0.1), 0.6 * amount)
    return paint


def litter(paint: Paint, rng: Rng, *, number: int, size_px: float, palette: Sequence[ArrayLike]) -> Paint:
    """Scatter small leaves or chips over a surface, in place."""
    h, w = paint.shape[:2]
    for _ in range(number):
        size = size_px * float(rng.uniform(0.6, 1.5))
        reach = int(size) + 2
        cy, cx = (
            rng.integers(reach, max(reach + 1, h - reach)),
            rng.integers(reach, max(reach + 1, w - reach)),
        )
        view = paint[cy - reach : cy + reach + 1, cx - reach : cx + reach + 1]
        yy, xx = np.mgrid[: view.shape[0], : view.shape[1]].astype(np.float32) - reach
        turn = rng.uniform(0, np.pi)
        a, b = np.cos(turn) * xx + np.sin(turn) * yy, np.cos(turn) * yy - np.sin(turn) * xx
        inside = np.clip(1.5 - 1.5 * np.hypot(a / size, b / (0.45 * size)) ** 2, 0, 1)
        blend(view, jitter(palette[int(rng.integers(len(palette)))], rng, 0.15), inside)
    return paint


def cracks(paint: Paint, rng: Rng, *, number: int, length_px: float, width_px: float = 1.2) -> Paint:
    """Draw wandering dark lines, in place."""
    h, w = paint.shape[:2]
    for _ in range(number):
        steps = int(length_px * rng.uniform(0.4, 1.2))
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(0.15 * rng.standard_normal(steps))
        y = np.cumsum(np.sin(heading)) + rng.uniform(0, h)
        x = np.cumsum(np.cos(heading)) + rng.uniform(0, w)
        for offset in np.arange(-width_px / 2, width_px / 2 + 0.5, 0.7):
            j, i = (y + offset).astype(int), (x + offset).astype(int)
            keep = (j >= 0) & (j < h) & (i >= 0) & (i < w)
            paint[j[keep], i[keep]] *= 0.55
    return paint


def poster(paint: Paint, rng: Rng, *, box: tuple[int, int, int, int], name: str | None = None) -> Paint:
    """Paste a framed photograph into rows y0..y1 and columns x0..x1, in place."""
    y0, x0, y1, x1 = box
    picture = photo(name or POSTERS[int(rng.integers(len(POSTERS)))])
    h, w = picture.shape[:2]
    aspect = (x1 - x0) / max(1, y1 - y0)
    crop_w, crop_h = (w, min(h, int(w / aspect))) if aspect > w / h else (min(w, int(h * aspect)), h)
    left, top = rng.integers(0, w - crop_w + 1), rng.integers(0, h - crop_h + 1)
    crop = picture[top : top + crop_h, left : left + crop_w]
    image = Image.fromarray(finish(crop)).resize((x1 - x0, y1 - y0), Image.Resampling.BOX)
    view = paint[y0:y1, x0:x1]
    view[...] = np.asarray(image, np.float32)[: view.shape[0], : view.shape[1]] / 255 * rng.uniform(0.8, 1.0)
    _frame(view, rng)
    return paint


def painting(paint: Paint, rng: Rng, *, box: tuple[int, int, int, int]) -> Paint:
    """Hang a framed abstract painting into rows y0..y1 and columns x0..x1, in place; no two are alike.

    Where one sees all walls at once, as in a room, the four photographs of `poster` would hang more than once each, and
    feature matching takes one for the other.
    """
    y0, x0, y1, x1 = box
    view = paint[y0:y1, x0:x1]
    shape = view.shape[:2]
    view[...] = jitter(rng.uniform(0.15, 0.9, 3), rng, 0.1)
    for _ in range(int(rng.integers(4, 8))):  # fields of colour with torn edges, the larger ones below
        field = noise(shape, rng, cell_px=float(rng.uniform(0.2, 0.6)) * max(shape), octaves=4)
        amount = np.clip((field - rng.uniform(-0.3, 0.9)) / 0.06, 0, 1)
        blend(view, rng.uniform(0.05, 0.95, 3), float(rng.uniform(0.6, 1.0)) * amount)
    shade(view, 0.07 * noise(shape, rng, cell_px=6.0, octaves=2))
    stains(view, rng, number=int(rng.integers(3, 9)), radius_px=(2.0, 0.15 * min(shape)), dark=0.6)
    _frame(view, rng)
    return paint


def _frame(view: Paint, rng: Rng) -> None:
    edge = max(1, view.shape[0] // 24)
    color = jitter((0.85, 0.84, 0.8) if rng.random() < 0.5 else (0.12, 0.11, 0.1), rng)
    for strip in (view[:edge], view[-edge:], view[:, :edge], view[:, -edge:]):
        strip[...] = color


def around(layer: Gray, width: int) -> Gray:
    """Make a strip's right end run into its left end by cross-fading what it has beyond `width`."""
    extra = layer.shape[1] - width
    fade = np.linspace(0, 1, extra, dtype=np.float32)
    out = layer[:, :width].copy()
    out[:, :extra] = fade * out[:, :extra] + (1 - fade) * layer[:, width:]
    return out


def texels(size_m: tuple[float, float], texel_m: float) -> tuple[int, int]:
    """Rows and columns that cover a size (height, width) [m]."""
    return max(4, round(size_m[0] / texel_m)), max(4, round(size_m[1] / texel_m))
