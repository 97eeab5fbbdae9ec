"""DINOv2's ViT-S/14 (Oquab et al., arXiv 2304.07193) under the weight names of its published file."""

from __future__ import annotations

import torch
from torch import nn

from gaussgym_learn.encoders.backbone import BackboneEncoder, SpatialHead
from gaussgym_learn.encoders.weights import PublishedWeights

PATCH_PX = 14
TRAINED_GRID = 37
"""Patches each way of the 518 px images behind the published position embedding."""
_GRID_OFFSET = 0.1
"""The published model's interpolation takes this much more than the grid; its features were evaluated so."""


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., width]`."""
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens `[B, N, width]`."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two layers with a GELU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., width]`."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each normalized before and scaled behind, around residual paths."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens `[B, N, width]`."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches to tokens."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, PATCH_PX, PATCH_PX)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, C, 14 h, 14 w]` to `[B, h w, width]`."""
        return self.proj(x).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """The backbone; default sizes are those of ViT-S/14.

    The position embedding is that of a 37x37 grid, interpolated (bicubic, not antialiased) to the images' grid as the
    published model does. Since the images' size is fixed, the interpolation is one matrix.

    Args:
        grid: patches of the images, down and across.
        channels: input channels.
        width: of a token.
        depth: number of blocks.
        heads: of the attention.
    """

    position_matrix: torch.Tensor

    def __init__(
        self, grid: tuple[int, int], channels: int = 3, width: int = 384, depth: int = 12, heads: int = 6
    ) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width), requires_grad=False)  # of the pretraining only
        self.patch_embed = PatchEmbed(channels, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("position_matrix", interpolation_matrix(grid), persistent=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalized images `[B, C, 14 h, 14 w]` to normed patch tokens `[B, h w, width]` and class token `[B, width]`."""
        position = torch.cat([self.pos_embed[:, :1], self.position_matrix @ self.pos_embed[:, 1:]], dim=1)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.patch_embed(x)], dim=1) + position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 1:], x[:, 0]


def interpolation_matrix(grid: tuple[int, int]) -> torch.Tensor:
    """The matrix `[h w, 37 * 37]` that interpolates a grid of 37x37 values to `h` x `w`."""
    points = TRAINED_GRID**2
    identity = torch.eye(points).reshape(1, points, TRAINED_GRID, TRAINED_GRID)
    if grid == (TRAINED_GRID, TRAINED_GRID):
        return torch.eye(points)
    scale = tuple((n + _GRID_OFFSET) / TRAINED_GRID for n in grid)
    columns = nn.functional.interpolate(identity, scale_factor=scale, mode="bicubic")
    return columns.reshape(points, grid[0] * grid[1]).T.contiguous()


class DinoV2Encoder(BackboneEncoder):
    """`DinoV2` and a head on its class token and its patch tokens.

    Images whose sides are no multiples of 14 px are padded to the next one, as evenly as possible on both sides, with the
    mean colour (zeros after normalization): 84x48 px become 84x56, 6x4 patches.

    Args:
        channels: see `BackboneEncoder`.
        height: image height [px].
        width: image width [px].
        feature_dim: length of the feature.
        token_dim: width of a token.
        depth: number of blocks.
        heads: of the attention.
    """

    published = PublishedWeights(
        url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
        sha256="b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        size_bytes=88_283_115,
        licence="Apache-2.0",
    )
    """LVD-142M, without registers; facebookresearch/dinov2's `dinov2_vits14`."""
    input_layer = "patch_embed.proj.weight"

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        feature_dim: int = 64,
        *,
        token_dim: int = 384,
        depth: int = 12,
        heads: int = 6,
    ) -> None:
        super().__init__(channels, height, width, feature_dim)
        self.grid = (-(-height // PATCH_PX), -(-width // PATCH_PX))
        down, across = (n * PATCH_PX - size for n, size in zip(self.grid, (height, width), strict=True))
        self.padding = (across // 2, across - across // 2, down // 2, down - down // 2)
        self.backbone = DinoV2(self.grid, self.input_channels, token_dim, depth, heads)
        self.head = SpatialHead(token_dim, self.grid, token_dim, feature_dim)

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BackboneEncoder.features`."""
        patches, whole = self.backbone(nn.functional.pad(x, self.padding))
        return patches.transpose(1, 2).reshape(len(x), -1, *self.grid), whole
