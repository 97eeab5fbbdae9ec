"""`experiments/template`: a package from outside adds a robot, a task with a reward, and a terrain, without a fork."""

import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gaussgym_scene import synthesize
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import KINDS
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.robot import get_robot, robot_names
from gaussgym_sim.task import get_task, task_names
from gaussgym_sim.vecsim import make_sim

TEMPLATE = Path(__file__).parents[2] / "experiments" / "template"
pytestmark = pytest.mark.skipif(not TEMPLATE.exists(), reason="runs in the repository's checkout")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The template, installed into a folder of its own as a user would."""
    if find_spec("pip") is None or find_spec("hatchling") is None:
        pytest.skip("pip and hatchling are needed to install it")
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "template"
    shutil.copytree(TEMPLATE, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder), str(source)], check=True)
    sys.path.insert(0, str(folder))
    get_robot.cache_clear()
    yield folder
    sys.path.remove(str(folder))
    for name in [n for n in sys.modules if n.split(".")[0] == "pup_dash"]:
        del sys.modules[name]
    get_robot.cache_clear()


def test_without_it_the_names_are_unknown():
    if "pup" in robot_names():
        pytest.skip("the template is installed here")
    for get in (get_robot, get_task):
        with pytest.raises(InputError, match="unknown"):
            get("pup")


def test_everything_is_known_by_name(installed):
    assert "pup" in robot_names()
    assert "dash" in task_names()
    assert "humps" in KINDS.names()
    assert installed in get_robot("pup").mjcf.parents
    assert get_task("dash").rewards["haste"].weight == 2.0


def test_the_robot_stands_and_the_task_counts(installed):
    scene = synthesize("humps", 1, height_m=0.04)
    assert float(scene.heightfield.height_m[scene.heightfield.known].max()) == pytest.approx(0.04, abs=1e-3)
    assert len(scene.splats) > 1000
    dash = replace(get_task("dash").cfg, finish_m=0.5)
    cfg = replace(EnvCfg(task="dash", task_cfg=dash).for_evaluation(), episode_s=60.0)
    env = Env(make_sim("mujoco", "pup", [scene], 8, num_threads=1), cfg, seed=0)
    haste = env.rewards.names.index("haste")
    for _ in range(100):
        obs, *_, extras = env.step(torch.zeros(8, 12))
        torch.testing.assert_close(env.rewards.terms[haste], 2.0 * env.lin_vel_b[:, 0].clamp(min=0.0))
    assert not bool(extras["fell"].any())
    assert bool(env.sim.state.foot_contact.all())
    assert obs["distance"].shape == (8, 1)
    s = env.sim.state
    moved = (
        s.root_pos_w
        + 0.6 * torch.tensor([6.0, 0.0, 0.0]).sub(s.root_pos_w).mul(torch.tensor([1.0, 0, 0])).sign()
    )
    moved[:, 2] += 0.1
    ids = torch.tensor([2])
    env.sim.reset(
        ids, root_pos_w=moved[ids], root_quat_wxyz=s.root_quat_wxyz[ids].clone(), root_lin_vel_w=s.root_lin_vel_w[ids].clone(),
        root_ang_vel_b=s.root_ang_vel_b[ids].clone(), joint_pos=s.joint_pos[ids].clone(), joint_vel=s.joint_vel[ids].clone(),
    )  # fmt: skip
    *_, extras = env.step(torch.zeros(8, 12))
    assert extras["success"].tolist() == [i == 2 for i in range(8)]
    assert float(extras["log"]["reward/haste"]) >= 0


def test_it_is_short():
    code = [
        line
        for file in (TEMPLATE / "src").rglob("*.py")
        for line in file.read_text().splitlines()
        if line.strip()
    ]
    assert len(code) <= 100
