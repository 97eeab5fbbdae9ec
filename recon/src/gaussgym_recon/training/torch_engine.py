"""The same training step through torch: gsplat's rasterizer on CUDA; on a CPU, for tests, our own differentiable one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from gaussgym_render import gsplat_backend
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

from gaussgym_recon.training.engines import Frame, StepResult
from gaussgym_recon.training.model import SplatModel
from gaussgym_recon.training.optimizer import Schedule
from gaussgym_recon.training.surfaces import NEAR_FRACTION

if TYPE_CHECKING:
    from gaussgym_recon.training.cfg import TrainerCfg

Tensor = torch.Tensor


class Rasterizer(Protocol):
    """Draws splats from one camera.

    Gives ``rgb [H,W,3]``, accumulated depth ``[H,W]``, alpha ``[H,W]``, visible ``[N]`` bool, and a function that, once the
    gradients are there, gives the length of the image-plane gradient of each splat ``[N]`` [1/px].
    """

    def __call__(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, sh: Tensor, worldview: Tensor, K: Tensor,
        width: int, height: int, sh_degree: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Callable[[], Tensor]]:  # fmt: skip
        """Draw."""
        ...


def gsplat_rasterizer(rasterization: Callable[..., Any]) -> Rasterizer:
    """Our interface over ``gsplat.rasterization`` 1.5.3, antialiased, with gradients that do not cancel between pixels.

    Args:
        rasterization: ``gsplat.rasterization``.
    """

    def draw(means, quats, scales, opacities, sh, worldview, K, width, height, sh_degree):  # noqa: ANN001, ANN202
        image, alpha, info = rasterization(
            means, quats, scales, opacities, sh, worldview[None], K[None], width, height, near_plane=0.01, far_plane=1e10,
            sh_degree=sh_degree, packed=False, absgrad=True, render_mode="RGB+D", rasterize_mode="antialiased",
        )  # fmt: skip
        info["means2d"].retain_grad()

        def pull() -> Tensor:
            return torch.linalg.norm(info["means2d"].absgrad[0], dim=-1)

        visible = (info["radii"][0] > 0).all(-1)
        return image[0, ..., :3], image[0, ..., 3], alpha[0, ..., 0], visible, pull

    return draw


def cpu_rasterizer() -> Rasterizer:
    """Our interface over :func:`gaussgym_render.differentiable.rasterize`; for tests of what lies around a rasterizer."""
    from gaussgym_render.differentiable import rasterize

    def draw(means, quats, scales, opacities, sh, worldview, K, width, height, sh_degree):  # noqa: ANN001, ANN202
        rgb, alpha, depth, info = rasterize(
            means, quats, scales, opacities, sh, worldview[None], K[None], width, height, sh_degree=sh_degree
        )
        return rgb[0], depth[0] * alpha[0], alpha[0], info["visible"][0], lambda: info["means2d_pull"][0]

    return draw


def gsplat_engine(cfg: TrainerCfg) -> TorchEngine:
    """The engine on the current CUDA device.

    Raises:
        InputError: There is no CUDA device or no gsplat 1.5.3 with kernels; the text says what is missing.
    """
    missing = gsplat_backend.missing()
    if missing is not None:
        raise InputError(f"trainer engine 'gsplat' cannot run here: {missing}; or train with engine 'numba'")
    from gsplat import rasterization
    from gsplat.cuda import _backend

    if _backend._C is None:
        raise InputError(
            "trainer engine 'gsplat' cannot run here: gsplat has no compiled kernels and found no CUDA toolkit to make them; "
            "install nvcc, or a wheel of gsplat with kernels"
        )
    return TorchEngine(cfg, gsplat_rasterizer(rasterization), "cuda")


class TorchEngine:
    """Steps with torch autograd; loss, regularization and Adam are those of the numba engine, in float32.

    Args:
        cfg: Settings.
        rasterizer: Draws the splats, differentiably.
        device: Where the splats live.
    """

    def __init__(self, cfg: TrainerCfg, rasterizer: Rasterizer, device: str) -> None:
        self.cfg, self.device = cfg, device
        self._rasterizer = rasterizer
        self._tensors: dict[str, Tensor] = {}
        self._pull = torch.zeros(0, device=device)
        self._seen = torch.zeros(0, dtype=torch.int32, device=device)

    # ---------------------------------------------------------------------------------------------- the splats

    @property
    def pull(self) -> NDArray[np.float32]:
        """``[N]`` lengths of image-plane gradients summed since :meth:`load`."""
        return self._pull.cpu().numpy()

    @pull.setter
    def pull(self, value: NDArray[np.float32]) -> None:
        self._pull = torch.as_tensor(np.array(value), device=self.device)

    @property
    def seen(self) -> NDArray[np.int32]:
        """``[N]`` how often each splat was visible since then."""
        return self._seen.cpu().numpy()

    @seen.setter
    def seen(self, value: NDArray[np.int32]) -> None:
        self._seen = torch.as_tensor(np.array(value), device=self.device)

    def load(self, model: SplatModel) -> None:
        """Take over the splats; statistics begin at zero."""
        self._tensors = {
            name: torch.as_tensor(np.array(getattr(model, name)), device=self.device)
            for name in SplatModel.ROWS
        }
        self._pull = torch.zeros(len(model), device=self.device)
        self._seen = torch.zeros(len(model), dtype=torch.int32, device=self.device)

    def store(self) -> SplatModel:
        """A copy of the splats in main memory."""
        return SplatModel(*(np.array(self._tensors[name].cpu().numpy()) for name in SplatModel.ROWS))

    # ---------------------------------------------------------------------------------------------------- a step

    def step(self, frame: Frame, rates: Schedule) -> StepResult:
        """Move the splats once."""
        t, cfg, camera = self._tensors, self.cfg, frame.camera
        leaves = {name: t[name].detach().requires_grad_() for name in SplatModel.PARAMETERS}
        affine = self._put(frame.affine).requires_grad_()
        worldview = self._put(frame.worldview).requires_grad_(rates.pose_px > 0)
        scales, opacities = leaves["log_scales"].exp(), leaves["logits"].sigmoid()
        bands = (rates.sh_degree + 1) ** 2
        rgb, depth, alpha, visible, pull = self._rasterizer(
            leaves["means"], leaves["quats"], scales, opacities, leaves["sh"][:, :bands], worldview, self._put(camera.K),
            camera.width, camera.height, rates.sh_degree,
        )  # fmt: skip
        target = torch.as_tensor(frame.target, device=self.device).float() / 255
        loss = photometric(
            rgb * affine[:3] + affine[3:], target, cfg.ssim_weight, cfg.l2_within,
            None if frame.mask is None else torch.as_tensor(frame.mask, device=self.device),
        )  # fmt: skip
        total = loss + self._surface_loss(frame, leaves, scales, depth, alpha, visible)
        total = total + regularization(scales[visible], opacities[visible], cfg)
        total.backward()
        with torch.no_grad():
            self._adam(leaves, visible, rates, bands)
            self._pull[visible] += pull()[visible].to(self._pull.dtype) * camera.width
            self._seen += visible.to(torch.int32)
        v_view, v_affine = worldview.grad, affine.grad
        assert v_affine is not None
        return StepResult(
            float(loss.detach()), v_affine.cpu().double().numpy(),
            None if v_view is None else v_view.cpu().double().numpy(), visible.nonzero()[:, 0].cpu().numpy(),
        )  # fmt: skip

    def _put(self, array: NDArray) -> Tensor:
        return torch.as_tensor(np.asarray(array, np.float32), device=self.device)

    def _surface_loss(
        self,
        frame: Frame,
        leaves: dict[str, Tensor],
        scales: Tensor,
        depth: Tensor,
        alpha: Tensor,
        visible: Tensor,
    ) -> Tensor | float:
        if frame.depth_m is None:
            return 0.0
        measured = self._put(frame.depth_m)
        total: Tensor | float = depth_loss(depth, alpha, measured, self.cfg.depth_weight)
        if frame.normals_w is not None and self.cfg.normal_weight > 0:
            total = total + self.cfg.normal_weight * normal_loss(
                leaves["means"][visible].detach(), leaves["quats"][visible], scales[visible].detach(),
                self._put(frame.worldview), self._put(frame.camera.K), measured, self._put(frame.normals_w),
            )  # fmt: skip
        return total

    def _adam(self, leaves: dict[str, Tensor], visible: Tensor, rates: Schedule, bands: int) -> None:
        """The numba engine's Adam: moments and a step count of its own for each splat, visible ones only."""
        t = self._tensors
        t["steps"] += visible.to(t["steps"].dtype)
        count = t["steps"].double()[:, None]
        c1 = (1 / (1 - 0.9**count)).float()
        c2 = (1 / (1 - 0.99**count)).float()
        width = t["adam"].shape[1] // 2
        color = torch.full((t["sh"].shape[1], 3), 0.1 * rates.color, device=self.device)
        color[0] = rates.color
        color[bands:] = 0
        steps = {
            "means": (0, rates.mean_px * t["footprint"][:, None]),
            "quats": (3, rates.rotation),
            "log_scales": (7, rates.scale),
            "logits": (10, rates.opacity),
            "sh": (11, color.reshape(-1)),
        }
        for name, (at, rate) in steps.items():
            gradient = leaves[name].grad
            if gradient is None:
                continue
            g = torch.nan_to_num(gradient.reshape(len(gradient), -1), nan=0.0, posinf=0.0, neginf=0.0)
            used = 3 * bands if name == "sh" else g.shape[1]
            m, v = (t["adam"][:, at + half : at + half + used] for half in (0, width))
            g, rate = g[:, :used], rate[:used] if name == "sh" and isinstance(rate, Tensor) else rate
            shown = visible[:, None]
            m.copy_(torch.where(shown, 0.9 * m + 0.1 * g, m))
            v.copy_(torch.where(shown, 0.99 * v + 0.01 * g * g, v))
            delta = torch.where(shown, rate * c1 * m / ((v * c2).sqrt() + 1e-15), torch.zeros_like(m))
            flat = t[name].reshape(len(g), -1)
            flat[:, :used] -= delta


# ------------------------------------------------------------------------------------------------------- losses


def photometric(
    image: Tensor, target: Tensor, ssim_weight: float, l2_within: float, mask: Tensor | None
) -> Tensor:
    """The loss of :func:`gaussgym_recon.losses.photometric_loss`, on tensors ``[H, W, 3]``."""
    if mask is not None:
        target = torch.where(mask[..., None], target, image.detach())
        image = torch.where(mask[..., None], image, image.detach())
    d = (image - target).abs()
    if l2_within > 0:
        d = torch.where(d < l2_within, d * d / (2 * l2_within), d - l2_within / 2)
    return (1 - ssim_weight) * d.mean() + ssim_weight * (1 - ssim(image, target))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity of images ``[H, W, 3]`` in 0..1 (Wang et al. 2004), window 11, sigma 1.5, zeros outside."""
    taps = torch.exp(-0.5 * ((torch.arange(11, device=x.device, dtype=x.dtype) - 5) / 1.5) ** 2)
    taps = taps / taps.sum()

    def blur(image: Tensor) -> Tensor:
        planes = image.permute(2, 0, 1)[:, None]
        planes = F.conv2d(planes, taps.reshape(1, 1, 1, 11), padding=(0, 5))
        return F.conv2d(planes, taps.reshape(1, 1, 11, 1), padding=(5, 0))

    mx, my = blur(x), blur(y)
    vx, vy, cross = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mx * my + c1) * (2 * cross + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()


def depth_loss(depth: Tensor, alpha: Tensor, measured: Tensor, weight: float) -> Tensor:
    """``weight * mean huber(|z - z_measured| / z_measured)``, quadratic below 2 %, where alpha exceeds a half."""
    used = (measured > 0) & (alpha > 0.5)
    z = torch.where(used, measured, torch.ones_like(measured))
    off = (depth / alpha.clamp_min(1e-10) - z) / z
    size = off.abs()
    huber = torch.where(size < 0.02, off * off / 0.04, size - 0.01)
    return weight * torch.where(used, huber, torch.zeros_like(huber)).sum() / depth.numel()


def normal_loss(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    worldview: Tensor,
    K: Tensor,
    measured: Tensor,
    normals: Tensor,
) -> Tensor:
    """Mean over visible splats of ``1 - (shortest axis . normal)^2`` for those on a measured surface."""
    height, width = measured.shape
    at = means @ worldview[:3, :3].T + worldview[:3, 3]
    z = at[:, 2].clamp_min(1e-9)
    column, row = (K[0, 0] * at[:, 0] / z + K[0, 2]).long(), (K[1, 1] * at[:, 1] / z + K[1, 2]).long()
    inside = (at[:, 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    there, normal = measured[row, column], normals[row, column]
    used = inside & (there > 0) & ((z - there).abs() < NEAR_FRACTION * there)
    w, x, y, r = F.normalize(quats, dim=1).unbind(1)
    rotation = torch.stack(
        [
            1 - 2 * (y * y + r * r), 2 * (x * y - w * r), 2 * (x * r + w * y),
            2 * (x * y + w * r), 1 - 2 * (x * x + r * r), 2 * (y * r - w * x),
            2 * (x * r - w * y), 2 * (y * r + w * x), 1 - 2 * (x * x + y * y),
        ], 1,
    ).reshape(-1, 3, 3)  # fmt: skip
    axis = rotation[torch.arange(len(means), device=means.device), :, scales.argmin(1)]
    off = 1 - (axis * normal).sum(1) ** 2
    return torch.where(used, off, torch.zeros_like(off)).sum() / max(1, len(means))


def regularization(scales: Tensor, opacities: Tensor, cfg: TrainerCfg) -> Tensor:
    """The pulls on visible splats: fainter, flatter (what bounds the ratio stays fixed), no needles."""
    total = cfg.opacity_weight * opacities.mean()
    low, middle, high = scales.sort(dim=1).values.unbind(1)
    held = high.detach()
    ratio = low / held
    flat = torch.where(ratio > 0.02, ratio, torch.zeros_like(ratio))
    total = total + cfg.flat_weight * torch.where(low == high, torch.zeros_like(flat), flat).mean()
    if cfg.max_aspect > 0:
        excess = (high / middle - cfg.max_aspect).clamp_min(0)
        total = total + cfg.aspect_weight * excess.mean()
    return total
