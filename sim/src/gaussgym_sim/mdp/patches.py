"""Coloured squares on the ground of each env: what only a camera tells apart. Physics knows nothing of them."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussgym_sim.ground.terrain import TerrainLookup

OFF_M = -1.0
"""Half side of a patch that is not there."""


class Patches:
    """K squares an env, sides along the world's axes.

    Attributes:
        xy_m: [E, K, 2] centres.
        half_m: [E, K] half sides; `OFF_M` where there is none.
        rgb: [E, K, 3] colours in 0..1.
    """

    def __init__(self, num_envs: int, count: int, device: torch.device) -> None:
        """None is there."""
        self.xy_m = torch.zeros(num_envs, count, 2, device=device)
        self.half_m = torch.full((num_envs, count), OFF_M, device=device)
        self.rgb = torch.zeros(num_envs, count, 3, device=device)

    def hit(self, xy_w: Tensor, *, first: int = 0, end: int | None = None) -> Tensor:
        """Which points lie in a patch.

        Args:
            xy_w: [E, N, 2] points [m].
            first: number of the first patch that counts.
            end: one past the last; None: all.

        Returns:
            [E, N] bool.
        """
        gap = (xy_w[:, :, None] - self.xy_m[:, None, first:end]).abs().amax(dim=3)
        return (gap <= self.half_m[:, None, first:end]).any(dim=2)

    def camera_inputs(self, terrain: TerrainLookup, scene_ids: Tensor) -> dict[str, Tensor]:
        """What a renderer with ``takes_patches`` is given, rows [E]; see `gaussgym_sim.sensors.camera.CameraRenderer`."""
        ground = terrain.sample(self.xy_m, scene_ids)
        return {
            "patch_pos_w": torch.cat((self.xy_m, ground[..., None]), dim=2),
            "patch_half_m": self.half_m,
            "patch_rgb": self.rgb,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """All."""
        return {name: getattr(self, name).clone() for name in ("xy_m", "half_m", "rgb")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)


def to_base_xy(xy_w: Tensor, root_xy_w: Tensor, yaw: Tensor) -> Tensor:
    """World points [E, N, 2] as bases at [E, 2] m with heading [E] rad see them: ahead and to the left, [E, N, 2] m."""
    gap = xy_w - root_xy_w[:, None]
    cos, sin = torch.cos(yaw)[:, None], torch.sin(yaw)[:, None]
    return torch.stack((cos * gap[..., 0] + sin * gap[..., 1], cos * gap[..., 1] - sin * gap[..., 0]), dim=2)
