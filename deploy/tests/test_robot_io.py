"""The bench robot against the analytic oscillator, and links by name."""

import numpy as np
import pytest
from gaussgym_deploy.robot_io import BenchRobot, JointCommand
from gaussgym_deploy.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


def test_bench_robot_follows_the_damped_oscillator(clock):
    # J q'' = kp (q* - q) - (kd + friction) q', from rest, unsaturated: q = q* (1 - e^(-dt) (cos wt + d/w sin wt))
    robot = BenchRobot(1, torque_limit=1e9, inertia=0.05, friction=0.1, clock=clock, substep_s=1e-4)
    command = JointCommand(np.array([0.3]), np.array([20.0]), np.array([0.5]))
    decay = (0.5 + 0.1) / (2 * 0.05)
    omega = np.sqrt(20.0 / 0.05 - decay**2)
    for step in range(1, 40):
        robot.write(command)
        clock.now_s += 0.01
        t = step * 0.01
        expected = 0.3 * (1 - np.exp(-decay * t) * (np.cos(omega * t) + decay / omega * np.sin(omega * t)))
        assert robot.read().joint_pos[0] == pytest.approx(expected, abs=2e-3)


def test_bench_robot_damps_when_commands_stop(clock):
    robot = BenchRobot(12, clock=clock)
    robot.write(JointCommand(np.ones(12), np.full(12, 50.0), np.full(12, 0.1)))
    clock.now_s += 0.05
    assert (np.abs(robot.read().joint_vel) > 1.0).all()
    clock.now_s += 0.5
    assert (np.abs(robot.read().joint_vel) < 0.01).all()
    assert robot.timeouts == 1
