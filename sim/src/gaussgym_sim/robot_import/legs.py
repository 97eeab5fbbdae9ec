"""Guesses about an unknown legged robot: its legs, feet and thighs, a pose to stand in, gains, and its mirror image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import mujoco
import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FOOT_BAND = 0.2
"""A limb whose lowest point lies within this share of the robot's height from the lowest of all ends in a foot."""
_LEG_LENGTH = {2: 0.95}
"""Hip to foot when standing, as a share of the stretched leg, by number of legs."""
_LEG_LENGTH_OF_MANY = 0.8
_SAG_RAD = 0.07
"""How far a leg's joint may give under the robot's weight."""
_SPREAD = 0.25
"""How much longer than from hip to hip the stance is from front to rear feet."""
_UNLIKE = 0.03
_SYMMETRY_M = 0.02
_SOLE_M = 0.005
_FLIP = np.array([1.0, -1.0, 1.0])


@dataclass
class Leg:
    """One leg: its joints and bodies from the hip down (model ids), its sole and its thigh (geom ids)."""

    name: str
    joints: list[int]
    bodies: list[int]
    foot: int
    thigh: int = -1


def lowest_m(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> float:
    """Height of a geom's lowest point in the world frame [m]; primitives only."""
    size, turn = model.geom_size[geom], data.geom_xmat[geom].reshape(3, 3)
    kind, z = model.geom_type[geom], float(data.geom_xpos[geom][2])
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return z - float(size[0])
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return z - float(size[0] + size[1] * abs(turn[2, 2]))
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return z - float(np.abs(turn[2]) @ size)
    raise InputError(f"geom {geom} is no box, capsule or sphere")


def posed(model: mujoco.MjModel, joints: dict[int, float], data: Any = None) -> mujoco.MjData:
    """Kinematics with the base at the origin; joints not named are at zero, or where their limits come closest to it.

    Args:
        model: of the robot.
        joints: angles [rad] by joint id.
        data: a `mujoco.MjData` to reuse.
    """
    data = mujoco.MjData(model) if data is None else data
    data.qpos[:7] = [0, 0, 0, 1, 0, 0, 0]
    for joint in range(1, model.njnt):
        low, high = model.jnt_range[joint]
        data.qpos[model.jnt_qposadr[joint]] = joints.get(joint, min(max(0.0, low), high))
    mujoco.mj_kinematics(model, data)
    return data


def find_legs(model: mujoco.MjModel) -> list[Leg]:
    """The limbs that reach the ground when the base is level, four of them front right, front left, rear right, rear left.

    A leg's joints are those that carry no other foot.

    Raises:
        InputError: fewer than two limbs reach down, or one of them has no shape on its last link or between hip and knee.
    """
    data = posed(model, {})
    ends = [b for b in range(2, model.nbody) if b not in set(model.body_parentid[2:].tolist())]
    low = {end: _chain_low(model, data, end) for end in ends}
    known = [z for z in low.values() if np.isfinite(z)]
    if not known:
        raise InputError("no limb has a collision shape on its last links; feet need one each to stand on")
    highest = float(data.geom_xpos[:, 2].max())
    band = min(known) + _FOOT_BAND * (highest - min(known))
    feet = [end for end in ends if low[end] <= band]
    hang = max(float(data.xpos[foot][2]) for foot in feet) + 0.01
    shapeless = [model.body(e).name for e in ends if not np.isfinite(low[e]) and data.xpos[e][2] <= hang]
    if shapeless:
        raise InputError(
            f"link {shapeless[0]!r} ends a leg without a collision shape; give it a sole (a box or a sphere)"
        )
    if len(feet) < 2:
        names = ", ".join(model.body(e).name for e in feet)
        raise InputError(f"only {len(feet)} limb reaches the ground ({names}); expected two legs or more")
    legs = [_leg(model, data, foot, feet) for foot in feet]
    legs = _ordered(data, legs)
    for leg, name in zip(legs, _names(model, legs), strict=True):
        leg.name = name
    return legs


def _geoms_of(model: mujoco.MjModel, body: int) -> list[int]:
    first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
    return list(range(first, first + count)) if count else []


def _chain_low(model: mujoco.MjModel, data: mujoco.MjData, body: int) -> float:
    """Lowest point of the link at a limb's end; infinite if it has no shape."""
    return min((lowest_m(model, data, g) for g in _geoms_of(model, body)), default=np.inf)


def _path(model: mujoco.MjModel, body: int) -> list[int]:
    """Bodies from below the base down to ``body``."""
    path = []
    while body > 1:
        path.append(body)
        body = int(model.body_parentid[body])
    return path[::-1]


def _leg(model: mujoco.MjModel, data: mujoco.MjData, foot: int, feet: Sequence[int]) -> Leg:
    shared = {body for other in feet if other != foot for body in _path(model, other)}
    bodies = [body for body in _path(model, foot) if body not in shared]
    joints = [int(model.body_jntadr[body]) for body in bodies if model.body_jntnum[body]]
    sole = _sole(model, data, foot)
    leg = Leg("", joints, bodies, sole)
    leg.thigh = _thigh(model, data, leg)
    return leg


def _sole(model: mujoco.MjModel, data: mujoco.MjData, foot: int) -> int:
    """The lowest shape of a foot; of several as low, the foremost, so that left and right agree."""
    return min(
        _geoms_of(model, foot),
        key=lambda g: (round(lowest_m(model, data, g), 3), -data.geom_xpos[g][0], abs(data.geom_xpos[g][1])),
    )


def sole_spheres(model: mujoco.MjModel, leg: Leg) -> tuple[list[int], Array, Array, Array] | None:
    """Spheres that together are a flat sole, and the box that has their outline.

    Returns:
        Their geom ids, and the box's centre [3] m, rotation [3, 3] in the foot's link, and half extents [3] m; None for a foot
        with fewer than three spheres in a plane.
    """
    data = posed(model, {})
    foot = leg.bodies[-1]
    bottom = lowest_m(model, data, leg.foot)
    level = [
        g
        for g in _geoms_of(model, foot)
        if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_SPHERE and lowest_m(model, data, g) < bottom + _SOLE_M
    ]
    if len(level) < 3:
        return None
    radius = model.geom_size[level, 0][:, None]
    low, high = (data.geom_xpos[level] - radius).min(0), (data.geom_xpos[level] + radius).max(0)
    turn = data.xmat[foot].reshape(3, 3)
    return level, turn.T @ ((low + high) / 2 - data.xpos[foot]), turn.T, (high - low) / 2


def knee_of(data: mujoco.MjData, leg: Leg) -> int:
    """Place of the knee among a leg's joints: the one farthest from both hip and foot."""
    hip, foot = data.xanchor[leg.joints[0]], data.geom_xpos[leg.foot]
    room = [
        min(np.linalg.norm(data.xanchor[j] - hip), np.linalg.norm(data.xanchor[j] - foot)) for j in leg.joints
    ]
    return int(np.argmax(room))


def _thigh(model: mujoco.MjModel, data: mujoco.MjData, leg: Leg) -> int:
    """The largest shape on the link above the knee, or else further up."""
    knee = int(model.jnt_bodyid[leg.joints[knee_of(data, leg)]])
    above = leg.bodies[: leg.bodies.index(knee)]
    for body in reversed(above):
        geoms = _geoms_of(model, body)
        if geoms:
            return max(geoms, key=lambda g: float(model.geom_rbound[g]))
    name = model.body(leg.bodies[0]).name
    raise InputError(
        f"the leg that starts at link {name!r} has no collision shape between hip and knee; give its thigh one"
    )


def _ordered(data: mujoco.MjData, legs: list[Leg]) -> list[Leg]:
    """Four legs front to rear and right before left; others as the file has them."""
    if len(legs) != 4:
        return legs
    place = {id(leg): data.geom_xpos[leg.foot] for leg in legs}
    by_x = sorted(legs, key=lambda leg: -place[id(leg)][0])
    return [leg for pair in (by_x[:2], by_x[2:]) for leg in sorted(pair, key=lambda leg: place[id(leg)][1])]


def _names(model: mujoco.MjModel, legs: list[Leg]) -> list[str]:
    """What the names of a leg's joints, or of its bodies, have in common."""
    for names_of in (
        lambda leg: [model.joint(j).name for j in leg.joints],
        lambda leg: [model.body(b).name for b in leg.bodies],
    ):
        prefixes = [_common(names_of(leg)).strip("_-. ") for leg in legs]
        suffixes = [_common([n[::-1] for n in names_of(leg)])[::-1].strip("_-. ") for leg in legs]
        for names in (prefixes, suffixes):
            if all(names) and len(set(names)) == len(legs):
                return names
    return [f"leg{i}" for i in range(len(legs))]


def _common(names: list[str]) -> str:
    """The longest beginning that all names share."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same]


def standing_pose(model: mujoco.MjModel, legs: list[Leg]) -> dict[int, float]:
    """Joint angles of legs a little bent, each foot below its hip and its sole level; other joints as in `posed`.

    Of four feet or more the front ones stand a little before their hips, the rear ones behind. Only joints about the base's y
    axis bend; where both would do, four thighs lean back and two thighs forward.

    Returns:
        Angle [rad] of each joint of a leg.
    """
    pose: dict[int, float] = {}
    data = posed(model, {})
    lean = -1.0 if len(legs) == 2 else 1.0
    hips_x = [float(data.xanchor[leg.joints[0]][0]) for leg in legs]
    for leg in legs:
        ahead_m = (hips_x[legs.index(leg)] - float(np.mean(hips_x))) * _SPREAD
        pitch = [j for j in leg.joints if abs(data.xaxis[j][1]) > 0.9]
        knee = leg.joints[knee_of(data, leg)]
        hips = [j for j in pitch if leg.joints.index(j) < leg.joints.index(knee)]
        if knee not in pitch or not hips:
            continue
        ankles = [j for j in pitch if leg.joints.index(j) > leg.joints.index(knee)]
        length = _LEG_LENGTH.get(len(legs), _LEG_LENGTH_OF_MANY)
        pose |= _bend(model, leg, (hips[-1], knee, *ankles[:1]), length, ahead_m, lean)
    data = posed(model, pose)
    return {j: float(data.qpos[model.jnt_qposadr[j]]) for leg in legs for j in leg.joints}


def _bend(
    model: mujoco.MjModel, leg: Leg, pitch: tuple[int, ...], length: float, ahead_m: float, lean: float
) -> dict[int, float]:
    """Angles of hip, knee and (if there is one) ankle, by search over a grid."""
    data = posed(model, {})
    signs = [float(np.sign(data.xaxis[j][1])) for j in pitch]
    rows = []
    low, high = np.clip(model.jnt_range[list(pitch)], -2.8, 2.8).T
    for angles in product(*(np.linspace(low[i], high[i], 57) for i in range(2))):
        if len(pitch) == 3:
            level = -(signs[0] * angles[0] + signs[1] * angles[1]) * signs[2]
            if not model.jnt_range[pitch[2]][0] <= level <= model.jnt_range[pitch[2]][1]:
                continue
            angles = (*angles, level)
        posed(model, dict(zip(pitch, angles, strict=True)), data)
        end = data.geom_xpos[leg.foot] if len(pitch) == 2 else data.xanchor[pitch[2]]
        ahead, _, down = end - data.xanchor[pitch[0]] - (ahead_m, 0.0, 0.0)
        if down < 0.0:
            rows.append((*angles, ahead, down))
    if not rows:
        return {}
    table = np.array(rows)
    reach = np.hypot(table[:, -2], table[:, -1]).max()
    miss = np.hypot(table[:, -2], table[:, -1] + length * reach) / reach
    unlike = lean * signs[0] * table[:, 0] < 0.0
    best = table[int(np.argmin(miss + 1e-3 * np.abs(table[:, :2]).sum(1) + _UNLIKE * unlike))]
    return {joint: float(angle) for joint, angle in zip(pitch, best[: len(pitch)], strict=True)}


def leg_pairs(model: mujoco.MjModel, legs: list[Leg]) -> tuple[int, ...]:
    """The leg across from each (`RobotCfg.mirror_legs`): the one whose foot is nearest to its foot's mirror image."""
    data = posed(model, {})
    feet = np.array([data.geom_xpos[leg.foot] for leg in legs])
    pairs = [int(np.argmin(np.linalg.norm(feet - _FLIP * foot, axis=1))) for foot in feet]
    both_ways = all(pairs[other] == leg for leg, other in enumerate(pairs))
    return tuple(pairs) if both_ways else tuple(range(len(legs)))


def mirror_maps(
    model: mujoco.MjModel, legs: list[Leg], joints: Sequence[int]
) -> tuple[tuple[int, ...], tuple[float, ...]] | None:
    """Left-right reflection of joints (`RobotCfg.mirror_joints`, ``mirror_signs``).

    A joint's image lies where its reflected anchor is; its sign is that of its axis against the reflected one. The maps are
    tried on random poses.

    Returns:
        The maps, or None for a robot that is not symmetric.
    """
    data, turn = posed(model, {}), -_FLIP  # axes are pseudovectors
    image, signs = [], []
    for joint in joints:
        cost = [
            np.linalg.norm(data.xanchor[other] - _FLIP * data.xanchor[joint])
            + (1.0 - abs(data.xaxis[other] @ (turn * data.xaxis[joint])))
            for other in joints
        ]
        best = int(np.argmin(cost))
        if cost[best] > _SYMMETRY_M:
            return None
        image.append(best)
        signs.append(float(np.sign(data.xaxis[joints[best]] @ (turn * data.xaxis[joint]))))
    pairs = leg_pairs(model, legs)
    if sorted(image) != list(range(len(joints))):
        return None
    random = np.random.default_rng(0)
    low, high = np.clip(model.jnt_range[list(joints)], -1.0, 1.0).T
    for _ in range(5):
        pose = random.uniform(low, np.maximum(low, high))
        straight = posed(model, dict(zip(joints, pose, strict=True)))
        reflected = posed(model, dict(zip(joints, np.array(signs) * pose[image], strict=True)))
        here = np.array([_FLIP * reflected.geom_xpos[leg.foot] for leg in legs])
        there = np.array([straight.geom_xpos[legs[other].foot] for other in pairs])
        if np.abs(here - there).max() > _SYMMETRY_M:
            return None
    return tuple(image), tuple(signs)


def gains(
    model: mujoco.MjModel,
    legs: list[Leg],
    pose: dict[int, float],
    joints: Sequence[int],
    limits_nm: Sequence[float],
    substep_s: float,
) -> tuple[list[float], list[float]]:
    """Gains to begin with: legs give by 0.07 rad under the robot's weight, other joints under that of what they carry.

    All joints of all legs share a position gain; other joints use their limit at 1 rad at the latest; none uses it before
    0.2 rad. Damping is 0.3 of critical for what hangs on the joint, or 1/40 of the position gain if that is more, and at most
    half the joint's inertia over a substep, so that the explicit law stays stable.

    Returns:
        (kp [Nm/rad], kd [Nm s/rad]) of ``joints``.
    """
    data = posed(model, pose)
    mujoco.mj_forward(model, data)
    weight = float(model.body_mass.sum()) * 9.81 / len(legs)
    worst, jacobian = 0.0, np.zeros((3, model.nv))
    for leg in legs:
        mujoco.mj_jac(model, data, jacobian, None, data.geom_xpos[leg.foot], int(model.geom_bodyid[leg.foot]))
        dofs = [int(model.jnt_dofadr[j]) for j in leg.joints]
        worst = max(worst, weight * float(np.abs(jacobian[2, dofs]).max()))
    inertia = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, inertia)
    of_legs = {j for leg in legs for j in leg.joints}
    kp, kd = [], []
    for joint, limit in zip(joints, limits_nm, strict=True):
        dof = int(model.jnt_dofadr[joint])
        carried = abs(float(data.qfrc_bias[dof]))
        stiffness = worst / _SAG_RAD if joint in of_legs else max(limit, carried / _SAG_RAD)
        kp.append(min(stiffness, limit / 0.2))
        hanging = float(inertia[dof, dof])
        kd.append(min(max(kp[-1] / 40.0, 0.6 * math.sqrt(kp[-1] * hanging)), 0.5 * hanging / substep_s))
    return [float(f"{k:.3g}") for k in kp], [float(f"{k:.3g}") for k in kd]
