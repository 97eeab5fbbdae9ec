"""What a robot looks like: the shapes of its MJCF and the bodies that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from gaussgym_sim.robot import RobotCfg

HIGHEST_SHOWN_GROUP = 2
"""Geoms of higher groups are not drawn, as in MuJoCo's viewer: models with meshes keep their collision shapes there."""

_KINDS = {
    mujoco.mjtGeom.mjGEOM_SPHERE: ("sphere", 1),
    mujoco.mjtGeom.mjGEOM_CAPSULE: ("capsule", 2),
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: ("ellipsoid", 3),
    mujoco.mjtGeom.mjGEOM_CYLINDER: ("cylinder", 2),
    mujoco.mjtGeom.mjGEOM_BOX: ("box", 3),
    mujoco.mjtGeom.mjGEOM_MESH: ("mesh", 0),
}


@dataclass(frozen=True, eq=False)
class Geom:
    """One shape.

    Attributes:
        name: as in the MJCF, "" without one.
        body: which body carries it, counted as `gaussgym_sim.robots.kinematics.BodyKinematics` does.
        kind: 'sphere', 'capsule', 'cylinder' (both along z), 'ellipsoid', 'box' or 'mesh'.
        size_m: MuJoCo's sizes [m]: radius; radius and half length; half axes; half extents; () of a mesh.
        pose_b_g: [4, 4] the shape's frame in the body's.
        rgb: sRGB in 0..255.
        vertices_g: [V, 3] of a mesh, in the shape's frame [m]; else empty.
        faces: [F, 3] of a mesh; else empty.
        own_view: whether the robot's own camera sees it; False for what houses the camera.
    """

    name: str
    body: int
    kind: str
    size_m: tuple[float, ...]
    pose_b_g: NDArray[np.float64]
    rgb: tuple[int, int, int]
    vertices_g: NDArray[np.float64]
    faces: NDArray[np.int64]
    own_view: bool


@cache
def load_model(mjcf: Path) -> mujoco.MjModel:
    """A robot's model by itself, without ground."""
    return mujoco.MjModel.from_xml_path(str(mjcf))


def robot_geoms(robot: RobotCfg) -> list[Geom]:
    """The shapes of a robot that are to be seen; planes and heightfields are none."""
    model = load_model(robot.mjcf)
    shown = (
        (model.geom_bodyid > 0)
        & (model.geom_group <= HIGHEST_SHOWN_GROUP)
        & (model.geom_rgba[:, 3] > 0)
        & np.isin(model.geom_type, [int(kind) for kind in _KINDS])
    )
    return [_geom(robot, model, int(index)) for index in np.flatnonzero(shown)]


def _geom(robot: RobotCfg, model: mujoco.MjModel, index: int) -> Geom:
    kind, sizes = _KINDS[mujoco.mjtGeom(model.geom_type[index])]
    pose = np.eye(4)
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.geom_quat[index])
    pose[:3, :3], pose[:3, 3] = rotation.reshape(3, 3), model.geom_pos[index]
    vertices, faces = np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    if kind == "mesh":
        mesh = model.mesh(model.geom_dataid[index])
        first, count = mesh.vertadr[0], mesh.vertnum[0]
        vertices = model.mesh_vert[first : first + count].astype(np.float64)
        first, count = mesh.faceadr[0], mesh.facenum[0]
        faces = model.mesh_face[first : first + count].astype(np.int64)
    name = model.geom(index).name
    red, green, blue = (round(255 * float(c)) for c in model.geom_rgba[index, :3])
    return Geom(
        name=name,
        body=int(model.geom_bodyid[index]) - 1,
        kind=kind,
        size_m=tuple(float(s) for s in model.geom_size[index, :sizes]),
        pose_b_g=pose,
        rgb=(red, green, blue),
        vertices_g=vertices,
        faces=faces,
        own_view=name not in robot.camera_housing,
    )
