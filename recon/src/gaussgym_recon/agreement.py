# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Do the two halves of a scene, what one sees and what one walks on, show the same place?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

from gaussgym_recon.depth_views import DepthView

BEYOND_M = 0.05


def depth_differences(
    depths: Sequence[DepthView], mesh: Mesh, *, max_depth_m: float, every_px: int = 5
) -> NDArray[np.floating]:
    """Mesh less splats along the viewing axis [m], at pixels where both show a surface nearer than ``max_depth_m``."""
    import open3d as o3d

    core: Any = o3d.core
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(core.Tensor(mesh.vertices), core.Tensor(mesh.faces.astype(np.uint32)))
    out = [np.zeros(0)]
    for view in depths:
        h, w = view.depth_m.shape
        v, u = np.mgrid[2:h:every_px, 2:w:every_px]
        k = view.k
        rays_c = np.stack(
            [(u + 0.5 - k[0, 2]) / k[0, 0], (v + 0.5 - k[1, 2]) / k[1, 1], np.ones(u.shape)], -1
        )
        rays = np.empty((*u.shape, 6), np.float32)
        rays[..., :3], rays[..., 3:] = view.c2w[:3, 3], rays_c @ view.c2w[:3, :3].T
        hit = scene.cast_rays(core.Tensor(rays))["t_hit"].numpy()  # rays have z = 1, so this is depth
        splat = view.depth_m[v, u]
        both = (splat > 0) & (splat < max_depth_m) & np.isfinite(hit) & (hit < max_depth_m)
        out.append((hit - splat)[both])
    return np.concatenate(out)


def splat_mesh_agreement(
    depths: Sequence[DepthView], mesh: Mesh, *, max_depth_m: float
) -> dict[str, float | None]:
    """How far splats and mesh differ, as seen by cameras.

    Args:
        depths: Depth of the splats alone.
        mesh: The scene's.
        max_depth_m: Farther surface is not compared.

    Returns:
        ``splat_mesh_disagreement_m``: median size of the difference; ``splat_mesh_p90_m``; ``splat_mesh_bias_m``: median,
        positive where splats lie before the mesh; ``splat_mesh_beyond_5cm``: share of pixels. None without a surface.
    """
    found = depth_differences(depths, mesh, max_depth_m=max_depth_m) if len(mesh.faces) else np.zeros(0)
    names = ("splat_mesh_disagreement_m", "splat_mesh_p90_m", "splat_mesh_bias_m", "splat_mesh_beyond_5cm")
    if not len(found):
        return dict.fromkeys(names)
    size = np.abs(found)
    values = (np.median(size), np.quantile(size, 0.9), np.median(found), (size > BEYOND_M).mean())
    return {name: float(value) for name, value in zip(names, values)}
