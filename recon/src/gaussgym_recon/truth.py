# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""How far a built scene is from the known truth of a synthetic capture; for tests and reports, never for building.

Built cameras are aligned to the true ones, the ground moves along, and what the alignment takes out (gravity, scale) is
reported beside. Heights are compared with the true triangles, not with a grid of them: a grid has ramps where steps are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray

from gaussgym_recon.posed import Similarity

Floats = NDArray[np.floating]

MARKS = {
    "gravity_error_deg": 0.5,
    "scale_error_fraction": 0.01,
    "height_rmse_m": 0.02,
    "height_rmse_rgbd_m": 0.01,
    "step_edge_error_m": 0.02,
    "hole_fraction": 0.05,
    "psnr_db_heldout": 28.0,
}
"""What a reconstruction has to reach: at most, but the PSNR at least. Heights are those off edges, which have a mark of
their own: half a centimetre at the edge of a step of 15 cm is an RMSE of 2 cm over a flight of stairs."""
EDGE_HEIGHT_M = 0.04
"""Lower steps are unevenness."""
EDGE_WINDOW_M = 0.1
"""An edge that is found farther off than this is another one."""
SEEN_WITHIN_M = 8.0
"""What cameras see farther off does not count as photographed: fusion does not use it either."""
SEEN_BY = 2
"""Cameras that have to see what is to be rebuilt."""
_LINE_M = 0.005
_ABOVE_M = 0.4
"""True heights are looked for from this far above the true heightfield: under ceilings, above all that one steps on."""


class TrueGround:
    """Rays onto the triangles of a procedural scene; owns the ray-casting structure."""

    def __init__(self, mesh: Mesh, field: Heightfield) -> None:
        """Build the structure from the scene's mesh and, for where to start rays, its heightfield."""
        import open3d as o3d

        self._o3d: Any = o3d
        self._field = field
        self._casting = o3d.t.geometry.RaycastingScene()
        self._casting.add_triangles(
            o3d.core.Tensor(np.ascontiguousarray(mesh.vertices, np.float32)),
            o3d.core.Tensor(np.ascontiguousarray(mesh.faces, np.uint32)),
        )

    def height(self, xy: Floats) -> NDArray[np.float64]:
        """Height of the ground at world points ``[..., 2]`` [m]; NaN where there is none."""
        top = self._field.sample(xy) + _ABOVE_M
        rays = np.zeros((*np.shape(xy)[:-1], 6), np.float32)
        rays[..., :2], rays[..., 2], rays[..., 5] = xy, top, -1.0
        hit = self._cast(rays)["t_hit"].numpy()
        return np.where(np.isfinite(hit), top - hit, np.nan)

    def visible(self, points: Floats, c2w: Floats, cameras: Sequence[Intrinsics]) -> NDArray[np.int32]:
        """How many of the true cameras see each world point ``[n, 3]``: in the image, nothing before it, within `SEEN_WITHIN_M`.

        Args:
            points: On surfaces [m].
            c2w: Camera to world ``[m, 4, 4]``.
            cameras: One a pose; their distortion is left out.
        """
        count = np.zeros(len(points), np.int32)
        for pose, camera in zip(c2w, cameras):
            ray = points - pose[:3, 3]
            x, y, z = (ray @ pose[:3, :3]).T
            ahead = (z > 0.1) & (np.linalg.norm(ray, axis=1) < SEEN_WITHIN_M)
            u, v = (
                f * a / np.where(ahead, z, 1) + c
                for f, a, c in ((camera.fx, x, camera.cx), (camera.fy, y, camera.cy))
            )
            inside = np.flatnonzero(ahead & (u > 0) & (u < camera.width) & (v > 0) & (v < camera.height))
            if len(inside):
                rays = np.concatenate([np.tile(pose[:3, 3], (len(inside), 1)), ray[inside]], axis=1).astype(
                    np.float32
                )
                reach = self._cast(rays)["t_hit"].numpy()  # 1 at the point itself
                count[inside] += reach > 1.0 - 0.005 / np.linalg.norm(ray[inside], axis=1)
        return count

    def facing(self, origin: Floats, direction: Floats) -> NDArray[np.float64]:
        """How squarely horizontal rays ``[n, 3]``, ``[n, 3]`` meet what they hit first: |cosine| ``[n]``, 0 where nothing is."""
        rays = np.concatenate([origin, direction], axis=1).astype(np.float32)
        found = self._cast(rays)
        cosine = np.abs((found["primitive_normals"].numpy() * direction).sum(axis=1))
        return np.where(np.isfinite(found["t_hit"].numpy()), cosine, 0.0)

    def _cast(self, rays: NDArray[np.float32]) -> Any:
        return self._casting.cast_rays(self._o3d.core.Tensor(np.ascontiguousarray(rays)))


@dataclass(frozen=True)
class StepEdges:
    """Edges of steps that lines across the true ground meet.

    Attributes:
        error_m: ``[n]`` how far the built edge is from the true one, across the edge, positive along the line; NaN where
            the built ground has no such edge within `EDGE_WINDOW_M`.
        height_m: ``[n]`` of the true steps, positive up along the line.
        unknown: ``[n]`` whether the built ground is unknown there; these count as holes, not as missed edges.
        sides_w: ``[n, 2, 3]`` true points half of `EDGE_WINDOW_M` before and behind the edge, along the line [m].
    """

    error_m: NDArray[np.float64]
    height_m: NDArray[np.float64]
    unknown: NDArray[np.bool_]
    sides_w: NDArray[np.float64]

    def summary(self, photographed: NDArray[np.bool_] | None = None) -> dict[str, float | int | None]:
        """Median, root mean square and 95 percentile of the error's size [m], and the share of edges that are missed.

        Args:
            photographed: ``[n]`` edges whose two levels were; adds the share of those that were not, and what is missed and
                the root mean square of those that were.
        """
        out = _error_summary(self.error_m[~self.unknown])
        out = {"step_edges": len(self.error_m), **{f"step_{key}": value for key, value in out.items()}}
        if photographed is not None:
            mine = _error_summary(self.error_m[~self.unknown & photographed])
            out["step_edges_not_photographed_fraction"] = (
                float(1.0 - photographed.mean()) if len(photographed) else None
            )
            out["step_edges_photographed_missed_fraction"] = mine["edges_missed_fraction"]
            out["step_edge_photographed_rms_m"] = mine["edge_rms_m"]
        return out


def _error_summary(error_m: NDArray[np.float64]) -> dict[str, float | int | None]:
    found = np.abs(error_m[np.isfinite(error_m)])
    return {
        "edge_error_m": float(np.median(found)) if len(found) else None,
        "edge_rms_m": float(np.sqrt((found**2).mean())) if len(found) else None,
        "edge_p95_m": float(np.quantile(found, 0.95)) if len(found) else None,
        "edges_missed_fraction": 1.0 - len(found) / len(error_m) if len(error_m) else None,
    }


def step_edges(
    ground: TrueGround, built: Heightfield, lines: list[Floats], to_truth: Similarity | None = None
) -> StepEdges:
    """Find the true step edges along lines, and where the built ground has them.

    An edge is where true height jumps by `EDGE_HEIGHT_M` between two points 5 mm apart and stays within 2 cm of either level for
    `EDGE_WINDOW_M` to both sides. The built edge is where the built profile passes the middle of its own two levels.

    Args:
        ground: The truth.
        built: Ground in its own frame.
        lines: Polylines ``[n, 2]`` in the true frame [m].
        to_truth: From the built frame to the true one; None: the same.
    """
    to_truth = to_truth or Similarity.identity()
    half = round(EDGE_WINDOW_M / _LINE_M)
    errors, heights, unknown, sides = [], [], [], []
    for line in lines:
        xy = _resampled(np.asarray(line, np.float64), _LINE_M)
        if len(xy) < 2 * half + 2:
            continue
        true = ground.height(xy)
        at = _isolated_jumps(true, half)
        if not len(at):
            continue
        window = at[:, None] + np.arange(-half + 1, half + 1)
        z, known = _built_profile(built, to_truth, xy[window], true[window])
        jump = true[at + 1] - true[at]
        # The riser as seen along the line from its foot: lines that meet it askew see a longer error.
        foot = np.where((jump > 0)[:, None], xy[at], xy[at + 1])
        direction = xy[at + 1] - xy[at]
        direction *= np.where(jump > 0, 1, -1)[:, None] / np.linalg.norm(direction, axis=1, keepdims=True)
        level = 0.5 * (true[at] + true[at + 1])
        cosine = ground.facing(
            np.column_stack([foot, level]), np.column_stack([direction, np.zeros(len(at))])
        )
        square = cosine > 0.5
        errors.append((_crossing(z, jump) * cosine)[square])
        heights.append(jump[square])
        unknown.append(~np.all(known, axis=1)[square])
        beside = np.stack([at - half // 2 + 1, at + half // 2], axis=1)
        sides.append(np.concatenate([xy[beside], true[beside][..., None]], axis=2)[square])
    join = [np.concatenate(parts) if parts else np.zeros(0) for parts in (errors, heights, unknown)]
    return StepEdges(
        join[0], join[1], join[2].astype(bool), np.concatenate(sides) if sides else np.zeros((0, 2, 3))
    )


def _resampled(line: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(0, arc[-1], spacing)
    return np.stack([np.interp(at, arc, line[:, k]) for k in range(2)], axis=1)


def _isolated_jumps(z: NDArray[np.float64], half: int) -> NDArray[np.int64]:
    """Indices i between which and i + 1 a profile jumps from one level, held for ``half`` samples, to another."""
    at = np.flatnonzero(np.abs(np.diff(z)) > EDGE_HEIGHT_M)
    at = at[(at >= half) & (at < len(z) - half - 1)]
    near = np.arange(half)
    before, after = z[at[:, None] - near], z[at[:, None] + 1 + near]
    level = (np.abs(before - z[at][:, None]).max(1, initial=0) < 0.02) & (
        np.abs(after - z[at + 1][:, None]).max(1, initial=0) < 0.02
    )
    return at[level]


def _built_profile(
    built: Heightfield, to_truth: Similarity, xy: NDArray[np.float64], true_z: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Built heights in the true frame at true points ``[..., 2]``, and whether they are known."""
    there = to_truth.inverse().apply(np.concatenate([xy, true_z[..., None]], axis=-1))
    z = built.sample(there[..., :2])
    back = to_truth.apply(np.concatenate([there[..., :2], z[..., None]], axis=-1))
    return back[..., 2], built.is_known(there[..., :2])


def _crossing(z: NDArray[np.float64], jump: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where profiles ``[n, 2 half]`` pass the middle of their levels, from the window's middle [m]; NaN if they do not jump."""
    count = z.shape[1]
    part = max(1, count // 4)
    low, high = np.median(z[:, :part], axis=1), np.median(z[:, -part:], axis=1)
    jumps = (high - low) * np.sign(jump) > 0.5 * np.abs(jump)
    above = (z - 0.5 * (low + high)[:, None]) * np.sign(jump)[:, None]
    out = np.full(len(z), np.nan)
    for n in np.flatnonzero(jumps):
        i = np.flatnonzero((above[n, :-1] < 0) & (above[n, 1:] >= 0))
        where = i + above[n, i] / (above[n, i] - above[n, i + 1])
        out[n] = (np.median(where) - (count - 1) / 2) * _LINE_M
    return out


def lines_over(paths: Paths, *, spacing_m: float = 0.15, across_every_m: float = 0.5) -> list[Floats]:
    """Lines along paths at all distances from their middle, and across them at regular places, over the walkable width."""
    out: list[Floats] = []
    for number in np.unique(paths.path_id):
        chosen = paths.path_id == number
        points, width = paths.points[chosen].astype(np.float64), paths.half_width_m[chosen]
        left = np.stack([-np.sin(points[:, 3]), np.cos(points[:, 3])], axis=1)
        reach = float(width.min())
        for offset in np.arange(-reach, reach + 1e-9, spacing_m):
            out.append(points[:, :2] + offset * left)
        step = max(1, round(across_every_m / 0.25))
        for i in range(0, len(points), step):
            out.append(points[i, :2] + np.outer([-width[i], width[i]], left[i]))
    return out


def ground_marks(
    truth_scene: Scene,
    built: Heightfield,
    to_truth: Similarity | None = None,
    *,
    c2w: Floats | None = None,
    cameras: Sequence[Intrinsics] = (),
) -> dict[str, float | int | None]:
    """Errors of a built ground within the walkable width of the true paths.

    Args:
        truth_scene: The procedural scene.
        built: Ground in its own frame.
        to_truth: From the built frame to the true one; None: the same.
        c2w: True poses ``[m, 4, 4]`` of what was photographed; None: nobody asks.
        cameras: Theirs.

    Returns:
        ``height_rmse_m`` over all known grid points, ``height_rmse_off_edges_m`` over those farther than a cell of physics
        (5 cm) from a step, ``height_bias_m`` (contained in both), ``height_p95_m``; ``hole_fraction`` of the walkable area;
        the keys of `StepEdges.summary`; an edge was photographed if two cameras saw its lower level and two its upper one,
        half of `EDGE_WINDOW_M` away from it.

    Raises:
        InputError: No known ground lies in the walkable area.
    """
    to_truth = to_truth or Similarity.identity()
    ground = TrueGround(truth_scene.mesh, truth_scene.heightfield)
    points = to_truth.apply(np.column_stack([built.grid_xy()[built.known], built.height_m[built.known]]))
    points = points[on_paths(truth_scene.paths, points[:, :2])]
    true = ground.height(points[:, :2])
    points, true = points[np.isfinite(true)], true[np.isfinite(true)]
    if not len(points):
        raise InputError(
            "no known ground of the built scene lies within the true walkable area; the alignment failed"
        )
    error = points[:, 2] - true
    ring = 0.05 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)
    around = ground.height(points[:, None, :2] + ring) - true[:, None]
    off_edges = np.nanmax(np.abs(around), axis=1) < 0.03
    xy = truth_scene.heightfield.grid_xy().reshape(-1, 2)
    area = xy[on_paths(truth_scene.paths, xy)]
    _, known = _built_profile(built, to_truth, area, truth_scene.heightfield.sample(area))
    edges = step_edges(ground, built, lines_over(truth_scene.paths), to_truth)
    photographed = None
    if c2w is not None:
        seen = ground.visible(edges.sides_w.reshape(-1, 3), c2w, cameras).reshape(-1, 2)
        photographed = seen.min(axis=1) >= SEEN_BY
    return {
        "height_rmse_m": float(np.sqrt((error**2).mean())),
        "height_rmse_off_edges_m": float(np.sqrt((error[off_edges] ** 2).mean()))
        if off_edges.any()
        else None,
        "height_bias_m": float(np.median(error)),
        "height_p95_m": float(np.quantile(np.abs(error), 0.95)),
        "hole_fraction": float(1.0 - known.mean()),
        **edges.summary(photographed),
    }


def compare_with_truth(scene: Scene, capture_dir: Path, truth_scene: Scene) -> dict[str, Any]:
    """Errors of a built scene against the truth of a synthetic capture.

    The built cameras are aligned to the true ones (see :func:`align_cameras`); the ground moves along. Heights are compared at
    the built grid points within the walkable width of the true paths. What the alignment takes out is reported beside.

    Args:
        scene: Built from the capture.
        capture_dir: The capture; its truth lies beside it.
        truth_scene: The procedural scene that was photographed.

    Returns:
        The keys of `ground_marks`, ``gravity_error_deg``, ``scale_error_fraction`` (built over true, less 1),
        ``camera_rmse_m``, ``covered_fraction`` of the walkable area.

    Raises:
        InputError: The capture has no truth, or nothing of the ground was found.
    """
    from gaussgym_recon.synthetic import read_truth

    truth = read_truth(capture_dir)
    cameras = scene.metadata["cameras"]
    index = [truth.names.index(name) for name in cameras["names"]]
    built_c2w = np.asarray(cameras["c2w"], np.float64)
    to_truth = align_cameras(built_c2w, truth.c2w[index])
    up = to_truth.rotation @ np.array([0.0, 0.0, 1.0])
    residual = to_truth.apply(built_c2w[:, :3, 3]) - truth.c2w[index, :3, 3]
    cameras = [truth.intrinsics] * len(index)
    marks = ground_marks(truth_scene, scene.heightfield, to_truth, c2w=truth.c2w[index], cameras=cameras)
    hole = marks["hole_fraction"]
    return {
        **marks,
        "covered_fraction": 1.0 - (hole or 0.0),
        "gravity_error_deg": float(np.degrees(np.arccos(np.clip(up[2], -1, 1)))),
        "scale_error_fraction": float(1.0 / to_truth.scale - 1.0),
        "camera_rmse_m": float(np.sqrt((residual**2).sum(1).mean())),
    }


def on_paths(paths: Paths, xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points ``[n, 2]`` lie within the half width to either side of a path (not beyond its ends)."""
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(paths.points[:, :2]).query(xy)
    offset = xy - paths.points[nearest, :2]
    yaw = paths.points[nearest, 3]
    along = offset[:, 0] * np.cos(yaw) + offset[:, 1] * np.sin(yaw)
    across = offset[:, 1] * np.cos(yaw) - offset[:, 0] * np.sin(yaw)
    return (np.abs(across) <= paths.half_width_m[nearest]) & (np.abs(along) <= 0.2)


def align_cameras(source: NDArray[np.float64], target: NDArray[np.float64]) -> Similarity:
    """Similarity that takes the camera poses ``source [n, 4, 4]`` to ``target``.

    The rotation is the chordal mean of the cameras' own (Hartley et al. 2013), since positions along a straight walk leave the
    roll about it loose; scale and translation are least squares of the positions.
    """
    turns = np.einsum("nij,nkj->ik", target[:, :3, :3], source[:, :3, :3])
    u, _, vt = np.linalg.svd(turns)
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    a = source[:, :3, 3] @ rotation.T
    b = target[:, :3, 3]
    a0, b0 = a.mean(0), b.mean(0)
    scale = float(((a - a0) * (b - b0)).sum() / ((a - a0) ** 2).sum())
    return Similarity(scale, rotation, b0 - scale * a0)
