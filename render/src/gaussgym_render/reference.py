"""The float64 oracle as a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gaussgym_render import oracle
from gaussgym_render.channels import ChannelArrays
from gaussgym_render.edits import SceneEdits
from gaussgym_render.lod import LodSplats
from gaussgym_render.objects import Instances

if TYPE_CHECKING:
    from gaussgym_render.backends import AnySplats, RasterizerCfg
    from gaussgym_render.frames import FrameArrays


class ReferenceRasterizer:
    """The float64 oracle behind the backend interface: exact and slow."""

    def __init__(self, splats: Sequence[AnySplats], cfg: RasterizerCfg) -> None:
        self.splats, self.cfg = splats, cfg

    def render(
        self,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        scene_ids: NDArray[np.int64],
        cameras: NDArray[np.int64],
        background: NDArray[np.float32],
        frames: FrameArrays,
        objects: Instances | None = None,
        seen: NDArray[np.int32] | None = None,
        changes: SceneEdits | None = None,
        extra: ChannelArrays | None = None,
        sizes: NDArray[np.int64] | None = None,
    ) -> None:
        """See `gaussgym_render.cpu.CpuRasterizer.render`."""
        rgb, depth, alpha = frames
        cfg = self.cfg
        for c in cameras.tolist():
            splats = self.splats[int(scene_ids[c])]
            if isinstance(splats, LodSplats):
                splats = splats.take(splats.splats_of(splats.select(c2w[c], ks[c])))
            features = None if cfg.features is None else cfg.features[int(scene_ids[c])]
            width, height = (cfg.width, cfg.height) if sizes is None else sizes[c].tolist()
            own = np.s_[c, :height, :width]
            surface, owners = None, np.zeros(0, np.int64)
            if objects is not None:
                surface, owners = self._surface(objects, c, c2w[c], ks[c], width, height)
            image = oracle.render(
                splats,
                c2w[c],
                ks[c],
                width,
                height,
                near=cfg.near,
                antialiased=cfg.antialiased,
                sh_degree=cfg.sh_degree,
                background=tuple(background.tolist()),
                surface=surface,
                edit=None if changes is None else camera_edit(changes, c),
                features=features,
            )
            rgb[own] = np.floor(np.clip(image.rgb, 0.0, 1.0) * 255.0 + 0.5)
            depth[own], alpha[own] = image.depth_m, image.alpha
            if extra is not None:
                values = (
                    np.clip(image.rgb, 0, 1),
                    image.median_depth_m,
                    image.normals,
                    image.labels,
                    image.features,
                )
                for array, value in zip(extra.astuple(), values):
                    if len(array) > 0:  # wanted
                        array[own] = value
            if seen is not None:
                shown = image.surface_weight > 0.5
                seen[own] = -1
                seen[own][shown] = owners[surface.face[shown]]  # type: ignore[union-attr]

    def _surface(
        self,
        objects: Instances,
        camera: int,
        c2w: NDArray[np.float64],
        k: NDArray[np.float64],
        width: int,
        height: int,
    ) -> tuple[oracle.Surface, NDArray[np.int64]]:
        """The nearest surface of one camera's objects, and which instance each triangle belongs to `[F]`."""
        shapes, cfg = objects.objects, self.cfg
        triangles_w, colors, owners = [np.zeros((0, 3, 3))], [np.zeros((0, 3))], [np.zeros(0, np.int64)]
        for i in range(objects.camera_offsets[camera], objects.camera_offsets[camera + 1]):
            n, pose_w = objects.object_ids[i], objects.poses_w[i]
            vertices_o = shapes.vertices_o[shapes.vertex_offsets[n] : shapes.vertex_offsets[n + 1]]
            own = slice(shapes.face_offsets[n], shapes.face_offsets[n + 1])
            triangles_w.append((vertices_o @ pose_w[:3, :3].T + pose_w[:3, 3])[shapes.faces[own]])
            colors.append(shapes.colors[own].astype(np.float64))
            owners.append(np.full(len(shapes.colors[own]), i))
        surface = oracle.cast(
            np.concatenate(triangles_w),
            np.concatenate(colors),
            c2w,
            k,
            width,
            height,
            near=cfg.near,
            light_w=shapes.light[:3],
            ambient=float(shapes.light[3]),
        )
        return surface, np.concatenate(owners)


def camera_edit(edits: SceneEdits, camera: int) -> oracle.CameraEdit:
    """One camera's edits, for the oracle."""
    own = slice(edits.patch_offsets[camera], edits.patch_offsets[camera + 1])
    return oracle.CameraEdit(
        edits.color[camera], edits.view_dependence[camera], edits.light[camera],
        list(zip(edits.patch_poses_w[own], edits.patch_half_sizes_m[own])), edits.patch_colors[own],
        edits.patch_labels[own],
    )  # fmt: skip
