"""The robots' models and cfgs against facts typed in by hand, mirror symmetry, and forward kinematics on paper."""

import math
from dataclasses import replace
from types import SimpleNamespace

import gaussgym_sim.robot as robot_module
import mujoco
import numpy as np
import pytest
from gaussgym_scene.errors import InputError
from gaussgym_sim.robot import get_robot, register_robot, robot_names, with_dc_motors

ROBOTS = ("a1", "anymal_c", "go1", "go2", "t1")
QUADRUPEDS = ROBOTS[:4]
MASS_KG = {"a1": 13.741, "anymal_c": 52.135, "go1": 12.743, "go2": 16.085, "t1": 31.614}

# Last part of a joint's name → (range [rad], torque [Nm], speed [rad/s]); the left leg's where they differ.
LIMITS = {
    "a1": {
        "hip": ((-0.80285, 0.80285), 33.5, 21.0),
        "thigh": ((-1.0472, 4.18879), 33.5, 21.0),
        "calf": ((-2.69653, -0.9163), 33.5, 21.0),
    },
    "go1": {
        "hip": ((-0.863, 0.863), 23.7, 30.1),
        "thigh": ((-0.686, 4.501), 23.7, 30.1),
        "calf": ((-2.818, -0.888), 35.55, 20.06),
    },
    "go2": {
        "hip": ((-1.0472, 1.0472), 23.7, 30.1),
        "thigh": ((-1.5708, 3.4907), 23.7, 30.1),
        "calf": ((-2.7227, -0.83776), 45.43, 15.7),
    },
    "anymal_c": {
        "HAA": ((-0.72, 0.49), 80.0, 7.5),
        "HFE": ((-9.42478, 9.42478), 80.0, 7.5),
        "KFE": ((-9.42478, 9.42478), 80.0, 7.5),
    },
    "t1": {
        "AAHead_yaw": ((-1.57, 1.57), 7.0, 12.56),
        "Head_pitch": ((-0.35, 1.22), 7.0, 12.56),
        "Shoulder_Pitch": ((-3.31, 1.22), 18.0, 18.84),
        "Shoulder_Roll": ((-1.74, 1.57), 18.0, 18.84),
        "Elbow_Pitch": ((-2.27, 2.27), 18.0, 18.84),
        "Elbow_Yaw": ((-2.44, 0.0), 18.0, 18.84),
        "Waist": ((-1.57, 1.57), 30.0, 10.88),
        "Hip_Pitch": ((-1.8, 1.57), 45.0, 12.5),
        "Hip_Roll": ((-0.2, 1.57), 30.0, 10.9),
        "Hip_Yaw": ((-1.0, 1.0), 30.0, 10.9),
        "Knee_Pitch": ((0.0, 2.34), 60.0, 11.7),
        "Ankle_Pitch": ((-0.87, 0.35), 20.0, 18.8),
        "Ankle_Roll": ((-0.44, 0.44), 15.0, 12.4),
    },
}
# (hip axis x, y, hip offset y, thigh length, calf length)
UNITREE_M = {
    "a1": (0.1805, 0.047, 0.0838, 0.2, 0.2),
    "go1": (0.1881, 0.04675, 0.08, 0.213, 0.213),
    "go2": (0.1934, 0.0465, 0.0955, 0.213, 0.213),
}


def model_of(name):
    return mujoco.MjModel.from_xml_path(str(get_robot(name).mjcf))


@pytest.fixture(scope="module")
def models():
    return {name: model_of(name) for name in ROBOTS}


def posed(model, robot, joints):
    """MuJoCo's kinematics with the base at the origin."""
    data = mujoco.MjData(model)
    data.qpos[:7] = [0, 0, 0, 1, 0, 0, 0]
    for name, value in zip(robot.joint_names, joints):
        data.qpos[model.joint(name).qposadr[0]] = value
    mujoco.mj_forward(model, data)
    return data


def mirrored_joints(robot, joints):
    return np.array(robot.mirror_signs) * joints[list(robot.mirror_joints)]


def random_pose(model, robot, seed):
    low, high = np.array([model.joint(name).range for name in robot.joint_names]).T
    low, high = np.maximum(low, -1.5), np.minimum(high, 1.5)
    return np.random.default_rng(seed).uniform(low, np.maximum(high, low))


@pytest.mark.parametrize("name", ROBOTS)
def test_mass_and_limits(models, name):
    model, robot = models[name], get_robot(name)
    assert model.body_mass.sum() == pytest.approx(MASS_KG[name], abs=1e-3)
    base = model.body(int(model.jnt_bodyid[0]))
    assert base.mass[0] == pytest.approx(robot.trunk_mass_kg)
    np.testing.assert_allclose(base.ipos, robot.trunk_com_b, atol=1e-9)
    for index, joint in enumerate(robot.joint_names):
        left = joint if joint in LIMITS[name] else joint.split("_", 1)[1]
        (low, high), torque, speed = LIMITS[name][left]
        if robot.mirror_signs[index] < 0 and joint[0] == "R" and joint not in LIMITS[name]:
            low, high = -high, -low
        if name == "go2" and joint in ("RR_thigh", "RL_thigh"):
            low, high = -0.5236, 4.5379
        assert model.joint(joint).range == pytest.approx((low, high), abs=1e-5)
        assert model.actuator(joint).ctrlrange == pytest.approx((-torque, torque))
        assert robot.torque_limit_nm[index] == torque
        assert robot.speed_limit_rad_s[index] == speed
        assert low <= robot.default_joint_pos[index] <= high


@pytest.mark.parametrize("name", ROBOTS)
def test_every_joint_has_its_motor_and_every_tuple_its_length(models, name):
    model, robot = models[name], get_robot(name)
    names = [model.joint(i).name for i in range(1, model.njnt)]
    assert sorted(names) == sorted(robot.joint_names)
    assert len(set(names)) == robot.num_joints
    assert [model.actuator(i).name for i in range(model.nu)] == list(robot.joint_names)
    for i in range(model.nu):
        assert model.joint(model.actuator_trnid[i, 0]).name == model.actuator(i).name
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 1.0)
    for field in ("default_joint_pos", "torque_limit_nm", "kp", "kd", "mirror_joints", "mirror_signs"):
        assert len(getattr(robot, field)) == robot.num_joints
    for field in ("foot_geoms", "thigh_geoms", "mirror_legs"):
        assert len(getattr(robot, field)) == len(robot.leg_names)
    assert (model.dof_armature[6:] > 0).all()


@pytest.mark.parametrize("name", ROBOTS)
def test_only_small_primitives_and_no_self_collision(models, name):
    model, robot = models[name], get_robot(name)
    assert robot.mjcf.stat().st_size < 20_000
    kinds = mujoco.mjtGeom
    allowed = {int(kinds.mjGEOM_BOX), int(kinds.mjGEOM_CAPSULE), int(kinds.mjGEOM_SPHERE)}
    assert model.nmesh == 0
    assert set(model.geom_type.tolist()) <= allowed
    assert (model.geom_contype == 1).all()
    assert (model.geom_conaffinity == 0).all()
    for geom in (*robot.foot_geoms, *robot.thigh_geoms, *robot.trunk_geoms, *robot.camera_housing):
        assert model.geom(geom).id >= 0
    assert model.nsensor == 0


@pytest.mark.parametrize("name", ROBOTS)
def test_solver_settings_are_all_alike(models, name):
    for field in (
        "timestep",
        "integrator",
        "iterations",
        "ls_iterations",
        "disableflags",
        "cone",
        "impratio",
    ):
        assert getattr(models[name].opt, field) == getattr(models["go1"].opt, field)
    assert models[name].opt.timestep == 0.005


# Published left and right links differ: rounding (Unitree), CAD (ANYmal: 0.1 mm, and hips that are turned rather than mirrored), as weighed (T1: a shank by 60 g).
ASYMMETRY = {"a1": (0, 1e-8, 2e-8), "go1": (0, 1e-9, 2e-8), "go2": (0, 1e-8, 2e-8)} | {
    "anymal_c": (0, 2e-4, 3e-4),
    "t1": (0.06, 2e-3, 1e-3),
}


@pytest.mark.parametrize("name", ROBOTS)
def test_left_and_right_inertials_mirror(models, name):
    """Mirrored in y, each left link is the right one; links on the middle plane are left out."""
    model, robot = models[name], get_robot(name)
    mirror = np.diag([1.0, -1.0, 1.0])
    mass_tolerance, com_tolerance, inertia_tolerance = ASYMMETRY[name]
    pairs = 0
    for i, joint in enumerate(robot.joint_names):
        other = robot.joint_names[robot.mirror_joints[i]]
        if other == joint or (
            name == "go1" and joint.endswith("calf")
        ):  # Go1's calves are published unmirrored
            continue
        pairs += 1
        bodies = [int(model.joint(n).bodyid[0]) for n in (joint, other)]
        inertias = []
        for body in bodies:
            r = np.zeros(9)
            mujoco.mju_quat2Mat(r, model.body_iquat[body])
            r = r.reshape(3, 3)
            inertias.append(r @ np.diag(model.body_inertia[body]) @ r.T)
        np.testing.assert_allclose(*model.body_mass[bodies], atol=mass_tolerance + 1e-9)
        np.testing.assert_allclose(
            mirror @ model.body_ipos[bodies[0]], model.body_ipos[bodies[1]], atol=com_tolerance
        )
        np.testing.assert_allclose(mirror @ inertias[0] @ mirror, inertias[1], atol=inertia_tolerance)
    assert pairs == {"go1": 8, "t1": 20}.get(name, 12)


@pytest.mark.parametrize("name", ROBOTS)
def test_mirrored_pose_mirrors_every_paired_shape(models, name):
    model, robot = models[name], get_robot(name)
    for seed in range(3):
        joints = random_pose(model, robot, seed)
        straight = posed(model, robot, joints)
        reflected = posed(model, robot, mirrored_joints(robot, joints))
        np.testing.assert_array_equal(mirrored_joints(robot, mirrored_joints(robot, joints)), joints)
        for leg, other in enumerate(robot.mirror_legs):
            for geoms in (robot.foot_geoms, robot.thigh_geoms):
                here = reflected.geom(geoms[leg]).xpos * [1, -1, 1]
                np.testing.assert_allclose(here, straight.geom(geoms[other]).xpos, atol=1e-9)
        for side, other in (("left", "right"), ("right", "left")) if name == "t1" else ():
            here = reflected.geom(f"{side}_hand").xpos * [1, -1, 1]
            np.testing.assert_allclose(here, straight.geom(f"{other}_hand").xpos, atol=1e-9)
    low, high = np.array([model.joint(n).range for n in robot.joint_names]).T
    ends = np.sort([mirrored_joints(robot, low), mirrored_joints(robot, high)], axis=0)
    np.testing.assert_allclose(ends, [low, high], atol=1e-9)
    default = np.array(robot.default_joint_pos)
    np.testing.assert_array_equal(mirrored_joints(robot, default), default)


def unitree_foot(name, leg, hip, thigh, calf):
    """Forward kinematics on paper: hip turns about x, thigh and calf about y, links hang along -z."""
    hip_x, hip_y, offset, thigh_m, calf_m = UNITREE_M[name]
    side, end = (-1 if leg[1] == "R" else 1), (1 if leg[0] == "F" else -1)
    x = -thigh_m * math.sin(thigh) - calf_m * math.sin(thigh + calf)
    z = -thigh_m * math.cos(thigh) - calf_m * math.cos(thigh + calf)
    y = side * offset
    return np.array(
        [
            end * hip_x + x,
            side * hip_y + y * math.cos(hip) - z * math.sin(hip),
            y * math.sin(hip) + z * math.cos(hip),
        ]
    )


def anymal_foot(leg, haa, hfe, kfe):
    """As `unitree_foot`; knees lie beside the thighs, and the foot ahead of (behind) the line of the shank."""
    side, end = (-1 if leg[0] == "R" else 1), (1 if leg[1] == "F" else -1)
    knee_x, knee_z = -0.285 * math.sin(hfe), -0.285 * math.cos(hfe)
    turn, ahead, down = hfe + kfe, end * 0.08795, -0.31547
    x = end * 0.0599 + knee_x + ahead * math.cos(turn) + down * math.sin(turn)
    z = knee_z - ahead * math.sin(turn) + down * math.cos(turn)
    y = side * (0.08381 + 0.1003 + 0.01305)
    return np.array(
        [
            end * 0.2999 + x,
            side * 0.104 + y * math.cos(haa) - z * math.sin(haa),
            y * math.sin(haa) + z * math.cos(haa),
        ]
    )


@pytest.mark.parametrize("pose", ["default", "other"])
@pytest.mark.parametrize("name", QUADRUPEDS)
def test_foot_positions(models, name, pose):
    robot = get_robot(name)
    joints = np.array(robot.default_joint_pos)
    if pose == "other":
        joints = joints + np.linspace(-0.3, 0.4, 12)
    data = posed(models[name], robot, joints)
    for i, leg in enumerate(robot.leg_names):
        angles = joints[3 * i : 3 * i + 3]
        foot = anymal_foot(leg, *angles) if name == "anymal_c" else unitree_foot(name, leg, *angles)
        np.testing.assert_allclose(data.geom(f"{leg}_foot").xpos, foot, atol=1e-6)


def test_t1_foot_hangs_below_its_hip(models):
    """Legs straight down: hip to sole is the sum of the links on paper."""
    data = posed(models["t1"], get_robot("t1"), np.zeros(23))
    down = 0.1155 + 0.02 + 0.081854 + 0.134 + 0.28 + 0.012 + 0.015
    np.testing.assert_allclose(
        data.geom("left_foot").xpos, [0.0625 - 0.014 + 0.01, 0.10625, -down], atol=1e-9
    )


@pytest.mark.parametrize("name", ROBOTS)
def test_default_pose_stands_on_flat_soles_at_the_nominal_height(models, name):
    model, robot = models[name], get_robot(name)
    data = posed(model, robot, robot.default_joint_pos)
    for geom in robot.foot_geoms:
        sole = model.geom(geom)
        flat = sole.type[0] == mujoco.mjtGeom.mjGEOM_BOX
        assert sole.size[2 if flat else 0] == robot.foot_radius_m
        assert robot.foot_radius_m - data.geom(geom).xpos[2] == pytest.approx(robot.base_height_m, abs=0.01)
        if flat:
            np.testing.assert_allclose(data.geom(geom).xmat.reshape(3, 3), np.eye(3), atol=1e-9)


def test_t1_camera_looks_out_of_its_face(models):
    """Head pitched by the camera's tilt, the camera lies where the head's sphere meets the optical axis."""
    robot = get_robot("t1")
    data = posed(models["t1"], robot, robot.default_joint_pos)
    tilt = robot.default_joint_pos[robot.joint_names.index("Head_pitch")]
    assert tilt == robot.camera_tilt_rad
    axis = np.array([math.cos(tilt), 0.0, -math.sin(tilt)])
    face = data.geom("head").xpos + models["t1"].geom("head").size[0] * axis
    np.testing.assert_allclose(robot.camera_pos_b, face, atol=1e-3)


def test_dc_motors():
    motor = with_dc_motors(get_robot("go1")).actuator
    assert motor.kind == "dc"
    assert motor.stall_torque_nm[:3] == (23.7, 23.7, 35.55)
    assert motor.no_load_speed_rad_s[:3] == (30.1, 30.1, 20.06)
    assert with_dc_motors(get_robot("anymal_c"), stall_factor=1.5).actuator.stall_torque_nm == (120.0,) * 12
    with pytest.raises(InputError, match="'go1' has no speed_limit_rad_s"):
        with_dc_motors(replace(get_robot("go1"), speed_limit_rad_s=()))


def test_registry(monkeypatch):
    assert set(ROBOTS) <= set(robot_names())
    for name in ROBOTS:
        assert get_robot(name).name == name
    with pytest.raises(InputError, match=r"unknown robot 'go7'; choose one of: a1, .*go1.*robot.json"):
        get_robot("go7")
    register_robot("twin", lambda: get_robot("go1"))
    assert get_robot("twin").num_joints == 12
    del robot_module.ROBOTS.own["twin"]
    entry = SimpleNamespace(name="theirs", value="a:b", load=lambda: lambda: get_robot("go1"))
    monkeypatch.setattr("gaussgym_scene.registry.entry_points", lambda group: [entry])
    get_robot.cache_clear()
    assert get_robot("theirs") is get_robot("go1")
    assert "theirs" in robot_names()
    get_robot.cache_clear()
