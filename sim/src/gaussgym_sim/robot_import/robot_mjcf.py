"""A compiled robot as text of the kind that `robots/` holds: primitives, one motor a joint, the project's solver settings."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

_HEAD = """<mujoco model="{name}">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.005" integrator="implicitfast" iterations="10" ls_iterations="20">
    <flag eulerdamp="disable" autoreset="disable"/>
  </option>
  <default>
    <geom contype="1" conaffinity="0" condim="3" priority="1" mass="0" rgba="0.25 0.25 0.28 1"/>
  </default>
  <worldbody>
"""
_KINDS = {
    mujoco.mjtGeom.mjGEOM_BOX: ("box", 3),
    mujoco.mjtGeom.mjGEOM_CAPSULE: ("capsule", 2),
    mujoco.mjtGeom.mjGEOM_SPHERE: ("sphere", 1),
}


def robot_mjcf(
    model: mujoco.MjModel,
    *,
    name: str,
    joint_names: Mapping[int, str],
    geom_names: Mapping[int, str],
    torque_limit_nm: Mapping[int, float],
) -> str:
    """Write a robot's MJCF; numbers keep all their digits.

    Args:
        model: base with a free joint, hinges, primitive geoms.
        name: of the model.
        joint_names: by joint id, in the order of the motors.
        geom_names: of the geoms to keep, by id.
        torque_limit_nm: by joint id.
    """
    out = [_HEAD.format(name=name)]
    _body(model, 1, out, "    ", joint_names, geom_names)
    out.append("  </worldbody>\n  <actuator>\n")
    for joint, text in joint_names.items():
        limit = _numbers(torque_limit_nm[joint])
        out.append(f'    <motor name="{text}" joint="{text}" ctrlrange="-{limit} {limit}"/>\n')
    out.append("  </actuator>\n</mujoco>\n")
    return "".join(out)


def _numbers(values: object) -> str:
    return " ".join(repr(float(v)) for v in np.atleast_1d(values))  # type: ignore[arg-type]


def _body(
    model: mujoco.MjModel,
    body: int,
    out: list[str],
    indent: str,
    joint_names: Mapping[int, str],
    geom_names: Mapping[int, str],
) -> None:
    where = f'pos="{_numbers(model.body_pos[body])}" quat="{_numbers(model.body_quat[body])}"'
    out.append(f'{indent}<body name="{model.body(body).name}" {where}>\n')
    if body == 1:
        out.append(f'{indent}  <freejoint name="root"/>\n')
    elif model.body_jntnum[body]:
        out.append(f"{indent}  {_joint(model, int(model.body_jntadr[body]), joint_names)}\n")
    out.append(
        f'{indent}  <inertial pos="{_numbers(model.body_ipos[body])}" quat="{_numbers(model.body_iquat[body])}" '
        f'mass="{_numbers(model.body_mass[body])}" diaginertia="{_numbers(model.body_inertia[body])}"/>\n'
    )
    for geom, name in geom_names.items():
        if model.geom_bodyid[geom] == body:
            out.append(f"{indent}  {_geom(model, geom, name)}\n")
    for child in range(2, model.nbody):
        if model.body_parentid[child] == body:
            _body(model, child, out, indent + "  ", joint_names, geom_names)
    out.append(f"{indent}</body>\n")


def _joint(model: mujoco.MjModel, joint: int, joint_names: Mapping[int, str]) -> str:
    dof, address = int(model.jnt_dofadr[joint]), int(model.jnt_qposadr[joint])
    values = {
        "pos": model.jnt_pos[joint],
        "axis": model.jnt_axis[joint],
        "range": model.jnt_range[joint],
        "armature": model.dof_armature[dof],
        "damping": model.dof_damping[dof],
        "frictionloss": model.dof_frictionloss[dof],
        "stiffness": model.jnt_stiffness[joint],
        "springref": model.qpos_spring[address],
        "ref": model.qpos0[address],
    }
    text = " ".join(f'{k}="{_numbers(v)}"' for k, v in values.items() if np.any(v))
    return f'<joint name="{joint_names[joint]}" {text}/>'


def _geom(model: mujoco.MjModel, geom: int, name: str) -> str:
    kind, sizes = _KINDS[mujoco.mjtGeom(model.geom_type[geom])]
    values = {
        "size": model.geom_size[geom, :sizes],
        "pos": model.geom_pos[geom],
        "quat": model.geom_quat[geom],
        "friction": model.geom_friction[geom],
        "solref": model.geom_solref[geom],
        "solimp": model.geom_solimp[geom],
    }
    text = " ".join(f'{k}="{_numbers(v)}"' for k, v in values.items())
    return f'<geom name="{name}" type="{kind}" {text}/>'
