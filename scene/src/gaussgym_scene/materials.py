"""Whole materials of procedural scenes, painted with what `textures` has: paving, walls, floors, the sky."""

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from gaussgym_scene.textures import (
    Paint,
    Rng,
    around,
    blend,
    blocks,
    cracks,
    fill,
    grain,
    jitter,
    litter,
    noise,
    shade,
    stains,
    texels,
)

LEAVES = [(0.45, 0.30, 0.10), (0.33, 0.22, 0.10), (0.55, 0.42, 0.14), (0.25, 0.30, 0.10), (0.62, 0.58, 0.5)]


def cobbles(size_m: tuple[float, float], texel_m: float, rng: Rng) -> Paint:
    """Setts about 10 × 14 cm with worn tops and sandy joints; rows run along the second axis."""
    shape = texels(size_m, texel_m)
    base = jitter(rng.choice([(0.56, 0.54, 0.51), (0.58, 0.53, 0.47), (0.50, 0.51, 0.53)]), rng, 0.04)
    tints = [base, base * 1.22, base * 0.72, base * (1.08, 0.99, 0.9), base * (0.92, 0.98, 1.04)]
    paint = blocks(
        shape,
        rng,
        palette=tints,
        block_px=(0.105 / texel_m, 0.145 / texel_m),
        joint_px=0.012 / texel_m,
        joint_color=base * (0.55, 0.52, 0.46),
        variation=0.13,
        wobble_px=0.008 / texel_m,
        bevel=0.3,
        mixing=0.7,
    )
    shade(
        paint,
        0.07 * grain("gravel.png", shape, rng, zoom=0.5)
        + 0.09 * noise(shape, rng, cell_px=1.6 / texel_m, octaves=5),
    )
    stains(paint, rng, number=round(0.5 * size_m[0] * size_m[1]), radius_px=(0.06 / texel_m, 0.35 / texel_m))
    return litter(
        paint, rng, number=round(2.5 * size_m[0] * size_m[1]), size_px=0.03 / texel_m, palette=LEAVES
    )


def slabs(size_m: tuple[float, float], texel_m: float, rng: Rng, *, slab_m: float = 0.45) -> Paint:
    """Pavement of concrete slabs with stains and cracks."""
    shape = texels(size_m, texel_m)
    base = jitter((0.58, 0.56, 0.53), rng, 0.06)
    paint = blocks(
        shape,
        rng,
        palette=[base, base * 1.12, base * 0.86, base * (1.06, 0.98, 0.9)],
        block_px=(slab_m / texel_m, 1.25 * slab_m / texel_m),
        joint_px=0.012 / texel_m,
        joint_color=base * 0.45,
        variation=0.07,
        bevel=0.08,
        mixing=0.6,
    )
    speckle = 0.05 * grain("gravel.png", shape, rng, zoom=0.35)
    shade(paint, speckle + 0.06 * noise(shape, rng, cell_px=1.0 / texel_m, octaves=6, gain=0.7))
    stains(paint, rng, number=round(1.5 * size_m[0] * size_m[1]), radius_px=(0.02 / texel_m, 0.2 / texel_m))
    cracks(paint, rng, number=round(0.5 * size_m[0] * size_m[1]), length_px=0.6 / texel_m)
    return litter(
        paint, rng, number=round(1.5 * size_m[0] * size_m[1]), size_px=0.03 / texel_m, palette=LEAVES
    )


def gravel(
    size_m: tuple[float, float], texel_m: float, rng: Rng, *, color: ArrayLike = (0.50, 0.46, 0.41)
) -> Paint:
    """Loose stones and dirt."""
    shape = texels(size_m, texel_m)
    paint = fill(shape, color)
    shade(
        paint,
        0.2 * grain("gravel.png", shape, rng, zoom=0.7)
        + 0.12 * noise(shape, rng, cell_px=1.5 / texel_m, octaves=5),
    )
    moss = np.clip(0.6 * noise(shape, rng, cell_px=2.5 / texel_m, octaves=4) - 0.5, 0, 0.7)
    blend(
        paint,
        fill(shape, (0.25, 0.33, 0.14)) * (1 + 0.3 * grain("grass.png", shape, rng, zoom=0.7))[..., None],
        moss,
    )
    return litter(paint, rng, number=round(3 * size_m[0] * size_m[1]), size_px=0.03 / texel_m, palette=LEAVES)


def grass(size_m: tuple[float, float], texel_m: float, rng: Rng) -> Paint:
    """A lawn, or foliage from nearby."""
    shape = texels(size_m, texel_m)
    paint = fill(shape, jitter((0.30, 0.36, 0.17), rng, 0.06))
    blend(paint, (0.42, 0.43, 0.2), np.clip(0.3 * noise(shape, rng, cell_px=1.2 / texel_m) + 0.2, 0, 0.8))
    shade(
        paint,
        0.42 * grain("grass.png", shape, rng, zoom=0.8) + 0.12 * noise(shape, rng, cell_px=0.8 / texel_m),
    )
    flowers = [(0.85, 0.8, 0.75), (0.75, 0.3, 0.3), (0.85, 0.7, 0.2), (0.15, 0.22, 0.07)]
    return litter(
        paint, rng, number=round(30 * size_m[0] * size_m[1]), size_px=0.022 / texel_m, palette=flowers
    )


def concrete(
    size_m: tuple[float, float],
    texel_m: float,
    rng: Rng,
    *,
    color: ArrayLike = (0.55, 0.54, 0.52),
    dirt: float = 1.0,
) -> Paint:
    """Cast concrete or weathered plaster with streaks, patches and cracks; `dirt` scales all of them."""
    shape = texels(size_m, texel_m)
    paint = fill(shape, color)
    rough = 0.05 * grain("gravel.png", shape, rng, zoom=0.3)
    shade(paint, rough + 0.08 * dirt * noise(shape, rng, cell_px=0.9 / texel_m, octaves=7, gain=0.72))
    streaks = noise((max(2, shape[0] // 12), shape[1]), rng, cell_px=0.12 / texel_m, octaves=3)
    streaks = np.asarray(Image.fromarray(streaks).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    shade(paint, 0.05 * dirt * streaks)
    stains(
        paint,
        rng,
        number=round(1.2 * dirt * size_m[0] * size_m[1]),
        radius_px=(0.02 / texel_m, 0.3 / texel_m),
    )
    return cracks(paint, rng, number=round(0.4 * dirt * size_m[0] * size_m[1]), length_px=0.9 / texel_m)


def bricks(size_m: tuple[float, float], texel_m: float, rng: Rng, *, color: ArrayLike | None = None) -> Paint:
    """A brick wall; rows lie along the second axis."""
    shape = texels(size_m, texel_m)
    base = jitter((0.52, 0.29, 0.21) if color is None else color, rng, 0.08)
    paint = blocks(
        shape,
        rng,
        palette=[base, base * 1.25, base * 0.7, base * (1.1, 1.15, 1.1), base * (0.85, 0.8, 0.9)],
        block_px=(0.085 / texel_m, 0.25 / texel_m),
        joint_px=0.014 / texel_m,
        joint_color=jitter((0.66, 0.62, 0.56), rng, 0.08),
        variation=0.13,
        wobble_px=0.003 / texel_m,
        bevel=0.1,
        mixing=0.7,
    )
    shade(
        paint,
        0.06 * grain("gravel.png", shape, rng, zoom=0.35)
        + 0.08 * noise(shape, rng, cell_px=1.5 / texel_m, octaves=6),
    )
    return stains(
        paint, rng, number=round(0.7 * size_m[0] * size_m[1]), radius_px=(0.04 / texel_m, 0.35 / texel_m)
    )


def planks(
    size_m: tuple[float, float], texel_m: float, rng: Rng, *, color: ArrayLike = (0.45, 0.31, 0.19)
) -> Paint:
    """Wooden boards along the second axis."""
    shape = texels(size_m, texel_m)
    base = jitter(color, rng, 0.08)
    paint = blocks(
        shape,
        rng,
        palette=[base, base * 1.2, base * 0.8],
        block_px=(0.13 / texel_m, 1.1 / texel_m),
        joint_px=0.006 / texel_m,
        joint_color=base * 0.35,
        variation=0.1,
        bevel=0.05,
        mixing=0.6,
    )
    fibre = noise((shape[0], max(8, shape[1] // 10)), rng, cell_px=0.05 / texel_m, octaves=4, gain=0.8)
    fibre = np.asarray(Image.fromarray(fibre).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    shade(paint, 0.12 * fibre + 0.05 * noise(shape, rng, cell_px=0.7 / texel_m, octaves=5))
    return stains(
        paint,
        rng,
        number=round(2 * size_m[0] * size_m[1]),
        radius_px=(0.008 / texel_m, 0.05 / texel_m),
        dark=0.5,
    )


def carpet(
    size_m: tuple[float, float], texel_m: float, rng: Rng, *, color: ArrayLike = (0.36, 0.36, 0.38)
) -> Paint:
    """Office carpet tiles: speckled yarn, tiles of slightly different shade, wear and spots."""
    shape = texels(size_m, texel_m)
    base = np.asarray(color, np.float32)
    paint = blocks(
        shape,
        rng,
        palette=[base, base * 1.15, base * 0.85, base * (1.1, 1.0, 0.85)],
        block_px=(0.5 / texel_m, 0.5 / texel_m),
        joint_px=1.0,
        joint_color=base * 0.7,
        variation=0.06,
        bond=0.0,
        bevel=0.02,
        mixing=0.7,
    )
    yarn = noise(shape, rng, cell_px=0.05 / texel_m, octaves=4, gain=0.95)
    shade(paint, 0.16 * yarn + 0.07 * noise(shape, rng, cell_px=1.0 / texel_m, octaves=3))
    flecks = [base * 1.7, base * 0.45, (0.6, 0.5, 0.3), (0.25, 0.35, 0.55), (0.55, 0.25, 0.2)]
    litter(paint, rng, number=round(45 * size_m[0] * size_m[1]), size_px=0.018 / texel_m, palette=flecks)
    return stains(
        paint, rng, number=round(1.0 * size_m[0] * size_m[1]), radius_px=(0.03 / texel_m, 0.25 / texel_m)
    )


def tiles(
    size_m: tuple[float, float],
    texel_m: float,
    rng: Rng,
    *,
    tile_m: float = 0.3,
    color: ArrayLike | None = None,
) -> Paint:
    """Stone tiles of mixed colours; their mean is drawn unless given."""
    shape = texels(size_m, texel_m)
    stones = [(0.62, 0.56, 0.48), (0.50, 0.50, 0.52), (0.60, 0.45, 0.36)]
    base = jitter(rng.choice(stones), rng, 0.05) if color is None else np.asarray(color, np.float32)
    paint = blocks(
        shape,
        rng,
        palette=[base, base * 1.2, base * 0.75, base * (1.1, 1.0, 0.85), base * (0.85, 0.95, 1.1)],
        block_px=(tile_m / texel_m, tile_m / texel_m),
        joint_px=0.008 / texel_m,
        joint_color=base * 0.5,
        variation=0.1,
        bond=0.0,
        bevel=0.03,
        mixing=0.8,
    )
    veins = np.abs(noise(shape, rng, cell_px=0.35 / texel_m, octaves=5))
    shade(
        paint,
        0.10 * np.exp(-veins * 5) + 0.07 * noise(shape, rng, cell_px=0.5 / texel_m, octaves=6, gain=0.75),
    )
    return stains(
        paint, rng, number=round(1.5 * size_m[0] * size_m[1]), radius_px=(0.02 / texel_m, 0.15 / texel_m)
    )


def sky(shape: tuple[int, int], rng: Rng, *, horizon: float = 0.8) -> Paint:
    """Clouds over a far skyline of trees, to be wrapped around a scene.

    Args:
        shape: Rows and columns; the columns go all around.
        rng: Where the randomness comes from.
        horizon: Row of the horizon over the number of rows.
    """
    h, w = shape
    up = np.clip(1 - np.arange(h, dtype=np.float32) / (horizon * h), 0, 1)[:, None] * np.ones(
        (1, w), np.float32
    )
    paint = fill(shape, (0.80, 0.83, 0.86))
    blend(paint, (0.36, 0.55, 0.80), up**0.7)
    clouds = around(0.8 * noise((h, w + w // 8), rng, cell_px=h / 2.5, octaves=6), w) + 0.15
    blend(paint, (0.93, 0.93, 0.94), np.clip(clouds, 0, 0.9))
    shade(paint, -0.2 * np.clip(clouds - 0.9, 0, 1))
    outline = around(noise((2, w + w // 8), rng, cell_px=w / 14, octaves=7, gain=0.6), w)[0]
    top = h * (horizon - 0.055 - 0.03 * outline)
    below = np.clip(np.arange(h, dtype=np.float32)[:, None] - top, 0, 1)
    leaves = around(noise((h, w + w // 8), rng, cell_px=h / 12, octaves=6, gain=0.75), w)
    blend(paint, fill(shape, jitter((0.34, 0.38, 0.27), rng, 0.06)) * (1 + 0.2 * leaves)[..., None], below)
    return paint
