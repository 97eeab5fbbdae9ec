"""nerfstudio's export in the metric world: `dataparser_transforms.json` undone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.splats import Splats

from gaussgym_recon.moving import move_splats, proper_rotation
from gaussgym_recon.posed import Similarity

TRANSFORMS = "dataparser_transforms.json"


def read_export(ply: Path, transforms: Path) -> Splats:
    """Splats that `ns-export gaussian-splat` wrote, in the frame of `transforms.json`.

    Centres, sizes, orientations and the higher SH bands are brought back, so that the splats look from the data set's own
    cameras as they looked from nerfstudio's.

    Args:
        ply: The export, in nerfstudio's own frame.
        transforms: `dataparser_transforms.json` of the same training.

    Raises:
        InputError: A file is missing or not what it should be, or the export holds no splats.
    """
    splats = Splats.load_ply(ply)
    if not len(splats):
        raise InputError(f"{ply}: holds no splats; nerfstudio's training has failed")
    return move_splats(splats, model_from_world(transforms).inverse())


def model_from_world(transforms: Path) -> Similarity:
    """The similarity that nerfstudio's parser applied: ``x_model = scale * (R x + t)``.

    Raises:
        InputError: The file is missing or holds no similarity.
    """
    try:
        fields = json.loads(transforms.read_text())
        matrix, scale = np.asarray(fields["transform"], np.float64), float(fields["scale"])
        if matrix.shape != (3, 4) or not np.isfinite(matrix).all() or not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"transform of shape {matrix.shape}, scale {scale}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{transforms}: expected nerfstudio's transform (3x4 numbers) and a positive scale ({error})"
        ) from None
    return Similarity(scale, proper_rotation(matrix[:, :3], str(transforms)), scale * matrix[:, 3])
