# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Differentiable Gaussian-splat rasterizer on the CPU: numba kernels with analytic gradients behind torch autograd.

The conventions are those of gsplat 1.5.3 (Ye et al. 2024, arXiv 2409.06765): pixel centres at +0.5, a 0.3 px low-pass
on the projected covariance, opacity compensation for it when ``antialiased``, alpha clamped at 0.999, splats below
1/255 skipped, and a pixel finished by the splat that would bring its transmittance to 1e-4 or less (that splat is left
out).

How it is laid out for a CPU: the image is cut into tiles of 16x16 pixels; within a tile the loops run over splats front
to back and over the pixel rows that a splat touches, so that the innermost loop is 16 neighbouring pixels of arithmetic
without branches, which compilers turn into vector instructions. The backward pass walks the same lists front to back
again and subtracts what a splat adds from the pixel's final colour to know what lies behind it, so nothing per pixel
and splat is stored. Each (tile, splat) pair owns a slot for its partial gradients, and slots are summed in a fixed
order: gradients are bit-identical from run to run, whatever the number of threads.
"""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.
# ruff: noqa: ANN001, ANN205

from __future__ import annotations

import numba
import numpy as np
import torch
from gaussgym_scene.errors import InputError

from gaussgym_render.differentiable.camera import (
    RasterGradients,
    RasterState,
    raster_backward,
    raster_forward,
)

__all__ = ["RasterGradients", "RasterState", "raster_backward", "raster_forward", "rasterize", "set_threads"]


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, viewmats, Ks, settings, info):
        arrays = [
            np.ascontiguousarray(t.detach().numpy(), np.float32)
            for t in (means, quats, scales, opacities, colors)
        ]
        views, intrinsics = viewmats.detach().numpy(), Ks.detach().numpy()
        frames = [raster_forward(*arrays, v, k, **settings) for v, k in zip(views, intrinsics)]
        ctx.arrays, ctx.frames, ctx.info = arrays, frames, info
        ctx.dtypes = [t.dtype for t in (means, quats, scales, opacities, colors, viewmats)]
        visible = np.zeros((len(frames), len(means)), bool)
        radii = np.zeros((len(frames), len(means), 2), np.int32)
        means2d = np.zeros((len(frames), len(means), 2), np.float32)
        for c, frame in enumerate(frames):
            state = frame[3]
            visible[c, state.ids] = True
            radii[c, state.ids] = np.ceil(0.5 * (state.rect[state.ids, 1::2] - state.rect[state.ids, 0::2]))
            means2d[c, state.ids] = state.mean2d[state.ids]
        info["visible"] = torch.from_numpy(visible)
        info["radii"] = torch.from_numpy(radii)
        info["means2d"] = torch.from_numpy(means2d)
        return tuple(torch.from_numpy(np.stack([f[i] for f in frames])) for i in range(3))

    @staticmethod
    def backward(ctx, v_rgb, v_depth, v_trans):
        total: list[np.ndarray] = [np.zeros_like(a) for a in ctx.arrays]
        want_camera = ctx.needs_input_grad[5]
        v_views = np.zeros((len(ctx.frames), 4, 4))
        v_means2d = np.zeros((len(ctx.frames), len(ctx.arrays[0]), 2), np.float32)
        pull = np.zeros((len(ctx.frames), len(ctx.arrays[0])), np.float32)
        for c, (rgb, depth_sum, trans, state) in enumerate(ctx.frames):
            g = raster_backward(
                *ctx.arrays, state, rgb, depth_sum, trans, v_rgb[c].numpy(), v_depth[c].numpy(), v_trans[c].numpy(),
                camera_gradient=want_camera,
            )  # fmt: skip
            for t, v in zip(total, (g.means, g.quats, g.scales, g.opacities, g.colors)):
                t += v
            if want_camera:
                v_views[c] = g.view
            v_means2d[c, state.ids] = g.means2d_visible
            pull[c, state.ids] = g.pull_visible
        ctx.info["means2d_grad"] = torch.from_numpy(v_means2d)
        ctx.info["means2d_pull"] = torch.from_numpy(pull)
        out = [torch.from_numpy(t).to(d) for t, d in zip(total, ctx.dtypes)]
        return (*out, torch.from_numpy(v_views).to(ctx.dtypes[5]) if want_camera else None, None, None, None)


def rasterize(
    means: torch.Tensor,
    quats_wxyz: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    colors: torch.Tensor,
    viewmats: torch.Tensor,
    Ks: torch.Tensor,
    width: int,
    height: int,
    *,
    near: float = 0.01,
    far: float = 1e10,
    antialiased: bool = True,
    background: torch.Tensor | None = None,
    sh_degree: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Draw splats from several cameras, differentiably, with the conventions of gsplat 1.5.3.

    Args:
        means: ``[N,3]`` centres, world [m].
        quats_wxyz: ``[N,4]`` rotations, normalized inside.
        scales: ``[N,3]`` standard deviations [m].
        opacities: ``[N]`` in 0..1.
        colors: ``[N,3]`` RGB, or SH coefficients ``[N,K,3]`` where ``sh_degree`` is given.
        viewmats: ``[C,4,4]`` world to camera (OpenCV: +X right, +Y down, +Z forward).
        Ks: ``[C,3,3]`` intrinsics [px]; no gradient.
        width: image width [px].
        height: image height [px].
        near: nearest depth drawn [m].
        far: farthest depth drawn [m].
        antialiased: multiply opacity by the low-pass compensation.
        background: ``[3]`` or ``[C,3]`` colour behind the splats; black when None.
        sh_degree: degree to evaluate (0..3), at most the degree that ``colors`` holds.

    Returns:
        ``rgb [C,H,W,3]``, ``alpha [C,H,W]``, ``depth [C,H,W]`` expected depth along +Z [m] (0 where nothing was hit),
        and ``info``: ``visible [C,N]``, ``radii [C,N,2]`` [px], ``means2d [C,N,2]`` [px] and, after ``backward()``,
        ``means2d_grad [C,N,2]`` and ``means2d_pull [C,N]`` (summed lengths by tile), from which densification reads.

    Raises:
        InputError: if shapes do not fit together or a tensor is not on the CPU.

    Source: Kerbl et al. 2023 (arXiv 2308.04079) for the rasterizer, Yu et al. 2024 (arXiv 2311.16493) for the
    compensation, Ye et al. 2024 (arXiv 2409.06765, appendix) for the gradients of the projection.
    """
    _check(means, quats_wxyz, scales, opacities, colors, viewmats, Ks, sh_degree)
    info: dict[str, torch.Tensor] = {}
    settings = {
        "width": int(width),
        "height": int(height),
        "near": float(near),
        "far": float(far),
        "antialiased": bool(antialiased),
        "sh_degree": sh_degree,
    }
    rgb, depth_sum, trans = _Rasterize.apply(
        means, quats_wxyz, scales, opacities, colors, viewmats, Ks, settings, info
    )  # type: ignore[misc]
    alpha = 1.0 - trans
    depth = torch.where(alpha > 0, depth_sum / alpha.clamp_min(1e-10), torch.zeros_like(alpha))
    if background is not None:
        rgb = rgb + trans[..., None] * background.to(rgb.dtype).reshape(-1, 1, 1, 3)
    return rgb, alpha, depth, info


def _check(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree) -> None:
    n, c = len(means), len(viewmats)
    wanted = {
        "means": (means, (n, 3)),
        "quats_wxyz": (quats, (n, 4)),
        "scales": (scales, (n, 3)),
        "opacities": (opacities, (n,)),
        "viewmats": (viewmats, (c, 4, 4)),
        "Ks": (Ks, (c, 3, 3)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise InputError(f"rasterize: {name} has shape {tuple(tensor.shape)}, expected {shape}.")
        if tensor.device.type != "cpu":
            raise InputError(f"rasterize: {name} lies on {tensor.device}, expected the CPU.")
    if sh_degree is None:
        if tuple(colors.shape) != (n, 3):
            raise InputError(
                f"rasterize: colors has shape {tuple(colors.shape)}, expected {(n, 3)} without sh_degree."
            )
    elif colors.ndim != 3 or colors.shape[0] != n or colors.shape[2] != 3 or not 0 <= sh_degree <= 3:
        raise InputError(
            f"rasterize: colors has shape {tuple(colors.shape)}, sh_degree {sh_degree}; expected [N,K,3], 0..3."
        )
    elif colors.shape[1] < (sh_degree + 1) ** 2:
        raise InputError(f"rasterize: {colors.shape[1]} SH bases in colors cannot give degree {sh_degree}.")


def set_threads(count: int) -> None:
    """Limit the threads of the kernels to ``count`` (at most the number numba started with)."""
    numba.set_num_threads(max(1, min(count, numba.config.NUMBA_NUM_THREADS)))
