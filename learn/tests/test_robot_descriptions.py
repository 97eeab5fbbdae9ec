"""What deploy says of the robots (files, since it imports no stage) is what the simulation has."""

import numpy as np
import pytest
from gaussgym_deploy.robot_description import described_robots, find_description
from gaussgym_learn.export import camera_spec, joint_limits
from gaussgym_sim.robot import get_robot, robot_names
from gaussgym_sim.sensors.camera import CameraCfg


@pytest.mark.parametrize("name", described_robots())
def test_description_equals_the_simulated_robot(name):
    described, robot = find_description(name), get_robot(name)
    assert described is not None
    assert described.joint_names == robot.joint_names
    np.testing.assert_allclose(described.joint_pos_limit, joint_limits(robot), atol=1e-6)
    np.testing.assert_allclose(described.torque_limit, robot.torque_limit_nm)
    np.testing.assert_allclose(described.joint_vel_limit, robot.speed_limit_rad_s)
    camera = camera_spec(robot, CameraCfg())
    np.testing.assert_allclose(described.camera["position_b_m"], camera.position_b_m, atol=1e-6)
    np.testing.assert_allclose(described.camera["quat_b_c_wxyz"], camera.quat_b_c_wxyz, atol=1e-6)


def test_every_robot_that_comes_along_is_described():
    built_in = {name for name in robot_names() if get_robot(name).mjcf.parent.name == "robots"}
    assert built_in == set(described_robots())
