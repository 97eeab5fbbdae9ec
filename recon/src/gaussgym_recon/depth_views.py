# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Depth images with cameras, ready to be fused: what splats show, what sensors and stereo measured, and both together."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from gaussgym_render.renderer import SplatRenderer
from numpy.typing import NDArray

from gaussgym_recon.stereo import DepthMap
from gaussgym_recon.trainer import SplatModel
from gaussgym_recon.views import Views

SPLATS_WEIGHT = 0.3
"""Of a depth that only the splats show, against one that was measured."""
TRUSTED_WITHIN = 0.03
"""Splats are right where their depth, tied to measurements, is so near to them (fraction)."""
LEAST_TRUST = 0.4
"""Where they are right less often than this around, what only they show is not used."""


@dataclass
class DepthView:
    """A depth image and its pinhole camera.

    Attributes:
        c2w: Camera to world ``[4, 4]`` (OpenCV).
        k: Calibration ``[3, 3]`` of the depth image.
        depth_m: float32 ``[h, w]`` along +Z, 0 where nothing reliable was seen.
        rgb: float32 ``[h, w, 3]`` in 0..1.
        weight: float32 ``[h, w]``, how much a pixel counts, 1 for a measured one.
        measured: bool ``[h, w]``, where a sensor or stereo saw the depth; what splats show does not contradict splats.
    """

    c2w: NDArray[np.floating]
    k: NDArray[np.floating]
    depth_m: NDArray[np.float32]
    rgb: NDArray[np.float32]
    weight: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    measured: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), bool))

    def __post_init__(self) -> None:
        if self.weight.shape != self.depth_m.shape:
            self.weight = np.ones(self.depth_m.shape, np.float32)
        if self.measured.shape != self.depth_m.shape:
            self.measured = self.depth_m > 0


def plane_of(
    depth: NDArray[np.float32], k: NDArray[np.floating], *, reach_px: int = 3
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The plane that each pixel sees, from the depth around it.

    On a plane inverse depth is a x + b y + c in normalized image coordinates, and (a, b, c) points along its normal. Gradients
    are taken over ``reach_px``, to the side where inverse depth changes less: edges have two sides.

    Args:
        depth: ``[h, w]`` along +Z [m], 0 where unknown.
        k: Calibration ``[3, 3]``.
        reach_px: Baseline of the gradients.

    Returns:
        Unit normals towards the camera ``[h, w, 3]`` in its frame, and the distance to the plane over that along the camera's
        axis ``[h, w]``, 0.1..1.
    """
    # Noise between neighbours would tilt the planes: it goes first, edges of some per cent stay.
    log_depth = np.log(np.where(depth > 0, depth, 1e6)).astype(np.float32)
    inverse = np.exp(-cv2.bilateralFilter(log_depth, d=5, sigmaColor=0.02, sigmaSpace=2.0))
    inverse[depth <= 0] = np.nan

    def slope(axis: int, focal: float) -> NDArray[np.float32]:
        far, near = (slice(reach_px, None), slice(None)), (slice(None, -reach_px), slice(None))
        far, near = (far, near) if axis == 0 else (far[::-1], near[::-1])
        ahead, back = np.full_like(inverse, np.nan), np.full_like(inverse, np.nan)
        ahead[near] = inverse[far] - inverse[near]
        back[far] = ahead[near]
        use_back = ~(np.abs(ahead) <= np.abs(back)) & np.isfinite(back)
        return np.nan_to_num(np.where(use_back, back, ahead) * np.float32(focal / reach_px))

    a, b = slope(1, float(k[0, 0])), slope(0, float(k[1, 1]))
    h, w = depth.shape
    x = ((np.arange(w) + 0.5 - k[0, 2]) / k[0, 0]).astype(np.float32)
    y = ((np.arange(h) + 0.5 - k[1, 2]) / k[1, 1]).astype(np.float32)[:, None]
    q = np.nan_to_num(inverse)
    normal = np.stack([a, b, q - a * x - b * y], axis=-1)
    length = np.maximum(np.linalg.norm(normal, axis=-1), 1e-9)
    facing = np.clip(q / length, 0.1, 1.0).astype(np.float32)
    return (-normal / length[..., None]).astype(np.float32), facing


def facing_of(depth: NDArray[np.float32], k: NDArray[np.floating]) -> NDArray[np.float32]:
    """The second result of `plane_of`."""
    return plane_of(depth, k)[1]


def sensor_depths(views: Views, level: int) -> dict[int, DepthMap]:
    """Sensor depth of the training views that have it, at a level of the pyramid.

    Low confidence is left out, medium costs 0.5. Pixels that a mask says to ignore are left out too.
    """
    out = {}
    for i in views.train:
        view, camera = views.views[i], views.camera(i, level)
        if view.depth_m is None:
            continue
        size = camera.width, camera.height
        depth = cv2.resize(view.depth_m, size, interpolation=cv2.INTER_NEAREST)
        cost = np.zeros(depth.shape, np.float32)
        if view.depth_confidence is not None:
            sure = cv2.resize(view.depth_confidence, size, interpolation=cv2.INTER_NEAREST)
            depth, cost = np.where(sure > 0, depth, 0), np.where(sure == 1, 0.5, 0.0).astype(np.float32)
        depth = (depth * used_pixels(views, i, level)).astype(np.float32)
        normal, _ = plane_of(depth, camera.K)
        out[i] = DepthMap(depth, normal @ view.c2w[:3, :3].T.astype(np.float32), cost)
    return out


def used_pixels(views: Views, index: int, level: int) -> NDArray[np.bool_]:
    """Pixels ``[h, w]`` of a view that its mask does not exclude."""
    masks, camera = views.views[index].masks, views.camera(index, level)
    return np.ones((camera.height, camera.width), bool) if masks is None else masks[level]


def coverage(depths: dict[int, DepthMap], views: Views) -> float:
    """Mean share of the training views' pixels that have a depth."""
    shares = [float((depths[i].depth_m > 0).mean()) if i in depths else 0.0 for i in views.train]
    return float(np.mean(shares)) if shares else 0.0


def merged(first: dict[int, DepthMap], second: dict[int, DepthMap]) -> dict[int, DepthMap]:
    """The first depth of each pixel where there is one, else the second; both of one level."""
    out = dict(second)
    for i, own in first.items():
        if i in second:
            use, other = own.depth_m > 0, second[i]
            pick = [np.where(use, a, b) for a, b in ((own.depth_m, other.depth_m), (own.cost, other.cost))]
            own = DepthMap(pick[0], np.where(use[..., None], own.normal_w, other.normal_w), pick[1])
        out[i] = own
    return out


def at_level(depths: dict[int, DepthMap], views: Views, level: int) -> dict[int, DepthMap]:
    """Depth maps at another level of the pyramid; each pixel takes the nearest."""
    out = {}
    for i, d in depths.items():
        size = views.camera(i, level).width, views.camera(i, level).height
        parts = (
            cv2.resize(a, size, interpolation=cv2.INTER_NEAREST) for a in (d.depth_m, d.normal_w, d.cost)
        )
        out[i] = DepthMap(*parts)
    return out


def render_depths(
    model: SplatModel, views: Views, indices: list[int], *, min_alpha: float = 0.7, level: int = -1
) -> dict[int, DepthView]:
    """Median depth of the splats at views, by view index, masked where coverage is thin.

    Median, not mean: at an edge the mean lies between what is before it and what is behind, and on ground that is seen at a
    flat angle in front of it.
    """
    splats = model.splats()
    out = {}
    renderers: dict[tuple[int, int], SplatRenderer] = {}
    for i in indices:
        camera = views.camera(i, level)
        size = camera.width, camera.height
        if size not in renderers:
            renderers[size] = SplatRenderer([splats], *size, backend="cpu")
        c2w = views.views[i].c2w
        frames = renderers[size].render(
            c2w[None], camera.K[None], np.zeros(1, np.int64), outputs=("median_depth", "rgb_float")
        )
        shown = (frames.alpha[0] >= min_alpha) & used_pixels(views, i, level)
        depth = np.where(shown, np.asarray(frames.median_depth)[0], 0).astype(np.float32)
        rgb = np.ascontiguousarray(np.asarray(frames.rgb_float)[0], np.float32)
        weight = np.full(depth.shape, SPLATS_WEIGHT, np.float32)
        out[i] = DepthView(c2w, camera.K, depth, rgb, weight, np.zeros(depth.shape, bool))
    return out


def anchor_depths(
    rendered: dict[int, DepthView], measured: dict[int, DepthMap], *, reach_px: float = 12.0
) -> list[DepthView]:
    """Splat depth tied to measured depth (stereo, a sensor) of the same view and size.

    Where a depth was measured, it stands, with a weight of 1 less its cost. Elsewhere the splats' depth counts, times the ratio
    of the two in the neighbourhood (blurred with ``reach_px``): splats lie a little before the surface, more so at grazing views.
    It counts as far as splats and measurements agree around there.

    Args:
        rendered: By view index.
        measured: By view index, same image size; views without any keep the splats' depth.
        reach_px: Standard deviation of the neighbourhood.
    """
    out = []
    for i, view in rendered.items():
        if i not in measured:
            out.append(view)
            continue
        splat, firm = view.depth_m, measured[i].depth_m
        known = (splat > 0) & (firm > 0)
        ratio = np.where(known, firm / np.maximum(splat, 1e-6), 0.0).astype(np.float32)
        both = known & (np.abs(ratio - 1) < 0.15)
        share = cv2.GaussianBlur(both.astype(np.float32), (0, 0), reach_px)
        local = cv2.GaussianBlur(np.where(both, ratio, 0).astype(np.float32), (0, 0), reach_px)
        local = np.where(share > 0.02, local / np.maximum(share, 1e-6), 1.0)
        trust = _trust(known, known & (np.abs(ratio - local) < TRUSTED_WITHIN), reach_px)
        depth = np.where(firm > 0, firm, splat * local * (trust > LEAST_TRUST)).astype(np.float32)
        weight = np.where(firm > 0, 1.0 - measured[i].cost, view.weight * trust).astype(np.float32)
        out.append(DepthView(view.c2w, view.k, depth, view.rgb, weight, firm > 0))
    return out


def _trust(known: NDArray[np.bool_], agree: NDArray[np.bool_], reach_px: float) -> NDArray[np.float32]:
    """How often splats agree with measurements around each pixel, 0..1; far from any, in the whole image."""
    if not known.any():
        return np.ones(known.shape, np.float32)
    around = cv2.GaussianBlur(known.astype(np.float32), (0, 0), 2 * reach_px)
    good = cv2.GaussianBlur(agree.astype(np.float32), (0, 0), 2 * reach_px)
    return np.where(around > 0.02, good / np.maximum(around, 1e-6), agree.sum() / known.sum()).astype(
        np.float32
    )
