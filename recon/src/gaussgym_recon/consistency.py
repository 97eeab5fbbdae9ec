"""Is a registered model one consistent piece? Registered is not right: halves glued wrongly reproject just as well.

Structure from motion of a forward-walking street readily returns all images registered, with a small reprojection
error, in which two good halves are joined at a wrong scale or offset. What tells them apart is agreement with GPS
or, without it, how steady steps and scale are along the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import InputError

from gaussgym_recon.georegister import GpsFit, fit_gps, umeyama

if TYPE_CHECKING:
    from numpy.typing import NDArray


MAX_SCALE_CHANGE_CHECKED = 0.25
"""GPS whose gate is wider than this does not tell the scale of parts of a walk."""
MIN_DEPTH_IMAGES = 4
"""Fewer say nothing of a map's scales."""


class RecaptureError(InputError):
    """Photographs of which no scene can be made; the verdict is to take them again."""

    verdict = "recapture"

    def __init__(self, text: str, *, reasons: tuple[str, ...]) -> None:
        super().__init__(text)
        self.reasons = reasons
        """What is wrong, a phrase each."""


@dataclass(frozen=True, kw_only=True)
class ConsistencyCfg:
    """Gates of :func:`check_consistency`."""

    min_registered_fraction: float = 0.8
    """Smallest fraction of the capture's images with a pose."""
    max_reprojection_error_px: float = 1.5
    """Largest mean reprojection error [px]."""
    max_gps_median_m: float = 5.0
    """Largest median horizontal residual after Sim(3) to GPS [m]."""
    max_gps_residual_m: float = 15.0
    """Largest horizontal residual after Sim(3) to GPS [m]; fixes farther off are called wrong."""
    max_gps_outlier_fraction: float = 0.25
    """Largest share of GPS fixes that may be wrong; where more disagree, the map is at fault."""
    max_step_excess_m: float = 15.0
    """How much longer than the GPS step a step between neighbouring images may be [m]."""
    max_half_scale_change: float = 0.10
    """Largest relative change of scale between the two halves, each aligned to GPS alone."""
    gps_noise_m: float = 3.0
    """GPS noise that is expected of a phone [m]; widens the scale gate on walks too short to measure scale."""
    max_step_ratio: float = 5.0
    """Without GPS: longest step over the median step."""
    max_half_step_ratio: float = 2.5
    """Without GPS: median step of one half over that of the other."""
    max_depth_scale_change: float = 0.10
    """An image whose own depth says another scale than the median image's by more than this is off."""
    max_depth_scale_outliers: float = 0.10
    """Largest share of images that may be off."""
    min_link_points: int = 12
    """Fewest points that images before and after any place in the sequence must share."""


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """What :func:`check_consistency` found; lengths are in metres with GPS, else in units of the model."""

    registered_fraction: float
    reprojection_error_px: float
    gps_residual_median_m: float | None
    gps_residual_max_m: float | None
    max_step: float
    step_ratio: float
    half_scale_ratio: float | None
    """Scale of the first half over that of the second; None where it cannot be measured."""
    weakest_link_points: int
    """Points that images before and after the weakest place of the sequence share."""
    weakest_link_fraction: float
    """The same over the median of all places: below a tenth one half may hang on the other loosely."""
    gps_outliers: tuple[int, ...]
    """Images, by place in the capture, whose GPS fix disagrees with all others; they have no part in the numbers above."""
    reasons: tuple[str, ...]
    """Why the model is refused; empty when it passes."""
    gps_reasons: tuple[str, ...] = ()
    """Those of them that rest on GPS."""
    gps_noise_m: float | None = None
    """Noise of GPS along an axis where maps agree with one another and not with GPS [m]; None where GPS is as expected."""
    scale_checked: bool = False
    """Whether GPS or depth images would show a part whose scale is off by a quarter."""

    @property
    def ok(self) -> bool:
        """Whether every gate was passed."""
        return not self.reasons

    def badness(self) -> tuple[float, ...]:
        """Sort key: the smallest is the model to keep."""
        spread = abs(np.log(self.half_scale_ratio)) if self.half_scale_ratio else 0.0
        residual = self.step_ratio if self.gps_residual_median_m is None else self.gps_residual_median_m
        return (len(self.reasons), -round(self.registered_fraction, 2), residual + 20.0 * spread)


def check_consistency(
    indices: NDArray[np.int64],
    centers: NDArray[np.float64],
    *,
    num_images: int,
    reprojection_error_px: float,
    link_points: NDArray[np.int64],
    gps_enu_m: NDArray[np.float64] | None = None,
    depth_scales: NDArray[np.float64] | None = None,
    ordered: bool = True,
    cfg: ConsistencyCfg | None = None,
) -> Consistency:
    """Measure a model against the gates.

    Args:
        indices: Place in the capture of each registered image, ascending, shape `[n]`.
        centers: Camera centres in any frame, shape `[n, 3]`.
        num_images: Images in the capture.
        reprojection_error_px: Mean over all points [px].
        link_points: For each gap between neighbouring registered images, how many points are seen from both
            sides of it, shape `[n - 1]`.
        gps_enu_m: East, north, up of each registered image [m], shape `[n, 3]`, NaN where unknown.
        depth_scales: Metres per unit by the depth image of each registered image, shape `[n]`, NaN where unknown.
        ordered: Whether neighbours in the capture were neighbours in time; without it steps say nothing.
        cfg: The gates.

    Returns:
        Numbers and the reasons for a refusal.
    """
    cfg = cfg or ConsistencyCfg()
    fraction = len(indices) / num_images
    reasons = []
    if fraction < cfg.min_registered_fraction:
        reasons.append(
            f"{len(indices)} of {num_images} images registered, expected {cfg.min_registered_fraction:.0%}"
        )
    if not reprojection_error_px <= cfg.max_reprojection_error_px:
        reasons.append(
            f"reprojection error {reprojection_error_px:.2f} px, expected ≤ {cfg.max_reprojection_error_px}"
        )
    weakest = int(link_points.min()) if ordered and len(link_points) else 0
    if ordered and weakest < cfg.min_link_points:
        at = int(indices[int(np.argmin(link_points))]) + 1
        reasons.append(
            f"images up to {at} and after share {weakest} points, expected ≥ {cfg.min_link_points}"
        )
    if depth_scales is not None:
        reasons += _against_depth(depth_scales, cfg)
    fixed = np.zeros(len(indices), np.bool_)
    if gps_enu_m is not None:
        fixed[:] = np.isfinite(gps_enu_m).all(axis=1)
    if gps_enu_m is not None and fixed.sum() >= max(4, 0.5 * len(indices)):
        numbers, found = _against_gps(indices, centers, gps_enu_m, fixed, ordered, cfg)
    else:
        numbers, found = _along_sequence(indices, centers, ordered, cfg)
    return Consistency(
        registered_fraction=fraction,
        reprojection_error_px=reprojection_error_px,
        weakest_link_points=weakest,
        weakest_link_fraction=float(weakest / max(np.median(link_points), 1.0)) if len(link_points) else 0.0,
        reasons=tuple(reasons + found),
        gps_reasons=tuple(found) if numbers["gps_residual_median_m"] is not None else (),
        scale_checked=numbers.pop("scale_checked") or _knows_scales(depth_scales),
        **numbers,
    )


def _knows_scales(scales: NDArray[np.float64] | None) -> bool:
    return scales is not None and int(np.isfinite(scales).sum()) >= MIN_DEPTH_IMAGES


def _against_depth(scales: NDArray[np.float64], cfg: ConsistencyCfg) -> list[str]:
    """A map glued wrongly has parts of several scales, which its depth images show whatever the steps are."""
    if not _knows_scales(scales):
        return []
    known = scales[np.isfinite(scales)]
    change = np.abs(np.log(known / np.median(known)))
    off = int((change > np.log1p(cfg.max_depth_scale_change)).sum())
    if off <= cfg.max_depth_scale_outliers * len(known):
        return []
    return [
        f"depth images of {off} of {len(known)} images say another scale than the others (by up to a factor "
        f"{np.exp(change.max()):.1f}), expected {cfg.max_depth_scale_outliers:.0%} at most"
    ]


def _against_gps(
    indices: NDArray[np.int64],
    centers: NDArray[np.float64],
    gps: NDArray[np.float64],
    fixed: NDArray[np.bool_],
    ordered: bool,
    cfg: ConsistencyCfg,
) -> tuple[dict, list[str]]:
    fit = fit_gps(centers, gps, noise_m=cfg.gps_noise_m, worst_m=cfg.max_gps_residual_m)
    good = fixed & ~fit.outliers
    median, worst = float(np.median(fit.residuals_m[good])), float(fit.residuals_m[good].max())
    reasons = []
    if median > cfg.max_gps_median_m:
        reasons.append(f"median distance to GPS {median:.1f} m, expected ≤ {cfg.max_gps_median_m:g} m")
    if worst > cfg.max_gps_residual_m:
        reasons.append(f"largest distance to GPS {worst:.1f} m, expected ≤ {cfg.max_gps_residual_m:g} m")
    reasons += _outlier_reasons(indices, centers, gps, fixed, fit, ordered, cfg)
    # Where the map may be at fault every fix has its say.
    trusted = fixed if reasons else good
    aligned = umeyama(centers[trusted], gps[trusted]).apply(centers)
    steps = np.linalg.norm(np.diff(aligned, axis=0), axis=1)
    if ordered:
        # A wrong fix jumps where the map does not; a map that jumps where GPS does not is glued wrongly.
        both = fixed[1:] & fixed[:-1]
        gps_steps = np.linalg.norm(np.diff(gps[:, :2], axis=0), axis=1)
        excess = np.where(both, steps - gps_steps, 0.0)
        worst_step = int(np.argmax(excess))
        if excess[worst_step] > cfg.max_step_excess_m:
            reasons.append(
                f"step of {steps[worst_step]:.1f} m after image {indices[worst_step] + 1} "
                f"where GPS says {gps_steps[worst_step]:.1f} m"
            )
    ratio, allowed = _half_scale_ratio(indices, centers, gps, trusted), np.inf
    if ratio is not None:
        half_length = 0.5 * float(np.linalg.norm(np.ptp(gps[trusted, :2], axis=0)))
        allowed = max(cfg.max_half_scale_change, 2.0 * cfg.gps_noise_m / max(half_length, 1e-9))
        if abs(np.log(ratio)) > np.log1p(allowed):
            reasons.append(
                f"scale to GPS of the first half is {ratio:.2f} times that of the second, "
                f"expected within {allowed:.0%}"
            )
    numbers = {
        "gps_residual_median_m": median,
        "gps_residual_max_m": worst,
        "max_step": float(steps.max()),
        "step_ratio": _step_ratio(indices, centers),
        "half_scale_ratio": ratio,
        "scale_checked": allowed <= MAX_SCALE_CHANGE_CHECKED,
        "gps_outliers": tuple(int(i) for i in indices[fit.outliers]),
    }
    return numbers, reasons


def _outlier_reasons(
    indices: NDArray[np.int64],
    centers: NDArray[np.float64],
    gps: NDArray[np.float64],
    fixed: NDArray[np.bool_],
    fit: GpsFit,
    ordered: bool,
    cfg: ConsistencyCfg,
) -> list[str]:
    """Is it the fixes that are wrong, or the map?

    Wrong fixes are few and have nothing to do with each other. An end of the map that is bent or glued on wrongly shows as
    fixes at one end of the sequence that are off by much the same.
    """
    count, of = int(fit.outliers.sum()), int(fixed.sum())
    if count > cfg.max_gps_outlier_fraction * of:
        return [
            f"{count} of {of} GPS fixes are farther than {fit.threshold_m:.0f} m from their cameras, "
            f"expected {cfg.max_gps_outlier_fraction:.0%} at most"
        ]
    off = (gps - fit.transform.apply(centers))[:, :2]
    places = np.flatnonzero(fixed)
    for end in (places, places[::-1]) if ordered else ():
        run = end[: int(np.argmin(fit.outliers[end]))]
        if len(run) >= 3 and np.linalg.norm(np.diff(off[run], axis=0), axis=1).max() < cfg.max_gps_residual_m:
            first, last = sorted((int(indices[run[0]]) + 1, int(indices[run[-1]]) + 1))
            return [
                f"images {first} to {last} are {np.linalg.norm(off[run], axis=1).max():.0f} m from GPS together"
            ]
    return []


def _along_sequence(
    indices: NDArray[np.int64], centers: NDArray[np.float64], ordered: bool, cfg: ConsistencyCfg
) -> tuple[dict, list[str]]:
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    per_image = steps / np.diff(indices)
    step_ratio, reasons, half_ratio = _step_ratio(indices, centers), [], None
    if ordered and len(steps) >= 4:
        middle = len(steps) // 2
        halves = np.median(per_image[:middle]), np.median(per_image[middle:])
        half_ratio = float(halves[1] / max(halves[0], 1e-12))
        if step_ratio > cfg.max_step_ratio:
            at = int(indices[int(np.argmax(per_image))]) + 1
            reasons.append(
                f"step after image {at} is {step_ratio:.1f} times the median step, "
                f"expected ≤ {cfg.max_step_ratio:g}"
            )
        if abs(np.log(max(half_ratio, 1e-12))) > np.log(cfg.max_half_step_ratio):
            reasons.append(
                f"steps of the second half are {half_ratio:.2f} times those of the first, "
                f"expected within a factor {cfg.max_half_step_ratio:g}"
            )
    numbers = {
        "gps_residual_median_m": None,
        "gps_residual_max_m": None,
        "max_step": float(steps.max(initial=0.0)),
        "step_ratio": step_ratio,
        "half_scale_ratio": half_ratio,
        "scale_checked": False,
        "gps_outliers": (),
    }
    return numbers, reasons


def _step_ratio(indices: NDArray[np.int64], centers: NDArray[np.float64]) -> float:
    per_image = np.linalg.norm(np.diff(centers, axis=0), axis=1) / np.diff(indices)
    return float(per_image.max() / max(np.median(per_image), 1e-12)) if len(per_image) else 1.0


def _half_scale_ratio(
    indices: NDArray[np.int64],
    centers: NDArray[np.float64],
    gps: NDArray[np.float64],
    fixed: NDArray[np.bool_],
) -> float | None:
    middle = (indices[0] + indices[-1]) / 2
    scales = []
    for half in (fixed & (indices < middle), fixed & (indices > middle)):
        if half.sum() < 4 or np.linalg.norm(np.ptp(gps[half, :2], axis=0)) < 1e-6:
            return None
        scales.append(umeyama(centers[half], gps[half]).scale)
    return float(scales[0] / scales[1]) if min(scales) > 0 else None


def link_points(visible: list[NDArray[np.int32]], num_points: int) -> NDArray[np.int64]:
    """Count, for each gap between neighbouring images, the points seen from both sides of it.

    Args:
        visible: Indices of the points that each image sees, images in order.
        num_points: Number of points.

    Returns:
        Counts `[n - 1]`; where two halves are joined wrongly, few points hold them together.
    """
    first = np.full(num_points, len(visible), np.int64)
    last = np.full(num_points, -1, np.int64)
    for image, points in enumerate(visible):
        first[points] = np.minimum(first[points], image)
        last[points] = np.maximum(last[points], image)
    seen = last > first
    change = np.zeros(len(visible) + 1, np.int64)
    np.add.at(change, first[seen], 1)
    np.add.at(change, last[seen], -1)
    return np.cumsum(change)[: len(visible) - 1]
