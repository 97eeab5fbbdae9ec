"""A robot as URDF, for engines that read MJCF in part: the same bodies, joints and primitives, each sole a link of its own."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.geoms import load_model

FOOT_MASS_SHARE = 0.02
"""Of its body's mass, what a sole's link gets, with the inertia of a ball; the body keeps the rest."""
_NO_SPEED_LIMIT_RAD_S = 1000.0
_Kind, _Joint = mujoco.mjtGeom, mujoco.mjtJoint


@dataclass(frozen=True)
class Inertia:
    """Mass [kg], centre [m] and inertia about it [kg m^2] of a link, in the link's axes."""

    mass: float
    com: NDArray[np.float64]
    about_com: NDArray[np.float64]


def foot_links(robot: RobotCfg) -> tuple[str, ...]:
    """Names of the links that `urdf_of` makes of the soles: the shape's, or that with ``_sole`` where a body has it already."""
    model = load_model(robot.mjcf)
    bodies = {model.body(i).name for i in range(model.nbody)}
    return tuple(f"{name}_sole" if name in bodies else name for name in robot.foot_geoms)


def urdf_of(robot: RobotCfg) -> str:
    """The robot's model as URDF.

    Capsules become a cylinder and two spheres. A sole (``robot.foot_geoms``) becomes a link on a fixed joint that importers are
    told not to merge (``dont_collapse``), so that its contact force can be told from its body's.

    Raises:
        InputError: shapes, joints or springs that URDF has no word for.
    """
    model = load_model(robot.mjcf)
    _check(robot, model)
    root = ET.Element("robot", name=robot.name)
    soles = {
        model.geom(geom).id: link for geom, link in zip(robot.foot_geoms, foot_links(robot), strict=True)
    }
    for body in range(1, model.nbody):
        own = [g for g in _solid_geoms(model, body) if g not in soles]
        feet = [g for g in _solid_geoms(model, body) if g in soles]
        rest, parts = split_soles(model, body, feet)
        origin = _joint_pos(model, body)
        _add_link(root, model, model.body(body).name, rest, own, origin=origin)
        for geom, part in zip(feet, parts, strict=True):
            _add_link(root, model, soles[geom], part, [geom], origin=model.geom_pos[geom])
            _add_fixed_joint(
                root,
                f"{soles[geom]}_fixed",
                model.body(body).name,
                soles[geom],
                model.geom_pos[geom] - origin,
            )
        if body > 1:
            _add_joint(root, robot, model, body)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _check(robot: RobotCfg, model: mujoco.MjModel) -> None:
    where = f"{robot.mjcf}: "
    if model.nbody < 2 or model.body_jntnum[1] != 1 or model.jnt_type[0] != _Joint.mjJNT_FREE:
        raise InputError(where + "expected one tree of bodies whose base has the only free joint")
    if (model.body_parentid[2:] == 0).any():
        raise InputError(where + "has several trees of bodies, a URDF holds one")
    if (model.body_jntnum[1:] > 1).any():
        raise InputError(where + "has a body with several joints, URDF allows one; put bodies in between")
    hinge_or_slide = np.isin(model.jnt_type[1:], [int(_Joint.mjJNT_HINGE), int(_Joint.mjJNT_SLIDE)])
    if not hinge_or_slide.all() or model.jnt_stiffness.any() or model.qpos_spring[7:].any():
        raise InputError(
            where
            + "has ball joints, springs or joints with a reference other than 0, which URDF does not know"
        )
    known = {_Kind.mjGEOM_SPHERE, _Kind.mjGEOM_BOX, _Kind.mjGEOM_CYLINDER, _Kind.mjGEOM_CAPSULE}
    for body in range(1, model.nbody):
        for geom in _solid_geoms(model, body):
            if _Kind(model.geom_type[geom]) not in known:
                raise InputError(
                    f"{where}shape {model.geom(geom).name!r} is neither box, sphere, cylinder nor capsule; replace it by those"
                )


def _solid_geoms(model: mujoco.MjModel, body: int) -> list[int]:
    first = int(model.body_geomadr[body])
    geoms = range(first, first + int(model.body_geomnum[body]))
    return [g for g in geoms if model.geom_contype[g] or model.geom_conaffinity[g]]


def _joint_pos(model: mujoco.MjModel, body: int) -> NDArray[np.float64]:
    """Where the body's joint is in the body: the origin of its link, as URDF wants it."""
    joint = int(model.body_jntadr[body])
    is_free = joint >= 0 and model.jnt_type[joint] == _Joint.mjJNT_FREE
    return np.zeros(3) if joint < 0 or is_free else model.jnt_pos[joint].copy()


def _rotation(quat_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quat_wxyz)
    return matrix.reshape(3, 3)


def split_soles(model: mujoco.MjModel, body: int, feet: Sequence[int]) -> tuple[Inertia, list[Inertia]]:
    """A body's inertia without its soles, and that of the soles, in the body's axes; together they are the body's.

    Raises:
        InputError: what is left is no inertia.
    """
    axes = _rotation(model.body_iquat[body])
    mass, com = float(model.body_mass[body]), model.body_ipos[body].copy()
    about_com = axes @ np.diag(model.body_inertia[body]) @ axes.T
    whole = Inertia(mass, com, about_com)
    parts = []
    for geom in feet:
        share, radius = FOOT_MASS_SHARE * mass, float(model.geom_rbound[geom])
        parts.append(Inertia(share, model.geom_pos[geom].copy(), 0.4 * share * radius**2 * np.eye(3)))
    if not parts:
        return whole, []
    rest_mass = mass - sum(p.mass for p in parts)
    rest_com = (mass * com - sum(p.mass * p.com for p in parts)) / rest_mass
    about_origin = _about_origin(whole) - sum(_about_origin(p) for p in parts)
    rest = Inertia(rest_mass, rest_com, about_origin - rest_mass * _parallel(rest_com))
    moments = np.linalg.eigvalsh(rest.about_com)
    if moments[0] <= 0 or moments[0] + moments[1] < moments[2] * (1 - 1e-9):
        raise InputError(
            f"body {model.body(body).name!r}: no inertia is left without its sole's; its own inertia is too small"
        )
    return rest, parts


def _parallel(r: NDArray[np.float64]) -> NDArray[np.float64]:
    return float(r @ r) * np.eye(3) - np.outer(r, r)


def _about_origin(part: Inertia) -> NDArray[np.float64]:
    return part.about_com + part.mass * _parallel(part.com)


def _text(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " ".join(f"{float(v) if abs(v) > 1e-12 else 0.0:.9g}" for v in values)


def rpy_of(rotation: NDArray[np.float64]) -> tuple[float, float, float]:
    """Roll, pitch, yaw [rad] of R = Rz(yaw) Ry(pitch) Rx(roll), URDF's angles."""
    pitch = float(np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0])))
    if (
        np.hypot(rotation[0, 0], rotation[1, 0]) < 1e-9
    ):  # straight up or down: only a sum of the others matters
        return float(np.arctan2(-rotation[1, 2], rotation[1, 1])), pitch, 0.0
    roll = float(np.arctan2(rotation[2, 1], rotation[2, 2]))
    return roll, pitch, float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def _origin(
    parent: ET.Element, xyz: NDArray[np.float64], rotation: NDArray[np.float64] | None = None
) -> None:
    rpy = (0.0, 0.0, 0.0) if rotation is None else rpy_of(rotation)
    ET.SubElement(parent, "origin", xyz=_text(xyz), rpy=_text(rpy))


def _add_link(
    root: ET.Element,
    model: mujoco.MjModel,
    name: str,
    inertia: Inertia,
    geoms: Sequence[int],
    *,
    origin: NDArray[np.float64],
) -> None:
    link = ET.SubElement(root, "link", name=name)
    inertial = ET.SubElement(link, "inertial")
    _origin(inertial, inertia.com - origin)
    ET.SubElement(inertial, "mass", value=f"{inertia.mass:.9g}")
    i = inertia.about_com
    entries = {"ixx": i[0, 0], "ixy": i[0, 1], "ixz": i[0, 2], "iyy": i[1, 1], "iyz": i[1, 2], "izz": i[2, 2]}
    ET.SubElement(inertial, "inertia", {key: f"{float(value):.9g}" for key, value in entries.items()})
    for geom in geoms:
        _add_shapes(link, model, geom, origin)


def _add_shapes(link: ET.Element, model: mujoco.MjModel, geom: int, origin: NDArray[np.float64]) -> None:
    size, kind = model.geom_size[geom], _Kind(model.geom_type[geom])
    place, rotation = model.geom_pos[geom] - origin, _rotation(model.geom_quat[geom])
    if kind == _Kind.mjGEOM_BOX:
        _shape(link, place, rotation, "box", size=_text(2 * size))
    elif kind == _Kind.mjGEOM_SPHERE:
        _shape(link, place, rotation, "sphere", radius=_text(size[:1]))
    else:
        _shape(link, place, rotation, "cylinder", radius=_text(size[:1]), length=_text(2 * size[1:2]))
    if kind == _Kind.mjGEOM_CAPSULE:
        for sign in (-1.0, 1.0):
            _shape(link, place + sign * size[1] * rotation[:, 2], rotation, "sphere", radius=_text(size[:1]))


def _shape(
    link: ET.Element, place: NDArray[np.float64], rotation: NDArray[np.float64], kind: str, **sizes: str
) -> None:
    collision = ET.SubElement(link, "collision")
    _origin(collision, place, rotation)
    ET.SubElement(ET.SubElement(collision, "geometry"), kind, sizes)


def _add_fixed_joint(
    root: ET.Element, name: str, parent: str, child: str, place: NDArray[np.float64]
) -> None:
    joint = ET.SubElement(root, "joint", name=name, type="fixed", dont_collapse="true")
    _origin(joint, place)
    ET.SubElement(joint, "parent", link=parent)
    ET.SubElement(joint, "child", link=child)


def _add_joint(root: ET.Element, robot: RobotCfg, model: mujoco.MjModel, body: int) -> None:
    parent, index = int(model.body_parentid[body]), int(model.body_jntadr[body])
    place, rotation = model.body_pos[body], _rotation(model.body_quat[body])
    place = place + rotation @ _joint_pos(model, body) - _joint_pos(model, parent)
    if index < 0:
        joint = ET.SubElement(
            root, "joint", name=f"{model.body(body).name}_fixed", type="fixed", dont_collapse="true"
        )
    else:
        slides, limited = model.jnt_type[index] == _Joint.mjJNT_SLIDE, bool(model.jnt_limited[index])
        kind = "prismatic" if slides else "revolute" if limited else "continuous"
        joint = ET.SubElement(root, "joint", name=model.joint(index).name, type=kind)
    _origin(joint, place, rotation)
    ET.SubElement(joint, "parent", link=model.body(parent).name)
    ET.SubElement(joint, "child", link=model.body(body).name)
    if index < 0:
        return
    name, dof = model.joint(index).name, int(model.jnt_dofadr[index])
    ET.SubElement(joint, "axis", xyz=_text(model.jnt_axis[index]))
    effort = robot.torque_limit_nm[robot.joint_names.index(name)] if name in robot.joint_names else 0.0
    limits = {"effort": f"{effort:.9g}", "velocity": f"{_NO_SPEED_LIMIT_RAD_S:g}"}
    if model.jnt_limited[index]:
        lower, upper = model.jnt_range[index]
        limits |= {"lower": f"{lower:.9g}", "upper": f"{upper:.9g}"}
    ET.SubElement(joint, "limit", limits)
    damping, friction = model.dof_damping[dof], model.dof_frictionloss[dof]
    ET.SubElement(joint, "dynamics", damping=f"{damping:.9g}", friction=f"{friction:.9g}")
