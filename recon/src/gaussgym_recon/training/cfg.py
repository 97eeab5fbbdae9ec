"""Settings of the splat trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainerCfg:
    """Settings of the trainer; fractions are of the whole training.

    Attributes:
        seconds: Wall-clock budget, earlier runs of the same training included; compiling is not counted.
        iterations: When given, train for this many steps instead of by the clock: then the same seed gives the same bits.
        engine: What computes a step: numba kernels, or gsplat on CUDA.
        max_splats: Upper limit of splats while growing.
        final_splats: Upper limit afterwards; those that contribute least to the training views go.
        seed_fraction: Splats to start from, of the upper limit: what stereo measured need not be grown.
        sh_degree: Degree of the spherical harmonics that training ends with.
        level_until: Fraction at which each pyramid level but the last ends.
        sh_from: Fraction from which degree 1 is trained.
        growth: ``pull`` clones and splits splats drawn by their image-plane gradients; ``mcmc`` moves faint splats to opaque
            ones and adds noise to the centres (Kheradmand et al. 2024).
        densify_until: Fraction at which growing ends.
        densify_every: Steps between two rounds of growing and pruning.
        grow_fraction: Most new splats of a round, of those that there are.
        ssim_weight: Weight of D-SSIM in the loss.
        l2_within: Differences of colour up to this are weighed by their square, larger ones by their size; 0 for plain L1.
        mean_step_px: Step of the centres, in pixels of the finest level at the nearest camera, first and last.
        color_step: Step of the degree-0 coefficients; higher degrees take a tenth of it.
        opacity_step: Step of opacity logits.
        scale_step: Step of log scales.
        rotation_step: Step of quaternions.
        exposure_step: Step of the per-image colour gains.
        pose_step_px: Step of the camera poses, in pixels of the finest level; 0 keeps the poses as they are.
        opacity_weight: Pull of opacities towards 0: needless splats fade and are pruned, and fewer of them hang before the
            camera in views that training did not see.
        flat_weight: Pull of each splat's smallest scale towards 0, relative to its largest.
        max_aspect: Splats whose second-largest scale is smaller than the largest by more than this are pulled rounder
            (scale regularization of PhysGaussian, Xie et al. 2024); 0 for none.
        aspect_weight: Weight of that pull.
        depth_weight: Weight of the relative depth error where depth was measured.
        normal_weight: Pull of each splat's shortest axis towards the measured normal at its pixel.
        min_opacity: Splats below this are pruned.
        score_every: Fraction between two scorings of the held-out views once growing has ended; 0 never scores.
        patience: Scorings without a new best after which training ends early; 0 never does.
        checkpoint_seconds: Time between two checkpoints.
        seed: Of the random numbers.
    """

    seconds: float = 290.0
    iterations: int | None = None
    engine: Literal["numba", "gsplat"] = "numba"
    max_splats: int = 200_000
    final_splats: int = 200_000
    seed_fraction: float = 0.9
    sh_degree: int = 1
    level_until: tuple[float, ...] = (0.04, 0.15)
    sh_from: float = 0.3
    growth: Literal["pull", "mcmc"] = "pull"
    densify_until: float = 0.7
    densify_every: int = 100
    grow_fraction: float = 0.15
    ssim_weight: float = 0.2
    l2_within: float = 0.0
    mean_step_px: tuple[float, float] = (0.7, 0.05)
    color_step: float = 0.02
    opacity_step: float = 0.08
    scale_step: float = 0.04
    rotation_step: float = 0.015
    exposure_step: float = 0.002
    pose_step_px: float = 0.0
    opacity_weight: float = 0.02
    flat_weight: float = 0.002
    max_aspect: float = 0.0
    aspect_weight: float = 0.002
    depth_weight: float = 0.1
    normal_weight: float = 0.0
    min_opacity: float = 0.02
    score_every: float = 0.05
    patience: int = 3
    checkpoint_seconds: float = 30.0
    seed: int = 0
