"""Modes, their transitions and the latched fault."""

import numpy as np
import pytest
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.guards import Fault
from gaussgym_deploy.states import Mode, StateMachine
from gaussgym_deploy.testing import DEFAULT_POSE, make_bundle, standing_state


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


def test_only_the_drawn_transitions_exist(bundle):
    state = standing_state()
    reached = {
        (start, wanted)
        for start in Mode
        for wanted in Mode
        if start is not wanted and machine_in(bundle, start).request(wanted, state, 10.0) is None
    }
    assert reached == {
        (Mode.IDLE, Mode.DAMP), (Mode.DAMP, Mode.STAND), (Mode.DAMP, Mode.IDLE), (Mode.STAND, Mode.RUN),
        (Mode.STAND, Mode.DAMP), (Mode.RUN, Mode.DAMP),
    }  # fmt: skip


def machine_in(bundle, mode):
    machine = StateMachine(bundle)
    machine.mode = mode
    return machine


def test_standing_up_goes_smoothly_from_the_found_pose_to_the_default_pose(bundle):
    machine, state = StateMachine(bundle, stand_s=2.0), standing_state()
    state.joint_pos[:] = DEFAULT_POSE - 0.4
    machine.request(Mode.DAMP, state, 0.0)
    machine.request(Mode.STAND, state, 1.0)
    targets = [machine.command(1.0 + t).q.copy() for t in np.linspace(0.0, 2.0, 101)]
    np.testing.assert_allclose(targets[0], DEFAULT_POSE - 0.4)
    np.testing.assert_allclose(targets[50], DEFAULT_POSE - 0.2)
    np.testing.assert_allclose(targets[-1], DEFAULT_POSE)
    steps = np.diff([target[0] for target in targets])
    assert (steps > -1e-12).all()
    assert steps[0] < 0.1 * steps.max()  # starts without a jerk


def test_run_waits_for_the_pose(bundle):
    machine, state = StateMachine(bundle, stand_s=1.0), standing_state()
    machine.request(Mode.DAMP, state, 0.0)
    machine.request(Mode.STAND, state, 0.0)
    assert machine.request(Mode.RUN, state, 0.5) == "the robot does not stand yet"
    state.joint_pos[3] += 0.5
    assert machine.request(Mode.RUN, state, 1.5) == "the robot does not stand yet"
    state.joint_pos[3] -= 0.5
    assert machine.request(Mode.RUN, state, 1.5) is None


def test_a_fault_is_latched_until_cleared_and_the_first_one_stays(bundle):
    machine, state = machine_in(bundle, Mode.RUN), standing_state()
    machine.trip(Fault("tilt", "first"), 1.0)
    machine.trip(Fault("link", "second"), 2.0)
    assert machine.mode is Mode.DAMP
    assert machine.fault == Fault("tilt", "first")
    assert "latched" in machine.request(Mode.STAND, state, 3.0)
    machine.clear_fault()
    assert machine.request(Mode.STAND, state, 3.0) is None
