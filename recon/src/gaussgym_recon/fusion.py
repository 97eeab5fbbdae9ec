# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""From splats to ground: depth rendered from the splats → TSDF → mesh → gravity-aligned heightfield."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.stereo import DepthMap
from gaussgym_recon.trainer import SplatModel, render_splats
from gaussgym_recon.views import Views


@dataclass(frozen=True)
class FusionCfg:
    """Settings of the fusion; lengths in metres.

    Attributes:
        voxel_m: TSDF voxel; grows on long walks so that memory stays bounded.
        depth_max_m: Depth beyond this is not fused.
        min_alpha: Pixels of less coverage are not fused.
        cell_m: Spacing of the heightfield.
        margin_m: The heightfield reaches this far around the walked path.
        layer_m: Points this far above the lowest layer of a cell still belong to the ground.
        reach_m: Ground is looked for this far above and below the height expected from the walk.
        hole_m: Holes up to this width count as known once filled.
    """

    voxel_m: float = 0.04
    depth_max_m: float = 8.0
    min_alpha: float = 0.7
    cell_m: float = 0.05
    margin_m: float = 3.0
    layer_m: float = 0.06
    reach_m: float = 0.6
    hole_m: float = 0.3


@dataclass
class DepthView:
    """A rendered depth image and its camera; ``depth_m`` is 0 where nothing reliable was seen."""

    c2w: NDArray[np.floating]
    k: NDArray[np.floating]
    depth_m: NDArray[np.float32]
    rgb: NDArray[np.float32]


def fitted_to(cfg: FusionCfg, posed: PosedCapture) -> FusionCfg:
    """Settings for one walk: photographs far apart are fused farther, long walks with larger voxels."""
    steps = np.linalg.norm(np.diff(posed.c2w[:, :3, 3], axis=0), axis=1)
    reach = max(cfg.depth_max_m, 2.0 * float(np.median(steps)) + 2.0 * posed.camera_height_m)
    voxel = max(cfg.voxel_m, min(0.08, float(steps.sum()) / 2500))
    return replace(cfg, depth_max_m=min(reach, 25.0), voxel_m=voxel)


def render_depths(
    model: SplatModel, views: Views, indices: list[int], cfg: FusionCfg, *, level: int = -1
) -> dict[int, DepthView]:
    """Depth of the splats at views, by view index, masked where coverage is thin."""
    out = {}
    for i in indices:
        c2w, camera = views.views[i].c2w, views.camera(i, level)
        rgb, depth, alpha = render_splats(model, np.linalg.inv(c2w), camera.K, camera.width, camera.height)
        out[i] = DepthView(c2w, camera.K, np.where(alpha >= cfg.min_alpha, depth, 0).astype(np.float32), rgb)
    return out


def anchor_depths(
    rendered: dict[int, DepthView], measured: dict[int, DepthMap], *, reach_px: float = 12.0
) -> list[DepthView]:
    """Splat depth tied to confirmed stereo depth of the same view and size.

    Where stereo confirmed a depth, it stands. Elsewhere the splats' depth counts, times the ratio of the two in the
    neighbourhood (blurred with ``reach_px``): expected depth of overlapping splats lies a little in front of the surface, more
    so at grazing views of the ground.

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
        splat, stereo = view.depth_m, measured[i].depth_m
        both = (splat > 0) & (stereo > 0)
        ratio = np.where(both, stereo / np.maximum(splat, 1e-6), 0.0).astype(np.float32)
        both &= np.abs(ratio - 1) < 0.15
        weight = cv2.GaussianBlur(both.astype(np.float32), (0, 0), reach_px)
        local = cv2.GaussianBlur(np.where(both, ratio, 0).astype(np.float32), (0, 0), reach_px)
        local = np.where(weight > 0.02, local / np.maximum(weight, 1e-6), 1.0)
        depth = np.where(stereo > 0, stereo, splat * local).astype(np.float32)
        out.append(DepthView(view.c2w, view.k, depth, view.rgb))
    return out


def fuse_mesh(
    depths: list[DepthView], cfg: FusionCfg, *, on_progress: Callable[[float, str], None] | None = None
) -> Mesh:
    """Fuse depth images into a truncated signed distance field and extract its triangles (Curless & Levoy 1996).

    Args:
        depths: Depth images with cameras.
        cfg: Settings.
        on_progress: Told the fraction of images fused.

    Raises:
        InputError: If no depth image holds a surface.
    """
    import open3d as o3d

    core = o3d.core
    device = core.Device("CPU:0")
    grid = o3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(core.float32, core.float32, core.float32),
        attr_channels=((1,), (1,), (3,)),
        voxel_size=cfg.voxel_m,
        block_resolution=16,
        block_count=20_000,
        device=device,
    )
    fused = 0
    for n, view in enumerate(depths):
        depth_m = np.where(view.depth_m < cfg.depth_max_m, view.depth_m, 0)
        if not (depth_m > 0).any():
            continue
        # open3d's integration takes the pixel that a point falls into, like us (no shift of half a pixel: measured).
        intrinsic, extrinsic = core.Tensor(view.k.copy()), core.Tensor(np.linalg.inv(view.c2w))
        depth = o3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(depth_m)))
        color = o3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(view.rgb, np.float32)))
        blocks = grid.compute_unique_block_coordinates(depth, intrinsic, extrinsic, 1.0, cfg.depth_max_m, 4.0)
        if len(blocks):
            grid.integrate(blocks, depth, color, intrinsic, extrinsic, 1.0, cfg.depth_max_m, 4.0)
            fused += 1
        if on_progress is not None:
            on_progress((n + 1) / len(depths), f"depth image {n + 1} of {len(depths)}")
    if not fused:
        raise InputError(
            f"no depth within {cfg.depth_max_m} m in any of {len(depths)} views; the splats do not show any ground nearby"
        )
    mesh = grid.extract_triangle_mesh(1.5).to_legacy()
    colors = np.clip(np.asarray(mesh.vertex_colors) * 255, 0, 255).astype(np.uint8)
    return _without_crumbs(
        Mesh(np.asarray(mesh.vertices), np.asarray(mesh.triangles), colors if len(colors) else None),
        minimum=200,
    )


def _without_crumbs(mesh: Mesh, *, minimum: int) -> Mesh:
    """Drop connected pieces of fewer than ``minimum`` triangles and vertices nobody uses."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    f, n = mesh.faces, len(mesh.vertices)
    if not len(f):
        return mesh
    edges = np.concatenate([f[:, :2], f[:, 1:]])
    _, label = connected_components(coo_matrix((np.ones(len(edges), bool), edges.T), (n, n)), directed=False)
    size = np.bincount(label[f[:, 0]], minlength=label.max() + 1)
    faces = f[size[label[f[:, 0]]] >= minimum]
    used, inverse = np.unique(faces, return_inverse=True)
    return Mesh(
        mesh.vertices[used], inverse.reshape(-1, 3), None if mesh.colors is None else mesh.colors[used]
    )


def ground_heightfield(
    mesh: Mesh, posed: PosedCapture, cfg: FusionCfg, *, evidence: NDArray[np.floating] | None = None
) -> Heightfield:
    """The ground as one height a grid point: the lowest consistent layer of the mesh around the walked path.

    The walk itself says where ground must be: one camera height below the cameras, within ``reach_m``. A smooth surface is
    fitted to all evidence of ground there (:func:`smooth_ground`). Around it, of the surface points in each cell the lowest
    layer counts, and its median is the height. Cells that the mesh does not reach take the smooth surface, and count as known
    where the hole is small or evidence lies close by.

    Args:
        mesh: Fused surface [m].
        posed: Cameras and sparse points.
        cfg: Settings.
        evidence: ``[n, 4]`` further points that may be ground, and their weight (stereo points).

    Raises:
        InputError: If nothing shows ground around the path.
    """
    origin, shape = _grid(posed, cfg)
    expected, near = _expected_ground(posed, origin, shape, cfg)
    surface = _surface_samples(mesh, cfg.cell_m)
    sparse = np.column_stack([posed.points, np.full(len(posed.points), 3.0)])
    thin = surface[:: max(1, len(surface) // 300_000)]
    clues = [sparse, np.column_stack([thin, np.ones(len(thin))])] + ([] if evidence is None else [evidence])
    smooth, sure = smooth_ground(np.concatenate(clues), expected, near, origin, cfg)
    ij = np.round((surface[:, :2] - origin) / cfg.cell_m).astype(int)
    inside = ((ij >= 0) & (ij < shape[::-1])).all(1)
    surface, ij = surface[inside], ij[inside]
    flat = ij[:, 1] * shape[1] + ij[:, 0]
    offset = surface[:, 2] - smooth.reshape(-1)[flat]
    close = (offset > -0.5 * cfg.reach_m) & (offset < cfg.reach_m) & near.reshape(-1)[flat]
    height = _lowest_layer(flat[close], surface[close, 2], shape, cfg.layer_m)
    return finish_heightfield(height, smooth, near, origin, cfg, sure=sure)


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


def _grid(posed: PosedCapture, cfg: FusionCfg) -> tuple[NDArray[np.floating], tuple[int, int]]:
    xy = posed.c2w[:, :2, 3]
    low = np.floor((xy.min(0) - cfg.margin_m) / cfg.cell_m) * cfg.cell_m
    nx, ny = (np.ceil((xy.max(0) + cfg.margin_m - low) / cfg.cell_m).astype(int) + 1).tolist()
    return low, (ny, nx)


def _expected_ground(
    posed: PosedCapture, origin: NDArray[np.floating], shape: tuple[int, int], cfg: FusionCfg
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Height one camera height below the nearest cameras, and which cells lie within the margin of the path."""
    from scipy.spatial import cKDTree

    centers = posed.c2w[:, :3, 3]
    steps = np.linalg.norm(np.diff(centers[:, :2], axis=0), axis=1)
    pieces = [np.linspace(a, b, max(2, int(s / 0.25))) for a, b, s in zip(centers[:-1], centers[1:], steps)]
    line = np.concatenate(pieces) if pieces else centers
    xy = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1) * cfg.cell_m + origin
    distance, nearest = cKDTree(line[:, :2]).query(xy.reshape(-1, 2), k=min(8, len(line)))
    distance, nearest = np.atleast_2d(distance.T).T, np.atleast_2d(nearest.T).T
    weight = 1.0 / (distance + 0.3)
    ground = (line[nearest, 2] * weight).sum(1) / weight.sum(1) - posed.camera_height_m
    return ground.reshape(shape), (distance[:, 0] < cfg.margin_m).reshape(shape)


def _surface_samples(mesh: Mesh, cell_m: float) -> NDArray[np.floating]:
    """Points on upward-facing triangles, dense enough that no cell under one goes without."""
    v = mesh.vertices[mesh.faces].astype(np.float64)
    normal = np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0])
    area = 0.5 * np.linalg.norm(normal, axis=1)
    up = normal[:, 2] > 0.5 * np.linalg.norm(normal, axis=1)
    v, area = v[up & (area > 0)], area[up & (area > 0)]
    if not len(v):
        return np.zeros((0, 3))
    rng = np.random.default_rng(0)
    copies = np.clip(np.ceil(area / cell_m**2 * 6), 1, 64).astype(int)
    v = np.repeat(v, copies, axis=0)
    a, b = rng.random((2, len(v)))
    flip = a + b > 1
    a, b = np.where(flip, 1 - a, a), np.where(flip, 1 - b, b)
    return v[:, 0] + a[:, None] * (v[:, 1] - v[:, 0]) + b[:, None] * (v[:, 2] - v[:, 0])


def _lowest_layer(
    cell: NDArray[np.int64], z: NDArray[np.floating], shape: tuple[int, int], layer_m: float
) -> NDArray[np.floating]:
    """Median height of the lowest layer in each cell; NaN where there is none."""
    order = np.lexsort((z, cell))
    cell, z = cell[order], z[order]
    start = np.flatnonzero(np.diff(cell, prepend=-1))
    count = np.diff(np.append(start, len(cell)))
    low = z[start + (0.1 * (count - 1)).astype(int)]
    member = z <= np.repeat(low, count) + layer_m
    kept_cell, kept_z = cell[member], z[member]
    start = np.flatnonzero(np.diff(kept_cell, prepend=-1))
    count = np.diff(np.append(start, len(kept_cell)))
    height = np.full(shape[0] * shape[1], np.nan)
    height[kept_cell[start]] = 0.5 * (kept_z[start + (count - 1) // 2] + kept_z[start + count // 2])
    return height.reshape(shape)


def finish_heightfield(
    height: NDArray[np.floating],
    expected: NDArray[np.floating],
    near: NDArray[np.bool_],
    origin: NDArray[np.floating],
    cfg: FusionCfg,
    *,
    sure: NDArray[np.bool_] | None = None,
) -> Heightfield:
    """Take out spikes, fill holes, smooth what is only noise.

    Args:
        height: ``[ny, nx]`` [m], NaN where nothing was seen.
        expected: Fallback far from anything seen [m].
        near: Cells within the margin of the path; others stay unknown.
        origin: World position of cell ``[0, 0]``.
        cfg: Settings.
        sure: Cells that count as known without the mesh, or None.
    """
    from scipy import ndimage

    seen = np.isfinite(height)
    filled = _fill(height, seen, expected)
    coarse = ndimage.median_filter(filled, size=2 * int(0.25 / cfg.cell_m) + 1)
    spike = seen & (np.abs(filled - coarse) > 0.12)
    labels, count = ndimage.label(spike)  # type: ignore[misc]
    if count:
        area = ndimage.sum_labels(spike, labels, np.arange(1, count + 1)) * cfg.cell_m**2
        spike = np.isin(labels, np.flatnonzero(area < 0.06) + 1)
    seen &= ~spike
    filled = _fill(np.where(seen, height, np.nan), seen, expected)
    filled = ndimage.median_filter(filled, size=5)
    filled = _edge_preserving(filled, cfg.cell_m)
    radius = max(1, round(0.5 * cfg.hole_m / cfg.cell_m))
    closed = ndimage.binary_closing(np.pad(seen, radius), iterations=radius)[radius:-radius, radius:-radius]
    known = np.logical_and(closed, near)
    if sure is not None:
        known |= sure
    return Heightfield(filled.astype(np.float32), cfg.cell_m, origin, known)


def _fill(
    height: NDArray[np.floating], seen: NDArray[np.bool_], expected: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Fill unseen cells: residual to the expected ground, blurred ever wider, nearest hole sizes first."""
    from scipy import ndimage

    residual = np.where(seen, np.nan_to_num(height) - expected, 0.0)
    weight = seen.astype(float)
    out, done = residual.copy(), seen.copy()
    for sigma in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        if done.all():
            break
        w = ndimage.gaussian_filter(weight, sigma)
        value = ndimage.gaussian_filter(residual * weight, sigma) / np.maximum(w, 1e-9)
        take = ~done & (w > 0.05)
        out[take] = value[take]
        done |= take
    return out + expected


def _edge_preserving(height: NDArray[np.floating], cell_m: float) -> NDArray[np.floating]:
    """Bilateral smoothing: evens out centimetre noise, leaves steps above some 6 cm alone (Tomasi & Manduchi 1998)."""
    base = float(np.median(height))
    smooth = cv2.bilateralFilter(
        (height - base).astype(np.float32), d=0, sigmaColor=0.04, sigmaSpace=0.3 / cell_m
    )
    return smooth.astype(np.float64) + base
