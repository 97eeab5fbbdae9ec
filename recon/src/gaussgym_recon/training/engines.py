"""One training step: render a view, compare it with its photograph, move the splats. On numba kernels here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from gaussgym_render.differentiable import raster_backward, raster_forward
from gaussgym_scene.cameras import Intrinsics
from numpy.typing import NDArray

from gaussgym_recon.losses import photometric_loss
from gaussgym_recon.training.cfg import TrainerCfg
from gaussgym_recon.training.exposure import expose, expose_backward
from gaussgym_recon.training.model import SplatModel
from gaussgym_recon.training.optimizer import Schedule, activated, adam_step, regularize
from gaussgym_recon.training.surfaces import add_normal_slopes, depth_slopes

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Frame:
    """What one step looks at.

    Attributes:
        worldview: World to camera ``[4, 4]``.
        camera: Pinhole camera of the level.
        target: uint8 photograph ``[H, W, 3]``.
        affine: Gains and offsets of its exposure, float32 ``[6]``.
        mask: bool ``[H, W]``, False where the photograph is not to be used, or None.
        depth_m: Measured depth ``[H, W]``, 0 = unknown, or None.
        normals_w: Its normals ``[H, W, 3]``, zero = unknown, or None.
    """

    worldview: NDArray[np.float64]
    camera: Intrinsics
    target: NDArray[np.uint8]
    affine: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None
    depth_m: NDArray[np.float32] | None = None
    normals_w: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class StepResult:
    """What one step found.

    Attributes:
        loss: Photometric loss of the view before the step.
        v_affine: Its gradient by the exposure's gains and offsets ``[6]``.
        v_view: Its gradient by the world-to-camera matrix ``[4, 4]``; None where poses are not refined.
        visible: Indices of the splats that the view showed.
    """

    loss: float
    v_affine: NDArray[np.float64]
    v_view: NDArray[np.float64] | None
    visible: NDArray


class Engine(Protocol):
    """Computes steps and holds the splats meanwhile.

    Attributes:
        pull: ``[N]`` lengths of image-plane gradients summed since :meth:`load`.
        seen: ``[N]`` how often each splat was visible since then.
    """

    pull: NDArray[np.float32]
    seen: NDArray[np.int32]

    def load(self, model: SplatModel) -> None:
        """Take over the splats; statistics begin at zero."""
        ...

    def store(self) -> SplatModel:
        """The splats as they are now; the statistics too."""
        ...

    def step(self, frame: Frame, rates: Schedule) -> StepResult:
        """Move the splats once."""
        ...


class NumbaEngine:
    """Steps on the CPU. The model that it was given is changed in place."""

    def __init__(self, cfg: TrainerCfg) -> None:
        self.cfg = cfg
        self.pull = np.zeros(0, np.float32)
        self.seen = np.zeros(0, np.int32)
        self._model: SplatModel | None = None

    def load(self, model: SplatModel) -> None:
        """Take over the splats; statistics begin at zero."""
        self._model = model
        self.pull = np.zeros(len(model), np.float32)
        self.seen = np.zeros(len(model), np.int32)

    def store(self) -> SplatModel:
        """The splats as they are now."""
        assert self._model is not None
        return self._model

    def step(self, frame: Frame, rates: Schedule) -> StepResult:
        """Move the splats once."""
        cfg, m, camera = self.cfg, self.store(), frame.camera
        scales, opacities = activated(m.log_scales, m.logits)
        parameters = (m.means, m.quats, scales, opacities, m.sh)
        rgb, depth, trans, state = raster_forward(
            *parameters, frame.worldview, camera.K, camera.width, camera.height, sh_degree=rates.sh_degree
        )
        target = frame.target.astype(np.float32) / np.float32(255)
        loss, v_image = photometric_loss(
            expose(rgb, frame.affine), target, ssim_weight=cfg.ssim_weight, l2_within=cfg.l2_within, mask=frame.mask
        )  # fmt: skip
        v_rgb, v_affine = expose_backward(rgb, frame.affine, v_image)
        v_depth, v_trans = depth_slopes(depth, trans, frame.depth_m, cfg.depth_weight)
        g = raster_backward(
            *parameters, state, rgb, depth, trans, v_rgb, v_depth, v_trans, camera_gradient=rates.pose_px > 0
        )
        if frame.normals_w is not None and frame.depth_m is not None and cfg.normal_weight > 0:
            add_normal_slopes(
                state.ids, m.means, m.quats, scales, frame.worldview, camera, frame.depth_m, frame.normals_w,
                cfg.normal_weight, g.quats,
            )  # fmt: skip
        regularize(state.ids, scales, opacities, g, cfg)
        adam_step(m, state.ids, g, scales, opacities, rates.rates, rates.sh_degree)
        self.pull[state.ids] += g.pull_visible * camera.width
        self.seen[state.ids] += 1
        return StepResult(loss, v_affine, g.view, state.ids)
