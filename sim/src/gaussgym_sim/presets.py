"""Named ranges of randomization: none, the quick recipe, those of gauss_gym's robots, and the widest that are supported.

gauss_gym's are those of its released code (`escontra/gauss_gym`, arXiv 2510.15352), with what was meant where the code does
something else: its motor strength scales targets (here: torques), its joint friction follows the torque's sign (here: opposes
motion), camera errors are added along world axes (here: they turn with the body). Its friction of joints and its compliance are
those of PhysX; here they are dry friction [Nm] and softness of `gaussgym_sim.vecsim.PARAMS`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gaussgym_scene.errors import InputError

from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.sensors.camera_clock import CameraClockCfg
from gaussgym_sim.sensors.sensing import SensingCfg


def _gaussgym(trunk_mass_factor: tuple[float, float], joint_friction_nm: tuple[float, float]) -> RandomizeCfg:
    """What all robots of gauss_gym share."""
    return replace(
        RandomizeCfg.none(),
        friction=(0.3, 2.0),
        restitution=(0.1, 0.9),
        compliance=(0.0, 1.5),
        trunk_mass_factor=trunk_mass_factor,
        trunk_com_m=(0.1, 0.1, 0.05),
        link_mass_factor=(0.9, 1.1),
        gain_factor=(0.9, 1.1),
        strength_factor=(0.8, 1.2),
        motor_offset_rad=0.03,
        armature_kg_m2=(0.0, 0.015),
        joint_friction_nm=joint_friction_nm,
        kick_m_s=1.5,
        kick_rad_s=1.5,
        kick_interval_s=4.0,
        push_force_n=10.0,
        push_torque_nm=2.0,
        push_duration_s=1.0,
        push_interval_s=8.0,
        start_normal=True,
        start_joint_rad=0.05,
        start_lin_vel_m_s=0.1,
        camera_pos_m=0.02,
        camera_rot_rad=0.03,
        camera_focal_std=0.05,  # 3 of 60.6 pixels
        camera_principal_std_px=1.0,
        camera_clock=CameraClockCfg(period_s=(0.05, 0.15), latency_s=(0.12, 0.30), redraw_s=3.0),
        sensing=SensingCfg(
            imu_latency_s=(0.0, 0.0475),
            action_latency_s=(0.0, 0.0275),
            same_latency=True,
            latency_redraw_s=3.0,
            ang_vel_noise_rad_s=(0.1, 0.35),
            gravity_noise=(0.025, 0.1),
            joint_pos_noise_rad=(0.005, 0.02),
            joint_vel_noise_rad_s=(0.3, 1.5),
        ),
    )


def _a1() -> RandomizeCfg:
    return _gaussgym((0.6, 1.4), (0.0, 0.1))


def _t1() -> RandomizeCfg:
    """Dry friction is the environment's own (0 to 2 Nm) rather than PhysX's (0 to 0.01)."""
    return replace(_gaussgym((0.8, 1.2), (0.0, 2.0)), kd_offset=(("ankle", -0.5, 2.0),))


def _anymal_c() -> RandomizeCfg:
    return replace(_gaussgym((0.8, 1.2), (0.0, 0.05)), kd_factor=(0.95, 1.05), start_yaw_rad=1.5)


def _extreme() -> RandomizeCfg:
    """Everything, as far as it is supported.

    The inertia of rotors goes down to 0.8 of each joint's own and no further: gains act once a 5 ms substep, which is stable only
    while kd dt < 2 I (ANYmal's shanks without their rotors are not, with these gains).
    """
    return RandomizeCfg(
        friction=(0.05, 2.5), restitution=(0.0, 0.95), compliance=(0.0, 3.0), trunk_mass_factor=(0.5, 1.8),
        trunk_com_m=(0.15, 0.1, 0.08), link_mass_factor=(0.7, 1.4), gain_factor=(0.6, 1.5), kd_factor=(0.5, 1.5),
        strength_factor=(0.5, 1.3), motor_offset_rad=0.1, delay_s=(0.0, 0.06), armature_factor=(0.8, 3.0),
        joint_damping_nm_s=(0.0, 2.0), joint_friction_nm=(0.0, 2.0), gravity_m_s2=1.0, kick_m_s=2.0, kick_rad_s=3.0,
        kick_interval_s=2.0, push_force_n=60.0, push_torque_nm=10.0, push_duration_s=1.0, push_interval_s=3.0,
        start_joint_rad=0.3, start_joint_vel_rad_s=2.0, start_lin_vel_m_s=1.0, start_ang_vel_rad_s=1.0,
        start_yaw_rad=math.pi, start_tilt_rad=0.3, start_lateral=1.0, camera_pos_m=0.05, camera_rot_rad=0.1,
        camera_focal=0.1, camera_focal_std=0.05, camera_principal_std_px=3.0,
        camera_clock=CameraClockCfg(period_s=(0.02, 0.3), jitter_s=0.01, latency_s=(0.0, 0.3), redraw_s=1.0),
        sensing=SensingCfg(
            encoder_bias_rad=0.05, gyro_bias_rad_s=0.2, imu_tilt_rad=0.1, imu_latency_s=(0.0, 0.1),
            joint_latency_s=(0.0, 0.1), command_latency_s=(0.0, 0.2), action_latency_s=(0.0, 0.1),
            latency_redraw_s=1.0, ang_vel_noise_rad_s=(0.0, 1.0), gravity_noise=(0.0, 0.2),
            joint_pos_noise_rad=(0.0, 0.05), joint_vel_noise_rad_s=(0.0, 3.0),
        ),
    )  # fmt: skip


PRESETS: dict[str, Callable[[], RandomizeCfg]] = {
    "none": RandomizeCfg.none,
    "light": RandomizeCfg.light,
    "default": RandomizeCfg,
    "gaussgym_a1": _a1,
    "gaussgym_t1": _t1,
    "gaussgym_anymal_c": _anymal_c,
    "extreme": _extreme,
}


PRESET_FORMAT, PRESET_VERSION = "gaussgym-preset", 1


def randomize_preset(name: str) -> RandomizeCfg:
    """Ranges by name, or of a file ``name`` that ends in .json (see `read_preset`).

    Raises:
        InputError: no such preset (the message lists those that exist), or a file that does not do.
    """
    if name.endswith(".json"):
        return read_preset(name)
    if name not in PRESETS:
        raise InputError(
            f"unknown preset of randomization {name!r}; choose one of: {', '.join(PRESETS)}, or the path of a .json file"
        )
    return PRESETS[name]()


def read_preset(path: Path | str) -> RandomizeCfg:
    """Ranges of a file, such as `gaussgym-learn compare` writes.

    ``{"format": "gaussgym-preset", "version": 1, "base": NAME, "randomize": {FIELD: [low, high] or number}}``: fields of
    `RandomizeCfg` in place of those of the named preset. Other keys belong to other readers.

    Raises:
        InputError: not such a file, an unknown field, a value that is not a number or an ascending pair of numbers.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a preset of randomization") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected a preset of randomization") from None
    if not isinstance(found, dict) or (found.get("format"), found.get("version")) != (
        PRESET_FORMAT,
        PRESET_VERSION,
    ):
        raise InputError(f"{path}: expected format {PRESET_FORMAT!r}, version {PRESET_VERSION}")
    base = found.get("base", "default")
    if base not in PRESETS:
        raise InputError(f"{path}: base is {base!r}, expected one of: {', '.join(PRESETS)}")
    values = found.get("randomize", {})
    if not isinstance(values, dict):
        raise InputError(f"{path}: 'randomize' holds a {type(values).__name__}, expected an object")
    return replace(PRESETS[base](), **{name: _value(path, name, value) for name, value in values.items()})


def _value(path: Path, name: str, value: Any) -> float | tuple[float, float]:
    """A field's value out of a file: a range for fields that are ranges, a number for the others."""
    known = {field.name: str(field.type) for field in fields(RandomizeCfg)}
    if name not in known or not ("Range" in known[name] or known[name].startswith("float")):
        usable = [n for n, kind in known.items() if "Range" in kind or kind.startswith("float")]
        raise InputError(f"{path}: unknown field {name!r}; a file can set: {', '.join(usable)}")
    numbers = value if isinstance(value, list) else [value]
    proper = all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
    count = 2 if "Range" in known[name] else 1
    if (
        not proper
        or len(numbers) != count
        or (isinstance(value, list) != (count == 2))
        or numbers != sorted(numbers)
    ):
        expected = "[low, high]" if count == 2 else "a number"
        raise InputError(f"{path}: {name} is {value!r}, expected {expected}")
    return (float(numbers[0]), float(numbers[1])) if count == 2 else float(numbers[0])
