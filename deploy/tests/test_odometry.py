"""Leg kinematics, odometry and the path follower, by hand."""

import dataclasses

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, LegGeometry, PolicyBundle
from gaussgym_deploy.odometry import GoalFollower, LegChain, LegOdometry, open_goal, resample, sport_position
from gaussgym_deploy.operator import OperatorCommand
from gaussgym_deploy.robot_io import LinkError, RobotState
from gaussgym_deploy.testing import make_bundle

UP = np.array([0.0, 0.0, 1.0])
IDENTITY = (1.0, 0.0, 0.0, 0.0)


def pendulum(joint=0, x=0.0):
    """One hinge about +y at (x, 0, 0), a foot of radius 0.02 m 0.18 m below it: the ground is 0.2 m below the hinge."""
    return LegGeometry(
        f"leg{joint}", (joint,), ((x, 0.0, 0.0),), (IDENTITY,), ((0.0, 1.0, 0.0),), (0.0, 0.0, -0.18), 0.02
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6, vision=False))


def test_a_ball_foot_rolls():
    point, jacobian = LegChain(pendulum(x=0.1)).contact(np.array([0.0]), UP)
    assert point == pytest.approx([0.1, 0.0, -0.2])
    # y axis x (0, 0, -0.2): forward rotation swings the contact point back.
    assert jacobian[:, 0] == pytest.approx([-0.2, 0.0, 0.0])
    point, _ = LegChain(pendulum()).contact(np.array([np.pi / 2]), UP)
    assert point == pytest.approx([-0.18, 0.0, -0.02])


def test_a_chain_of_turned_links():
    """A link that is turned by 90 degrees about x has its own y axis along the base's z."""
    turned = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)
    leg = LegGeometry(
        "leg", (0, 1), ((0.1, 0.0, 0.0), (0.2, 0.0, 0.0)), (turned, IDENTITY), ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
        (0.3, 0.0, 0.0), 0.0,
    )  # fmt: skip
    point, jacobian = LegChain(leg).contact(np.array([np.pi / 2, 0.4]), UP)
    assert point == pytest.approx([0.1, 0.5, 0.0])  # the first hinge turns the whole leg about z
    assert jacobian[:, 0] == pytest.approx([-0.5, 0.0, 0.0])
    assert jacobian[:, 1] == pytest.approx([0.0, 0.0, 0.0])  # the foot lies on the second axis


def walking(bundle, speeds, *, seconds=1.0, dt_s=0.02):
    """Legs that swing back at given rates under a base that does not turn; the odometry's end."""
    odometry, state = LegOdometry(bundle), RobotState.zeros(12)
    odometry.update(state)
    for step in range(1, round(seconds / dt_s) + 1):
        state.t_s = step * dt_s
        state.joint_vel[: len(speeds)] = speeds
        position = odometry.update(state).copy()
        assert np.array_equal(odometry.update(state), position)  # the same state again changes nothing
    return position, odometry.velocity_w


def test_standing_feet_move_the_base(plain):
    bundle = dataclasses.replace(plain, legs=(pendulum(0), pendulum(1, 0.3)))
    position, velocity = walking(bundle, [1.0, 1.0])
    assert velocity == pytest.approx([0.2, 0.0, 0.0], abs=1e-3)
    assert position == pytest.approx([0.2, 0.0, 0.0], abs=0.01)  # it begins at rest


def test_a_foot_that_moves_otherwise_does_not_count(plain):
    bundle = dataclasses.replace(plain, legs=(pendulum(0), pendulum(1, 0.3)))
    _, velocity = walking(bundle, [1.0, -5.0])
    assert velocity == pytest.approx([0.2, 0.0, 0.0], abs=0.02)


def test_after_being_lost_the_feet_are_believed_again(plain):
    bundle = dataclasses.replace(plain, legs=(pendulum(0), pendulum(1, 0.3)))
    _, velocity = walking(
        bundle, [10.0, 10.0], seconds=2.0
    )  # 2 m/s from rest within a step: too much to believe
    assert velocity == pytest.approx([2.0, 0.0, 0.0], abs=0.05)


def test_the_accelerometer_carries_the_velocity_through_the_air(plain):
    bundle = dataclasses.replace(plain, legs=(pendulum(0),))
    odometry, state = LegOdometry(bundle), RobotState.zeros(12)
    state.joint_torque, state.lin_acc_b = np.zeros(12), np.array([2.0, 0.0, 9.81])  # no foot carries anything
    for step in range(11):
        state.t_s = 0.02 * step
        position = odometry.update(state)
    assert odometry.velocity_w == pytest.approx([0.4, 0.0, 0.0])
    assert position == pytest.approx([0.5 * 2.0 * 0.2**2, 0.0, 0.0])


def test_a_gap_in_the_readings_is_not_integrated_over(plain):
    bundle = dataclasses.replace(plain, legs=(pendulum(0),))
    odometry, state = LegOdometry(bundle), RobotState.zeros(12)
    odometry.update(state)
    state.t_s, state.lin_acc_b = 5.0, np.array([3.0, 0.0, 9.81])
    assert odometry.update(state) == pytest.approx(np.zeros(3))


def test_a_bundle_without_legs_is_refused(plain):
    with pytest.raises(BundleError, match="says nothing of the robot's legs"):
        LegOdometry(plain)


def test_legs_cross_the_manifest_and_are_checked(tmp_path):
    legs = [pendulum(0), pendulum(5, 0.3)]
    bundle = PolicyBundle.load(make_bundle(tmp_path / "policy", steps=6, vision=False, legs=legs))
    assert bundle.legs == tuple(legs)
    with pytest.raises(BundleError, match=r"legs\[0\].joints"):
        make_bundle(tmp_path / "bad", steps=6, vision=False, legs=[pendulum(12)])
    short = dataclasses.replace(pendulum(0), axes=((0.0, 1.0),))
    with pytest.raises(BundleError, match=r"legs\[0\].axes"):
        make_bundle(tmp_path / "bad", steps=6, vision=False, legs=[short])


def at(x, y, yaw=0.0):
    state = RobotState.zeros(12)
    state.position_w = np.array([x, y, 0.3])
    state.quat_wxyz[:] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
    return state


def test_the_follower_steers_at_the_point_ahead_and_stands_at_the_goal():
    follower = GoalFollower(sport_position)
    follower.start(resample([[0, 0], [4, 0]]), 0.8)
    assert follower.read(at(0, 0), 1.0).velocity == pytest.approx([0.8, 0.0, 0.0])
    # From (1, 0.3): nearest point 1.0, three points of 0.25 m ahead: (1.75, 0).
    error = np.arctan2(-0.3, 0.75)
    wish = follower.read(at(1.0, 0.3), 1.0)
    assert wish.velocity == pytest.approx([0.8 * np.cos(error), 0.0, max(1.5 * error, -1.0)])
    assert wish.alive_s == 1.0
    # Facing back: it turns on the spot, at most 1 rad/s.
    assert follower.read(at(1.0, 0.0, np.pi - 0.1), 1.0).velocity == pytest.approx([0.0, 0.0, -1.0])
    assert not follower.arrived
    for x in (2.0, 3.0, 3.85):
        wish = follower.read(at(x, 0.0), 1.0)
    assert follower.arrived
    assert not wish.velocity.any()


def test_a_relative_path_begins_at_the_robot():
    follower = GoalFollower(sport_position)
    follower.start(resample([[0, 0], [3, 0]]), 0.5, relative=True)
    assert follower.read(at(5.0, 5.0, np.pi / 2), 0.0).velocity == pytest.approx([0.5, 0.0, 0.0])
    assert follower.read(at(5.0, 6.4, np.pi / 2), 0.0).velocity == pytest.approx([0.5, 0.0, 0.0])
    assert not follower.arrived
    follower.read(at(5.0, 7.85, np.pi / 2), 0.0)
    assert follower.arrived


def test_a_person_can_stop_the_follower():
    class Person:
        def read(self, state, now_s):
            return OperatorCommand(np.ones(3), alive_s=now_s - 0.1, stop="button", mode="damp")

        def close(self):
            pass

    follower = GoalFollower(sport_position, operator=Person())
    follower.start(resample([[0, 0], [3, 0]]), 0.5)
    wish = follower.read(at(0.0, 0.0), 7.0)
    assert (wish.alive_s, wish.stop, wish.mode) == (6.9, "button", "damp")
    assert wish.velocity == pytest.approx([0.5, 0.0, 0.0])


def test_a_goal_from_the_command_line(plain):
    follower = open_goal(plain, (2.0, 0.0, 2.0, 1.0), "odometry", 0.6)
    assert follower.read(at(1.0, 1.0), 0.0).velocity == pytest.approx([0.6, 0.0, 0.0])
    for waypoints, by, text in (
        ((1.0,), "odometry", "pairs"),
        ((1.0, 0.0), "stars", "expected odometry or legs"),
        ((0.0, 0.0), "odometry", "the same"),
        ((1.0, 0.0), "legs", "says nothing of the robot's legs"),
    ):
        with pytest.raises(BundleError, match=text):
            open_goal(plain, waypoints, by, 0.6)


def test_paths_and_positions_that_are_none():
    with pytest.raises(LinkError, match="reports no position"):
        sport_position(RobotState.zeros(12))
    follower = GoalFollower(sport_position)
    for path, speed in (([[0, 0]], 1.0), ([[0, 0], [0, 0]], 1.0), ([[0, 0], [1, 0]], 0.0)):
        with pytest.raises(BundleError):
            follower.start(np.array(path, float), speed)
    with pytest.raises(BundleError, match="all waypoints are the same"):
        resample([[1, 1], [1, 1]])
    assert len(resample([[0, 0], [1, 0], [1, 1]])) == 9
