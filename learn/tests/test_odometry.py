"""The bundle's legs against MuJoCo, the runtime's path follower against training's, and how far leg odometry drifts."""

import dataclasses

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_deploy.odometry import GoalFollower, LegChain, LegOdometry, sport_position
from gaussgym_deploy.robot_io import JointCommand, RobotState
from gaussgym_learn.courses import flat_course
from gaussgym_learn.evaluate import evaluation_cfg, fixed_starts
from gaussgym_learn.export import leg_geometry
from gaussgym_learn.robot import PlainRobot
from gaussgym_sim.robot import get_robot
from gaussgym_sim.robots.geoms import load_model


@pytest.mark.parametrize("name", ["a1", "go1", "go2", "anymal_c", "t1"])
def test_legs_of_the_bundle_move_as_the_mjcf(name):
    robot = get_robot(name)
    model = load_model(robot.mjcf)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    joints = [model.joint(joint) for joint in robot.joint_names]
    angles = np.array(robot.default_joint_pos) + rng.normal(0.0, 0.3, robot.num_joints)
    data.qpos[:7] = [0, 0, 0, 1, 0, 0, 0]
    data.qpos[[int(j.qposadr[0]) for j in joints]] = angles
    mujoco.mj_forward(model, data)
    for leg, foot in zip(leg_geometry(robot), robot.foot_geoms, strict=True):
        chain = LegChain(leg)
        point, jacobian = chain.contact(angles[chain.joints], np.array([0.0, 0.0, 1.0]))
        geom = model.geom(foot).id
        truth = data.geom_xpos[geom] - [0, 0, robot.foot_radius_m]
        assert np.abs(point - truth).max() < 1e-9
        whole = np.zeros((3, model.nv))
        mujoco.mj_jac(model, data, whole, None, truth, int(model.geom_bodyid[geom]))
        columns = [int(joints[joint].dofadr[0]) for joint in chain.joints]
        assert np.abs(jacobian - whole[:, columns]).max() < 1e-9


@pytest.fixture(scope="module")
def course():
    return flat_course()


def test_the_follower_commands_what_training_commands(course):
    """A point robot that obeys, with a shove now and then, along curved lines: equal commands in every step."""
    cfg, starts = evaluation_cfg("goal"), fixed_starts([course], 6)
    plain = PlainRobot(get_robot("go1"), course, cfg, starts, camera=None)
    rng, state = np.random.default_rng(0), RobotState.zeros(12)
    steps = 0
    for number in range(6):
        plain.reset(number)
        follower = GoalFollower(sport_position)
        follower.start(plain.path_ahead_m(number), float(starts.speed_m_s[number]))
        x, y, yaw = (*plain.data.qpos[:2], float(starts.yaw_rad[number]))
        for _ in range(1500):
            steps += 1
            if rng.uniform() < 0.02:
                yaw, y = yaw + rng.normal(0.0, 0.8), y + rng.normal(0.0, 0.1)
            state.position_w = np.array([x, y, 0.0])
            state.quat_wxyz[:] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
            velocity = follower.read(state, 0.0).velocity
            if follower.arrived:
                break
            plain._commands.update(torch.tensor([[x, y]], dtype=torch.float32), torch.tensor([yaw]).float())
            expected = plain._commands.command[0].numpy()
            assert velocity == pytest.approx(expected, abs=2e-4), (number, x, y, yaw)
            x, y = x + 0.02 * velocity[0] * np.cos(yaw), y + 0.02 * velocity[0] * np.sin(yaw)
            yaw += 0.02 * velocity[2]
        assert follower.arrived
    assert steps > 2000


class _Bundle:
    """As much of a bundle as odometry reads."""

    def __init__(self, robot):
        self.legs, self.path = tuple(leg_geometry(robot)), "test"


def test_odometry_of_a_robot_that_shuffles(course):
    """Feet that stay on the ground while the trunk sways: the odometry must see the sway and no drift."""
    go1 = get_robot("go1")
    robot = PlainRobot(go1, course, evaluation_cfg("goal"), fixed_starts([course], 1), camera=None)
    odometry, stand = LegOdometry(_Bundle(go1)), np.array(go1.default_joint_pos)
    robot.reset(0)
    rows = []
    for step in range(150):
        sway = 0.15 * np.sin(2 * np.pi * step / 50) * np.tile([0.0, 1.0, 0.0], 4) * (step > 25)
        robot.step(JointCommand(stand + sway, np.array(go1.kp) * 2, np.array(go1.kd)))
        if step == 20:
            odometry.reset(robot.data.qpos[:3])
        if step >= 20:
            rows.append(np.concatenate([odometry.update(robot.state), robot.data.qpos[:3]]))
    rows = np.array(rows)
    assert np.ptp(rows[:, 3:5], axis=0).max() > 0.02  # it did sway
    assert np.abs(rows[:, :2] - rows[:, 3:5]).max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "parameters", "most"), [("flat", {}, 2.0), ("stairs", {"step_height_m": 0.1}, 5.0)]
)
def test_the_shipped_student_reaches_its_goals_by_leg_odometry(tmp_path, kind, parameters, most):
    """Commands from joints and IMU alone: nearly all goals are reached, and the drift is a few percent of the way."""
    import gaussgym_learn
    from gaussgym_deploy.bundle import PolicyBundle
    from gaussgym_deploy.sim2sim import sim2sim_in_scene
    from gaussgym_learn.export import export_policy
    from gaussgym_scene import synthesize

    scene = tmp_path / "scene"
    synthesize(kind, seed=5, max_splats=20000, **parameters).save(scene)
    student = next(iter(gaussgym_learn.__path__)) + "/policies/student"
    export_policy(student, tmp_path / "policy", scene, steps=60)
    bundle = PolicyBundle.load(tmp_path / "policy")
    report = sim2sim_in_scene(bundle, scene, episodes=8, goal_by="legs")
    assert report.success_rate >= 0.75
    assert report.odometry["drift_percent"] < most
    assert dataclasses.asdict(report)["metrics"]["episodes"] == 8
