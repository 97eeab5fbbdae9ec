import math
from types import SimpleNamespace

import gaussgym_sim.robot as robot_module
import mujoco
import numpy as np
import pytest
from gaussgym_scene.errors import InputError
from gaussgym_sim.robot import get_robot, register_robot, robot_names

HIP_X, HIP_Y, ABDUCTION, THIGH, CALF = 0.1881, 0.04675, 0.08, 0.213, 0.213


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_path(str(get_robot("go1").mjcf))


def test_mass_and_limits(model):
    robot = get_robot("go1")
    assert 12.7 <= model.body_mass.sum() <= 13.1
    assert model.body("trunk").mass[0] == pytest.approx(robot.trunk_mass_kg)
    np.testing.assert_allclose(model.body("trunk").ipos, robot.trunk_com_b)
    for name, limit in zip(robot.joint_names, robot.torque_limit_nm):
        low, high = model.joint(name).range
        expected = {"hip": (-0.863, 0.863), "thigh": (-0.686, 4.501), "calf": (-2.818, -0.888)}[
            name.split("_")[1]
        ]
        assert (low, high) == pytest.approx(expected)
        assert (
            model.actuator(name).ctrlrange[1] == pytest.approx(limit) == (35.55 if "calf" in name else 23.7)
        )
        assert model.joint(name).id > 0
    default = np.array(robot.default_joint_pos)
    assert (default >= model.jnt_range[1:, 0]).all()
    assert (default <= model.jnt_range[1:, 1]).all()


def test_left_and_right_mirror(model):
    """Mirrored in y, the left legs' inertials are the right legs'."""
    mirror = np.diag([1.0, -1.0, 1.0])
    for right, left in (("FR", "FL"), ("RR", "RL")):
        for part in ("hip", "thigh"):
            inertias = []
            for leg in (right, left):
                body = model.body(f"{leg}_{part}")
                r = np.zeros(9)
                mujoco.mju_quat2Mat(r, body.iquat)
                r = r.reshape(3, 3)
                inertias.append((body.ipos, r @ np.diag(body.inertia) @ r.T))
            np.testing.assert_allclose(mirror @ inertias[0][0], inertias[1][0], atol=1e-9)
            np.testing.assert_allclose(mirror @ inertias[0][1] @ mirror, inertias[1][1], atol=2e-8)


def analytic_foot(leg, hip, thigh, calf):
    """Forward kinematics on paper: hip turns about x, thigh and calf about y, links hang along -z."""
    side, end = (-1 if leg[1] == "R" else 1), (1 if leg[0] == "F" else -1)
    x = -THIGH * math.sin(thigh) - CALF * math.sin(thigh + calf)
    z = -THIGH * math.cos(thigh) - CALF * math.cos(thigh + calf)
    y = side * ABDUCTION
    return np.array(
        [
            end * HIP_X + x,
            side * HIP_Y + y * math.cos(hip) - z * math.sin(hip),
            y * math.sin(hip) + z * math.cos(hip),
        ]
    )


@pytest.mark.parametrize("pose", ["default", "other"])
def test_foot_positions(model, pose):
    robot = get_robot("go1")
    joints = np.array(robot.default_joint_pos)
    if pose == "other":
        joints = joints + np.linspace(-0.3, 0.4, 12)
    data = mujoco.MjData(model)
    data.qpos[:] = [0, 0, 0, 1, 0, 0, 0, *joints]
    mujoco.mj_forward(model, data)
    for i, leg in enumerate(robot.leg_names):
        np.testing.assert_allclose(
            data.geom(f"{leg}_foot").xpos, analytic_foot(leg, *joints[3 * i : 3 * i + 3]), atol=1e-9
        )


def test_default_pose_stands_at_the_nominal_height(model):
    robot = get_robot("go1")
    foot = analytic_foot("FL", *robot.default_joint_pos[3:6])
    assert -foot[2] + 0.023 == pytest.approx(robot.base_height_m, abs=0.02)


def test_only_primitives_and_no_self_collision(model):
    assert model.nmesh == 0
    allowed = {
        int(g)
        for g in (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_SPHERE)
    }
    assert set(model.geom_type.tolist()) <= allowed
    assert not (model.geom_contype & model.geom_conaffinity).any()
    robot = get_robot("go1")
    for name in (*robot.foot_geoms, *robot.thigh_geoms, *robot.trunk_geoms):
        assert model.geom(name).id >= 0


def test_registry(monkeypatch):
    assert "go1" in robot_names()
    with pytest.raises(InputError, match=r"unknown robot 'go7'; choose one of: .*go1"):
        get_robot("go7")
    register_robot("twin", lambda: get_robot("go1"))
    assert get_robot("twin").num_joints == 12
    del robot_module._REGISTRY["twin"]
    entry = SimpleNamespace(name="theirs", load=lambda: lambda: get_robot("go1"))
    monkeypatch.setattr(robot_module, "entry_points", lambda group: [entry])
    get_robot.cache_clear()
    assert get_robot("theirs") is get_robot("go1")
    assert "theirs" in robot_names()
    get_robot.cache_clear()
