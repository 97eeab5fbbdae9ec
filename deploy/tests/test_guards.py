"""Each guard at its threshold."""

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.guards import GuardLimits, Guards
from gaussgym_deploy.testing import DEFAULT_POSE, POSITION_LIMIT, make_bundle, standing_state, tilted


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


@pytest.mark.parametrize("axis", [0, 1])
def test_tilt_counts_the_angle_of_the_vertical(bundle, axis):
    guards, state = Guards(bundle), standing_state()
    state.quat_wxyz = tilted(1.19, axis)
    assert guards.check_body(state) is None
    state.quat_wxyz = tilted(1.21, axis)
    assert guards.check_body(state).kind == "tilt"
    assert "1.21 rad" in guards.check_body(state).detail
    state.quat_wxyz = tilted(3.0, 2)  # yaw
    assert Guards(bundle).check_body(state) is None


@pytest.mark.parametrize(
    ("array", "value", "kind"), [("joint_pos", 1.1, "joint_position"), ("joint_vel", 50.0, "joint_velocity")]
)
def test_joint_limits_trip_after_three_steps_in_a_row(bundle, array, value, kind):
    guards, bad, good = Guards(bundle), standing_state(), standing_state()
    getattr(bad, array)[3] = value
    for _ in range(5):
        assert guards.check_body(bad) is None
        assert guards.check_body(bad) is None
        assert guards.check_body(good) is None
    faults = [guards.check_body(bad) for _ in range(3)]
    assert faults[:2] == [None, None]
    assert faults[2].kind == kind
    assert bundle.joint_names[3] in faults[2].detail


def test_torque_limit_of_a_target(bundle):
    # kp 20, kd 0.5, limit 23.7 N·m, factor 1.5: |20 (target - q) - 0.5 qd| <= 35.55
    guards, state = (
        Guards(bundle, GuardLimits(target_rate_rad_s=1e9, target_margin_rad=1e9)),
        standing_state(),
    )
    state.joint_vel[:] = 2.0
    target = state.joint_pos + 10.0
    guards.limit_target(target, state)
    np.testing.assert_allclose(20.0 * (target - state.joint_pos) - 0.5 * 2.0, 35.55)
    target = state.joint_pos - 10.0
    guards.limit_target(target, state)
    np.testing.assert_allclose(20.0 * (target - state.joint_pos) - 0.5 * 2.0, -35.55)
    near = state.joint_pos + 0.3
    guards.limit_target(near, state)
    np.testing.assert_array_equal(near, state.joint_pos + 0.3)
    assert guards.interventions["torque"] == 2


def test_target_rate_and_position_limits(bundle):
    guards, state = Guards(bundle, GuardLimits(target_rate_rad_s=5.0, torque_factor=1e9)), standing_state()
    first = DEFAULT_POSE.copy()
    guards.limit_target(first, state)
    second = DEFAULT_POSE + 0.3
    guards.limit_target(second, state)
    np.testing.assert_allclose(second, DEFAULT_POSE + 0.1)
    guards.reset()
    far = np.full(12, 99.0)
    guards.limit_target(far, state)
    np.testing.assert_allclose(far, POSITION_LIMIT[:, 1] + 0.5)
    assert guards.interventions == {"action_clip": 0, "target_position": 1, "torque": 0, "target_rate": 1}


def test_overrides_by_name_and_unknown_names():
    assert GuardLimits.of({"tilt_rad": 0.7, "deadline_misses": 3.0}) == GuardLimits(
        tilt_rad=0.7, deadline_misses=3
    )
    with pytest.raises(BundleError, match="'tilt' is unknown; there is state_age_s"):
        GuardLimits.of({"tilt": 1.0})
    with pytest.raises(BundleError, match="positive"):
        GuardLimits.of({"tilt_rad": 0.0})


def test_states_that_fall_behind_are_old_though_each_is_new(bundle):
    """Half a second per second: 0.1 s late after 0.2 s. Clocks that drift apart by 0.5 ms a second are no lag."""
    guards, now_s = Guards(bundle), 100.0
    for _ in range(3000):  # a minute of a drifting clock
        now_s += 0.02
        assert guards.check_clock(0.9995 * now_s, now_s) is None
    start_s, fault = now_s, None
    while fault is None and now_s < start_s + 1.0:
        now_s += 0.02
        fault = guards.check_clock(0.9995 * start_s + 0.5 * (now_s - start_s), now_s)
    assert fault is not None
    assert fault.kind == "state_age"
    assert now_s - start_s == pytest.approx(0.22, abs=0.021)


def test_actions_of_another_size_are_the_policys_fault(bundle):
    assert Guards(bundle).check_action(np.zeros(11)).kind == "policy"
    assert Guards(bundle).check_action(np.zeros(12)) is None
