"""The C++ reference: compiled against a bundle's description, it builds and limits what the Python runtime does."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, ObservationTerm, PolicyBundle
from gaussgym_deploy.bundle.command import describe
from gaussgym_deploy.bundle.describe import cpp_header, trace_text
from gaussgym_deploy.guards import Guards
from gaussgym_deploy.observation import ObservationBuilder
from gaussgym_deploy.robot_io import RobotState
from gaussgym_deploy.testing import OBSERVATION, make_bundle

CPP = Path(__file__).parents[1] / "cpp"
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ on this machine: the C++ reference was not compiled"
)


def make(folder, **changes):
    """A bundle whose actions are large enough that every limit acts."""
    return make_bundle(folder / "policy", steps=60, gain=3.0, action_clip=4.0, **changes)


def replay(folder, bundle):
    describe(bundle, output=folder / "policy_description.h", trace=folder / "trace.txt")
    words = [
        "g++",
        "-std=c++17",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{folder}",
        str(CPP / "replay.cpp"),
    ]
    subprocess.run([*words, "-o", str(folder / "replay")], check=True)
    return subprocess.run(
        [folder / "replay", folder / "trace.txt"], capture_output=True, text=True, check=False
    )


def by_python(bundle):
    """Targets and observations of the golden trace from the runtime's own classes, and how often each limit acted."""
    builder, guards, golden = ObservationBuilder(bundle), Guards(bundle), bundle.golden
    rows = []
    for step in range(len(golden["proprio"])):
        if golden["reset"][step]:
            builder.reset()
            guards.reset()
        state = RobotState(
            t_s=0.0,
            joint_pos=golden["raw_joint_pos"][step],
            joint_vel=golden["raw_joint_vel"][step],
            quat_wxyz=golden["raw_quat_wxyz"][step],
            ang_vel_b=golden["raw_ang_vel_b"][step],
            command=golden["raw_command"][step],
        )
        proprio = builder.build(state)[0].copy()
        guards.limit_action(golden["actions"][step], builder.last_action)
        target = bundle.default_joint_pos + bundle.action_scale * builder.last_action
        guards.limit_target(target, state)
        rows.append(np.concatenate([target, proprio]))
    return np.stack(rows), guards.interventions


@needs_compiler
@pytest.mark.parametrize(
    "guards", [{}, {"target_rate_rad_s": 5.0, "torque_factor": 0.7, "target_margin_rad": 0.05}]
)
def test_observations_and_targets_equal_pythons(tmp_path, guards):
    directory = make(tmp_path, guards=guards)
    done = replay(tmp_path, directory)
    assert done.returncode == 0, done.stderr
    found = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.float64)
    expected, interventions = by_python(PolicyBundle.load(directory))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6
    if guards:  # every limit has been compared while it acts
        acted = {
            key: interventions[key] for key in ("action_clip", "target_position", "torque", "target_rate")
        }
        assert min(acted.values()) > 0, acted


@needs_compiler
def test_a_trace_that_differs_is_noticed(tmp_path):
    directory = make(tmp_path)
    assert replay(tmp_path, directory).returncode == 0
    trace = tmp_path / "trace.txt"
    lines = trace.read_text().splitlines()
    row = lines[30].split()
    row[-1] = str(float(row[-1]) + 1e-4)
    for changed, status in ((" ".join(row), 1), (" ".join(row[:-1]), 2)):
        end = [] if status == 2 else lines[31:]
        trace.write_text("\n".join([*lines[:30], changed, *end]) + "\n")
        done = subprocess.run([tmp_path / "replay", trace], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr


@needs_compiler
def test_an_observation_term_that_the_reference_does_not_have_does_not_compile(tmp_path):
    bundle = PolicyBundle.load(make(tmp_path))
    terms = (ObservationTerm("odour", 3), *OBSERVATION[1:])
    header = cpp_header(dataclasses.replace(bundle, observation=terms))
    (tmp_path / "policy_description.h").write_text(header)
    words = ["g++", "-std=c++17", "-fsyntax-only", f"-I{tmp_path}", str(CPP / "replay.cpp")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "observation term that this header does not have" in done.stderr


def test_description_of_a_blind_policy(tmp_path):
    directory = make(tmp_path, vision=False)
    header = cpp_header(PolicyBundle.load(directory))
    assert "kImageWidth = 0" in header
    assert "kCamera" not in header
    assert "constexpr std::array<double, 12> kKpNmPerRad{{20.0, 20.0" in header
    assert 'Term{"joint_vel", 21, 12, 5.0}' in header
    assert 'Term{"command", 6, 3, std::numeric_limits<double>::infinity()}' in header


def test_a_trace_without_readings_cannot_be_written(tmp_path):
    bundle = PolicyBundle.load(make(tmp_path))
    golden = {key: value for key, value in bundle.golden.items() if not key.startswith("raw_")}
    with pytest.raises(BundleError, match="no readings"):
        trace_text(dataclasses.replace(bundle, golden=golden))
