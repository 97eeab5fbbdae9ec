"""What kind of actuators a robot has: how position targets become joint torques."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gaussgym_scene.errors import InputError

KINDS = ("pd", "dc", "net")


@dataclass(frozen=True)
class ActuatorCfg:
    """How targets become torques.

    With q, qd the joint's position and velocity and target' the target of ``delay_s`` ago plus ``offset``::

        pd:  tau = strength (kp (target' - q) - kd qd)
        dc:  the same, then clipped to what a DC motor gives at this speed: at most
             stall (1 - qd / no_load) and at least stall (-1 - qd / no_load), never of the other sign
        net: tau = strength f(target' - q, qd), a network with a memory of its own

    and in all of them the torque is then clipped to the robot's ``torque_limit_nm``. Gains, ``strength``, ``offset`` and
    ``delay_s`` are parameters of each environment (`gaussgym_sim.vecsim.PARAMS`).

    Attributes:
        kind: 'pd', 'dc' or 'net'.
        stall_torque_nm: of each joint, at standstill; 'dc' only.
        no_load_speed_rad_s: of each joint, without torque; 'dc' only.
        net: file of the network, written by `gaussgym_sim.actuation.actuator_net`; 'net' only.
    """

    kind: str = "pd"
    stall_torque_nm: tuple[float, ...] = ()
    no_load_speed_rad_s: tuple[float, ...] = ()
    net: Path | None = None

    def check(self, num_joints: int) -> None:
        """Refuse what does not fit a robot of ``num_joints`` joints.

        Raises:
            InputError: an unknown kind, a missing number, a missing file.
        """
        if self.kind not in KINDS:
            raise InputError(f"unknown kind of actuator {self.kind!r}; choose one of: {', '.join(KINDS)}")
        if self.kind == "dc":
            for name in ("stall_torque_nm", "no_load_speed_rad_s"):
                values = getattr(self, name)
                if len(values) != num_joints or min(values, default=0.0) <= 0.0:
                    raise InputError(
                        f"actuator of kind 'dc': {name} is {values}, expected {num_joints} numbers above 0"
                    )
        if self.kind == "net" and self.net is None:
            raise InputError("actuator of kind 'net' without a network; give the file as net=")
