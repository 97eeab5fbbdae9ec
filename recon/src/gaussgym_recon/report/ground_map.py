# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""A scene from above, as SVG: ground by height, what nobody saw, photographs, paths, what robots see of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.report.coverage import Coverage, Photos, Spot

UNKNOWN_RGB = (238, 238, 238)
LOW_RGB, HIGH_RGB = np.array([58, 82, 110]), np.array([235, 220, 190])
WIDTH_PX = 900


def ground_map_svg(
    ground: Heightfield,
    paths: Paths,
    photos: Photos | None,
    coverage: Coverage | None,
    spots: Sequence[Spot] = (),
    *,
    margin_m: float = 2.0,
) -> str:
    """Draw a scene from above, +X to the right and +Y up, with a bar of one metre or more.

    Args:
        ground: Drawn by height, cells that nobody saw in light grey.
        paths: Black lines.
        photos: Blue, each with its direction.
        coverage: A disc at each place, from red (nothing of what a robot sees there was photographed) to green (all).
        spots: Numbered, what to photograph.
        margin_m: Around what is drawn; far ground is cut off.

    Returns:
        The `<svg>` element.
    """
    low, high = _extent(paths, photos, spots, ground, margin_m)
    size = np.maximum(high - low, 1.0)
    scale = WIDTH_PX / size[0]
    height_px = size[1] * scale

    def at(xy: NDArray[np.floating] | Sequence[float]) -> tuple[float, float]:
        return round((float(xy[0]) - low[0]) * scale, 1), round((high[1] - float(xy[1])) * scale, 1)

    parts = [_ground_image(ground, at, scale)]
    for line in np.unique(paths.path_id) if len(paths) else ():
        points = " ".join("{},{}".format(*at(p)) for p in paths.points[paths.path_id == line, :2])
        parts.append(f'<polyline points="{points}" fill="none" stroke="#000" stroke-width="2"/>')
    if photos is not None:
        parts += [_photo(at, pose, name) for pose, name in zip(photos.c2w, photos.names)]
    if coverage is not None:
        parts += [_place(at, place, share) for place, share in zip(coverage.places, coverage.by_place)]
    parts += [_spot(at, number + 1, spot) for number, spot in enumerate(spots)]
    parts.append(_bar(size[0], scale, height_px))
    return (
        f'<svg viewBox="0 0 {WIDTH_PX} {height_px:.0f}" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="the scene from above">{"".join(parts)}</svg>'
    )


def _extent(
    paths: Paths, photos: Photos | None, spots: Sequence[Spot], ground: Heightfield, margin_m: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest x, y of what is of interest [m]; all of the ground where nothing is."""
    shown = [paths.points[:, :2].astype(np.float64), np.array([s.xyz_m[:2] for s in spots]).reshape(-1, 2)]
    if photos is not None:
        shown.append(photos.c2w[:, :2, 3])
    points = np.concatenate(shown)
    if not len(points):
        points, margin_m = ground.grid_xy().reshape(-1, 2), 0.0
    return points.min(axis=0) - margin_m, points.max(axis=0) + margin_m


def _ground_image(ground: Heightfield, at, scale: float) -> str:  # noqa: ANN001
    known = ground.height_m[ground.known]
    low, high = np.quantile(known, (0.02, 0.98)) if known.size else (0.0, 1.0)
    share = np.clip((ground.height_m - low) / max(high - low, 0.05), 0.0, 1.0)[..., None]
    rgb = np.where(ground.known[..., None], LOW_RGB + share * (HIGH_RGB - LOW_RGB), UNKNOWN_RGB)
    stream = io.BytesIO()
    Image.fromarray(rgb[::-1].astype(np.uint8)).save(stream, format="PNG")
    ny, nx = ground.height_m.shape
    # Heights are of grid points: each is drawn as the cell around it.
    top_left = ground.origin_xy_m + np.array([-0.5, ny - 0.5]) * ground.cell_m
    x, y = at(top_left)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<image x="{x}" y="{y}" width="{nx * ground.cell_m * scale:.1f}" height="{ny * ground.cell_m * scale:.1f}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )


def _photo(at, pose: NDArray[np.float64], name: str) -> str:  # noqa: ANN001
    x, y = at(pose[:2, 3])
    ahead = pose[:2, 2] / max(float(np.linalg.norm(pose[:2, 2])), 1e-9)
    return (
        f'<g stroke="#1f5fbf" fill="#1f5fbf"><title>{escape(name)}</title><circle cx="{x}" cy="{y}" r="2.5"/>'
        f'<line x1="{x}" y1="{y}" x2="{x + 9 * ahead[0]:.1f}" y2="{y - 9 * ahead[1]:.1f}"/></g>'
    )


def _place(at, place: NDArray[np.float64], share: float) -> str:  # noqa: ANN001
    if not np.isfinite(share):
        return ""
    x, y = at(place[:2])
    return (
        f'<circle cx="{x}" cy="{y}" r="6" fill="hsl({120 * share:.0f} 75% 42%)" fill-opacity="0.8">'
        f"<title>{100 * share:.0f} % of what a robot sees here was photographed</title></circle>"
    )


def _spot(at, number: int, spot: Spot) -> str:  # noqa: ANN001
    x, y = at(spot.xyz_m[:2])
    return (
        f'<circle cx="{x}" cy="{y}" r="11" fill="#fff" stroke="#c0392b" stroke-width="2"/>'
        f'<text x="{x}" y="{y + 4}" text-anchor="middle" font-size="12" fill="#c0392b">{number}</text>'
    )


def _bar(width_m: float, scale: float, height_px: float) -> str:
    """A bar of a round length, about a sixth of the width."""
    raw = width_m / 6.0
    power = 10.0 ** np.floor(np.log10(raw))
    length = max(factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= raw)
    y = height_px - 14
    return (
        f'<rect x="14" y="{y:.0f}" width="{length * scale:.1f}" height="4" fill="#000"/>'
        f'<text x="14" y="{y - 4:.0f}" font-size="13">{length:g} m</text>'
    )
