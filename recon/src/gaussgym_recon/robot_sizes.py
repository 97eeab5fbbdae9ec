"""How much room robots take and what they climb: all that walkability asks of a robot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaussgym_scene.errors import InputError


@dataclass(frozen=True)
class RobotSize:
    """A robot as an upright cylinder that steps up.

    Attributes:
        name: As in the simulator.
        half_width_m: Nearest that its middle may come to what it must not touch [m].
        height_m: Free height it needs above the ground [m].
        max_step_m: Highest step it takes up or down [m].
        max_slope_rad: Steepest ground, over half a metre, that it walks on [rad].
    """

    name: str
    half_width_m: float
    height_m: float
    max_step_m: float
    max_slope_rad: float


ROBOT_SIZES = {
    size.name: size
    for size in (
        RobotSize("go1", 0.20, 0.45, 0.16, math.radians(35)),
        RobotSize("go2", 0.21, 0.45, 0.16, math.radians(35)),
        RobotSize("t1", 0.30, 1.25, 0.06, math.radians(15)),
    )
}
"""Half the width of the makers' data sheets (Go1 28 cm, Go2 31 cm, T1 47 cm) and some 5 cm; heights standing (40, 40, 118 cm)
and as much. The dogs' steps and slopes are what Unitree states for the Go2, a little less; Booster states none for the T1:
cautious values."""


def robot_size(name: str) -> RobotSize:
    """The size of a robot.

    Raises:
        InputError: It is not among `ROBOT_SIZES`.
    """
    if name not in ROBOT_SIZES:
        raise InputError(f"robot {name!r} has no size here, expected one of: {', '.join(ROBOT_SIZES)}")
    return ROBOT_SIZES[name]
