"""The actuators' law against hand-computed numbers and a slow twin that keeps every target ever given."""

from dataclasses import replace

import numpy as np
import pytest
from gaussgym_scene.errors import InputError
from gaussgym_sim.actuation.actuator_cfg import ActuatorCfg
from gaussgym_sim.actuation.actuators import Actuators
from gaussgym_sim.robot import get_robot

COLUMNS = (np.arange(7, 19), np.arange(6, 18), np.arange(12))
DC = ActuatorCfg(kind="dc", stall_torque_nm=(30.0,) * 12, no_load_speed_rad_s=(20.0,) * 12)


def one_substep(actuators, target, q, qd, envs=None, substeps=1, substep=0):
    count = len(q)
    qpos, qvel, ctrl = np.zeros((count, 19)), np.zeros((count, 18)), np.zeros((count, 12))
    qpos[:, 7:], qvel[:, 6:] = q, qd
    actuators.begin(target, substeps)
    actuators.apply(substep, np.arange(count) if envs is None else envs, qpos, qvel, COLUMNS, ctrl)
    return ctrl


def test_pd_by_hand():
    """kp 30, kd 0.7: 30 x (0.5 - 0.1) - 0.7 x 2 = 10.6; half strength 5.3; offset 0.1 adds 3; the calf's limit is 35.55."""
    actuators = Actuators(get_robot("go1"), 4, max_delay=0)
    actuators.strength[1], actuators.offset[2] = 0.5, 0.1
    target = np.full((4, 12), 0.5)
    target[3] = 9.0
    ctrl = one_substep(actuators, target, np.full((4, 12), 0.1), np.full((4, 12), 2.0))
    assert ctrl[:3, 0] == pytest.approx([10.6, 5.3, 13.6])
    assert ctrl[3, :3] == pytest.approx([23.7, 23.7, 35.55])
    np.testing.assert_array_equal(actuators.torque, ctrl)


def test_dc_motor_by_hand():
    """Stall 30 Nm, no-load speed 20 rad/s. At 10 rad/s at most 15 Nm forwards; at 25 rad/s none; braking is not weakened."""
    robot = replace(get_robot("go1"), actuator=DC, kd=(0.0,) * 12)
    actuators = Actuators(robot, 4, max_delay=0)
    target = np.array([[1.0], [1.0], [-1.0], [0.1]]) * np.ones((4, 12))
    speed = np.array([[10.0], [25.0], [10.0], [10.0]]) * np.ones((4, 12))
    ctrl = one_substep(actuators, target, np.zeros((4, 12)), speed)
    assert ctrl[:, 0] == pytest.approx([15.0, 0.0, -23.7, 3.0])


def test_rows_are_those_of_their_environments():
    actuators = Actuators(get_robot("go1"), 5, max_delay=0)
    actuators.kp[:] = np.arange(5)[:, None]
    actuators.kd[:] = 0.0
    ctrl = one_substep(
        actuators, np.ones((5, 12)), np.zeros((2, 12)), np.zeros((2, 12)), envs=np.array([1, 4])
    )
    assert ctrl[:, 0].tolist() == [1.0, 4.0]
    assert actuators.torque[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 4.0]


def test_delays_against_a_history_of_all_targets():
    """Calls of one to five substeps; each env sees the target that was in force its own delay ago, resets included."""
    rng = np.random.default_rng(0)
    robot = replace(get_robot("go1"), torque_limit_nm=(1e9,) * 12)
    actuators = Actuators(robot, 9, max_delay=12)
    actuators.kp[:], actuators.kd[:] = 1.0, 0.0
    actuators.delay[:] = [0, 1, 2, 3, 5, 7, 11, 12, 4]
    history = [np.tile(robot.default_joint_pos, (9, 1))] * 12
    envs, zero = np.arange(9), np.zeros((9, 19))
    for call in range(40):
        if call == 17:
            actuators.reset(np.array([8]), np.full((1, 12), 0.25))
            history = [np.vstack([h[:8], np.full((1, 12), 0.25)]) for h in history]
        target, substeps = rng.normal(size=(9, 12)), int(rng.integers(1, 6))
        actuators.begin(target, substeps)
        for substep in range(substeps):
            history.append(target)
            ctrl = np.zeros((9, 12))
            actuators.apply(substep, envs, zero, zero[:, :18], COLUMNS, ctrl)
            want = np.stack([history[-1 - actuators.delay[e]][e] for e in range(9)])
            np.testing.assert_array_equal(ctrl, want)


def test_state_goes_on_in_another():
    rng = np.random.default_rng(1)
    one, other = (Actuators(get_robot("go1"), 3, max_delay=6) for _ in range(2))
    one.delay[:], one.strength[:] = [0, 3, 6], 0.8
    for _ in range(5):
        one_substep(one, rng.normal(size=(3, 12)), np.zeros((3, 12)), np.zeros((3, 12)), substeps=2)
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        target = rng.normal(size=(3, 12))
        results = [
            one_substep(a, target, np.zeros((3, 12)), np.zeros((3, 12)), substeps=2) for a in (one, other)
        ]
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (ActuatorCfg(kind="hydraulic"), "unknown kind of actuator 'hydraulic'; choose one of: pd, dc, net"),
        (ActuatorCfg(kind="dc"), "stall_torque_nm is"),
        (replace(DC, no_load_speed_rad_s=(0.0,) * 12), "expected 12 numbers above 0"),
        (ActuatorCfg(kind="net"), "without a network"),
    ],
)
def test_bad_settings(cfg, message):
    with pytest.raises(InputError, match=message):
        Actuators(replace(get_robot("go1"), actuator=cfg), 1, max_delay=0)
