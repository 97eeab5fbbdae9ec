"""What several maps of the same photographs say together: right maps agree, wrong ones are wrong each in its own way.

Where someone turns round on the spot, all scale passes through images that were taken from one place, and a map can lose it there
with every image registered and a reprojection error of a third of a pixel. GPS shows that on long walks, depth images on any.
Where neither can, the maps of other seeds and of other pairs have to say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gaussgym_recon.consistency import Consistency, RecaptureError, check_consistency, link_points
from gaussgym_recon.georegister import umeyama
from gaussgym_recon.sfm_model import SfmModel, capture_indices

if TYPE_CHECKING:
    from gaussgym_scene.capture import Capture
    from numpy.typing import NDArray

    from gaussgym_recon.sfm import SfmCfg


@dataclass(frozen=True)
class Attempt:
    """A map and what the gates say of it."""

    model: SfmModel
    consistency: Consistency
    seed: int
    min_tri_angle_deg: float
    mapper: str = "incremental"
    pairs: str = ""
    folder: Path = Path()
    """Where it lies."""
    straight: bool = False
    """Whether it went through :mod:`gaussgym_recon.straighten`."""


def contested(attempts: Sequence[Attempt], cfg: SfmCfg) -> bool:
    """Whether nothing but the maps can tell which of them is right, and they do not say the same, or only one says anything.

    Maps that GPS refuses for their scale have a say, too: on a walk too short for GPS they show that the photographs leave it
    open.
    """
    passed = [attempt for attempt in attempts if attempt.consistency.ok]
    if any(attempt.consistency.scale_checked for attempt in passed):
        return False
    others = _disagreements(passed, attempts, cfg)
    return any(not len(found) or found.max() > cfg.max_disagreement for found in others)


def chosen(attempts: Sequence[Attempt], cfg: SfmCfg) -> Attempt:
    """The map to keep: where they are contested the one that most others confirm, else the best by the numbers of the gates.

    Raises:
        RecaptureError: Every map that passed contradicts all others.
    """
    passed = [attempt for attempt in attempts if attempt.consistency.ok]
    best = min(passed, key=lambda attempt: attempt.consistency.badness())
    if not contested(attempts, cfg):
        return best
    others = _disagreements(passed, attempts, cfg)
    if not any(map(len, others)):
        return best
    votes = [int((found < cfg.max_disagreement).sum()) for found in others]
    if min(found.min() for found in others) > cfg.max_contradiction:
        raise RecaptureError(
            f"{1 + len(others[0])} maps of the same photographs differ in the scale of their parts, and nothing tells which is "
            "right; do not turn round on the spot: walk a small circle, and photograph each place from two that are a step apart",
            reasons=("maps of the same photographs differ in the scale of their parts",),
        )
    order = sorted(range(len(passed)), key=lambda n: (-votes[n], passed[n].consistency.badness()))
    return passed[order[0]]


def _disagreements(
    passed: Sequence[Attempt], attempts: Sequence[Attempt], cfg: SfmCfg
) -> list[NDArray[np.float64]]:
    """Of each map that passed with all others that hold nearly all images."""
    least = cfg.gates.min_registered_fraction
    whole = [attempt for attempt in attempts if attempt.consistency.registered_fraction >= least]
    return [
        np.array([disagreement(one.model, other.model) for other in whole if other is not one])
        for one in passed
    ]


def agreed_against_gps(
    capture: Capture, made: list[Attempt], gps: NDArray[np.float64], cfg: SfmCfg
) -> Attempt | None:
    """The map that two others confirm though GPS does not: then it is GPS that is worse than expected.

    Maps with other seeds that are glued wrongly are glued at other places. All three must pass the gates that hold without GPS.
    """
    ordered = bool(capture.metadata.get("ordered", True))
    whole = []
    for attempt in made:
        if (
            not attempt.consistency.gps_reasons
            or attempt.consistency.gps_reasons != attempt.consistency.reasons
        ):
            continue
        model = attempt.model
        by_itself = check_consistency(
            capture_indices(capture, model.names),
            model.c2w[:, :3, 3],
            num_images=len(capture.images),
            reprojection_error_px=model.reprojection_error_px,
            link_points=link_points(model.visible, len(model.points)),
            ordered=ordered,
            cfg=cfg.gates,
        )
        if by_itself.ok:
            whole.append(attempt)
    for attempt in whole:
        others = [other for other in whole if other.seed != attempt.seed]
        if sum(disagreement(attempt.model, other.model) < cfg.max_disagreement for other in others) < 2:
            continue
        centers, fixes = attempt.model.c2w[:, :3, 3], gps[capture_indices(capture, attempt.model.names)]
        fixed = np.isfinite(fixes[:, 0])
        off = (umeyama(centers[fixed], fixes[fixed]).apply(centers[fixed]) - fixes[fixed])[:, :2]
        # The median of a Rayleigh distribution is 1.1774 standard deviations.
        noise_m = float(np.median(np.linalg.norm(off, axis=1))) / 1.1774
        extent_m = float(np.linalg.norm(np.std(fixes[fixed, :2], axis=0)))
        if noise_m < 0.5 * extent_m:
            found = replace(attempt.consistency, reasons=(), gps_noise_m=noise_m, gps_outliers=())
            return replace(attempt, consistency=found)
    return None


def disagreement(first: SfmModel, second: SfmModel) -> float:
    """Distance of two maps' cameras after alignment over the extent of their path, both root mean square."""
    place = {name: index for index, name in enumerate(second.names)}
    common = [(k, place[name]) for k, name in enumerate(first.names) if name in place]
    if len(common) < 4:
        return np.inf
    source = first.c2w[[k for k, _ in common], :3, 3]
    target = second.c2w[[k for _, k in common], :3, 3]
    off = umeyama(source, target).apply(source) - target
    return float(np.linalg.norm(off) / max(np.linalg.norm(target - target.mean(axis=0)), 1e-300))
