"""Coloured patches of the ground in a robot's images: what tasks such as ``goal_semantic`` lay out, painted onto the splats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gaussgym_render.edits import SceneEdits
from gaussgym_sim.sensors.camera import CameraRenderer, RenderedFrames

DEPTH_M = 0.12
"""Splats so far above and below a patch's ground are painted."""
SHARE = 0.85
"""Of a patch's colour; the rest is the ground's own, so that its texture stays visible."""


def patch_edits(patch_pos_w: Any, patch_half_m: Any, patch_rgb: Any) -> SceneEdits:
    """Patches of C cameras as the renderer wants them.

    Args:
        patch_pos_w: centres [C, K, 3] [m].
        patch_half_m: half sides [C, K] [m]; negative: there is none.
        patch_rgb: colours [C, K, 3] in 0..1.
    """
    position, half, rgb = (
        np.asarray(torch.as_tensor(v), np.float64) for v in (patch_pos_w, patch_half_m, patch_rgb)
    )
    there = half >= 0.0
    count = int(there.sum())
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = position[there]
    sizes = np.repeat(half[there][:, None], 3, axis=1)
    sizes[:, 2] = DEPTH_M
    return replace(
        SceneEdits.none(len(half)),
        patch_offsets=np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64),
        patch_poses_w=poses,
        patch_half_sizes_m=sizes,
        patch_colors=np.concatenate([rgb[there], np.full((count, 1), SHARE)], axis=1),
        patch_labels=np.full(count, -1, np.int64),
    )


def patch_edits_there(
    patch_pos_w: torch.Tensor, patch_half_m: torch.Tensor, patch_rgb: torch.Tensor
) -> SceneEdits:
    """`patch_edits` on the device of tensors, where nobody counts patches: those that are not there have no inside."""
    count, most = patch_half_m.shape
    to: dict[str, Any] = {"dtype": torch.float64, "device": patch_half_m.device}
    plain = SceneEdits.none(1)
    rows = {
        name: torch.as_tensor(getattr(plain, name), **to).expand(count, *getattr(plain, name).shape[1:])
        for name in ("color", "view_dependence", "light")
    }
    poses = torch.eye(4, **to).repeat(count * most, 1, 1)
    poses[:, :3, 3] = patch_pos_w.reshape(-1, 3)
    sizes = patch_half_m.to(torch.float64).reshape(-1, 1).repeat(1, 3)
    sizes[:, 2] = torch.where(sizes[:, 0] >= 0.0, DEPTH_M, -1.0)
    share = torch.full((count * most, 1), SHARE, **to)
    arrays: dict[str, Any] = {
        **rows,
        "patch_offsets": torch.arange(count + 1, device=to["device"]) * most,
        "patch_poses_w": poses,
        "patch_half_sizes_m": sizes,
        "patch_colors": torch.cat([patch_rgb.to(torch.float64).reshape(-1, 3), share], dim=1),
        "patch_labels": torch.full((count * most,), -1, dtype=torch.long, device=to["device"]),
    }
    return SceneEdits(**arrays)


class PatchRenderer:
    """A renderer that also paints patches; see `gaussgym_sim.sensors.camera.CameraRenderer`.

    Args:
        renderer: one whose `render` takes `edits`; what else it takes is passed on.
    """

    takes_patches = True

    def __init__(self, renderer: CameraRenderer) -> None:
        self._renderer = renderer
        self.takes_motion = bool(getattr(renderer, "takes_motion", False))
        self.takes_bodies = bool(getattr(renderer, "takes_bodies", False))
        self.num_others = int(getattr(renderer, "num_others", 0))

    def stays_on(self, device: torch.device) -> bool:
        """Whether images and what makes them stay on a device; see `gaussgym_sim.sensors.camera.CameraRenderer`."""
        stays_on = getattr(self._renderer, "stays_on", None)
        return stays_on is not None and bool(stays_on(device))

    def render(
        self,
        c2w: Any,
        K: Any,
        scene_ids: Any,
        *,
        patch_pos_w: Any,
        patch_half_m: Any,
        patch_rgb: Any,
        **options: Any,
    ) -> RenderedFrames:
        """Render one image per camera; arguments as `gaussgym_sim.sensors.camera.CameraRenderer` names them."""
        there = torch.is_tensor(patch_half_m) and self.stays_on(patch_half_m.device)
        edits = (patch_edits_there if there else patch_edits)(patch_pos_w, patch_half_m, patch_rgb)
        return self._renderer.render(c2w, K, scene_ids, edits=edits, **options)  # type: ignore[call-arg]
