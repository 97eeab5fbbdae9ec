"""`gsplat.rasterization` as splatfacto calls it: gsplat on a GPU, the CPU rasterizer of `gaussgym_render` elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from gaussgym_render.differentiable import rasterize


class _NodeOfMeans2d(torch.autograd.Function):
    """Hands the centres through and gives `means2d` its gradient.

    It stands before the rasterizer, so its backward runs after the rasterizer's, which leaves the gradient by the projected
    centres in its info, `later["drawn"]`. Densification reads it from `means2d.grad`.
    """

    @staticmethod
    def forward(
        ctx: Any, means: torch.Tensor, means2d: torch.Tensor, later: dict[str, dict[str, torch.Tensor]]
    ) -> torch.Tensor:
        ctx.later = later
        return means.view_as(means)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return grads[0], ctx.later["drawn"]["means2d_grad"], None


def rasterization(
    means: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    colors: torch.Tensor,
    viewmats: torch.Tensor,
    Ks: torch.Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    sh_degree: int | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Draw splats on the device they lie on.

    Args:
        means: ``[N, 3]``, in the model's unit of length.
        quats: ``[N, 4]`` wxyz, of any length.
        scales: ``[N, 3]`` standard deviations.
        opacities: ``[N]`` in 0..1.
        colors: ``[N, K, 3]`` SH coefficients, or ``[N, 3]`` where ``sh_degree`` is None.
        viewmats: ``[C, 4, 4]`` world to camera (OpenCV).
        Ks: ``[C, 3, 3]`` [px].
        width: [px].
        height: [px].
        near_plane: Nearest depth drawn.
        far_plane: Farthest depth drawn.
        sh_degree: Degree to evaluate.
        render_mode: ``'RGB'`` or ``'RGB+ED'`` (expected depth as fourth channel).
        rasterize_mode: ``'classic'`` or ``'antialiased'``.
        settings: Further arguments of gsplat; on the CPU those at which gsplat draws as by default.

    Returns:
        Image ``[C, H, W, 3 or 4]``, alpha ``[C, H, W, 1]``, and what densification reads: ``means2d [C, N, 2]`` [px], a node of
        the graph, ``radii [C, N]`` [px] (0 = not drawn; half the larger side of the splat's rectangle inside the image),
        ``width``, ``height``, ``n_cameras``, ``gaussian_ids``.

    Raises:
        ValueError: A setting that the CPU rasterizer lacks.
    """
    if means.is_cuda:
        import gsplat.rendering

        return gsplat.rendering.rasterization(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=near_plane,
            far_plane=far_plane, sh_degree=sh_degree, render_mode=render_mode, rasterize_mode=rasterize_mode, **settings,
        )  # type: ignore[arg-type]  # fmt: skip
    _refuse_unknown(render_mode, rasterize_mode, settings)
    later: dict[str, dict[str, torch.Tensor]] = {}
    means2d = torch.zeros(len(viewmats), len(means), 2, requires_grad=torch.is_grad_enabled())
    rgb, alpha, depth, drawn = rasterize(
        _NodeOfMeans2d.apply(means, means2d, later), quats, scales, opacities, colors, viewmats, Ks, width, height,
        near=near_plane, far=far_plane, antialiased=rasterize_mode == "antialiased", sh_degree=sh_degree,
    )  # fmt: skip
    later["drawn"] = drawn
    with torch.no_grad():
        means2d.copy_(drawn["means2d"])
    seen = {
        "means2d": means2d, "radii": drawn["radii"].amax(-1), "width": width, "height": height,
        "n_cameras": len(viewmats), "gaussian_ids": None,
    }  # fmt: skip
    image = torch.cat([rgb, depth[..., None]], dim=-1) if render_mode == "RGB+ED" else rgb
    return image, alpha[..., None], seen


_AS_BY_DEFAULT: dict[str, Any] = {
    "radius_clip": 0.0, "eps2d": 0.3, "packed": False, "backgrounds": None, "sparse_grad": False, "absgrad": False,
    "distributed": False, "camera_model": "pinhole", "covars": None,
}  # fmt: skip


def _refuse_unknown(render_mode: str, rasterize_mode: str, settings: dict[str, Any]) -> None:
    if render_mode not in ("RGB", "RGB+ED"):
        raise ValueError(f"render_mode is {render_mode!r}, the CPU rasterizer has 'RGB' and 'RGB+ED'")
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode is {rasterize_mode!r}, expected 'classic' or 'antialiased'")
    for name, value in settings.items():
        if name not in _AS_BY_DEFAULT or value != _AS_BY_DEFAULT[name]:
            raise ValueError(f"{name}={value!r}: the CPU rasterizer lacks it; leave it out or use a GPU")
