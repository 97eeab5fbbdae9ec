"""A robot's URDF, read back by MuJoCo, is the robot of the MJCF."""

import dataclasses
import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import pytest
from gaussgym_scene.errors import InputError
from gaussgym_sim.robot import get_robot, robot_names
from gaussgym_sim.robot_import.urdf import FOOT_MASS_SHARE, foot_links, rpy_of, urdf_of
from gaussgym_sim.robots.geoms import load_model


def read_back(robot, *, merge):
    """The URDF as a MuJoCo model, its fixed joints merged or not, on a free joint."""
    tag = f'<robot name="{robot.name}">'
    options = f'<mujoco><compiler fusestatic="{str(merge).lower()}" balanceinertia="false"/></mujoco>'
    text = urdf_of(robot)
    assert tag in text
    spec = mujoco.MjSpec.from_string(text.replace(tag, tag + options))
    spec.worldbody.first_body().add_freejoint()
    return spec.compile()


def pose(model, robot, joint_pos):
    data = mujoco.MjData(model)
    data.qpos[:7] = (0.3, -0.2, 0.5, 0.7, 0.1, -0.5, 0.5)
    data.qpos[3:7] /= np.linalg.norm(data.qpos[3:7])
    for name, q in zip(robot.joint_names, joint_pos, strict=True):
        data.qpos[model.joint(name).qposadr[0]] = q
    mujoco.mj_forward(model, data)
    return data


@pytest.mark.parametrize("name", robot_names())
def test_bodies_and_joints_are_those_of_the_mjcf(name):
    robot = get_robot(name)
    ours, theirs = load_model(robot.mjcf), read_back(robot, merge=True)
    assert theirs.njnt == ours.njnt
    for body in range(1, ours.nbody):
        label = ours.body(body).name
        other = theirs.body(label)
        np.testing.assert_allclose(other.mass, ours.body_mass[body], rtol=1e-7)
        np.testing.assert_allclose(
            np.sort(other.inertia), np.sort(ours.body_inertia[body]), rtol=1e-5, atol=1e-9
        )
    for joint in robot.joint_names:
        a, b = ours.joint(joint), theirs.joint(joint)
        np.testing.assert_allclose(b.axis, a.axis, atol=1e-8)
        np.testing.assert_allclose(b.range, a.range, atol=1e-6)
        np.testing.assert_allclose(b.damping, a.damping)
        np.testing.assert_allclose(b.frictionloss, a.frictionloss)
        assert tuple(theirs.jnt_actfrcrange[theirs.joint(joint).id]) == (
            -robot.torque_limit_nm[robot.joint_names.index(joint)], robot.torque_limit_nm[robot.joint_names.index(joint)],
        )  # fmt: skip


@pytest.mark.parametrize("name", robot_names())
def test_the_mass_matrix_and_the_soles_are_the_same_in_any_pose(name):
    robot = get_robot(name)
    ours, theirs = load_model(robot.mjcf), read_back(robot, merge=False)
    rng = np.random.default_rng(1)
    for _ in range(3):
        q = rng.uniform(-0.5, 0.5, robot.num_joints) + robot.default_joint_pos
        a, b = pose(ours, robot, q), pose(theirs, robot, q)
        first, second = links_matrix(ours, robot, a), links_matrix(theirs, robot, b)
        np.testing.assert_allclose(second, first, atol=2e-7 * np.abs(first).max())
        for geom, link in zip(robot.foot_geoms, foot_links(robot), strict=True):
            np.testing.assert_allclose(b.body(link).xpos, a.geom(geom).xpos, atol=1e-7)


def links_matrix(model, robot, data):
    """The mass matrix [6 + J, 6 + J] without rotors."""
    matrix = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, matrix)
    dofs = [*range(6), *(int(model.joint(j).dofadr[0]) for j in robot.joint_names)]
    return (matrix - np.diag(model.dof_armature))[np.ix_(dofs, dofs)]


@pytest.mark.parametrize("name", robot_names())
def test_shapes_cover_what_the_mjcf_has(name):
    """Highest and lowest points of all shapes agree: a cylinder with two balls is a capsule."""
    robot = get_robot(name)
    ours, theirs = load_model(robot.mjcf), read_back(robot, merge=False)
    a, b = pose(ours, robot, robot.default_joint_pos), pose(theirs, robot, robot.default_joint_pos)
    rng = np.random.default_rng(0)
    for direction in rng.normal(size=(12, 3)):
        direction /= np.linalg.norm(direction)
        reach = [
            max(_support(m, d, g, direction) for g in range(m.ngeom)) for m, d in ((ours, a), (theirs, b))
        ]
        np.testing.assert_allclose(reach[1], reach[0], atol=1e-6)


def _support(model, data, geom, direction):
    """How far a shape reaches along a direction."""
    if not (model.geom_contype[geom] or model.geom_conaffinity[geom]):
        return -np.inf
    local = data.geom_xmat[geom].reshape(3, 3).T @ direction
    size, kind = model.geom_size[geom], mujoco.mjtGeom(model.geom_type[geom])
    far = {
        mujoco.mjtGeom.mjGEOM_SPHERE: size[0],
        mujoco.mjtGeom.mjGEOM_BOX: float(np.abs(local) @ size),
        mujoco.mjtGeom.mjGEOM_CAPSULE: size[0] + size[1] * abs(local[2]),
        mujoco.mjtGeom.mjGEOM_CYLINDER: size[0] * np.hypot(local[0], local[1]) + size[1] * abs(local[2]),
    }[kind]
    return float(data.geom_xpos[geom] @ direction + far)


def test_soles_are_links_of_their_own_that_importers_keep():
    robot = get_robot("go1")
    root = ET.fromstring(urdf_of(robot))
    joint = next(j for j in root.iter("joint") if j.get("name") == "FR_foot_fixed")
    assert (joint.get("type"), joint.get("dont_collapse")) == ("fixed", "true")
    assert joint.find("parent").get("link") == "FR_calf"
    mass = next(link for link in root.iter("link") if link.get("name") == "FR_foot").find("inertial/mass")
    assert float(mass.get("value")) == pytest.approx(FOOT_MASS_SHARE * 0.195862)


def test_angles():
    """R = Rz(0.3) Ry(-0.4) Rx(1.2), multiplied out, and straight up."""
    c, s = np.cos, np.sin
    x = np.array([[1, 0, 0], [0, c(1.2), -s(1.2)], [0, s(1.2), c(1.2)]])
    y = np.array([[c(-0.4), 0, s(-0.4)], [0, 1, 0], [-s(-0.4), 0, c(-0.4)]])
    z = np.array([[c(0.3), -s(0.3), 0], [s(0.3), c(0.3), 0], [0, 0, 1]])
    np.testing.assert_allclose(rpy_of(z @ y @ x), (1.2, -0.4, 0.3))
    up = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]) @ x
    roll, pitch, yaw = rpy_of(up)
    np.testing.assert_allclose((roll, pitch, yaw), (1.2, np.pi / 2, 0.0), atol=1e-9)


MESH = """<mujoco><asset><mesh name="m" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset><worldbody><body name="base"><freejoint/>
<geom {geom} mass="1"/><body name="leg"><joint name="j" {joint}/><geom name="foot" size=".1"/></body></body></worldbody></mujoco>"""


@pytest.mark.parametrize(
    ("geom", "joint", "message"),
    [
        ('name="lump" type="mesh" mesh="m"', "", "shape 'lump' is neither box"),
        ('name="egg" type="ellipsoid" size=".1 .2 .3"', "", "shape 'egg' is neither box"),
        ('size=".1"', 'type="ball"', "ball joints"),
        ('size=".1"', 'stiffness="3"', "springs"),
    ],
)
def test_what_urdf_has_no_word_for(tmp_path, geom, joint, message):
    path = tmp_path / "robot.xml"
    path.write_text(MESH.format(geom=geom, joint=joint))
    robot = dataclasses.replace(
        get_robot("go1"), mjcf=path, foot_geoms=("foot",), joint_names=("j",), torque_limit_nm=(1.0,)
    )
    with pytest.raises(InputError, match=message):
        urdf_of(robot)
