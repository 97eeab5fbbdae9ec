# numpy's and open3d's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Whether splats and mesh of a scene are the same surface, as a walker sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gaussgym_render import SplatRenderer
from gaussgym_scene.cameras import Intrinsics, pixel_rays_c
from gaussgym_scene.frames import look_at
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.splats import Splats
from numpy.typing import NDArray

from gaussgym_recon.layouts.meshes import distances_m, ray_scene

CAMERA = Intrinsics.from_fov(96, 72, np.radians(75.0))
LOOK_DOWN_RAD = np.radians(25.0)
VIEWS = 24
MAX_DEPTH_M = 5.0
MIN_ALPHA = 0.7
MIN_OPACITY = 0.3
SURFACE_M = 0.05
"""A splat that lies this much (and twice its size) off the depth of its pixel is part of another surface, or hidden [m]."""


def measure(splats: Splats, mesh: Mesh, cameras: NDArray[np.floating]) -> dict[str, Any]:
    """Compare what splats and mesh show along the same rays.

    Cameras stand where those of the walk stood, look along it and down, so that ground and walls both count.

    Args:
        splats: World frame.
        mesh: World frame.
        cameras: Of the walk, `[n, 4, 4]`.

    Returns:
        `splat_mesh_disagreement_m` median difference of rendered depth and mesh depth [m], `splat_mesh_bias_m` the median with
        its sign (splats behind the mesh are positive): both contain that large splats are drawn somewhat before their surface.
        `splat_mesh_distance_m` and `…_p90_m`, median and 90th percentile of the distance from the centres of splats that are
        seen to the nearest triangle [m], do not. `compared_pixels`, `compared_splats`. None where no ray meets both.
    """
    poses = _viewpoints(cameras)
    renderer = SplatRenderer([splats], CAMERA.width, CAMERA.height, sh_degree=0)
    k = np.broadcast_to(CAMERA.K, (len(poses), 3, 3))
    frames = renderer.render(poses, k, np.zeros(len(poses), np.int64), outputs=("median_depth",))
    seen = np.where(np.asarray(frames.alpha) >= MIN_ALPHA, np.asarray(frames.median_depth), 0.0)
    rays_w = np.einsum("nij,hwj->nhwi", poses[:, :3, :3], pixel_rays_c(CAMERA))
    start = np.broadcast_to(poses[:, None, None, :3, 3], rays_w.shape)
    hit = _hits(mesh, start, rays_w)
    both = (seen > 0) & (seen < MAX_DEPTH_M) & (hit < MAX_DEPTH_M)
    shown = _shown(splats, poses, np.where(both, seen, 0.0))
    found: dict[str, Any] = {"compared_pixels": int(both.sum()), "compared_splats": int(shown.sum())}
    names = ("disagreement_m", "bias_m", "distance_m", "distance_p90_m")
    if both.sum() < 100 or shown.sum() < 100:
        return {**found, **{f"splat_mesh_{name}": None for name in names}}
    difference = seen[both] - hit[both]
    distance = distances_m(mesh, splats.means[shown])
    values = (
        np.median(np.abs(difference)),
        np.median(difference),
        np.median(distance),
        np.quantile(distance, 0.9),
    )
    return {
        **found,
        **{f"splat_mesh_{name}": float(value) for name, value in zip(names, values, strict=True)},
    }


def _shown(splats: Splats, poses: NDArray[np.float64], depth: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which splats make up the surface in depth images `[n, h, w]` (0: none)."""
    shown = np.zeros(len(splats), bool)
    reach = SURFACE_M + 2 * splats.scales.max(axis=1)
    for c2w, image in zip(poses, depth, strict=True):
        local = (splats.means - c2w[:3, 3]) @ c2w[:3, :3]
        z = np.where(local[:, 2] > 0.1, local[:, 2], np.inf)
        u = local[:, 0] / z * CAMERA.fx + CAMERA.cx
        v = local[:, 1] / z * CAMERA.fy + CAMERA.cy
        inside = np.isfinite(z) & (u >= 0) & (u < CAMERA.width) & (v >= 0) & (v < CAMERA.height)
        there = image[np.where(inside, v, 0).astype(int), np.where(inside, u, 0).astype(int)]
        shown |= inside & (there > 0) & (np.abs(there - z) < reach)
    return shown & (splats.opacities >= MIN_OPACITY)


def _viewpoints(cameras: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cameras spread over the walk, level but for looking down."""
    at = np.unique(np.linspace(0, len(cameras) - 1, VIEWS).round().astype(int))
    eyes = cameras[at, :3, 3].astype(np.float64)
    ahead = cameras[np.minimum(at + 3, len(cameras) - 1), :3, 3] - cameras[np.maximum(at - 3, 0), :3, 3]
    looks = cameras[at, :3, 2]
    poses = []
    for eye, step, look in zip(eyes, ahead, looks, strict=True):
        flat = step if np.linalg.norm(step[:2]) > 1e-3 else look
        heading = np.arctan2(flat[1], flat[0])
        poses.append(look_at(eye, eye + [np.cos(heading), np.sin(heading), -np.tan(LOOK_DOWN_RAD)]))
    return np.stack(poses)


def _hits(mesh: Mesh, start: NDArray[np.floating], rays: NDArray[np.floating]) -> NDArray[np.float32]:
    """Depth along +Z of the cameras at which rays (of z = 1) meet the mesh; infinite where they do not."""
    import open3d as o3d

    lines = np.concatenate([start, rays], axis=-1).astype(np.float32)
    return ray_scene(mesh).cast_rays(o3d.core.Tensor(lines))["t_hit"].numpy()
