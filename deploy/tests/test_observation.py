"""The observation builder against values worked out by hand."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, ObservationTerm, PolicyBundle
from gaussgym_deploy.observation import TERMS, ObservationBuilder, gravity_b_from_quat, register_term
from gaussgym_deploy.robot_io import RobotState
from gaussgym_deploy.testing import DEFAULT_POSE, make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6))


def some_state():
    return RobotState(
        t_s=1.0,
        joint_pos=DEFAULT_POSE + np.arange(12) * 0.01,
        joint_vel=np.arange(12) * 20.0 - 100.0,
        quat_wxyz=np.array([1.0, 0.0, 0.0, 0.0]),
        ang_vel_b=np.array([1.0, -2.0, 4.0]),
        command=np.array([0.5, -0.25, 2.0]),
    )


def test_terms_in_order_scaled_and_clipped(bundle):
    builder = ObservationBuilder(bundle)
    builder.last_action[:] = np.linspace(-1, 1, 12)
    proprio = builder.build(some_state())
    assert proprio.shape == (1, 45)
    assert proprio.dtype == np.float32
    np.testing.assert_allclose(proprio[0, 0:3], [0.25, -0.5, 1.0])
    np.testing.assert_allclose(proprio[0, 3:6], [0.0, 0.0, -1.0])
    np.testing.assert_allclose(proprio[0, 6:9], [1.0, -0.5, 0.5])
    np.testing.assert_allclose(proprio[0, 9:21], np.arange(12) * 0.01, atol=1e-7)
    # 0.05 (20 i - 100), limited to +-5: -5, -4, ... 5, 5
    np.testing.assert_allclose(proprio[0, 21:33], [-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 5])
    np.testing.assert_allclose(proprio[0, 33:45], np.linspace(-1, 1, 12), atol=1e-7)


@pytest.mark.parametrize(
    ("quat_wxyz", "gravity_b"),
    [
        # Yaw leaves gravity alone; nose up (pitch -30 deg about +y) shows gravity towards the tail; rolled to the right
        # (about +x by 90 deg) the right side, -y, points down.
        ([np.cos(0.4), 0.0, 0.0, np.sin(0.4)], [0.0, 0.0, -1.0]),
        ([np.cos(np.radians(15)), 0.0, -np.sin(np.radians(15)), 0.0], [-0.5, 0.0, -np.cos(np.radians(30))]),
        ([np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0], [0.0, -1.0, 0.0]),
        # (1, 2, 3, 4) / sqrt(30): third row of its rotation matrix is (2(xz-wy), 2(yz+wx), 1-2(x²+y²)) = (10, 28, 4) / 30
        (np.array([1.0, 2.0, 3.0, 4.0]) / np.sqrt(30.0), np.array([-10.0, -28.0, -4.0]) / 30.0),
    ],
)
def test_gravity_of_hand_computed_rotations(quat_wxyz, gravity_b):
    out = np.zeros(3)
    gravity_b_from_quat(np.asarray(quat_wxyz), out)
    np.testing.assert_allclose(out, gravity_b, atol=1e-12)


def test_reset_forgets_the_last_action(bundle):
    builder = ObservationBuilder(bundle)
    builder.last_action[:] = 1.0
    builder.reset()
    assert not builder.build(some_state())[0, 33:].any()


def test_unknown_term_lists_those_that_exist(bundle):
    broken = dataclasses.replace(bundle, observation=(ObservationTerm("smell", 3),))
    with pytest.raises(BundleError, match=r"'smell' is unknown.*ang_vel_b, command, gravity_b"):
        ObservationBuilder(broken)


def test_term_of_wrong_size(bundle):
    broken = dataclasses.replace(bundle, observation=(ObservationTerm("joint_vel", 11),))
    with pytest.raises(BundleError, match="'joint_vel' does not have 11 values"):
        ObservationBuilder(broken)


def test_a_registered_term_of_ones_own(bundle):
    @register_term("sine")
    def _sine(inputs, out):
        out[0] = np.sin(inputs.state.t_s)

    try:
        builder = ObservationBuilder(
            dataclasses.replace(bundle, observation=(ObservationTerm("sine", 1, 2.0),))
        )
        assert builder.build(some_state())[0, 0] == pytest.approx(2 * np.sin(1.0))
    finally:
        del TERMS["sine"]


def test_building_keeps_no_memory(bundle):
    builder, state = ObservationBuilder(bundle), some_state()
    builder.build(state)
    tracemalloc.start()
    for _ in range(200):
        builder.build(state)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4096  # small temporaries of numpy itself, nothing that grows
