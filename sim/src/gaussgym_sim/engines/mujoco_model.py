"""A robot on a ground as a MuJoCo model: the MJCF, its sensors, the terrain."""

from __future__ import annotations

import mujoco

from gaussgym_sim.ground.terrain import Ground, add_ground
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.vecsim import SUBSTEP_S

SOLVER_ITERATIONS = 100
"""Most iterations of a substep's contact solver. Nearly all substeps take two or three: a higher bound costs nothing. At
the MJCFs' 10, rare ones were left unsolved (robots at the widest randomization, entangled in rubble), and their forces blew up.
"""

_SENSOR, _OBJECT = mujoco.mjtSensor, mujoco.mjtObj
_FOUND = 1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND)
_FORCE = 1 << int(mujoco.mjtConDataField.mjCONDATA_FORCE)
_NET_FORCE = 3  # `reduce`: the sum of all contacts' forces, in world axes


def robot_spec(robot: RobotCfg) -> mujoco.MjSpec:
    """A robot's MJCF with the sensors that simulators read.

    For each leg ``<leg>_foot_pos``, ``<leg>_foot_vel`` (world frame), ``<leg>_foot_contact`` (found, net force that the foot
    exerts) and ``<leg>_thigh_contact`` (found); for each trunk shape ``<geom>_contact`` (found).
    """
    spec = mujoco.MjSpec.from_file(str(robot.mjcf))
    for leg, foot in zip(robot.leg_names, robot.foot_geoms, strict=True):
        spec.add_sensor(
            name=f"{leg}_foot_pos", type=_SENSOR.mjSENS_FRAMEPOS, objtype=_OBJECT.mjOBJ_GEOM, objname=foot
        )
    for leg, foot in zip(robot.leg_names, robot.foot_geoms, strict=True):
        spec.add_sensor(
            name=f"{leg}_foot_vel", type=_SENSOR.mjSENS_FRAMELINVEL, objtype=_OBJECT.mjOBJ_GEOM, objname=foot
        )
    for leg, foot in zip(robot.leg_names, robot.foot_geoms, strict=True):
        _add_contact_sensor(spec, f"{leg}_foot_contact", foot, fields=_FOUND | _FORCE, reduce=_NET_FORCE)
    for leg, thigh in zip(robot.leg_names, robot.thigh_geoms, strict=True):
        _add_contact_sensor(spec, f"{leg}_thigh_contact", thigh, fields=_FOUND)
    for geom in robot.trunk_geoms:
        _add_contact_sensor(spec, f"{geom}_contact", geom, fields=_FOUND)
    return spec


def _add_contact_sensor(spec: mujoco.MjSpec, name: str, geom: str, *, fields: int, reduce: int = 0) -> None:
    spec.add_sensor(
        name=name, type=_SENSOR.mjSENS_CONTACT, objtype=_OBJECT.mjOBJ_GEOM, objname=geom,
        intprm=[fields, reduce, 1],
    )  # fmt: skip


def build_model(robot: RobotCfg, ground: Ground) -> mujoco.MjModel:
    """The robot on a ground (see `gaussgym_sim.ground.terrain.ground_of`), also for rendering or plain `mj_step`."""
    spec = robot_spec(robot)
    add_ground(spec, ground)
    return compile_model(spec)


def compile_model(spec: mujoco.MjSpec, *, timestep_s: float = SUBSTEP_S) -> mujoco.MjModel:
    """A model with our time step, and room for its contact solver."""
    model = spec.compile()
    model.opt.timestep = timestep_s
    model.opt.iterations = max(model.opt.iterations, SOLVER_ITERATIONS)
    return model


def robot_bodies(model: mujoco.MjModel) -> list[int]:
    """Bodies of the robot, its base first; grounds out of boxes are bodies too."""
    base = int(model.jnt_bodyid[0])
    return [body for body in range(1, model.nbody) if int(model.body_rootid[body]) == base]
