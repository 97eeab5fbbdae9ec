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
        depth = np.where(frames.alpha[0] >= min_alpha, frames.median_depth[0], 0).astype(np.float32)
        rgb = np.ascontiguousarray(frames.rgb_float[0], np.float32)
        weight = np.full(depth.shape, SPLATS_WEIGHT, np.float32)
        out[i] = DepthView(c2w, camera.K, depth, rgb, weight, np.zeros(depth.shape, bool))
    return out


def anchor_depths(
    rendered: dict[int, DepthView], measured: dict[int, DepthMap], *, reach_px: float = 12.0
) -> list[DepthView]:
    """Splat depth tied to measured depth (stereo, a sensor) of the same view and size.

    Where a depth was measured, it stands. Elsewhere the splats' depth counts, times the ratio of the two in the
    neighbourhood (blurred with ``reach_px``): splats lie a little before the surface, more so at grazing views of the ground.

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
        both = (splat > 0) & (firm > 0)
        ratio = np.where(both, firm / np.maximum(splat, 1e-6), 0.0).astype(np.float32)
        both &= np.abs(ratio - 1) < 0.15
        share = cv2.GaussianBlur(both.astype(np.float32), (0, 0), reach_px)
        local = cv2.GaussianBlur(np.where(both, ratio, 0).astype(np.float32), (0, 0), reach_px)
        local = np.where(share > 0.02, local / np.maximum(share, 1e-6), 1.0)
        depth = np.where(firm > 0, firm, splat * local).astype(np.float32)
        weight = np.where(firm > 0, 1.0, view.weight).astype(np.float32)
        out.append(DepthView(view.c2w, view.k, depth, view.rgb, weight, firm > 0))
    return out
