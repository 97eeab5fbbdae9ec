"""A user's URDF or MJCF → `robot.json` + `robot.xml`, after checks of what simulators otherwise swallow."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mujoco
import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import quat_wxyz_from_matrix
from numpy.typing import NDArray

from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.robot_import.legs import (
    Leg,
    find_legs,
    gains,
    leg_pairs,
    lowest_m,
    mirror_maps,
    posed,
    sole_spheres,
    standing_pose,
)
from gaussgym_sim.robot_import.robot_file import save_robot
from gaussgym_sim.robot_import.robot_mjcf import robot_mjcf
from gaussgym_sim.robot_import.urdf_tree import read_urdf, urdf_spec
from gaussgym_sim.vecsim import SUBSTEP_S

ARMATURE_KG_M2 = 0.01
"""Rotor inertia of joints of which a URDF says nothing (small geared motors have 0.005 to 0.06)."""
CAMERA_TILT_RAD = 0.5236

_MASS_KG = (0.5, 500.0)
_TRIANGLE_SLACK = 1e-3
_GYRATION_M = 1.0
_GEOM = mujoco.mjtGeom
_PRIMITIVES = (_GEOM.mjGEOM_BOX, _GEOM.mjGEOM_CAPSULE, _GEOM.mjGEOM_SPHERE)
_ROUND, _LONG = 1.6, 2.0
"""Longest over shortest side of a mesh that becomes a sphere; longest over middle one of a capsule."""


@dataclass
class _Import:
    """A robot on its way from a file to a folder."""

    path: Path
    spec: mujoco.MjSpec
    torque_limit_nm: dict[str, float] = field(default_factory=dict)
    speed_limit_rad_s: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pose: dict[str, float] = field(default_factory=dict)
    """A keyframe's, by joint."""


def import_robot(
    path: Path | str, *, name: str, output: Path | str, armature: float = ARMATURE_KG_M2
) -> Path:
    """Turn a URDF or an MJCF into a robot that `get_robot` reads.

    Checked are the tree (one base, hinges, no loops), inertias (positive, physically possible, centre of mass near the link's
    shapes, plausible mass), limits, efforts, motors, and shapes at feet, thighs and base. Meshes and cylinders become boxes,
    capsules or spheres. What the file cannot say is guessed and noted: legs, standing pose, gains, rotor inertia, camera.

    Args:
        path: ``.urdf``, or ``.xml`` of MuJoCo.
        name: of the robot and its folder: letters, digits, ``_`` and ``-``.
        output: the folder in which ``<name>/`` is written.
        armature: rotor inertia of the joints of a URDF [kg m^2].

    Returns:
        The path of `robot.json`.

    Raises:
        InputError: the first thing that is wrong, with what was found and what was expected.
    """
    path = Path(path)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"robot name {name!r}: expected letters, digits, _ and -")
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a URDF or an MJCF")
    work = _read(path, armature)
    model = _compile(work)
    _check_bodies(work, model)
    model = _flat_soles(work, model)
    cfg, mjcf = _describe(work, model, name)
    saved = save_robot(cfg, mjcf, Path(output) / name, notes=tuple(dict.fromkeys(work.notes)))
    get_robot.cache_clear()
    return saved


def notes_of(path: Path) -> list[str]:
    """What an import guessed or changed, one line each."""
    return json.loads(path.read_text())["notes"]


def _read(path: Path, armature: float) -> _Import:
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise InputError(f"{path}: not readable as XML ({error})") from None
    if root.tag == "robot":
        return _from_urdf(path, armature)
    if root.tag == "mujoco":
        return _from_mjcf(path)
    raise InputError(f"{path}: begins with <{root.tag}>; expected <robot> (URDF) or <mujoco> (MJCF)")


# --- what the files say ---------------------------------------------------------------------------------------------------


def _from_urdf(path: Path, armature: float) -> _Import:
    base = read_urdf(path)
    if not base.children:
        raise InputError(f"{path}: has no moving joint; expected legs")
    for link in base.walk():
        inertial = link.inertial()
        check_inertial(f"{path}: link {link.name!r}", inertial.mass_kg, inertial.inertia)
    work = _Import(path, urdf_spec(base, armature=armature))
    joints = [link.joint for link in base.walk() if link.joint is not None]
    work.torque_limit_nm = {j.name: j.effort for j in joints}
    work.speed_limit_rad_s = {j.name: j.speed for j in joints if j.speed is not None}
    work.notes.append(f"rotor inertia of every joint: {armature:g} kg m^2 assumed, a URDF has none")
    return work


def _from_mjcf(path: Path) -> _Import:
    try:
        spec = mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise InputError(f"{path}: MuJoCo cannot read it: {' '.join(str(error).split())}") from None
    if len(spec.equalities) or len(spec.tendons):
        raise InputError(
            f"{path}: has equality constraints or tendons; expected a tree of hinges, each with its motor"
        )
    work = _Import(path, spec)
    base = _free_base(path, spec, work.notes)
    for body in spec.bodies[1:]:
        if body.explicitinertial:
            check_inertial(f"{path}: body {body.name!r}", float(body.mass), _matrix(body))
    _read_joints(work, base)
    _read_keyframe(work)
    for element in (*spec.sensors, *spec.keys, *spec.actuators, *spec.excludes, *spec.pairs):
        spec.delete(element)
    for geom in list(spec.worldbody.geoms):
        spec.delete(geom)
    return work


def _matrix(body: mujoco.MjsBody) -> NDArray[np.float64]:
    """Inertia of a body about its centre, in whatever axes it is given."""
    full = np.array(body.fullinertia)
    if np.isfinite(full).all():
        xx, yy, zz, xy, xz, yz = full
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return np.diag(np.array(body.inertia))


def _free_base(path: Path, spec: mujoco.MjSpec, notes: list[str]) -> mujoco.MjsBody:
    """The one body that carries the rest; gets a free joint if it has none."""
    top = list(spec.worldbody.bodies)
    free = [j for j in spec.joints if j.type == mujoco.mjtJoint.mjJNT_FREE]
    if len(top) != 1 or len(free) > 1 or (free and free[0].parent != top[0]):
        names = ", ".join(body.name or "?" for body in top)
        raise InputError(
            f"{path}: has {len(top)} bodies on the world ({names}) and {len(free)} free joints; "
            "expected one base that carries everything (scenes with objects: give the robot's own file)"
        )
    if not free:
        if len(top[0].joints):
            raise InputError(f"{path}: base {top[0].name!r} hangs on a joint; expected a free joint or none")
        top[0].add_freejoint(name="root")
        notes.append("the base had no free joint; it has one now")
    top[0].pos, top[0].quat = [0, 0, 0], [1, 0, 0, 0]
    return top[0]


def _read_joints(work: _Import, base: mujoco.MjsBody) -> None:
    """Torque limits from motors or joints; every joint a limited hinge."""
    spec, path = work.spec, work.path
    motors = {a.target: a for a in spec.actuators if a.trntype == mujoco.mjtTrn.mjTRN_JOINT}
    for joint in spec.joints:
        if joint.parent == base:
            continue
        what = f"{path}: joint {joint.name!r}"
        if joint.type != mujoco.mjtJoint.mjJNT_HINGE:
            raise InputError(f"{what} is no hinge; expected hinges only")
        if not joint.name:
            raise InputError(f"{path}: a joint of body {joint.parent.name!r} has no name")
        low, high = joint.range
        if not low < high:
            raise InputError(f'{what} has no limits; expected range="lower upper"')
        if joint.name not in motors:
            raise InputError(f"{what} has no motor; expected one actuator a joint")
        work.torque_limit_nm[joint.name] = _effort(what, joint, motors[joint.name])


def _effort(what: str, joint: mujoco.MjsJoint, motor: mujoco.MjsActuator) -> float:
    """The motor's limit: its force range, the joint's, or a pure motor's control range times its gear."""
    gear = abs(float(motor.gear[0]))
    direct = motor.gaintype == mujoco.mjtGain.mjGAIN_FIXED and motor.biastype == mujoco.mjtBias.mjBIAS_NONE
    ranges = [np.array(motor.forcerange) * gear, np.array(joint.actfrcrange)]
    if direct:
        ranges.append(np.array(motor.ctrlrange) * gear * float(motor.gainprm[0]))
    limits = [float(np.abs(r).min()) for r in ranges if r[0] < r[1]]
    if not limits or min(limits) <= 0.0:
        raise InputError(
            f"{what}: its motor has no torque limit; expected ctrlrange (motor), forcerange or actuatorfrcrange"
        )
    return min(limits)


def _read_keyframe(work: _Import) -> None:
    """Joint angles of the first keyframe, if the file has one."""
    if not len(work.spec.keys):
        return
    qpos = np.array(work.spec.keys[0].qpos)
    joints = [j for j in work.spec.joints if j.type == mujoco.mjtJoint.mjJNT_HINGE]
    if len(qpos) == 7 + len(joints):
        work.pose = {j.name: float(q) for j, q in zip(joints, qpos[7:], strict=True)}


# --- checks ---------------------------------------------------------------------------------------------------------------


def check_inertial(what: str, mass_kg: float, inertia: NDArray[np.float64]) -> None:
    """Refuse the mass or inertia [3, 3] kg m^2 (about the centre of mass) of a link that no body can have.

    Raises:
        InputError: mass or a principal moment is not above 0, or one moment exceeds the sum of the others.
    """
    if not mass_kg > 0.0:
        raise InputError(f"{what} has mass {mass_kg:g} kg; expected a mass above 0 in every moving link")
    moments = np.linalg.eigvalsh(inertia)
    shown = ", ".join(f"{m:.3g}" for m in moments)
    if not moments[0] > 0.0:
        raise InputError(f"{what} has principal moments {shown} kg m^2; expected all above 0")
    if moments[2] > (moments[0] + moments[1]) * (1.0 + _TRIANGLE_SLACK):
        raise InputError(
            f"{what} has principal moments {shown} kg m^2; no body has one above the sum of the others, check its inertia"
        )
    gyration = math.sqrt(moments[2] / mass_kg)
    if gyration > _GYRATION_M:
        raise InputError(
            f"{what}: {mass_kg:g} kg with a moment of {moments[2]:.3g} kg m^2 is a body {gyration:.1f} m wide; "
            "expected kilograms and metres, check the units"
        )


def _check_bodies(work: _Import, model: mujoco.MjModel) -> None:
    """Plausible masses, and centres of mass near the shapes."""
    total = float(model.body_mass.sum())
    if not _MASS_KG[0] <= total <= _MASS_KG[1]:
        raise InputError(
            f"{work.path}: the robot weighs {total:.4g} kg; expected {_MASS_KG[0]:g} to {_MASS_KG[1]:g} kg, check the units"
        )
    for body in range(1, model.nbody):
        what = f"{work.path}: link {model.body(body).name!r}"
        if not model.body(body).name:
            raise InputError(f"{work.path}: a body has no name; expected one each")
        turn = np.zeros(9)
        mujoco.mju_quat2Mat(turn, model.body_iquat[body])
        check_inertial(what, float(model.body_mass[body]), np.diag(model.body_inertia[body]))
        geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] == body]
        if not geoms:
            continue
        reach = model.geom_rbound[geoms]
        low = (model.geom_pos[geoms] - reach[:, None]).min(0)
        high = (model.geom_pos[geoms] + reach[:, None]).max(0)
        outside = np.maximum(low - model.body_ipos[body], model.body_ipos[body] - high).max()
        if outside > np.linalg.norm(high - low) / 2:
            com = ", ".join(f"{c:.3g}" for c in model.body_ipos[body])
            raise InputError(
                f"{what} has its centre of mass at ({com}) m, {outside:.2g} m outside its shapes; check its <inertial> origin"
            )


# --- shapes ---------------------------------------------------------------------------------------------------------------


def _compile(work: _Import) -> mujoco.MjModel:
    """The model with primitives alone; what cannot touch anything is left out."""
    spec = work.spec
    for geom in list(spec.geoms):
        if geom.contype == 0 and geom.conaffinity == 0:
            spec.delete(geom)
    spec.compiler.fitaabb = True
    used = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if mesh.name not in used:
            spec.delete(mesh)
    for mesh in spec.meshes:
        if Path(mesh.file).suffix.lower() not in (".stl", ".obj", ".msh"):
            raise InputError(
                f"{work.path}: collision mesh {Path(mesh.file).name} is not one that can be fitted (.stl, .obj, .msh); "
                "convert it, or replace it by boxes, capsules and spheres"
            )
    model = _try_compile(work)
    for geom, index in ((g, g.id) for g in spec.geoms):
        kind = _GEOM(int(model.geom_type[index]))
        if kind not in _PRIMITIVES:
            _simplify(work, model, geom, kind)
    return _try_compile(work)


def _try_compile(work: _Import) -> mujoco.MjModel:
    try:
        return work.spec.compile()
    except ValueError as error:
        raise InputError(f"{work.path}: MuJoCo refuses it: {' '.join(str(error).split())}") from None


def _simplify(work: _Import, model: mujoco.MjModel, geom: mujoco.MjsGeom, kind: mujoco.mjtGeom) -> None:
    """Make a mesh, cylinder or ellipsoid a box, capsule or sphere."""
    where = f"shape of link {geom.parent.name!r}"
    if kind == _GEOM.mjGEOM_MESH:
        half = np.sort(model.geom_aabb[geom.id, 3:])
        if geom.parent.parent == work.spec.worldbody:
            new, text = _GEOM.mjGEOM_BOX, "box"
        elif half[2] < _ROUND * half[0]:
            new, text = _GEOM.mjGEOM_SPHERE, "sphere"
        elif half[2] > _LONG * half[1]:
            new, text = _GEOM.mjGEOM_CAPSULE, "capsule"
        else:
            new, text = _GEOM.mjGEOM_BOX, "box"
        geom.type = new
        file = next(
            (Path(mesh.file).name for mesh in work.spec.meshes if mesh.name == geom.meshname), geom.meshname
        )
        work.notes.append(f"{where}: mesh {file} became the {text} that fits it")
        return
    size = np.array(model.geom_size[geom.id])
    if kind == _GEOM.mjGEOM_CYLINDER:
        radius, half = size[:2]
        long = half > radius
        geom.type = _GEOM.mjGEOM_CAPSULE if long else _GEOM.mjGEOM_BOX
        geom.size = [radius, half - radius, 0.0] if long else [radius, radius, half]
        work.notes.append(f"{where}: a cylinder became a {'capsule as long' if long else 'box around it'}")
    elif kind == _GEOM.mjGEOM_ELLIPSOID:
        geom.type, geom.size = _GEOM.mjGEOM_BOX, size
        work.notes.append(f"{where}: an ellipsoid became the box around it")
    else:
        raise InputError(
            f"{work.path}: {where} is a {kind.name[7:].lower()}; expected box, capsule, sphere, cylinder or mesh"
        )


# --- guesses --------------------------------------------------------------------------------------------------------------


def _legs(work: _Import, model: mujoco.MjModel) -> list[Leg]:
    try:
        return find_legs(model)
    except InputError as error:
        raise InputError(f"{work.path}: {error}") from None


def _flat_soles(work: _Import, model: mujoco.MjModel) -> mujoco.MjModel:
    """One box in the place of the spheres under a flat foot: a foot's contact is that of one shape."""
    found = [(leg, sole_spheres(model, leg)) for leg in _legs(work, model)]
    by_id = {geom.id: geom for geom in work.spec.geoms}
    for leg, sole in found:
        if sole is None:
            continue
        spheres, centre, turn, half = sole
        body = by_id[spheres[0]].parent
        body.add_geom(type=_GEOM.mjGEOM_BOX, pos=centre, quat=quat_wxyz_from_matrix(turn), size=half)
        for geom in spheres:
            work.spec.delete(by_id[geom])
        work.notes.append(f"leg {leg.name!r}: {len(spheres)} spheres under the foot became one box")
    return _try_compile(work) if any(sole for _, sole in found) else model


def _describe(work: _Import, model: mujoco.MjModel, name: str) -> tuple[RobotCfg, str]:
    """The cfg and the text of the MJCF."""
    legs = _legs(work, model)
    trunk = [g for g in range(model.ngeom) if model.geom_bodyid[g] == 1]
    if not trunk:
        raise InputError(f"{work.path}: base {model.body(1).name!r} has no collision shape; give it one")
    joints = _joint_order(model, legs)
    names = {j: model.joint(j).name for j in joints}
    pose = _pose(work, model, legs)
    geoms = _geom_names(model, legs)
    limits = [work.torque_limit_nm[names[j]] for j in joints]
    kp, kd = gains(model, legs, pose, joints, limits, SUBSTEP_S)
    data = posed(model, pose)
    soles = [lowest_m(model, data, leg.foot) for leg in legs]
    mirror = mirror_maps(model, legs, joints)
    if mirror is None:
        work.notes.append("the robot is not left-right symmetric: it has no mirror maps")
    work.notes.append(
        f"gains to begin with: kp {min(kp):g} to {max(kp):g} Nm/rad, kd {min(kd):g} to {max(kd):g} Nm s/rad"
    )
    speeds = [work.speed_limit_rad_s.get(names[j]) for j in joints]
    cfg = RobotCfg(
        name=name,
        mjcf=work.path,
        joint_names=tuple(names.values()),
        leg_names=tuple(leg.name for leg in legs),
        default_joint_pos=tuple(float(data.qpos[model.jnt_qposadr[j]]) for j in joints),
        torque_limit_nm=tuple(limits),
        kp=tuple(kp),
        kd=tuple(kd),
        action_scale=0.25,
        foot_geoms=tuple(geoms[leg.foot] for leg in legs),
        thigh_geoms=tuple(geoms[leg.thigh] for leg in legs),
        trunk_geoms=tuple(geoms[g] for g in trunk),
        foot_radius_m=max(float(data.geom_xpos[leg.foot][2]) - z for leg, z in zip(legs, soles, strict=True)),
        base_height_m=-min(soles),
        trunk_mass_kg=float(model.body_mass[1]),
        trunk_com_b=_triple(model.body_ipos[1]),
        camera_pos_b=_camera(work, model, trunk),
        camera_tilt_rad=CAMERA_TILT_RAD,
        mirror_joints=mirror[0] if mirror else (),
        mirror_signs=mirror[1] if mirror else (),
        mirror_legs=leg_pairs(model, legs),
        speed_limit_rad_s=tuple(s for s in speeds if s is not None) if None not in speeds else (),
    )
    text = robot_mjcf(
        model,
        name=name,
        joint_names=names,
        geom_names=geoms,
        torque_limit_nm=dict(zip(joints, limits, strict=True)),
    )
    return cfg, text


def _triple(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _joint_order(model: mujoco.MjModel, legs: list[Leg]) -> list[int]:
    """Joints that belong to no leg as the file has them, then leg by leg."""
    of_legs = [j for leg in legs for j in leg.joints]
    return [j for j in range(1, model.njnt) if j not in of_legs] + of_legs


def _pose(work: _Import, model: mujoco.MjModel, legs: list[Leg]) -> dict[int, float]:
    """The file's first keyframe, or a guess."""
    if work.pose:
        work.notes.append("default pose: the file's first keyframe")
        return {model.joint(name).id: angle for name, angle in work.pose.items()}
    pose = standing_pose(model, legs)
    if any(abs(angle) > 1e-9 for angle in pose.values()):
        work.notes.append("default pose: guessed, legs bent with each foot below its hip")
    else:
        work.notes.append(
            "default pose: all joints as near to zero as their limits let them; no knee was recognized"
        )
    return pose


def _geom_names(model: mujoco.MjModel, legs: list[Leg]) -> dict[int, str]:
    """The file's names where they are unique, else the body's with a number; soles and thighs after their leg."""
    given = [model.geom(g).name for g in range(model.ngeom)]
    names: dict[int, str] = {}
    fixed = {leg.foot: f"{leg.name}_foot" for leg in legs} | {leg.thigh: f"{leg.name}_thigh" for leg in legs}
    taken = {given[g] or fixed[g] for g in fixed} | {n for n in given if n}
    for geom in range(model.ngeom):
        name = given[geom] or fixed.get(geom, "")
        number = 0
        while not name or (name in names.values()):
            candidate = f"{model.body(int(model.geom_bodyid[geom])).name}_{number}"
            name, number = ("" if candidate in taken else candidate), number + 1
        names[geom] = name
    return names


def _camera(work: _Import, model: mujoco.MjModel, trunk: list[int]) -> tuple[float, float, float]:
    """Just in front of the base's foremost shape, in the middle plane."""
    data, best = posed(model, {}), (-np.inf, 0.0)
    for geom in trunk:
        turn, size = data.geom_xmat[geom].reshape(3, 3), model.geom_size[geom]
        box = model.geom_type[geom] == _GEOM.mjGEOM_BOX
        half = float(np.abs(turn[0]) @ size if box else size[0] + abs(turn[0, 2]) * size[1])
        best = max(best, (float(data.geom_xpos[geom][0]) + half, float(data.geom_xpos[geom][2])))
    where = (best[0] + 0.01, 0.0, best[1])
    work.notes.append(
        f"camera: assumed at x {where[0]:.3f}, z {where[2]:.3f} m of the base, 30 deg down; set camera_pos_b"
    )
    return where
