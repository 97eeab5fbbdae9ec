# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""How good a reconstruction is against its own held-out photographs, and how even and complete its ground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from PIL import Image

from gaussgym_recon.losses import photometric_loss
from gaussgym_recon.trainer import Trainer
from gaussgym_recon.views import mean_image_psnr_db, psnr_db


def image_quality(trainer: Trainer) -> dict[str, Any]:
    """PSNR and SSIM at the held-out photographs and the PSNR of the mean training image, with the width they were scored at.

    ``psnr_db_heldout`` is plain; ``psnr_db_heldout_corrected`` beside it is that of :func:`corrected_psnr_db`.
    """
    views = trainer.views
    per_image = {views.views[i].name: trainer.psnr_db(i) for i in views.held_out}
    similarity = [_ssim(trainer, i) for i in views.held_out]
    sample = views.train[:: max(1, len(views.train) // 8)]
    train = float(np.mean([trainer.psnr_db(i) for i in sample]))
    return {
        "psnr_db_heldout": float(np.mean(list(per_image.values()))) if per_image else None,
        "psnr_db_heldout_corrected": float(np.mean([corrected_psnr_db(trainer, i) for i in views.held_out]))
        if per_image
        else None,
        "ssim_heldout": float(np.mean(similarity)) if similarity else None,
        "psnr_db_mean_image": mean_image_psnr_db(views),
        "psnr_width_px": views.intrinsics[-1].width,
        "psnr_db_train": train,
        "psnr_db_by_image": per_image,
        "training_steps": trainer.iteration,
        "training_seconds": trainer.elapsed_s,
        "training_cpu_seconds": trainer.cpu_s or None,
    }


def corrected_psnr_db(trainer: Trainer, index: int) -> float:
    """PSNR of a view [dB] after the gain and the offset of each channel that fit its photograph best.

    Nobody can know the exposure of a photograph that training did not see: this leaves out what that costs.
    """
    view = trainer.views.views[index]
    image, truth = trainer.render(index).astype(np.float64), view.pyramid[-1] / 255.0
    if view.masks is not None and view.masks[-1].any():
        image, truth = image[view.masks[-1]], truth[view.masks[-1]]
    image, truth = image.reshape(-1, 3), truth.reshape(-1, 3)
    for c in range(3):
        known = np.stack([image[:, c], np.ones(len(image))], axis=1)
        image[:, c] = known @ np.linalg.lstsq(known, truth[:, c], rcond=None)[0]
    return psnr_db(np.clip(image, 0, 1), truth)


def _ssim(trainer: Trainer, index: int) -> float:
    """SSIM of a view over the pixels that its mask leaves."""
    view = trainer.views.views[index]
    mask = None if view.masks is None or not view.masks[-1].any() else view.masks[-1]
    photo = view.pyramid[-1] / np.float32(255.0)
    # Masked pixels count as alike in the loss's mean: it is that of the others, thinned out by their share.
    unlike, _ = photometric_loss(trainer.render(index), photo, ssim_weight=1.0, mask=mask)
    return 1.0 - unlike / (1.0 if mask is None else float(mask.mean()))


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: Missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
