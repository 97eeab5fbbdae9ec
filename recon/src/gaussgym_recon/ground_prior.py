# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Where the ground must be about: one camera height below the walk, and a smooth surface through all evidence of it there."""

from __future__ import annotations

from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

from gaussgym_recon.fusion import FusionCfg
from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.stereo import DepthMap
from gaussgym_recon.views import Views

_COARSE_M = 0.1


def grid_of(posed: PosedCapture, cfg: FusionCfg) -> tuple[NDArray[np.floating], tuple[int, int]]:
    """Origin ``[2]`` [m] and shape (ny, nx) of the heightfield around the walk."""
    xy = posed.c2w[:, :2, 3]
    low = np.floor((xy.min(0) - cfg.margin_m) / cfg.cell_m) * cfg.cell_m
    nx, ny = (np.ceil((xy.max(0) + cfg.margin_m - low) / cfg.cell_m).astype(int) + 1).tolist()
    return low, (ny, nx)


def expected_ground(
    posed: PosedCapture, origin: NDArray[np.floating], shape: tuple[int, int], cfg: FusionCfg
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Height one camera height below the nearest cameras, and which cells lie within the margin of the path."""
    from scipy.ndimage import map_coordinates
    from scipy.spatial import cKDTree

    centers = posed.c2w[:, :3, 3]
    steps = np.linalg.norm(np.diff(centers[:, :2], axis=0), axis=1)
    pieces = [np.linspace(a, b, max(2, int(s / 0.25))) for a, b, s in zip(centers[:-1], centers[1:], steps)]
    line = np.concatenate(pieces) if pieces else centers
    # Both vary slowly: found on a coarse grid, interpolated on the fine one.
    stride = max(1, round(_COARSE_M / cfg.cell_m))
    ny, nx = (-(-n // stride) + 1 for n in shape)
    xy = np.stack(np.meshgrid(np.arange(nx), np.arange(ny)), -1) * stride * cfg.cell_m + origin
    distance, nearest = cKDTree(line[:, :2]).query(xy.reshape(-1, 2), k=min(8, len(line)))
    distance, nearest = np.atleast_2d(distance.T).T, np.atleast_2d(nearest.T).T
    weight = 1.0 / (distance + 0.3)
    ground = (line[nearest, 2] * weight).sum(1) / weight.sum(1) - posed.camera_height_m
    at = np.mgrid[: shape[0], : shape[1]] / stride
    fine, far = (
        map_coordinates(a.reshape(ny, nx), at, order=1, mode="nearest") for a in (ground, distance[:, 0])
    )
    return fine, far < cfg.margin_m


def smooth_ground(
    clues: NDArray[np.floating],
    expected: NDArray[np.floating],
    near: NDArray[np.bool_],
    origin: NDArray[np.floating],
    cfg: FusionCfg,
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Robust smooth surface through points that may be ground: least squares with little bending, Cauchy weights.

    Args:
        clues: ``[n, 4]`` points [m] and weights; those farther than ``reach_m`` from ``expected`` are not used.
        expected: ``[ny, nx]`` where the walk says the ground is [m].
        near: Cells within the margin of the path.
        origin: World position of cell ``[0, 0]``.
        cfg: Settings.

    Returns:
        Heights ``[ny, nx]`` [m], and the cells with agreeing clues close by.

    Raises:
        InputError: If fewer than 30 clues are within reach.
    """
    from scipy import ndimage, sparse
    from scipy.sparse.linalg import spsolve

    stride = max(1, round(0.4 / cfg.cell_m))
    ny, nx = (-(-n // stride) + 1 for n in expected.shape)
    place = (clues[:, :2] - origin) / cfg.cell_m
    inside = ((place >= 0) & (place <= np.array(expected.shape)[::-1] - 1)).all(1)
    clues, place = clues[inside], place[inside]
    j, i = np.round(place[:, 1]).astype(int), np.round(place[:, 0]).astype(int)
    residual = clues[:, 2] - expected[j, i]
    use = (np.abs(residual) < cfg.reach_m) & near[j, i]
    if use.sum() < 30:
        raise InputError(
            f"{int(use.sum())} points lie within {cfg.reach_m} m of the walked ground; the photographs show no ground: "
            "check the camera height, and that they show where one walks"
        )
    residual, weight, place, j, i = residual[use], clues[use, 3], place[use] / stride, j[use], i[use]
    u0, v0 = place.astype(int).T
    fu, fv = (place - place.astype(int)).T
    row = np.repeat(np.arange(len(u0)), 4)
    column = np.stack(
        [v0 * nx + u0, v0 * nx + u0 + 1, (v0 + 1) * nx + u0, (v0 + 1) * nx + u0 + 1], 1
    ).reshape(-1)
    value = np.stack([(1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv], 1).reshape(-1)
    data = sparse.csr_matrix((value, (row, column)), (len(u0), ny * nx))
    bend = _bending(ny, nx)
    # No cell outweighs another by its number of points: what counts is that they agree.
    crowd = np.bincount(v0 * nx + u0, minlength=ny * nx)[v0 * nx + u0]
    weight = weight / np.maximum(crowd, 10)
    node = np.zeros(ny * nx)
    scale = 0.15
    for _ in range(10):
        robust = weight / (1 + ((residual - data @ node) / scale) ** 2)
        normal = data.T @ data.multiply(robust[:, None]) + 0.5 * bend.T @ bend + 1e-4 * sparse.eye(ny * nx)
        node = spsolve(normal.tocsc(), data.T @ (robust * residual))
        scale = max(0.03, 0.7 * scale)
    jj, ii = np.mgrid[: expected.shape[0], : expected.shape[1]] / stride
    surface = expected + ndimage.map_coordinates(node.reshape(ny, nx), [jj, ii], order=1, mode="nearest")
    agree = np.abs(clues[use, 2] - surface[j, i]) < 0.08
    touched = np.zeros(expected.shape, bool)
    touched[j[agree], i[agree]] = True
    touched = ndimage.binary_dilation(touched, iterations=max(1, round(0.1 / cfg.cell_m)))
    share = ndimage.gaussian_filter(touched.astype(float), 0.3 / cfg.cell_m)
    return surface, (share > 0.3) & near


def _bending(ny: int, nx: int) -> Any:
    """Second differences along both axes and the mixed one of a grid ``[ny, nx]``, one row each."""
    from scipy import sparse

    def second(n: int) -> Any:
        return sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(max(n - 2, 0), n))

    def first(n: int) -> Any:
        return sparse.diags([-1.0, 1.0], [0, 1], shape=(n - 1, n))

    return sparse.vstack(
        [
            sparse.kron(sparse.eye(ny), second(nx)),
            sparse.kron(second(ny), sparse.eye(nx)),
            np.sqrt(2) * sparse.kron(first(ny), first(nx)),
        ]
    ).tocsr()


def ground_evidence(
    views: Views, depths: dict[int, DepthMap], level: int, *, max_depth_m: float = 25.0
) -> NDArray[np.floating]:
    """Stereo points on surfaces that face up, ``[n, 4]`` with weights that fall with distance."""
    out = [np.zeros((0, 4))]
    for i, found in depths.items():
        k = views.camera(i, level).K
        v, u = np.nonzero(
            (found.depth_m > 0) & (found.depth_m < max_depth_m) & (found.normal_w[..., 2] > 0.7)
        )
        z = found.depth_m[v, u].astype(np.float64)
        rays = np.stack([(u + 0.5 - k[0, 2]) / k[0, 0], (v + 0.5 - k[1, 2]) / k[1, 1], np.ones(len(u))], 1)
        c2w = views.views[i].c2w
        out.append(
            np.column_stack([(rays * z[:, None]) @ c2w[:3, :3].T + c2w[:3, 3], np.clip(4.0 / z, 0.1, 1) ** 2])
        )
    return np.concatenate(out)
