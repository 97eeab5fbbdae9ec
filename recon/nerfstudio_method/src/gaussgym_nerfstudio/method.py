"""The method `gaussgym-splatfacto`: splatfacto as GaussGym trains it, on a GPU or without one."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gaussgym_scene.splats import Splats
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from nerfstudio.plugins.types import MethodSpecification

from gaussgym_nerfstudio import repairs

repairs.apply()


@dataclass
class GaussgymSplatfactoModelConfig(SplatfactoModelConfig):
    """Splatfacto's settings with those of GaussGym as defaults."""

    _target: type = field(default_factory=lambda: GaussgymSplatfactoModel)
    use_absgrad: bool = False
    """gsplat's absolute gradients exist on a GPU only"""
    densify_grad_thresh: float = 0.0002
    """threshold of positional gradient norm (3DGS's; splatfacto's 0.0008 belongs to absolute gradients)"""
    use_scale_regularization: bool = True
    """penalize splats much longer than wide"""
    rasterize_mode: Literal["classic", "antialiased"] = "antialiased"
    """whether opacity makes up for the low-pass of small splats; GaussGym's renderers draw so"""
    use_bilateral_grid: bool = True
    """one colour grid an image, for exposure and white balance that change along a walk"""
    initial_opacity: float = 0.5
    """of the seeds (splatfacto's 0.1 is for sparse points; seeds of GaussGym cover what stereo saw)"""
    seed_shapes: Path | None = None
    """3DGS PLY with a splat a seed point, in their order and unturned: splats start with its sizes, orientations and opacities"""
    camera_optimizer: CameraOptimizerConfig = field(
        default_factory=lambda: CameraOptimizerConfig(mode="SO3xR3")
    )


class GaussgymSplatfactoModel(SplatfactoModel):
    """Splatfacto that needs neither a GPU nor the network."""

    config: GaussgymSplatfactoModelConfig

    def populate_modules(self) -> None:
        """Make the splats and the metrics, LPIPS apart."""
        with repairs.without_lpips():
            super().populate_modules()
        opacity = self.config.initial_opacity
        self.gauss_params["opacities"].data.fill_(math.log(opacity / (1 - opacity)))
        if self.config.seed_shapes is not None:
            self._take_shapes(Splats.load_ply(self.config.seed_shapes))

    def _take_shapes(self, seeds: Splats) -> None:
        """Start with the shapes of ``seeds``, whose frame differs from nerfstudio's by a shift and a scale.

        Raises:
            ValueError: They are not the seed points, or were turned.
        """
        points = self.gauss_params["means"].detach().cpu().numpy().astype(np.float64)
        if len(points) != len(seeds):
            raise ValueError(f"{len(seeds)} seed shapes for {len(points)} seed points, expected as many")
        theirs = seeds.means - seeds.means.astype(np.float64).mean(0)
        ours = points - points.mean(0)
        scale = float((ours * theirs).sum() / (theirs**2).sum())
        if scale <= 0 or np.abs(ours - scale * theirs).max() > 1e-3 * np.abs(ours).max():
            raise ValueError(
                "the seed shapes lie elsewhere than the seed points; the data set must not be turned"
            )
        opacities = np.clip(seeds.opacities, 0.01, 0.99)
        shapes = {
            "scales": np.log(seeds.scales * scale), "quats": seeds.quats_wxyz,
            "opacities": np.log(opacities / (1 - opacities))[:, None],
        }  # fmt: skip
        for name, values in shapes.items():
            self.gauss_params[name].data.copy_(torch.from_numpy(values.astype(np.float32)))

    def step_post_backward(self, step: int) -> None:
        """Splatfacto's densification, but for step 0, at which gsplat would take the opacities back to 0.2."""
        if step > 0:
            super().step_post_backward(step)

    def get_image_metrics_and_images(
        self, outputs: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]
    ) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """Splatfacto's metrics but LPIPS, which is not measured here, and its images."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        return {name: value for name, value in metrics.items() if not name.endswith("lpips")}, images


def _config() -> Any:
    from nerfstudio.configs.method_configs import method_configs

    config = deepcopy(method_configs["splatfacto"])
    config.method_name = "gaussgym-splatfacto"
    ours = GaussgymSplatfactoModelConfig()
    config.pipeline.model = ours
    # Steps that a user leaves alone are shown and evaluated as by splatfacto; a machine without a GPU needs no flag.
    config.machine = MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu")
    return config


gaussgym_splatfacto = MethodSpecification(
    config=_config(), description="Splatfacto with GaussGym's settings; runs without a GPU too."
)
