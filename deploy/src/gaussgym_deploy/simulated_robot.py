"""How a simulated robot differs from the one that a policy was trained on: what ``gaussgym-learn robot`` takes as options.

The definition stands here, on the side that asks for it; the robot process imports it, so that both speak of the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Mapping, Optional

from .bundle import BundleError

__all__ = ["TRAINING_NOISE", "SimulatedRobotCfg"]

TRAINING_NOISE: Mapping[str, float] = {
    "joint_pos_noise_rad": 0.01,
    "joint_vel_noise_rad_s": 1.0,
    "ang_vel_noise_rad_s": 0.2,
    "attitude_noise_rad": 0.03,
    "lin_acc_noise_m_s2": 0.5,
}
"""Half ranges of the uniform noise that policies are trained with (``gaussgym_sim.sensors.observations.ObservationCfg``); the
accelerometer, which no policy reads, has a number of the same order."""


@dataclass(frozen=True)
class SimulatedRobotCfg:
    """Sensors, delays, ground and motors of a simulated robot. The defaults are the nominal robot of the evaluation.

    Attributes:
        state_latency_ms: Age of joint and IMU readings when they are published [ms]; rounded to physics steps.
        command_delay_ms: Time from a command's arrival to its effect [ms]; rounded to physics steps.
        camera_hz: Frames a second [1/s]; default: the rate that the policy was trained with.
        camera_latency_ms: Time from a frame's exposure to its arrival [ms].
        noise: Sensor noise as a multiple of the training's (uniform, new in every published state).
        joint_pos_noise_rad: Half range of the noise of joint angles [rad]; default: ``noise`` times 0.01.
        joint_vel_noise_rad_s: Of joint velocities [rad/s]; default: ``noise`` times 1.
        ang_vel_noise_rad_s: Of the gyroscope [rad/s]; default: ``noise`` times 0.2.
        attitude_noise_rad: Of the attitude, about each axis [rad]; default: ``noise`` times 0.03.
        lin_acc_noise_m_s2: Of the accelerometer [m/s²]; default: ``noise`` times 0.5.
        friction: Sliding friction coefficient between the robot and any ground (nominal 1).
        payload_kg: Mass on the robot's back [kg], a point 0.1 m above the base's origin.
        motor_strength: Factor on every motor's torque and on its limit.
        joint_friction_nm: Dry friction of every joint [N·m]; default: the robot model's own.
        joint_damping_nms: Viscous friction of every joint [N·m·s/rad]; default: the robot model's own.
        camera_gain: Factor on the light that the camera sees (its exposure).
        camera_gamma: Exponent on the camera's encoded values in 0..1.
        odometry_scale: Factor on the distance that the robot's own odometry reports (``position_w``).
        yaw_drift_rad_per_m: Heading error that attitude and odometry gather over the distance walked [rad/m].
        physics_hz: Physics steps a second; a multiple of the control rate, 200 in training.
        state_hz: States published a second when running freely (no more than physics steps); default: the control rate.
        speed: Simulated seconds a second when running freely.
        seed: Of the noise.
    """

    state_latency_ms: float = 0.0
    command_delay_ms: float = 0.0
    camera_hz: Optional[float] = None
    camera_latency_ms: float = 0.0
    noise: float = 0.0
    joint_pos_noise_rad: Optional[float] = None
    joint_vel_noise_rad_s: Optional[float] = None
    ang_vel_noise_rad_s: Optional[float] = None
    attitude_noise_rad: Optional[float] = None
    lin_acc_noise_m_s2: Optional[float] = None
    friction: float = 1.0
    payload_kg: float = 0.0
    motor_strength: float = 1.0
    joint_friction_nm: Optional[float] = None
    joint_damping_nms: Optional[float] = None
    camera_gain: float = 1.0
    camera_gamma: float = 1.0
    odometry_scale: float = 1.0
    yaw_drift_rad_per_m: float = 0.0
    physics_hz: int = 200
    state_hz: Optional[int] = None
    speed: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            BundleError: A number out of its range.
        """
        for name in (*TRAINING_NOISE, "state_latency_ms", "command_delay_ms", "camera_latency_ms", "noise",
                     "friction", "payload_kg", "joint_friction_nm", "joint_damping_nms"):  # fmt: skip
            self._require(name, 0.0, 1e4, "0 or more")
        for name in (
            "camera_hz", "motor_strength", "camera_gain", "camera_gamma", "odometry_scale", "physics_hz", "state_hz", "speed",
        ):  # fmt: skip
            self._require(name, 1e-3, 1e5, "a positive number")
        self._require("yaw_drift_rad_per_m", -math.pi, math.pi, "a number between -pi and pi")
        if self.state_hz is not None and (
            self.state_hz > self.physics_hz or self.physics_hz % self.state_hz != 0
        ):
            raise BundleError(
                f"state_hz is {self.state_hz}, expected a divisor of the {self.physics_hz} physics steps a second"
            )

    def _require(self, name: str, low: float, high: float, expected: str) -> None:
        value = getattr(self, name)
        if value is not None and not low <= value <= high:
            raise BundleError(f"{name} is {value!r}, expected {expected}")

    @classmethod
    def from_text(cls, values: Mapping[str, Any]) -> SimulatedRobotCfg:
        """From values or their text, by field name.

        Raises:
            BundleError: An unknown name, text that is no number, a number out of its range.
        """
        whole = ("physics_hz", "state_hz", "seed")
        known = [field.name for field in fields(cls)]
        given: Dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise BundleError(f"no option {name!r} of a simulated robot; there is: {', '.join(known)}")
            if value is None:
                continue
            try:
                given[name] = int(value) if name in whole else float(value)
            except (TypeError, ValueError):
                raise BundleError(f"{name} is {value!r}, expected a number") from None
        return cls(**given)

    def amplitude(self, name: str) -> float:
        """Half range of a noise, by its field's name: what was given for it, else ``noise`` times the training's."""
        value = getattr(self, name)
        return self.noise * TRAINING_NOISE[name] if value is None else float(value)

    def changed(self) -> Dict[str, Any]:
        """The fields that are not at their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def arguments(self) -> List[str]:
        """The same as options of ``gaussgym-learn robot``."""
        words: List[str] = []
        for name, value in self.changed().items():
            words += ["--" + name.replace("_", "-"), repr(value)]
        return words
