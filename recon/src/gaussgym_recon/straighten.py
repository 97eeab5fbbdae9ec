"""Pulls a map straight that lost its scale or bent where little holds it together.

Mapping adds one image after another and drops what does not fit. Where someone turns round on the spot, what is beyond the turn
may get another scale, and the correct matches that say so are dropped as outliers, for good: the map is a local minimum of what
is left. Here all matches come back, first within bounds so wide that a track holds both sides of the bend, and the whole map is
adjusted under a robust loss while the bounds narrow (graduated non-convexity; Blake and Zisserman, 1987).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaussgym_recon.colmap_options import mapping_options, mark, tell, write_best
from gaussgym_recon.georegister import umeyama

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDE_PX = (128.0, 128.0, 64.0, 32.0, 16.0)
"""Bounds of matches within which they count, with the lenses as the map has them [px]."""
WIDE_ITERATIONS = 50
MIN_ANGLE_DEG, KEPT_ANGLE_DEG = 0.5, 0.1
"""Of new points and of those that stay, while the map is being adjusted."""
STRAIGHT = 0.005
"""A map whose cameras move by less of the extent of their path (both root mean square) is done with this kind of bounds."""
NARROW_PX = (4.0, 4.0, 4.0, 4.0)
"""Bounds of the adjustments that refine the lenses too, and of the map that comes out; those of COLMAP's mapping [px]."""
NARROW_ITERATIONS = 100


def straighten(job: dict[str, Any]) -> None:
    """Adjust the map in the folder `map` with all matches of the database; the result goes to `<output>/best`.

    Args:
        job: as of `mapping_options`, and `map`.
    """
    import pycolmap

    output = Path(job["output"])
    pycolmap.set_random_seed(job["seed"])
    model = pycolmap.Reconstruction(job["map"])
    total, begun = len(WIDE_PX) + len(NARROW_PX), 0
    for bounds, lenses in ((WIDE_PX, False), (NARROW_PX, True)):
        for step, bound_px in enumerate(bounds, begun):
            tell(step / total)
            before = _centers(model)
            model = _all_matches(model, job, output, bound_px)
            pycolmap.bundle_adjustment(model, _adjustment(job, bound_px, lenses=lenses))
            if _moved(before, _centers(model)) < STRAIGHT:
                break
        begun += len(bounds)
    options = mapping_options(job)
    options.ba_refine_focal_length = options.ba_refine_extra_params = False
    model = pycolmap.triangulate_points(
        model, job["database"], job["images"], output, clear_points=True, options=options
    )
    model.update_point_3d_errors()
    write_best(model, output)
    mark(output / "done.json", {"points": model.num_points3D()})


def _all_matches(model: Any, job: dict[str, Any], output: Path, bound_px: float) -> Any:
    """The map with the points of all matches that lie within a bound, those of two images too."""
    import pycolmap

    options = mapping_options(job)
    options.ba_refine_focal_length = options.ba_refine_extra_params = False
    focal_px = next(iter(model.cameras.values())).mean_focal_length()
    points = options.triangulation
    # COLMAP's bound for new points is an angle, two degrees at least.
    points.create_max_angle_error = points.continue_max_angle_error = max(
        2.0, math.degrees(bound_px / focal_px)
    )
    points.re_max_angle_error = max(points.re_max_angle_error, points.create_max_angle_error)
    points.merge_max_reproj_error = points.complete_max_reproj_error = bound_px
    points.ignore_two_view_tracks = False
    # What holds the two sides of a turn on the spot together are points under small angles, which the bend made smaller still.
    points.min_angle, options.mapper.filter_min_tri_angle = MIN_ANGLE_DEG, KEPT_ANGLE_DEG
    options.mapper.filter_max_reproj_error = bound_px
    return pycolmap.triangulate_points(
        model, job["database"], job["images"], output, clear_points=True, options=options
    )


def _centers(model: Any) -> NDArray[np.float64]:
    return np.array([model.images[index].projection_center() for index in sorted(model.reg_image_ids())])


def _moved(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    off = umeyama(after, before).apply(after) - before
    return float(np.linalg.norm(off) / max(np.linalg.norm(before - before.mean(axis=0)), 1e-300))


def _adjustment(job: dict[str, Any], bound_px: float, *, lenses: bool) -> Any:
    import pycolmap

    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = lenses and job["free_focal"]
    options.refine_extra_params = lenses and not job["calibrated"]
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.loss_function_scale = max(1.0, bound_px / 4.0)
    options.ceres.solver_options.max_num_iterations = NARROW_ITERATIONS if lenses else WIDE_ITERATIONS
    options.ceres.solver_options.num_threads = 1  # the same map on every machine
    return options
