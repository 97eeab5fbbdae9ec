"""A policy exported here runs where nothing but `gaussgym-deploy` is installed: how much that is, and on which versions."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussgym_deploy.bundle import CameraSpec, ObservationTerm, write_bundle
from gaussgym_deploy.faults.table import TABLE
from gaussgym_deploy.testing import DEFAULT_POSE, JOINT_NAMES, POSITION_LIMIT
from gaussgym_learn.export import IR_VERSION, OPSET, policy_graphs
from gaussgym_learn.models import build_actor
from gaussgym_learn.recipes import NetworkCfg
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.observations import proprio_terms
from packaging.requirements import Requirement
from tensordict import TensorDict

DEPLOY = Path(__file__).parents[2] / "deploy"
LAYOUT = {"proprio": [45], "base_vel": [3], "scan": [6], "rgb": [3, 48, 64], "rgb_new": [1]}
VISION = NetworkCfg(actor_groups=("proprio", "rgb"), actor_hidden=(32,), rnn_hidden=24, aux_group="scan")
MB = 1e6
pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A CNN and a GRU with random weights, as torch exports them, and what torch makes of 120 steps."""
    torch.manual_seed(0)
    model = build_actor(VISION, LAYOUT, 12).eval()
    policy, encoder, recurrence, feature = policy_graphs(model)
    rng, steps = np.random.default_rng(0), 120
    golden = {
        "proprio": rng.normal(size=(steps, 45)).astype(np.float32),
        "reset": np.arange(steps) % 60 == 0,
        "frame": np.arange(steps) // 5,
        "rgb": rng.integers(0, 256, (steps // 5, 3, 48, 64), dtype=np.uint8),
    }
    actions = []
    for step in range(steps):
        if golden["reset"][step]:
            model.reset()
        obs = {
            "proprio": torch.from_numpy(golden["proprio"][step : step + 1]),
            "rgb": torch.from_numpy(golden["rgb"][golden["frame"][step]][None]),
            "rgb_new": torch.tensor([[step % 5 == 0]], dtype=torch.uint8),
        }
        with torch.no_grad():
            actions.append(model(TensorDict(obs, batch_size=[1])).numpy()[0])
    directory = tmp_path_factory.mktemp("bundle") / "policy"
    write_bundle(
        directory,
        robot="bench",
        joint_names=JOINT_NAMES,
        observation=[ObservationTerm(t.name, t.size, t.scale) for t in proprio_terms(get_robot("go1"))],
        default_joint_pos=DEFAULT_POSE,
        kp=20.0,
        kd=0.5,
        action_scale=0.25,
        torque_limit=23.7,
        joint_pos_limit=POSITION_LIMIT,
        joint_vel_limit=30.0,
        policy_onnx=policy,
        encoder_onnx=encoder,
        golden={**golden, "actions": np.stack(actions)},
        camera=CameraSpec(64, 48, 32.0, 32.0, 32.0, 24.0, (0.29, 0.0, 0.03), (0.5, -0.5, 0.5, -0.5)),
        feature_size=feature,
        recurrent=recurrence,
    )
    return directory


def run(*command, status=(0,)):
    """A command in a clean environment, in which our sources are not on the path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in status, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def install(folder, python, *words):
    """An environment with deploy in it, and nothing else, not even pip; returns its Python and its site-packages."""
    run(python, "-m", "venv", "--without-pip", folder)
    inside = folder / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        inside,
        "install",
        "-q",
        "--disable-pip-version-check",
        *words,
    )
    return inside, next((folder / "lib").glob("python3.*/site-packages"))


def versions_in(site):
    found = importlib.metadata.distributions(path=[str(site)])
    return {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d for d in found}


def needed(found, python_version):
    """Names of deploy and of all that it needs, by what the installed packages themselves declare."""
    names, open_names = set(), ["gaussgym-deploy"]
    while open_names:
        name = open_names.pop()
        if name in names:
            continue
        names.add(name)
        for line in found[name].requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": "", "python_version": python_version}):
                open_names.append(re.sub(r"[-_.]+", "-", need.name).lower())
    return names


def megabytes(site, *, cached=True):
    files = (path for path in site.rglob("*") if path.is_file() and (cached or path.suffix != ".pyc"))
    return sum(path.stat().st_size for path in files) / MB


def check_and_inject(python, bundle, folder):
    """`check`, and on the bench every fault of virtual time once; returns the numbers of the check."""
    report, injected = folder / "check.json", folder / "faults.json"
    deploy = (python, "-m", "gaussgym_deploy")
    run(*deploy, "check", bundle, "--robot", "bench", "--json", report, status=(0, 2))
    problems = json.loads(report.read_text())["problems"]
    assert [text for text in problems if "p99 of inference" not in text] == []  # a busy machine may be slow
    # The others are about processes in real time, and fail where the machine is busy with tests.
    kinds = [kind.name for kind in TABLE if not kind.real_time]
    run(*deploy, "faults", bundle, "--moments", "1", "--jobs", "1", "--json", injected, "--kinds", *kinds)
    numbers = json.loads(injected.read_text())
    assert numbers["trials"] == len(kinds) >= 25
    assert numbers["failed_trials"] == 0
    return json.loads(report.read_text())


def test_installed_alone_it_needs_three_packages_and_runs(bundle, tmp_path):
    python, site = install(tmp_path / "env", sys.executable, DEPLOY)
    found = versions_in(site)
    direct = {
        re.split(r"[<>=;! ]", line)[0] for line in found["gaussgym-deploy"].requires if "extra" not in line
    }
    assert direct == {"numpy", "onnxruntime", "tyro"}
    assert set(found) == needed(found, f"{sys.version_info[0]}.{sys.version_info[1]}")
    print(f"\nplain: {megabytes(site):.1f} MB, {megabytes(site, cached=False):.1f} MB without byte code:")
    print(", ".join(f"{name} {d.version}" for name, d in sorted(found.items())))
    assert megabytes(site) < 170
    assert check_and_inject(python, bundle, tmp_path)["golden_max_abs_error"] <= 1e-5


def test_a_robots_installation_is_small(bundle, tmp_path):
    words = ("--no-compile", "-c", DEPLOY / "robot-constraints.txt", DEPLOY)
    python, site = install(tmp_path / "env", sys.executable, *words)
    size = megabytes(site)
    print(f"\nfor a robot: {size:.1f} MB")
    assert size <= 120
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        assert check_and_inject(python, bundle, tmp_path)["golden_max_abs_error"] <= 1e-5
    finally:
        del os.environ["PYTHONDONTWRITEBYTECODE"]


def test_the_oldest_onnxruntime_opens_what_is_exported(bundle, tmp_path):
    python, site = install(tmp_path / "env", sys.executable, "onnxruntime==1.16.3", "numpy<2", DEPLOY)
    assert versions_in(site)["onnxruntime"].version == "1.16.3"
    numbers = check_and_inject(python, bundle, tmp_path)
    assert numbers["golden_max_abs_error"] <= 1e-5
    assert numbers["onnx"]["policy.onnx"] == {"ir_version": IR_VERSION, "opset": OPSET}


def python38():
    """A Python 3.8 of this machine, or None."""
    names = [os.environ.get("PYENV_VERSION", "")]
    if shutil.which("pyenv"):
        listed = subprocess.run(
            ["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False
        ).stdout
        names += [name for name in listed.split() if name.startswith("3.8")]
    for name in names:
        environment = {**os.environ, **({"PYENV_VERSION": name} if name else {})}
        if shutil.which("python3.8"):
            command = ["python3.8", "-c", "import sys; print(sys.executable)"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode == 0:
                return done.stdout.strip()
    return None


def test_a_bundle_runs_under_python_3_8(bundle, tmp_path):
    old = python38()
    if old is None:
        pytest.skip("no python3.8 on this machine: that a bundle runs there was not tested")
    python, site = install(tmp_path / "env", old, DEPLOY)
    assert versions_in(site)["onnxruntime"].version == "1.19.2"  # the last one for 3.8
    code = (
        "import importlib, pkgutil, gaussgym_deploy\n"
        "for module in pkgutil.walk_packages(gaussgym_deploy.__path__, 'gaussgym_deploy.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    run(python, "-c", code.replace("    importlib", "    if not module.name.endswith('__main__'): importlib"))
    numbers = check_and_inject(python, bundle, tmp_path)
    print(f"\nPython 3.8: {megabytes(site):.1f} MB, {numbers['inference_ms']}")
    assert numbers["golden_max_abs_error"] <= 1e-5
    assert numbers["onnxruntime"] == "1.19.2"
