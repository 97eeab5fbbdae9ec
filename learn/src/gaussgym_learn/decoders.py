"""Auxiliary decoders: the terrain's shape from the memory of a policy that only sees images of it.

Their loss shapes the encoder and the memory (GaussGym, arXiv 2510.15352, sec. III); acting needs none of them. The target is an
observation group of heights below the robot on a grid of rows (ahead) x columns (across), row by row.
"""

from __future__ import annotations

import torch
from gaussgym_scene.errors import InputError
from torch import nn

AUX_KINDS = ("vector", "height_map", "voxels")
_TRUNK_CHANNELS = (32, 16)


class VectorDecoder(nn.Sequential):
    """Two linear layers to the group's values; the only one whose group need not be a grid.

    Args:
        inputs: width of the memory H.
        size: values of the group S.
    """

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__(nn.Linear(inputs, 128), nn.ELU(), nn.Linear(128, size))

    def loss(self, memory: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared error, a scalar.

        Args:
            memory: `[..., H]`.
            target: `[..., S]`.
        """
        return nn.functional.mse_loss(self(memory), target)


class GridTrunk(nn.Module):
    """A linear layer to a coarse map, one transposed convolution to twice its size, one convolution.

    Args:
        inputs: width of the memory H.
        grid: rows and columns of the output.
        channels: of the output.
    """

    def __init__(self, inputs: int, grid: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.grid = grid
        self.coarse = (-(-grid[0] // 2), -(-grid[1] // 2))
        wide, narrow = _TRUNK_CHANNELS
        self.spread = nn.Linear(inputs, wide * self.coarse[0] * self.coarse[1])
        self.enlarge = nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)
        self.finish = nn.Conv2d(narrow, channels, 3, padding=1)

    def forward(self, memory: torch.Tensor) -> torch.Tensor:
        """`[N, H]` to `[N, channels, rows, columns]`."""
        x = nn.functional.elu(self.spread(memory)).view(-1, _TRUNK_CHANNELS[0], *self.coarse)
        x = nn.functional.elu(self.enlarge(x))[..., : self.grid[0], : self.grid[1]]
        return self.finish(x)


class HeightMapDecoder(nn.Module):
    """Convolutions to the grid's heights: neighbours share what one linear layer would learn for each.

    Args:
        inputs: width of the memory H.
        grid: rows and columns.
    """

    def __init__(self, inputs: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.trunk = GridTrunk(inputs, grid, 1)

    def forward(self, memory: torch.Tensor) -> torch.Tensor:
        """`[..., H]` to heights `[..., rows * columns]`, row by row."""
        return self.trunk(memory.flatten(0, -2)).view(*memory.shape[:-1], -1)

    def loss(self, memory: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared error, a scalar; arguments as `VectorDecoder.loss`."""
        return nn.functional.mse_loss(self(memory), target)


class VoxelDecoder(nn.Module):
    """Which voxel of each column the surface is in, and where in it: it can say that it does not know which of two.

    Args:
        inputs: width of the memory H.
        grid: rows and columns.
        levels: voxels of a column.
        limit: they divide the heights -limit to limit [units of the group].
    """

    def __init__(self, inputs: int, grid: tuple[int, int], levels: int, limit: float) -> None:
        super().__init__()
        self.levels, self.limit = levels, limit
        self.trunk = GridTrunk(inputs, grid, 2 * levels)

    def forward(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of occupancy and places in the voxel (0 its lower, 1 its upper face), `[..., rows * columns, levels]` each.

        Args:
            memory: `[..., H]`.
        """
        out = self.trunk(memory.flatten(0, -2)).flatten(2).transpose(1, 2)
        both = out.view(*memory.shape[:-1], -1, 2, self.levels)
        return both[..., 0, :], both[..., 1, :]

    def loss(self, memory: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`voxel_loss` of the prediction; arguments as `VectorDecoder.loss`."""
        logits, place = self(memory)
        return voxel_loss(logits, place, target, self.limit)

    def heights(self, memory: torch.Tensor) -> torch.Tensor:
        """Heights `[..., rows * columns]`: the place in the voxel with the highest logit."""
        logits, place = self(memory)
        voxel = logits.argmax(-1, keepdim=True)
        size = 2 * self.limit / self.levels
        return ((voxel + place.gather(-1, voxel).clamp(0.0, 1.0)) * size - self.limit).squeeze(-1)


def voxel_targets(
    heights: torch.Tensor, levels: int, limit: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The voxel that a height lies in.

    Args:
        heights: `[..., S]`.
        levels: voxels between -limit and limit.
        limit: see there.

    Returns:
        Number of the voxel, long `[..., S]`; place in it 0..1 `[..., S]`; bool `[..., S]`, whether the height is inside the
        limits: one on or beyond them was clipped by the sensor, and nobody knows where it is.
    """
    scaled = (heights + limit) * (levels / (2 * limit))
    voxel = scaled.floor().clamp(0, levels - 1)
    return voxel.long(), (scaled - voxel).clamp(0.0, 1.0), heights.abs() < limit


def voxel_loss(
    logits: torch.Tensor, place: torch.Tensor, heights: torch.Tensor, limit: float
) -> torch.Tensor:
    """Binary cross-entropy of all voxels plus mean squared error of the place in the occupied ones; columns at the limits apart.

    Args:
        logits: of occupancy, `[..., S, levels]`.
        place: in the voxel, `[..., S, levels]`.
        heights: target `[..., S]`.
        limit: see `voxel_targets`.

    Returns:
        A scalar; 0 where every column is at the limits.
    """
    levels = logits.shape[-1]
    voxel, wanted, inside = voxel_targets(heights, levels, limit)
    weight = inside.to(logits.dtype)
    columns = weight.sum().clamp_min(1.0)
    occupied = nn.functional.one_hot(voxel, levels).to(logits.dtype)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, occupied, reduction="none").mean(-1)
    error = (place.gather(-1, voxel[..., None]).squeeze(-1) - wanted).square()
    return ((entropy + error) * weight).sum() / columns


AuxDecoder = VectorDecoder | HeightMapDecoder | VoxelDecoder


def build_decoder(
    kind: str, inputs: int, size: int, *, grid: tuple[int, int], levels: int, limit: float
) -> AuxDecoder:
    """A decoder by name.

    Args:
        kind: of `AUX_KINDS`.
        inputs: width of the memory.
        size: values of the group that it reconstructs.
        grid: its rows and columns; not read by `vector`.
        levels: see `VoxelDecoder`.
        limit: see `VoxelDecoder`.

    Raises:
        InputError: no such kind, or a group that is no such grid.
    """
    if kind not in AUX_KINDS:
        raise InputError(f"unknown aux_kind {kind!r}; choose one of: {', '.join(AUX_KINDS)}")
    if kind == "vector":
        return VectorDecoder(inputs, size)
    if grid[0] * grid[1] != size:
        raise InputError(
            f"aux_kind {kind!r} reconstructs a grid of {grid[0]}x{grid[1]}, the group has {size} values; "
            "set aux_grid to the scan's points ahead and across"
        )
    if kind == "height_map":
        return HeightMapDecoder(inputs, grid)
    if levels < 2 or limit <= 0:
        raise InputError(
            f"aux_kind 'voxels' with {levels} levels up to {limit:g}, expected at least 2 and more than 0"
        )
    return VoxelDecoder(inputs, grid, levels, limit)
