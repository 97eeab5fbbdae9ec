"""Training by nerfstudio as a stage of a build: what comes back is scored, rendered and saved like the built-in trainer's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from gaussgym_scene.splats import Splats

from gaussgym_recon.nerfstudio.training import NerfstudioCfg, train_by_nerfstudio
from gaussgym_recon.trainer import SplatModel, Trainer, TrainerCfg
from gaussgym_recon.views import Views


def trained_by_nerfstudio(
    views: Views, seeds: SplatModel, work: Path, cfg: NerfstudioCfg, limits: TrainerCfg, *,
    on_progress: Callable[[float, str], None] | None = None,
) -> Trainer:  # fmt: skip
    """Train with nerfstudio, keep the splats that contribute most, and hand them to a trainer that has nothing left to do.

    Args:
        views: Photographs and cameras.
        seeds: Where splats start.
        work: Folder of nerfstudio's files.
        cfg: Settings of nerfstudio.
        limits: Its ``final_splats`` is the most splats that are kept.
        on_progress: Told the fraction that is done and a short status.

    Raises:
        InputError: nerfstudio is not there, or the method cannot run.
        GaussgymError: nerfstudio failed, hung or took too long.
    """
    training = train_by_nerfstudio(views, seeds.splats(), work, cfg, on_progress=on_progress)
    model = model_from_splats(training.splats)
    trainer = Trainer(views, model, replace(limits, engine="numba"))
    if len(model) > limits.final_splats:
        kept = np.argsort(-trainer._contributions(model), kind="stable")[: limits.final_splats]
        trainer.model = model.take(np.sort(kept))
    trainer.iteration, trainer.elapsed_s = training.steps, training.seconds
    return trainer


def model_from_splats(splats: Splats) -> SplatModel:
    """Finished splats as the trainer holds them."""
    opacities = np.clip(splats.opacities.astype(np.float64), 1e-6, 1 - 1e-6)
    return SplatModel(
        splats.means, splats.quats_wxyz, np.log(splats.scales), np.log(opacities / (1 - opacities)).astype(np.float32),
        splats.sh,
    )  # fmt: skip
