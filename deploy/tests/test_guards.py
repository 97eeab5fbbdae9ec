"""Each guard at its threshold."""

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.guards import FAULT_KINDS, GuardLimits, Guards
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


def ages(guards, pairs):
    """Ages after each (robot's clock, runtime's clock)."""
    found = []
    for t_s, now_s in pairs:
        assert guards.check_clock(t_s, now_s) is None
        found.append(guards.state_age_s(now_s))
    return np.array(found)


def test_age_of_a_state(bundle):
    # steady, two periods without a new state, then the newest one: no age is left
    pairs = [(10.00, 0.00), (10.02, 0.02), (10.02, 0.04), (10.02, 0.06), (10.08, 0.08)]
    np.testing.assert_allclose(ages(Guards(bundle), pairs), [0.0, 0.0, 0.02, 0.04, 0.0], atol=1e-9)
    # a state that is overtaken does not count as new
    pairs = [(10.00, 0.00), (10.02, 0.02), (10.01, 0.04), (10.06, 0.06)]
    np.testing.assert_allclose(ages(Guards(bundle), pairs), [0.0, 0.0, 0.02, 0.0], atol=1e-9)


def test_states_that_fall_behind_are_old_though_each_is_new(bundle):
    """Half a second per second: 0.1 s late after 0.2 s. Clocks that drift apart by 0.5 ms a second are no lag."""
    guards, now_s = Guards(bundle), 100.0 + 0.02 * np.arange(3000)
    assert ages(guards, zip(0.9995 * now_s, now_s)).max() < 1e-3
    late_s = now_s[-1] + 0.02 * np.arange(1, 12)
    found = ages(guards, zip(0.9995 * now_s[-1] + 0.5 * (late_s - now_s[-1]), late_s))
    np.testing.assert_allclose(found, 0.5 * (late_s - now_s[-1]), atol=6e-3)  # less 2 % of the time
    state = standing_state()
    assert guards.check_link(state, found[-1]).kind == "state_age"
    assert guards.check_link(state, found[-3]) is None


@pytest.mark.parametrize(
    ("jump_s", "kind"), [(-0.19, None), (-3600.0, "clock"), (10.0, "clock"), (0.19, None), (-0.25, "clock")]
)
def test_a_jump_of_the_robots_clock(bundle, jump_s, kind):
    guards = Guards(bundle)
    for step in range(50):
        assert guards.check_clock(7200.0 + 0.02 * step, 0.02 * step) is None
    fault = guards.check_clock(7200.0 + 0.98 + 0.02 + jump_s, 1.0)
    assert kind == (None if fault is None else fault.kind)


def test_a_jump_of_the_runtimes_clock(bundle):
    for now_s, words in ((0.5, "went back by 0.480"), (5.0, "jumped by -4.0")):
        guards = Guards(bundle)
        for step in range(50):
            guards.check_clock(0.02 * step, 0.02 * step)
        fault = guards.check_clock(1.0, now_s)
        assert fault.kind == "clock"
        assert words in fault.detail


@pytest.mark.parametrize(("field", "kind"), [("corrupt", "crc"), ("out_of_order", "out_of_order")])
def test_rejected_states_by_rate(bundle, field, kind):
    """Four within a second ride through, again and again; the fifth does not."""
    guards, state = Guards(bundle), standing_state()

    def faults(rejected_at):
        guards.reset()
        setattr(state, field, 1000)  # of a link that is open since yesterday
        found = []
        for step in range(250):
            now_s = 0.02 * step
            setattr(state, field, 1000 + sum(now_s >= t_s for t_s in rejected_at))
            guards.check_clock(now_s, now_s)
            found.append(guards.check_link(state, 0.0))
        return found

    assert set(faults([1.01, 1.21, 1.41, 1.61, 2.05, 2.25, 2.45, 2.65])) == {None}
    found = faults([1.01, 1.21, 1.41, 1.61, 1.81])
    first = next(step for step, fault in enumerate(found) if fault is not None)
    assert 0.02 * first == pytest.approx(1.82)
    assert found[first].kind == kind


def test_a_stale_state_has_the_name_of_what_was_thrown_away(bundle):
    guards, state = Guards(bundle), standing_state()
    faults = []
    for step in range(20):
        now_s = 0.02 * step
        state.corrupt = max(step - 10, 0) // 2
        guards.check_clock(min(now_s, 0.2), now_s)
        faults.append(guards.check_link(state, guards.state_age_s(now_s)))
    first = next(fault for fault in faults if fault is not None)
    assert first.kind == "crc"
    assert "damaged states since" in first.detail


def change(field, value):
    def spoil(state):
        setattr(state, field, value)

    return spoil


LINK_FAULTS = {
    "NaN torque": (change("joint_torque", np.full(12, np.nan)), "non_finite_state"),
    "NaN accelerometer": (change("lin_acc_b", np.array([0.0, np.nan, 9.8])), "non_finite_state"),
    "infinite temperature": (change("motor_temperature_c", np.full(12, np.inf)), "non_finite_state"),
    "NaN odometry": (change("position_w", np.full(3, np.nan)), "non_finite_state"),
    "infinite battery": (change("battery_fraction", np.inf), "non_finite_state"),
    "absurd angle": (change("joint_pos", np.full(12, 1e30)), "non_finite_state"),
    "NaN time": (change("t_s", np.nan), "non_finite_state"),
    "eleven joints": (change("joint_pos", np.zeros(11)), "state_shape"),
    "a quaternion of three": (change("quat_wxyz", np.zeros(3)), "state_shape"),
    "a zero quaternion": (change("quat_wxyz", np.zeros(4)), "quaternion"),
    "a long quaternion": (change("quat_wxyz", np.array([1.11, 0.0, 0.0, 0.0])), "quaternion"),
    "another writer": (change("rival_writers", 1), "second_publisher"),
    "a supervisor that damps": (change("supervisor_fault", "heartbeat: no command"), "supervisor"),
}


@pytest.mark.parametrize("name", LINK_FAULTS)
def test_faults_of_the_link(bundle, name):
    spoil, kind = LINK_FAULTS[name]
    guards, state = Guards(bundle), standing_state()
    assert guards.check_link(state, 0.0) is None
    spoil(state)
    fault = guards.check_link(state, 0.0)
    assert fault.kind == kind
    assert fault.kind in FAULT_KINDS


@pytest.mark.parametrize(
    ("field", "good", "bad", "kind"),
    [
        ("battery_fraction", 0.11, 0.09, "battery"),
        ("motor_temperature_c", np.full(12, 84.0), np.r_[np.full(11, 20.0), 86.0], "motor_temperature"),
    ],
)
def test_battery_and_temperature(bundle, field, good, bad, kind):
    guards, state = Guards(bundle), standing_state()
    setattr(state, field, good)
    assert guards.check_body(state) is None
    setattr(state, field, bad)
    assert guards.check_body(state).kind == kind
    if kind == "battery":
        state.battery_fraction = np.nan
        assert guards.check_body(state) is None


def test_measured_torque_trips_after_five_steps_in_a_row(bundle):
    guards, state = Guards(bundle), standing_state()
    strong, weak = np.full(12, 23.7 * 1.19), np.full(12, 23.7 * 1.19)
    strong[5] = -23.7 * 1.21
    for torque, steps in ((strong, 4), (weak, 1), (strong, 4)):
        for _ in range(steps):
            state.joint_torque = torque
            assert guards.check_body(state) is None
    fault = guards.check_body(state)
    assert fault.kind == "joint_torque"
    assert bundle.joint_names[5] in fault.detail


def test_actions_of_another_size_are_the_policys_fault(bundle):
    assert Guards(bundle).check_action(np.zeros(11)).kind == "policy"
    assert Guards(bundle).check_action(np.zeros(12)) is None
