"""What the deployed observation builder gives is what the policy was trained with, term by term, on every robot and task."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussgym_deploy.bundle import PolicyBundle, write_bundle
from gaussgym_deploy.observation import ObservationBuilder
from gaussgym_deploy.robot_io import RobotState
from gaussgym_learn.evaluate import evaluation_cfg
from gaussgym_learn.export import joint_limits, policy_graphs, require_deployable, robot_fields, trained_cfg
from gaussgym_learn.models import build_actor
from gaussgym_learn.recipes import NetworkCfg
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize
from gaussgym_sim import tasks
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.robot import get_robot
from gaussgym_sim.task import task_names
from gaussgym_sim.testing import flat_scene
from gaussgym_sim.vecsim import make_sim

ROBOTS = ("a1", "anymal_c", "go1", "go2", "t1")
TASKS = (
    "velocity", "goal", "goal_semantic", "goal_semantic_steered", "navigate", "corridor", "gaps", "stepping_stones",
)  # fmt: skip
STATES = 1000


def test_every_task_of_the_package_is_compared():
    # The registry may hold tasks of other tests in the same run: the package's own are its files.
    own = {path.stem for path in Path(tasks.__file__).parent.glob("[a-z]*.py")}
    assert set(TASKS) == own
    assert own <= set(task_names())


@pytest.fixture(scope="module")
def scenes():
    grounds = {
        "corridor": synthesize("hall", seed=0),
        "gaps": synthesize("gaps", seed=0),
        "stepping_stones": synthesize("stones", seed=0),
    }
    return {**dict.fromkeys(TASKS, flat_scene()), **grounds}


def bundle_of(name, folder):
    """As export writes it (the network's weights are random: no observation depends on them)."""
    robot = get_robot(name)
    fields = robot_fields(robot, EnvCfg())
    size = sum(term.size for term in fields["observation"])
    torch.manual_seed(0)
    network = NetworkCfg(actor_groups=("proprio",), actor_hidden=(8,))
    actor = build_actor(network, {"proprio": [size]}, robot.num_joints).eval()
    proprio = np.zeros((2, size), np.float32)
    with torch.no_grad():
        actions = actor({"proprio": torch.from_numpy(proprio)}).numpy()
    golden = {"proprio": proprio, "reset": np.array([True, False]), "actions": actions}
    write_bundle(folder, **fields, policy_onnx=policy_graphs(actor)[0], golden=golden)
    return PolicyBundle.load(folder)


def scatter(env, robot, generator):
    """Put every environment into a random state: any attitude, joints all over their range, any command and action."""
    state, limits = env.sim.state, torch.from_numpy(joint_limits(robot)).float()

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    e, j = state.joint_pos.shape
    quat = normal(e, 4)
    state.root_quat_wxyz[:] = quat / quat.norm(dim=1, keepdim=True)
    state.root_ang_vel_b[:] = 3.0 * normal(e, 3)
    span = torch.rand(e, j, generator=generator)
    state.joint_pos[:] = limits[:, 0] + span * (limits[:, 1] - limits[:, 0])
    state.joint_vel[:] = 10.0 * normal(e, j)
    env.commands.command[:] = normal(e, 3)
    env.action[:] = (4.0 * normal(e, j)).clamp(-env.cfg.action_clip, env.cfg.action_clip)
    env._refresh()


def worst_differences(env, bundle):
    """Largest difference of each term over all environments."""
    builder, state = ObservationBuilder(bundle), env.sim.state
    trained = env.get_observations()["proprio"].numpy()
    worst = dict.fromkeys((term.name for term in bundle.observation), 0.0)
    for i in range(env.num_envs):
        builder.last_action[:] = env.action[i].numpy()
        built = builder.build(
            RobotState(
                t_s=0.0,
                joint_pos=state.joint_pos[i].numpy().astype(np.float64),
                joint_vel=state.joint_vel[i].numpy().astype(np.float64),
                quat_wxyz=state.root_quat_wxyz[i].numpy().astype(np.float64),
                ang_vel_b=state.root_ang_vel_b[i].numpy().astype(np.float64),
                command=env.commands.command[i].numpy().astype(np.float64),
            )
        )[0]
        start = 0
        for term in bundle.observation:
            part = slice(start, start + term.size)
            worst[term.name] = max(worst[term.name], float(np.abs(built[part] - trained[i, part]).max()))
            start += term.size
        assert start == trained.shape[1]
    return worst


@pytest.mark.parametrize(
    "name", [name if name == "go1" else pytest.param(name, marks=pytest.mark.slow) for name in ROBOTS]
)
def test_built_observations_equal_the_trainings_in_every_task(name, scenes, tmp_path):
    robot, bundle = get_robot(name), bundle_of(name, tmp_path / "policy")
    for seed, task in enumerate(TASKS):
        cfg = EnvCfg.for_task(task).for_evaluation()
        env = Env(make_sim("mujoco", name, [scenes[task]], STATES, num_threads=1), cfg)
        scatter(env, robot, torch.Generator().manual_seed(seed))
        worst = worst_differences(env, bundle)
        assert list(worst) == [
            "ang_vel_b",
            "gravity_b",
            "command",
            "joint_pos_offset",
            "joint_vel",
            "last_action",
        ]
        assert max(worst.values()) <= 1e-6, (task, worst)


def test_the_comparison_sees_a_wrong_scale(tmp_path):
    bundle = bundle_of("go1", tmp_path / "policy")
    terms = [dataclasses.replace(t, scale=0.051) if t.name == "joint_vel" else t for t in bundle.observation]
    env = Env(make_sim("mujoco", "go1", [flat_scene()], 4, num_threads=1), EnvCfg().for_evaluation())
    scatter(env, get_robot("go1"), torch.Generator().manual_seed(1))
    worst = worst_differences(env, dataclasses.replace(bundle, observation=tuple(terms)))
    assert [key for key, value in worst.items() if value > 1e-6] == ["joint_vel"]


def test_scales_and_rates_are_those_of_the_training():
    trained = {"observations": {"ang_vel_scale": 0.5, "command_scale": [1.0, 1.0, 1.0]}, "action_clip": 3.0, "substeps": 2,
               "camera": {"width": 32, "height": 24}}  # fmt: skip
    fields = robot_fields(get_robot("go1"), trained_cfg({"environment": trained}, evaluation_cfg("goal")))
    assert fields["observation"][0].scale == (0.5, 0.5, 0.5)
    assert fields["observation"][2].scale == (1.0, 1.0, 1.0)
    assert (fields["action_clip"], fields["control_hz"]) == (3.0, 100.0)
    with pytest.raises(InputError, match="settings that this version does not"):
        trained_cfg({"environment": {"camera": {"shape": 1}}}, evaluation_cfg("goal"))


@pytest.mark.parametrize(
    ("groups", "actions", "expected"),
    [
        (("proprio", "base_vel", "scan"), 12, "base_vel, scan, which no robot measures"),
        (("proprio", "cost_scan"), 12, "cost_scan, which no robot measures"),
        (("proprio", "rgb", "target_b"), 3, "target_b, which no robot measures"),
        (("proprio", "gait"), 12, "the phase of a clock"),
        (("rgb",), 12, "expected proprio among them"),
        (("proprio", "rgb"), 3, r"gives 3 actions, expected 12.*navigate"),
    ],
)
def test_what_cannot_be_deployed_is_refused(groups, actions, expected):
    with pytest.raises(InputError, match=expected):
        require_deployable({"num_actions": actions}, groups, get_robot("go1"), "run")
    require_deployable({"num_actions": 23}, ("proprio", "rgb"), get_robot("t1"), "run")
