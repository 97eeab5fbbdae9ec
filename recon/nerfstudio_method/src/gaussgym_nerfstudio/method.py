"""The method `gaussgym-splatfacto`: splatfacto as GaussGym trains it, on a GPU or without one."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
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
