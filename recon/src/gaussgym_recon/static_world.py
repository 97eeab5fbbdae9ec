"""Do the photographs show one world that does not change? Generated videos often show one that does.

A map of such a video can have every image and a small reprojection error, since what contradicts is left out of it. So two
questions are asked of what the map did not choose itself. Do the matches that two images alone agree on hold at the poses of the
map? And does a point look the same in every image whose view of it is much the same, whether or not a feature was found there?
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from gaussgym_recon.consistency import RecaptureError
from gaussgym_recon.sightings import project

if TYPE_CHECKING:
    from gaussgym_scene.cameras import Intrinsics
    from gaussgym_scene.capture import Capture
    from numpy.typing import NDArray

    from gaussgym_recon.sfm_model import SfmModel


@dataclass(frozen=True, kw_only=True)
class StaticWorldCfg:
    """Gates of :func:`check_static_world`."""

    min_match_agreement: float = 0.5
    """Smallest share of verified matches that hold at the poses of the map."""
    min_seen_again: float = 0.7
    """Smallest share of the views of points, over views much like the one they were chosen in, in which they look the same."""
    min_seen_again_late: float = 0.6
    """The same over the quarter of those views that are farthest apart in the sequence: slow changes show there."""
    min_evidence: int = 200
    """With fewer views or matches than this nothing is said."""
    max_epipolar_px: float = 4.0
    """Distance from the epipolar line of a match that holds [px]."""
    long_side_px: int = 480
    """Images are compared at this size [px]."""
    patch_px: int = 9
    """Side of the patches that are compared [px]."""
    min_correlation: float = 0.5
    """Normalized correlation of patches that look the same."""
    max_angle_rad: float = np.radians(15.0)
    """Views of a point are much alike within this angle."""
    max_distance_ratio: float = 1.3
    """And within this ratio of distances."""
    max_points: int = 600
    """Points that are looked at."""
    max_pairs: int = 300
    """Image pairs whose matches are looked at."""
    seed: int = 0
    """Of the choice among them."""


@dataclass(frozen=True)
class StaticWorld:
    """What :func:`static_world` found."""

    match_agreement: float | None
    """Share of verified matches that hold at the poses of the map; None where there are too few."""
    seen_again: float | None
    """Share of like views in which a point looks the same; None where there are too few."""
    seen_again_late: float | None
    """The same over the quarter of like views that are farthest apart in the sequence; None likewise, or without an order."""
    matches: int
    views: int


def check_static_world(
    capture: Capture, model: SfmModel, database: Path, cfg: StaticWorldCfg | None = None
) -> StaticWorld:
    """Refuse images that contradict each other.

    Raises:
        RecaptureError: A gate was not passed.
    """
    cfg = cfg or StaticWorldCfg()
    found = static_world(capture, model, database, cfg)
    reasons = []
    if found.match_agreement is not None and found.match_agreement < cfg.min_match_agreement:
        reasons.append(
            f"{found.match_agreement:.0%} of the matches of two images hold in the whole, expected {cfg.min_match_agreement:.0%}"
        )
    if found.seen_again is not None and found.seen_again < cfg.min_seen_again:
        reasons.append(
            f"places look the same in {found.seen_again:.0%} of the views like them, expected {cfg.min_seen_again:.0%}"
        )
    if found.seen_again_late is not None and found.seen_again_late < cfg.min_seen_again_late:
        reasons.append(
            f"places look the same in {found.seen_again_late:.0%} of the like views farthest apart in time, "
            f"expected {cfg.min_seen_again_late:.0%}"
        )
    if reasons:
        raise RecaptureError(
            f"{capture.directory}: its views contradict each other: {'; '.join(reasons)}; expected photographs of one place that "
            "does not change (a generated video may show a world that does): take or generate it again",
            reasons=tuple(reasons),
        )
    return found


def static_world(
    capture: Capture, model: SfmModel, database: Path, cfg: StaticWorldCfg | None = None
) -> StaticWorld:
    """Measure how far the images agree on one world.

    Args:
        capture: The images.
        model: Their map.
        database: pycolmap's database with the matches that the map was made of.
        cfg: Sizes and thresholds.
    """
    cfg = cfg or StaticWorldCfg()
    distances = epipolar_distances(model, database, cfg)
    correlations, apart = patch_correlations(capture, model, cfg)
    late = np.argsort(apart, kind="stable")[3 * len(apart) // 4 :]
    ordered = bool(capture.metadata.get("ordered", True))
    enough = len(distances) >= cfg.min_evidence, len(correlations) >= cfg.min_evidence
    return StaticWorld(
        match_agreement=float((distances < cfg.max_epipolar_px).mean()) if enough[0] else None,
        seen_again=float((correlations > cfg.min_correlation).mean()) if enough[1] else None,
        seen_again_late=float((correlations[late] > cfg.min_correlation).mean())
        if enough[1] and ordered
        else None,
        matches=len(distances),
        views=len(correlations),
    )


def epipolar_distances(model: SfmModel, database: Path, cfg: StaticWorldCfg) -> NDArray[np.float64]:
    """Distances of verified matches from their epipolar lines at the map's poses [px], over pairs drawn at random."""
    import pycolmap

    place = {name: index for index, name in enumerate(model.names)}
    distances = [np.zeros(0)]
    with pycolmap.Database.open(database) as opened:
        ids = {image.image_id: place[image.name] for image in opened.read_all_images() if image.name in place}
        pairs = [(a, b) for a in ids for b in ids if a < b and opened.exists_two_view_geometry(a, b)]
        order = np.random.default_rng(cfg.seed).permutation(len(pairs))[: cfg.max_pairs]
        keypoints = {}
        for a, b in (pairs[int(k)] for k in order):
            matches = np.asarray(opened.read_two_view_geometry(a, b).inlier_matches)
            if not len(matches):
                continue
            for image in (a, b):
                if image not in keypoints:
                    keypoints[image] = np.asarray(opened.read_keypoints(image))[:, :2].astype(np.float64)
            first, second = keypoints[a][matches[:, 0]], keypoints[b][matches[:, 1]]
            i, j = ids[a], ids[b]
            distances.append(
                sampson_px(first, second, model.c2w[[i, j]], [model.intrinsics[i], model.intrinsics[j]])
            )
    return np.concatenate(distances)


def sampson_px(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    c2w: NDArray[np.float64],
    intrinsics: list[Intrinsics],
) -> NDArray[np.float64]:
    """First-order distance of matches `[k, 2]` of two images from agreement with their poses `[2, 4, 4]` [px] (Sampson 1982)."""
    from gaussgym_scene.cameras import undistort

    ideal = []
    for pixels, lens in zip((first, second), intrinsics):
        normalized = (pixels - [lens.cx, lens.cy]) / [lens.fx, lens.fy]
        ideal.append(np.c_[undistort(normalized, lens.distortion), np.ones(len(pixels))])
    relative = np.linalg.inv(c2w[1]) @ c2w[0]
    x, y, z = relative[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ relative[:3, :3]
    in_second, in_first = ideal[0] @ essential.T, ideal[1] @ essential
    error = np.einsum("ki,ki->k", ideal[1], in_second)
    scale = np.sqrt((in_second[:, :2] ** 2).sum(axis=1) + (in_first[:, :2] ** 2).sum(axis=1))
    return np.abs(error) / np.maximum(scale, 1e-15) * np.sqrt(intrinsics[0].fx * intrinsics[1].fx)


def patch_correlations(
    capture: Capture, model: SfmModel, cfg: StaticWorldCfg
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How like themselves points look in other images with a similar view of them.

    Returns:
        Normalized correlations `[k]` and how many images the two views are apart `[k]`.
    """
    rng = np.random.default_rng(cfg.seed)
    reliable = model.reliable()
    chosen = rng.permutation(reliable)[: cfg.max_points]
    reference = _reference_views(model, chosen, rng)
    chosen, reference = chosen[reference >= 0], reference[reference >= 0]
    points = model.points[chosen]
    alike = _views_alike(model, points, reference, cfg)
    corners = _patch_points(model, points, reference, cfg)
    patches: dict[tuple[int, int], NDArray[np.float32]] = {}
    for image in range(len(model.names)):
        wanted = np.flatnonzero(alike[:, image] | (reference == image))
        if not len(wanted):
            continue
        grey, zoom = _grey(capture.directory / model.names[image], cfg.long_side_px)
        values = _sample(grey, corners[wanted], model.c2w[image], model.intrinsics[image], zoom)
        patches.update({(int(p), image): v for p, v in zip(wanted, values) if np.isfinite(v).all()})
    correlations, apart = [], []
    for point, image in zip(*np.nonzero(alike)):
        own = int(reference[point])
        if (point, own) in patches and (point, image) in patches:
            correlations.append(float(patches[int(point), own] @ patches[int(point), int(image)]))
            apart.append(abs(int(image) - own))
    return np.array(correlations), np.array(apart, np.int64)


def _reference_views(
    model: SfmModel, chosen: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.int64]:
    """For each chosen point one of the images that see it, drawn at random; -1 without any."""
    slot = np.full(len(model.points), -1, np.int64)
    slot[chosen] = np.arange(len(chosen))
    reference, count = np.full(len(chosen), -1, np.int64), np.zeros(len(chosen))
    for image, seen in enumerate(model.visible):
        mine = slot[seen][slot[seen] >= 0]
        count[mine] += 1
        take = mine[rng.random(len(mine)) < 1.0 / count[mine]]
        reference[take] = image
    return reference


def _views_alike(
    model: SfmModel, points: NDArray[np.float64], reference: NDArray[np.int64], cfg: StaticWorldCfg
) -> NDArray[np.bool_]:
    """Which images `[P, n]` see each point much as its reference does, were nothing in the way."""
    rays = points[:, None] - model.c2w[None, :, :3, 3]
    distance = np.linalg.norm(rays, axis=2)
    own = np.arange(len(points))
    unit = rays / np.maximum(distance, 1e-12)[..., None]
    angle = np.arccos(np.clip(np.einsum("pni,pi->pn", unit, unit[own, reference]), -1, 1))
    ratio = np.abs(np.log(np.maximum(distance, 1e-12) / distance[own, reference][:, None]))
    alike = (angle < cfg.max_angle_rad) & (ratio < np.log(cfg.max_distance_ratio))
    alike[own, reference] = False
    return alike


def _patch_points(
    model: SfmModel, points: NDArray[np.float64], reference: NDArray[np.int64], cfg: StaticWorldCfg
) -> NDArray[np.float64]:
    """Points `[P, k, 3]` of a square that faces the reference camera, one pixel of the small image apart."""
    focal = np.array([lens.fx * cfg.long_side_px / max(lens.width, lens.height) for lens in model.intrinsics])
    poses = model.c2w[reference]
    depth = np.einsum("pi,pi->p", points - poses[:, :3, 3], poses[:, :3, 2])
    step = depth / focal[reference]
    offsets = np.arange(cfg.patch_px) - (cfg.patch_px - 1) / 2
    x, y = (grid.ravel() for grid in np.meshgrid(offsets, offsets))
    square = x[None, :, None] * poses[:, None, :3, 0] + y[None, :, None] * poses[:, None, :3, 1]
    return points[:, None] + step[:, None, None] * square


def _grey(path: Path, long_side_px: int) -> tuple[NDArray[np.float32], float]:
    """Grey image of the given long side, and its size over that of the file."""
    with Image.open(path) as image:
        zoom = min(1.0, long_side_px / max(image.size))
        size = (max(1, round(image.width * zoom)), max(1, round(image.height * zoom)))
        grey = image.convert("L").resize(size, Image.Resampling.BOX)
        return np.asarray(grey, np.float32), size[0] / image.width


def _sample(
    grey: NDArray[np.float32],
    corners: NDArray[np.float64],
    c2w: NDArray[np.float64],
    intrinsics: Intrinsics,
    zoom: float,
) -> NDArray[np.float32]:
    """Normalized patches `[P, k]` at points `[P, k, 3]`: mean 0, norm 1; NaN outside of the image and where all is even."""
    import cv2

    pixels, _ = project(corners.reshape(-1, 3), c2w, intrinsics)
    pixels = (pixels * zoom - 0.5).astype(np.float32).reshape(*corners.shape[:2], 2)
    values = cv2.remap(
        grey,
        pixels[..., 0],
        pixels[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=np.nan,
    )
    values = values - values.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    # Two grey levels of contrast: less is noise.
    return np.where(norm > 2.0 * np.sqrt(values.shape[1]), values / np.maximum(norm, 1e-9), np.nan).astype(
        np.float32
    )
