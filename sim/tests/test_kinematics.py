"""Forward kinematics against MuJoCo's, and the list of shapes against the compiled model."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.robot import get_robot
from gaussgym_sim.robots.geoms import load_model, robot_geoms
from gaussgym_sim.robots.kinematics import BodyKinematics
from gaussgym_sim.testing import flat_scene
from gaussgym_sim.vecsim import make_sim

ODD = """
<mujoco>
  <compiler angle="radian"/>
  <asset><mesh name="wedge" vertex="0 0 0  0.3 0 0  0 0.2 0  0 0 0.1  0.1 0.1 0.2"/></asset>
  <worldbody>
    <body name="base" pos="1 2 3" quat="0.5 0.5 0.5 0.5">
      <freejoint/>
      <geom name="wedge" type="mesh" mesh="wedge" pos="0.1 0 0" quat="0.9 0.1 0.2 0.3" rgba="1 0.5 0 1"/>
      <geom name="skin" type="sphere" size="0.1" group="3"/>
      <geom name="ghost" type="sphere" size="0.1" rgba="1 1 1 0"/>
      <body name="mast" pos="0 0 0.2" quat="0.8 0.2 0.5 0.1">
        <geom name="mast" type="cylinder" size="0.02 0.1"/>
        <body name="arm" pos="0.1 0.2 0.3">
          <joint name="turn" type="hinge" axis="1 2 3" pos="0.02 -0.05 0.1" ref="0.3"/>
          <joint name="push" type="slide" axis="0 1 1" ref="-0.1"/>
          <joint name="tilt" type="hinge" axis="0 1 0" pos="0 0 -0.2"/>
          <geom name="arm" type="ellipsoid" size="0.1 0.05 0.02"/>
        </body>
      </body>
      <body name="leg" pos="0 -0.3 0">
        <joint name="knee" axis="0 0 1"/>
        <geom name="leg" type="box" size="0.1 0.1 0.1"/>
      </body>
    </body>
  </worldbody>
</mujoco>"""


def odd_robot(tmp_path, text=ODD, joints=("knee", "tilt", "push", "turn")):
    path = tmp_path / "odd.xml"
    path.write_text(text)
    return replace(get_robot("go1"), name="odd", mjcf=path, joint_names=joints)


def random_states(robot, count, seed):
    rng = np.random.default_rng(seed)
    quat = rng.normal(size=(count, 4))
    return (
        rng.normal(size=(count, 3)) * 20,
        quat / np.linalg.norm(quat, axis=1, keepdims=True),
        rng.normal(size=(count, robot.num_joints)),
        rng.normal(size=(count, 3)),
        rng.normal(size=(count, 3)),
        rng.normal(size=(count, robot.num_joints)),
    )


def mujoco_truth(robot, pos, quat, q, lin_b, ang_b, qd):
    """Poses [B, 4, 4] and twists [B, 6] of one state by `mj_kinematics` and `mj_objectVelocity`."""
    model = mujoco.MjModel.from_xml_path(str(robot.mjcf))
    data = mujoco.MjData(model)
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, quat)
    data.qpos[:7], data.qvel[:6] = [*pos, *quat], [*(rotation.reshape(3, 3) @ lin_b), *ang_b]
    for name, value, speed in zip(robot.joint_names, q, qd):
        data.qpos[model.joint(name).qposadr[0]] = value
        data.qvel[model.joint(name).dofadr[0]] = speed
    mujoco.mj_fwdPosition(model, data)
    mujoco.mj_fwdVelocity(model, data)
    poses, twists = np.tile(np.eye(4), (model.nbody - 1, 1, 1)), np.zeros((model.nbody - 1, 6))
    for body in range(1, model.nbody):
        poses[body - 1, :3, :3], poses[body - 1, :3, 3] = data.xmat[body].reshape(3, 3), data.xpos[body]
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body, velocity, 1)
        twists[body - 1] = np.concatenate([velocity[3:], velocity[:3]])  # MuJoCo: angular first
    return poses, twists


@pytest.mark.parametrize("name", ["go1", "odd"])
def test_poses_and_velocities_are_mujocos(name, tmp_path):
    robot = get_robot("go1") if name == "go1" else odd_robot(tmp_path)
    kinematics = BodyKinematics(robot, 7)
    for seed, count in enumerate((7, 1, 3)):  # buffers of the largest call serve the others
        states = random_states(robot, count, seed)
        pos, quat, q, lin, ang, qd = (torch.from_numpy(s) for s in states)
        poses = kinematics.poses(pos, quat, q)
        twists = kinematics.twists(lin, ang, q, qd)
        assert poses.shape == (count, len(kinematics.body_names), 4, 4)
        for i in range(count):
            true_poses, true_twists = mujoco_truth(robot, *(s[i] for s in states))
            np.testing.assert_allclose(poses[i], true_poses, atol=1e-6)
            np.testing.assert_allclose(twists[i], true_twists, atol=1e-6)


def test_feet_are_where_physics_says():
    """Against the simulator's own foot sensors, in float32, right after a reset (when they are current)."""
    robot = get_robot("go1")
    sim = make_sim("mujoco", robot, [flat_scene()], 5)
    pos, quat, q, lin, ang, qd = (torch.from_numpy(s).float() for s in random_states(robot, 5, 3))
    sim.reset(
        torch.arange(5), root_pos_w=pos, root_quat_wxyz=quat, root_lin_vel_w=lin, root_ang_vel_b=ang,
        joint_pos=q, joint_vel=qd,
    )  # fmt: skip
    kinematics = BodyKinematics(robot, 5)
    poses = kinematics.poses(sim.state.root_pos_w, sim.state.root_quat_wxyz, sim.state.joint_pos)
    feet = {g.name: g for g in robot_geoms(robot) if g.name in robot.foot_geoms}
    places = torch.stack(
        [poses[:, feet[n].body] @ torch.from_numpy(feet[n].pose_b_g[:, 3]) for n in robot.foot_geoms], 1
    )
    np.testing.assert_allclose(places[..., :3], sim.state.foot_pos_w, atol=2e-5)


def test_a_robots_pose_does_not_depend_on_the_others():
    robot = get_robot("go1")
    pos, quat, q, *_ = (torch.from_numpy(s) for s in random_states(robot, 6, 4))
    kinematics = BodyKinematics(robot, 6)
    all_of_them = kinematics.poses(pos, quat, q).clone()
    assert torch.equal(kinematics.poses(pos[2:4], quat[2:4], q[2:4]), all_of_them[2:4])


def test_go1_is_listed_shape_by_shape():
    geoms = robot_geoms(get_robot("go1"))
    names = BodyKinematics(get_robot("go1"), 1).body_names
    assert len(names) == 13
    assert names[0] == "trunk"
    by_name = {g.name: g for g in geoms}
    assert len(geoms) == 18
    assert by_name["trunk"].kind == "box"
    assert by_name["trunk"].size_m == (0.19, 0.047, 0.055)
    assert by_name["trunk"].rgb == (140, 140, 153)
    assert [g.name for g in geoms if not g.own_view] == ["head"]
    calf = by_name["RL_calf"]
    assert (names[calf.body], calf.kind) == ("RL_calf", "capsule")
    ends = calf.pose_b_g @ np.array([[0, 0, s * calf.size_m[1], 1] for s in (-1, 1)]).T
    np.testing.assert_allclose(sorted(ends[2]), [-0.195, -0.03], atol=1e-9)  # `fromto` in the MJCF


def test_meshes_lie_where_their_file_puts_them_and_hidden_shapes_are_left_out(tmp_path):
    geoms = {g.name: g for g in robot_geoms(odd_robot(tmp_path))}
    assert set(geoms) == {"wedge", "mast", "arm", "leg"}
    assert [geoms[n].kind for n in ("mast", "arm", "leg")] == ["cylinder", "ellipsoid", "box"]
    wedge = geoms["wedge"]
    corners = np.array([[0, 0, 0], [0.3, 0, 0], [0, 0.2, 0], [0, 0, 0.1], [0.1, 0.1, 0.2]])
    rotation = np.zeros(9)
    quat = np.array([0.9, 0.1, 0.2, 0.3])
    mujoco.mju_quat2Mat(rotation, quat / np.linalg.norm(quat))
    expected = corners @ rotation.reshape(3, 3).T + [0.1, 0, 0]
    placed = wedge.vertices_g @ wedge.pose_b_g[:3, :3].T + wedge.pose_b_g[:3, 3]
    for corner in expected:  # MuJoCo centres meshes and turns them to their principal axes
        assert np.linalg.norm(placed - corner, axis=1).min() < 1e-6
    assert wedge.faces.max() == len(placed) - 1
    assert wedge.rgb == (255, 128, 0)


@pytest.mark.parametrize(
    ("change", "joints", "message"),
    [
        (("<freejoint/>", ""), ("knee", "tilt", "push", "turn"), "has 0 free joints"),
        (("", ""), ("knee", "tilt", "push"), "joint 'turn' is none of the robot's joint_names"),
        (
            ('name="knee" axis="0 0 1"', 'name="knee" type="ball"'),
            ("knee", "tilt", "push", "turn"),
            "ball joint",
        ),
    ],
)
def test_robots_that_cannot_be_followed_are_refused(tmp_path, change, joints, message):
    robot = odd_robot(tmp_path, ODD.replace(*change), joints)
    load_model.cache_clear()
    with pytest.raises(InputError, match=message):
        BodyKinematics(robot, 1)
