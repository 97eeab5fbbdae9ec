"""Conditions of an evaluation: as trained for, with ablated images, in another physics engine, or with one thing varied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gaussgym_scene.errors import InputError
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.randomize import RandomizeCfg

if TYPE_CHECKING:
    from gaussgym_render.robot_camera import RobotCameraCfg

BASE = "none"
"""Name of the condition without any change."""
World = tuple[EnvCfg, "RobotCameraCfg"]
"""What a condition changes: the learning problem and the kind of camera."""


@dataclass(frozen=True)
class Axis:
    """One thing to vary.

    Attributes:
        meaning: for people.
        unit: of the levels.
        nominal: level of the world as it is; not run again.
        levels: the others.
        of_images: only a policy that sees can notice.
        apply: (settings, camera, level) to both at that level.
    """

    meaning: str
    unit: str
    nominal: float
    levels: tuple[float, ...]
    of_images: bool
    apply: Callable[[EnvCfg, RobotCameraCfg, float], World]


def _light(cfg: EnvCfg, camera: RobotCameraCfg, level: float) -> World:
    return cfg, replace(camera, sensor=replace(camera.sensor, exposure_ev=(level, level)))


def _blur(cfg: EnvCfg, camera: RobotCameraCfg, level: float) -> World:
    return cfg, replace(camera, shutter=replace(camera.shutter, exposure_s=(level, level)))


def _noise(cfg: EnvCfg, camera: RobotCameraCfg, level: float) -> World:
    sensor = replace(camera.sensor, read_noise=(level, level), depth_noise_m=(level, level))
    return cfg, replace(camera, sensor=sensor)


def _randomized(cfg: EnvCfg, **changes: object) -> EnvCfg:
    randomize: RandomizeCfg = replace(cfg.randomize, **changes)  # type: ignore[arg-type]
    return replace(cfg, randomize=randomize)


def _latency(cfg: EnvCfg, camera: RobotCameraCfg, level: float) -> World:
    period = 1.0 / cfg.camera.rate_hz
    clock = replace(cfg.randomize.camera_clock, period_s=(period, period), latency_s=(level, level))
    return _randomized(cfg, camera_clock=clock), camera


def _sensor_latency(cfg: EnvCfg, camera: RobotCameraCfg, level: float) -> World:
    sensing = replace(cfg.randomize.sensing, imu_latency_s=(level, level), same_latency=True)
    return _randomized(cfg, sensing=sensing), camera


def _friction(cfg: EnvCfg, camera: RobotCameraCfg, level: float) -> World:
    return _randomized(cfg, friction=(level, level)), camera


def _mass(cfg: EnvCfg, camera: RobotCameraCfg, level: float) -> World:
    return _randomized(cfg, trunk_mass_factor=(level, level)), camera


AXES: dict[str, Axis] = {
    "light": Axis("exposure of the camera", "EV", 0.0, (-3.0, -1.5, 1.5, 3.0), True, _light),
    "blur": Axis("exposure time of the camera", "s", 0.0, (0.01, 0.02, 0.04, 0.08), True, _blur),
    "noise": Axis(
        "noise of the camera, of full scale; of depth in m", "1", 0.0, (0.03, 0.1, 0.2, 0.4), True, _noise
    ),
    "latency": Axis("latency of the camera's frames", "s", 0.0, (0.1, 0.2, 0.3, 0.5), True, _latency),
    "sensor_latency": Axis(
        "latency of IMU, joints and commands", "s", 0.0, (0.02, 0.04, 0.06, 0.1), False, _sensor_latency
    ),
    "friction": Axis("friction of the ground", "1", 1.0, (0.2, 0.4, 0.6, 0.8), False, _friction),
    "mass": Axis("mass of the trunk, of nominal", "1", 1.0, (0.7, 1.3, 1.6, 2.0), False, _mass),
}
"""Things to vary, by name; a package adds its own entry."""


@dataclass(frozen=True)
class Condition:
    """Under what a policy is evaluated.

    Attributes:
        name: in reports and file names.
        ablation: of the images.
        axis: thing that is varied, of `AXES`; None: none.
        level: of the axis.
        sim: physics backend in place of the evaluation's; None: that.
        of_images: for policies that see only.
    """

    name: str = BASE
    ablation: str = BASE
    axis: str | None = None
    level: float = 0.0
    sim: str | None = None
    of_images: bool = False

    def apply(self, cfg: EnvCfg, camera: RobotCameraCfg) -> World:
        """Settings and camera under this condition."""
        return (cfg, camera) if self.axis is None else AXES[self.axis].apply(cfg, camera, self.level)


def conditions(
    ablations: Sequence[str], sweeps: Sequence[str], second_engine: str | None
) -> tuple[Condition, ...]:
    """All conditions of an evaluation, the plain one first.

    Args:
        ablations: of the images.
        sweeps: axes to vary; `all`: every one.
        second_engine: a physics backend to run the plain condition in, too.

    Raises:
        InputError: no such ablation or axis.
    """
    from gaussgym_learn.evaluation.ablations import ABLATIONS

    for name in ablations:
        if name not in ABLATIONS:
            raise InputError(f"unknown ablation {name!r}; choose from: {', '.join(ABLATIONS[1:])}")
    axes = list(AXES) if "all" in sweeps else list(dict.fromkeys(sweeps))
    for name in axes:
        if name not in AXES:
            raise InputError(f"unknown sweep {name!r}; choose from: all, {', '.join(AXES)}")
    found = [Condition()]
    found += [
        Condition(name, ablation=name, of_images=True) for name in dict.fromkeys(ablations) if name != BASE
    ]
    if second_engine is not None:
        found.append(Condition(f"engine={second_engine}", sim=second_engine))
    for name in axes:
        axis = AXES[name]
        found += [
            Condition(f"{name}={level:g}", axis=name, level=level, of_images=axis.of_images)
            for level in axis.levels
        ]
    return tuple(found)
