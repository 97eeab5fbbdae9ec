"""`compare` on a log of the shipped policy that walked over real DDS: what was planted in the robot is found again."""

import gaussgym_learn
import numpy as np
import pytest
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.testing_command import deploy
from gaussgym_learn.export import export_policy
from gaussgym_learn.gap.compare import CompareCfg, compare
from gaussgym_scene import synthesize

pytestmark = pytest.mark.slow
PLANTED = {"motor_strength": 0.85, "joint_friction_nm": 0.3, "joint_damping_nms": 0.2, "friction": 0.45}
DELAY_S, GAIN = 0.04, 0.8


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene") / "street"
    synthesize("street", seed=0, max_splats=50_000).save(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, scene):
    student = next(iter(gaussgym_learn.__path__)) + "/policies/student"
    export_policy(student, folder := tmp_path_factory.mktemp("bundle") / "student", scene, steps=60)
    return PolicyBundle.load(folder)


def walk(bundle, scene, log, **options):
    """A flight of 20 s by the command that a user types, each option by a flag of its own."""
    words = [word for name, value in options.items() for word in ("--option", f"{name}={value}")]
    command = (
        "run",
        bundle.path,
        "--robot",
        "dds-sim",
        "--scene",
        scene,
        "--seconds",
        20,
        "--flight",
        log,
        *words,
    )
    for _ in range(3):
        done = deploy(*command)
        if (
            "heartbeat" not in done.stderr
        ):  # a machine that stood still for too long says nothing about the fit
            break
    assert done.returncode == 0, done.stderr
    return log


def way_there_s(log):
    """At most so long takes a command from the runtime to the robot [s]."""
    return float(np.nanmedian(np.load(log / "flight.npz")["round_trip_s"])) + 0.002


def fitted(log, scene, bundle):
    return compare(log, scene, CompareCfg(), camera=bundle.camera)[0]


def test_what_was_planted_over_dds_is_found_within_a_tenth(bundle, scene, tmp_path):
    pytest.importorskip("cyclonedds")
    plain = fitted(walk(bundle, scene, tmp_path / "plain"), scene, bundle)
    options = {**PLANTED, "command_delay_ms": 1e3 * DELAY_S, "camera_gain": GAIN}
    changed = fitted(walk(bundle, scene, tmp_path / "changed", **options), scene, bundle)
    found = {name: estimate["value"] for name, estimate in changed["fit"].items()}
    assert found["strength"] == pytest.approx(PLANTED["motor_strength"], rel=0.1)
    assert found["joint_friction_nm"] == pytest.approx(PLANTED["joint_friction_nm"], rel=0.1)
    assert found["joint_damping_nms"] == pytest.approx(PLANTED["joint_damping_nms"], rel=0.1)
    assert found["ground_friction"] == pytest.approx(PLANTED["friction"], rel=0.1)
    # From the runtime's sending to the effect: the way there (supervisor, wire, the robot's turns) is in it, which is a part of the
    # measured round trip and of the supervisor's own turn of 2 ms.
    assert 0.9 * DELAY_S <= found["delay_s"] <= 1.1 * DELAY_S + way_there_s(tmp_path / "changed")
    assert 0.0 < plain["fit"]["delay_s"]["value"] <= way_there_s(tmp_path / "plain")
    assert changed["camera"]["gain"] == pytest.approx([GAIN] * 3, rel=0.1)
    assert plain["fit"]["strength"]["value"] == pytest.approx(1.0, rel=0.03)
