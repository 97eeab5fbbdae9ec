# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""What hangs in the air though views saw through it: out of the mesh, and out of the splats.

Both are judged by the depth that stereo or a sensor measured, not by the splats' own, so that a floater cannot vouch for itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

from gaussgym_recon.depth_views import DepthView
from gaussgym_recon.fusion import keep_faces, without_crumbs
from gaussgym_recon.trainer import SplatModel, render_splats
from gaussgym_recon.views import Views, psnr_db
from gaussgym_recon.visibility import votes_of

SPLAT_VIEWS = 4
"""Views that must have seen through a splat's middle; more than for a mesh, since it may be wide or shine."""
MOST_LOST_DB = 0.1
"""Splats stay when the training views lose more without them: then they show something after all."""


def mesh_without_floaters(mesh: Mesh, depths: Sequence[DepthView], *, crumbs: int = 200) -> Mesh:
    """Drop triangles all of whose corners were seen through, and the crumbs that are left.

    Args:
        mesh: Fused surface.
        depths: Measured depth.
        crumbs: Connected pieces of fewer triangles go too.
    """
    if not len(mesh.faces) or not depths:
        return mesh
    refuted = votes_of(mesh.vertices, depths).refuted()
    return without_crumbs(keep_faces(mesh, ~refuted[mesh.faces].all(axis=1)), minimum=crumbs)


def floating_splats(model: SplatModel, depths: Sequence[DepthView]) -> NDArray[np.bool_]:
    """Splats ``[N]`` whose middle at least `SPLAT_VIEWS` views, and twice as many as confirm it, saw through."""
    if not depths:
        return np.zeros(len(model), bool)
    return votes_of(model.means, depths, margin_m=0.1).refuted(least=SPLAT_VIEWS)


def splats_without_floaters(
    model: SplatModel, depths: Sequence[DepthView], views: Views, *, checked_views: int = 6
) -> tuple[SplatModel, dict[str, float | int]]:
    """Drop floating splats, unless the training views miss them.

    Args:
        model: Trained splats.
        depths: Measured depth.
        views: Photographs; some of the training ones are rendered with and without.
        checked_views: How many.

    Returns:
        The splats, how many float (``floating``), went (``removed``), and what the views lost by it (``lost_db``).
    """
    floating = floating_splats(model, depths)
    report: dict[str, float | int] = {"floating": int(floating.sum()), "removed": 0, "lost_db": 0.0}
    if not floating.any() or floating.all():
        return model, report
    kept = model.take(~floating)
    sample = views.train[:: max(1, len(views.train) // checked_views)]
    lost = [_psnr_db(model, views, i) - _psnr_db(kept, views, i) for i in sample]
    report["lost_db"] = float(np.mean(lost))
    if report["lost_db"] > MOST_LOST_DB:
        return model, report
    report["removed"] = report["floating"]
    return kept, report


def _psnr_db(model: SplatModel, views: Views, index: int) -> float:
    camera, view = views.camera(index, -1), views.views[index]
    image = render_splats(model, np.linalg.inv(view.c2w), camera.K, camera.width, camera.height)[0]
    return psnr_db(image, view.pyramid[-1] / 255.0)
