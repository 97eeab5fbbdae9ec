"""What the policy reads: proprioception, privileged base velocity, height scan."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaussgym_sim.ground.terrain import TerrainLookup
from gaussgym_sim.randomize import Uniform
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.sensors.observation_kernels import add_noise, clipped_heights, gather_scaled
from gaussgym_sim.sensors.sensing import Sensing, SensingCfg


@dataclass(frozen=True)
class ObservationTermCfg:
    """One term: ``scale x value`` plus uniform noise of amplitude ``noise`` (on the scaled value)."""

    name: str
    size: int
    scale: tuple[float, ...]
    noise: float


@dataclass(frozen=True)
class ObservationCfg:
    """Scales and noise of all terms, and the grid of the height scan (base yaw frame, origin at the base)."""

    ang_vel_scale: float = 0.25
    command_scale: tuple[float, float, float] = (2.0, 2.0, 0.25)
    joint_vel_scale: float = 0.05
    base_vel_scale: float = 2.0
    base_vel_noise: float = 0.1
    ang_vel_noise: float = 0.05
    gravity_noise: float = 0.03
    joint_pos_noise: float = 0.01
    joint_vel_noise: float = 0.05
    scan_x_m: tuple[float, float, int] = (-0.4, 0.8, 9)
    """First, last, number of points ahead."""
    scan_y_m: tuple[float, float, int] = (-0.4, 0.4, 7)
    scan_scale: float = 4.0
    scan_clip_m: float = 0.5
    scan_noise: float = 0.0

    @property
    def scan_size(self) -> int:
        """Number of scan points S."""
        return self.scan_x_m[2] * self.scan_y_m[2]


def proprio_terms(robot: RobotCfg, cfg: ObservationCfg | None = None) -> tuple[ObservationTermCfg, ...]:
    """The terms of ``proprio`` in order; a policy bundle lists exactly these."""
    c, j = cfg or ObservationCfg(), robot.num_joints
    return (
        ObservationTermCfg("ang_vel_b", 3, (c.ang_vel_scale,) * 3, c.ang_vel_noise),
        ObservationTermCfg("gravity_b", 3, (1.0,) * 3, c.gravity_noise),
        ObservationTermCfg("command", 3, c.command_scale, 0.0),
        ObservationTermCfg("joint_pos_offset", j, (1.0,) * j, c.joint_pos_noise),
        ObservationTermCfg("joint_vel", j, (c.joint_vel_scale,) * j, c.joint_vel_noise),
        ObservationTermCfg("last_action", j, (1.0,) * j, 0.0),
    )


def make_sensing(
    robot: RobotCfg,
    cfg: ObservationCfg,
    sensing: SensingCfg,
    num_envs: int,
    *,
    control_s: float,
    uniform: Uniform,
) -> Sensing | None:
    """The sensors of E robots; None where ``sensing`` has no errors."""
    if sensing == SensingCfg(latency_redraw_s=sensing.latency_redraw_s):
        return None
    terms = proprio_terms(robot, cfg)
    fixed = torch.tensor([t.noise / s for t in terms for s in t.scale], device=uniform.device)
    sizes = {t.name: t.size for t in terms}
    return Sensing(
        sensing,
        sizes,
        num_envs,
        control_s=control_s,
        fixed_noise=fixed,
        device=uniform.device,
        uniform=uniform,
    )


class Observations:
    """Scaled, noisy observation groups. Noise comes from the given generator, in a fixed order."""

    def __init__(
        self,
        robot: RobotCfg,
        cfg: ObservationCfg,
        *,
        device: torch.device,
        generator: torch.Generator,
        sensing: Sensing | None = None,
    ) -> None:
        """Prepare scale, noise and grid buffers.

        Args:
            robot: whose joints are observed.
            cfg: scales and noise.
            device: of all tensors.
            generator: of the noise.
            sensing: sensors between truth and proprioception; None = they are perfect, noise aside.
        """
        self.cfg, self._generator, self._device, self._sensing = cfg, generator, device, sensing
        terms = proprio_terms(robot, cfg)
        self._scale = torch.tensor([s for t in terms for s in t.scale], device=device)
        self._noise = torch.tensor([t.noise for t in terms for _ in t.scale], device=device)
        x = torch.linspace(*cfg.scan_x_m, device=device)
        y = torch.linspace(*cfg.scan_y_m, device=device)
        self.grid_b = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1).reshape(-1, 2)
        """[S, 2] scan points in the base's yaw frame [m], x major."""
        self._grid_columns = self.grid_b.T.contiguous()
        self._base_height_m = robot.base_height_m
        self._base_vel_noise = torch.full((3,), cfg.base_vel_noise, device=device)
        self._scan_noise = torch.full((len(self.grid_b),), cfg.scan_noise, device=device)
        self._by_kernels = torch.device(device).type == "cpu"

    def proprio(self, terms: tuple[Tensor, ...], *, noisy: bool) -> Tensor:
        """Concatenate raw terms [E, n] in the order of `proprio_terms`, scale them, add noise: [E, 45]."""
        amplitude = self._noise if noisy else None
        if self._sensing is not None:
            values = self._sensing.measure(torch.cat(terms, dim=1))
            if noisy and self._sensing.noise is not None:
                amplitude = self._sensing.noise * self._scale
            return self._noisy(values * self._scale, amplitude)
        if not self._by_kernels:
            return self._noisy(torch.cat(terms, dim=1) * self._scale, amplitude)
        values = torch.empty(len(terms[0]), len(self._scale))
        arguments = [t.numpy() for t in (*terms, self._scale, values)]
        gather_scaled(*arguments)
        return self._noisy(values, amplitude)

    def base_vel(self, lin_vel_b: Tensor, *, noisy: bool) -> Tensor:
        """[E, 3]."""
        return self._noisy(lin_vel_b * self.cfg.base_vel_scale, self._base_vel_noise if noisy else None)

    def scan(self, root_pos_w: Tensor, ground_m: Tensor, *, noisy: bool) -> Tensor:
        """Scan observation [E, S]: 4 x clip(base height - nominal - ground, +-0.5 m); 0 standing on flat ground.

        Args:
            root_pos_w: [E, 3] bases [m].
            ground_m: [E, S] see `scan_ground`.
            noisy: whether to add noise.
        """
        c = self.cfg
        if self._by_kernels:
            scaled = torch.empty(ground_m.shape)
            arrays = (root_pos_w.numpy(), ground_m.numpy())
            clipped_heights(*arrays, self._base_height_m, c.scan_clip_m, c.scan_scale, scaled.numpy())
        else:
            scaled = self._scan_by_tensors(root_pos_w, ground_m)
        return self._noisy(scaled, self._scan_noise if noisy and c.scan_noise > 0 else None)

    def _scan_by_tensors(self, root_pos_w: Tensor, ground_m: Tensor) -> Tensor:
        c = self.cfg
        relative = root_pos_w[:, 2:] - self._base_height_m - ground_m
        return relative.clamp_(-c.scan_clip_m, c.scan_clip_m).mul_(c.scan_scale)

    def scan_ground(
        self, root_pos_w: Tensor, yaw: Tensor, terrain: TerrainLookup, scene_ids: Tensor
    ) -> Tensor:
        """Ground height [m] under the scan grid, turned by yaw and moved to the base, [E, S]."""
        return terrain.sample_grid(root_pos_w[:, :2], yaw, self._grid_columns, scene_ids)

    def _noisy(self, value: Tensor, amplitude: Tensor | None) -> Tensor:
        """Add noise of an amplitude [P] or [E, P] to values [E, P], in place."""
        if amplitude is None:
            return value
        if self._by_kernels:
            seed = int(torch.randint(1 << 62, (), generator=self._generator))
            add_noise(seed, amplitude.view(-1, value.shape[1]).numpy(), value.numpy())
            return value
        noise = torch.rand(value.shape, generator=self._generator, device=self._device)
        return value.add_(noise.mul_(2.0).sub_(1.0).mul_(amplitude))
