# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""How good a reconstruction is: against its own held-out photographs, and against known truth where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.fusion import DepthView
from gaussgym_recon.posed import Similarity
from gaussgym_recon.trainer import Trainer
from gaussgym_recon.views import mean_image_psnr_db, psnr_db


def image_quality(trainer: Trainer) -> dict[str, Any]:
    """PSNR at the held-out photographs and that of the mean training image, with the width they were scored at."""
    views = trainer.views
    per_image = {
        views.views[i].name: psnr_db(trainer.render(i), views.views[i].pyramid[-1] / 255.0)
        for i in views.held_out
    }
    sample = views.train[:: max(1, len(views.train) // 8)]
    train = float(np.mean([psnr_db(trainer.render(i), views.views[i].pyramid[-1] / 255.0) for i in sample]))
    return {
        "psnr_db_heldout": float(np.mean(list(per_image.values()))) if per_image else None,
        "psnr_db_mean_image": mean_image_psnr_db(views),
        "psnr_width_px": views.intrinsics[-1].width,
        "psnr_db_train": train,
        "psnr_db_by_image": per_image,
        "training_steps": trainer.iteration,
        "training_seconds": trainer.elapsed_s,
    }


def save_held_out(trainer: Trainer, folder: Path) -> list[str]:
    """Write ``<image>_photo.jpg`` and ``<image>_splats.jpg`` of each held-out view; returns the stems."""
    folder.mkdir(parents=True, exist_ok=True)
    stems = []
    for i in trainer.views.held_out:
        view = trainer.views.views[i]
        stem = Path(view.name).stem
        Image.fromarray(view.pyramid[-1]).save(folder / f"{stem}_photo.jpg", quality=92)
        render = np.round(trainer.render(i) * 255).astype(np.uint8)
        Image.fromarray(render).save(folder / f"{stem}_splats.jpg", quality=92)
        stems.append(stem)
    return stems


def ground_quality(ground: Heightfield, paths: Paths) -> dict[str, Any]:
    """Share of cells within a metre of the paths that nobody saw, and how uneven the paths are: by step, and off one plane."""
    if not len(paths):
        return {"hole_fraction": None, "path_roughness_m": None, "path_plane_deviation_max_m": None}
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(paths.points[:, :2]).query(ground.grid_xy().reshape(-1, 2))
    around = (distance < 1.0).reshape(ground.known.shape)
    steps = np.diff(paths.points[:, 2])[np.diff(paths.path_id) == 0]
    xyz = paths.points[:, :3].astype(np.float64)
    flat = np.column_stack([xyz[:, :2], np.ones(len(xyz))])
    off_plane = xyz[:, 2] - flat @ np.linalg.lstsq(flat, xyz[:, 2], rcond=None)[0]
    return {
        "path_plane_deviation_max_m": float(np.abs(off_plane).max()),
        "hole_fraction": float(1.0 - ground.known[around].mean()),
        "path_roughness_m": float(np.std(steps)) if len(steps) else None,
    }


def depth_disagreement_m(depths: list[DepthView], mesh: Mesh, *, max_depth_m: float) -> float | None:
    """Median distance along the viewing axis between splat depth and mesh [m], over pixels where both show a surface."""
    import open3d as o3d

    if not len(mesh.faces) or not depths:
        return None
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(mesh.vertices.astype(np.float32)), o3d.core.Tensor(mesh.faces.astype(np.uint32))
    )
    differences = []
    for view in depths:
        h, w = view.depth_m.shape
        v, u = np.mgrid[2:h:5, 2:w:5]
        rays_c = np.stack(
            [
                (u + 0.5 - view.k[0, 2]) / view.k[0, 0],
                (v + 0.5 - view.k[1, 2]) / view.k[1, 1],
                np.ones(u.shape),
            ],
            -1,
        )
        rays = np.empty((*u.shape, 6), np.float32)
        rays[..., :3], rays[..., 3:] = view.c2w[:3, 3], rays_c @ view.c2w[:3, :3].T
        hit = scene.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()  # rays have z = 1, so this is depth
        splat = view.depth_m[v, u]
        both = (splat > 0) & (splat < max_depth_m) & np.isfinite(hit) & (hit < max_depth_m)
        differences.append(np.abs(hit - splat)[both])
    found = np.concatenate(differences)
    return float(np.median(found)) if len(found) else None


def compare_with_truth(scene: Scene, capture_dir: Path, truth_scene: Scene) -> dict[str, float]:
    """Errors of a built scene against the truth of a synthetic capture; for tests and reports, never for building.

    The built cameras are aligned to the true ones (see :func:`align_cameras`); the ground moves along. Heights are compared at
    the built grid points within the walkable width of the true paths. What the alignment takes out is reported beside.

    Args:
        scene: Built from the capture.
        capture_dir: The capture; its truth lies beside it.
        truth_scene: The procedural scene that was photographed.

    Returns:
        ``height_rmse_m``, ``height_bias_m`` (contained in the RMSE), ``height_p95_m``, ``gravity_error_deg``,
        ``scale_error_fraction`` (built over true, less 1), ``camera_rmse_m``, ``covered_fraction`` of the walkable area.

    Raises:
        InputError: The capture has no truth.
    """
    from scipy.spatial import cKDTree

    from gaussgym_recon.synthetic import read_truth

    truth = read_truth(capture_dir)
    cameras = scene.metadata["cameras"]
    index = [truth.names.index(name) for name in cameras["names"]]
    built_c2w = np.asarray(cameras["c2w"], np.float64)
    to_truth = align_cameras(built_c2w, truth.c2w[index])
    built, true = built_c2w[:, :3, 3], truth.c2w[index, :3, 3]
    ground = scene.heightfield
    xy = ground.grid_xy()[ground.known]
    points = to_truth.apply(np.column_stack([xy, ground.height_m[ground.known]]))
    walkable = _on_paths(truth_scene.paths, points[:, :2])
    if not walkable.any():
        raise InputError(
            "no known ground of the built scene lies within the true walkable area; the alignment failed"
        )
    error = points[walkable, 2] - truth_scene.heightfield.sample(points[walkable, :2])
    true_xy = truth_scene.heightfield.grid_xy().reshape(-1, 2)
    area = true_xy[_on_paths(truth_scene.paths, true_xy)]
    covered = cKDTree(points[:, :2]).query(area)[0] < 1.5 * ground.cell_m
    up = to_truth.rotation @ np.array([0.0, 0.0, 1.0])
    residual = to_truth.apply(built) - true
    return {
        "height_rmse_m": float(np.sqrt((error**2).mean())),
        "height_bias_m": float(error.mean()),
        "height_p95_m": float(np.quantile(np.abs(error), 0.95)),
        "gravity_error_deg": float(np.degrees(np.arccos(np.clip(up[2], -1, 1)))),
        "scale_error_fraction": float(1.0 / to_truth.scale - 1.0),
        "camera_rmse_m": float(np.sqrt((residual**2).sum(1).mean())),
        "covered_fraction": float(covered.mean()),
    }


def _on_paths(paths: Paths, xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points lie within the half width to either side of a path (not beyond its ends)."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: Missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
