"""The environment wrapper, evaluation and the plain robot, on real physics (and a small rendered scene)."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from gaussgym_learn.courses import flat_course, stairs_course
from gaussgym_learn.env import make_env
from gaussgym_learn.evaluate import (
    EPISODE_S,
    ablate_images,
    bootstrap_interval,
    evaluate,
    evaluation_cfg,
    fixed_starts,
    summarize,
)
from gaussgym_learn.scene_list import scene_hash
from gaussgym_scene.errors import InputError
from gaussgym_scene.splats import Splats
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.mdp.commands import CommandCfg
from gaussgym_sim.tasks.goal_semantic import SemanticCfg
from tensordict import TensorDict

JOINTS = 12


class Stand:
    """A policy that holds the default pose."""

    sees = False
    name = "stand"

    def check(self, env):
        pass

    def act(self, obs):
        return torch.zeros(len(obs["proprio"]), JOINTS)

    def reset(self, dones=None):
        pass


class Topple(Stand):
    """A policy that kicks with all legs, differently for each command (so that an episode is its start's alone)."""

    name = "topple"

    def act(self, obs):
        phase = 40.0 * obs["proprio"][:, 6:7] + 7.0 * obs["proprio"][:, 9:21].sum(dim=1, keepdim=True)
        return 9.0 * torch.sin(phase + torch.arange(JOINTS))


@pytest.fixture
def short_episodes(monkeypatch):
    monkeypatch.setitem(EPISODE_S, "goal", 3.0)


def painted(scene, seed=0):
    """The scene with a few random splats to look at."""
    rng = np.random.default_rng(seed)
    n = 300
    quats = rng.normal(size=(n, 4))
    scene.__dict__["splats"] = Splats(
        means=np.concatenate(
            [rng.uniform(0, 14, (n, 1)), rng.uniform(0, 6, (n, 1)), rng.uniform(0, 1, (n, 1))], 1
        ),
        quats_wxyz=quats / np.linalg.norm(quats, axis=1, keepdims=True),
        scales=rng.uniform(0.05, 0.4, (n, 3)),
        opacities=rng.uniform(0.3, 1, n),
        sh=rng.normal(size=(n, 1, 3)),
    )
    return scene


@pytest.fixture(scope="module")
def course():
    return painted(stairs_course((0.0, 0.1), lanes=1, rubble=False, length_m=14.0))


def test_course_steps_have_their_height_and_paths_lie_on_the_ground():
    scene = stairs_course((0.0, 0.1, 0.15), lanes=2, seed=3)
    field, paths = scene.heightfield, scene.paths
    assert np.abs(field.sample(paths.points[:, :2]) - paths.points[:, 2]).max() < 1e-5
    levels = scene.metadata["path_level"]
    for path in np.unique(paths.path_id):
        line = paths.line(path)
        row = field.height_m[round((line[0, 1] - field.origin_xy_m[1]) / field.cell_m)]
        steps = np.abs(np.diff(row))
        rise = (0.0, 0.1, 0.15)[levels[str(path)]]
        if path % 3 < 2:  # lanes of stairs; the third of each level holds blocks
            assert np.allclose(steps[steps > 1e-6], rise, atol=1e-6)
            assert rise == 0 or steps.max() > 0
        else:
            assert row.max() <= 0.6 * rise + 1e-6
            assert np.ptp(row[:20]) == 0


def test_tracks_are_closed_smooth_and_head_along_themselves():
    paths = flat_course().paths
    for path in np.unique(paths.path_id):
        line = paths.line(path).astype(float)
        step = np.roll(line, -1, axis=0)[:, :2] - line[:, :2]
        assert np.allclose(np.linalg.norm(step, axis=1), 0.25, atol=0.02)
        heading = np.arctan2(step[:, 1], step[:, 0])
        off = (heading - line[:, 3] + np.pi) % (2 * np.pi) - np.pi
        assert np.abs(off).max() < 0.08  # half a step's turn on the tightest circle, 0.125 m / 2 m


def test_groups_shapes_and_hash(course, tmp_path):
    env = make_env("velocity", course, 4, renderer="cpu", seed=3)
    obs = env.get_observations()
    assert {k: tuple(v.shape) for k, v in obs.items()} == {
        "proprio": (4, 45),
        "base_vel": (4, 3),
        "scan": (4, 63),
        "rgb": (4, 3, 48, 64),
        "rgb_new": (4, 1),
    }
    assert obs["rgb"].dtype == torch.uint8
    assert env.layout["rgb"] == [3, 48, 64]
    json.dumps(env.cfg.to_dict())
    assert env.camera_hz == pytest.approx(10)
    other = stairs_course((0.0, 0.1), lanes=1, rubble=False, length_m=14.0)
    assert scene_hash(other) == env.scene_hashes["stairs_course"]
    assert scene_hash(stairs_course((0.0, 0.11), lanes=1, rubble=False)) != scene_hash(other)


def test_images_are_held_between_frames_and_the_flag_says_so(course):
    env = make_env("velocity", course, 3, renderer="cpu", seed=1)
    last, flags = env.get_observations()["rgb"].clone(), []
    for _ in range(12):
        obs, *_ = env.step(torch.randn(3, JOINTS) * 0.3)
        flags.append(obs["rgb_new"][:, 0].bool())
        changed = (obs["rgb"] != last).flatten(1).any(dim=1)
        assert not (changed & ~flags[-1]).any()
        last = obs["rgb"].clone()
    assert (torch.stack(flags).sum(0) >= 2).all()


def test_a_robots_camera_changes_the_images_and_nothing_else(course):
    """Same episodes, other images; the same images again after a reset; a scene that is given twice is shared."""

    def roll(env):
        env.reset(seed=4)
        g = torch.Generator().manual_seed(0)
        steps = [env.step(torch.randn(4, JOINTS, generator=g) * 0.5)[0] for _ in range(12)]
        return torch.stack([s["proprio"] for s in steps]), torch.stack([s["rgb"] for s in steps])

    env = make_env("velocity", [course, course], 4, renderer="cpu", camera_model="robot")
    proprio, rgb = roll(env)
    again = roll(env)
    assert torch.equal(again[0], proprio)
    assert torch.equal(again[1], rgb)
    plain = roll(make_env("velocity", [course, course], 4, renderer="cpu"))
    assert torch.equal(plain[0], proprio)
    assert plain[1].shape == rgb.shape
    assert (plain[1].float() - rgb.float()).abs().mean() > 1
    with pytest.raises(InputError, match="unknown camera model 'phone'"):
        make_env("velocity", course, 1, renderer="cpu", camera_model="phone")


def test_the_same_seed_gives_the_same_episodes_also_after_a_reset(course):
    def roll(env):
        g = torch.Generator().manual_seed(0)
        return [env.step(torch.randn(6, JOINTS, generator=g) * 0.5)[0]["proprio"].clone() for _ in range(25)]

    env = make_env("velocity", course, 6, renderer=None, seed=7)
    first = roll(env)
    env.reset(seed=7)
    again = roll(env)
    env.reset(seed=8)
    other = roll(env)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_levels_survive_a_reset(course):
    env = make_env("velocity", course, 6, renderer=None)
    env.load_curriculum_state({"level": torch.tensor([0, 1, 0, 1, 1, 0])})
    env.reset(seed=4)
    assert env.curriculum_state()["level"].tolist() == [0, 1, 0, 1, 1, 0]
    heights = env.env.follower.network.level[env.env.follower.index]
    assert heights.tolist() == [0, 1, 0, 1, 1, 0]


def test_reward_is_cut_where_the_robot_faces_away(course):
    env = make_env("velocity", course, 4, renderer=None)
    commands = env.env.commands
    commands._heading[:] = torch.tensor([True, True, False, True])
    commands._standing[:] = torch.tensor([False, False, False, True])
    commands._sampled[:, 0] = 0.8
    commands.command[:, 0] = torch.tensor([0.8, 0.0, 0.0, 0.0])
    assert env._facing_path().tolist() == pytest.approx([1.0, 0.25, 1.0, 1.0])


def test_evaluation_counts_falls_timeouts_and_successes(course, short_episodes):
    standing = evaluate(Stand(), course, episodes=6)
    assert (standing["success"], standing["fell"], standing["timeout"]) == (0.0, 0.0, 1.0)
    assert standing["velocity_error_m_s"] > 0.3
    assert len(standing["per_episode"]["success"]) == 6
    fallen = evaluate(Topple(), course, episodes=6, max_parallel=2)
    assert fallen["fell"] > 0.5
    near = dataclasses.replace(evaluation_cfg("goal"), commands=CommandCfg(goal_radius_m=50.0))
    assert evaluate(Stand(), course, episodes=3, cfg=near)["success"] == 1.0


def test_each_start_is_run_once_whatever_the_number_of_environments(course, short_episodes):
    a = evaluate(Topple(), course, episodes=7, max_parallel=7)
    b = evaluate(Topple(), course, episodes=7, max_parallel=3)
    assert a["per_episode"] == b["per_episode"]
    assert a["path_m_mean"] == pytest.approx(b["path_m_mean"], abs=2e-3)


def test_recorded_episode(course, tmp_path, short_episodes):
    class Look(Stand):
        sees = True

    evaluate(Look(), course, episodes=2, record=tmp_path / "e.npz", renderer="cpu", cfg=None, task="goal")
    data = np.load(tmp_path / "e.npz")
    steps = len(data["root_pos_w"])
    assert steps == 150
    assert data["joint_pos"].shape == (steps, JOINTS)
    assert data["rgb"].shape[1:] == (48, 64, 3)
    assert data["frame"].max() == len(data["rgb"]) - 1 == steps // 5 - 1
    assert not bool(data["success"])


def test_a_tasks_own_metrics_are_evaluated(course, short_episodes):
    """Patches lie where the start's number says, so that the batch does not matter."""
    cfg = EnvCfg.for_task("goal_semantic", task_cfg=SemanticCfg(count=12, free_m=0.0))
    options = {"episodes": 6, "task": "goal_semantic", "cfg": cfg}
    a = evaluate(Topple(), course, max_parallel=6, **options)
    b = evaluate(Topple(), course, max_parallel=2, **options)
    assert a["per_episode"] == b["per_episode"]
    assert a["patch_s"] == pytest.approx(b["patch_s"], abs=2e-3)
    assert a["patch_m"] == pytest.approx(b["patch_m"], abs=2e-3)
    assert a["patch_s"] > 0
    assert len(a["patch_m_ci95"]) == 2
    with pytest.raises(InputError, match="task 'navigate' wants commands from a policy above"):
        evaluate(Stand(), course, episodes=1, task="navigate")


def test_bad_requests(course):
    with pytest.raises(InputError, match="unknown ablation 'blnk'"):
        evaluate(Stand(), course, ablate="blnk")
    with pytest.raises(InputError, match="does not see"):
        evaluate(Stand(), course, ablate="blank")
    with pytest.raises(InputError, match="neither checkpoint"):
        evaluate("/nowhere", course)
    with pytest.raises(InputError, match="expected at least 1"):
        evaluate(Stand(), course, episodes=0)


def test_ablations_change_images_only():
    obs = TensorDict(
        {
            "rgb": torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4).clone(),
            "proprio": torch.ones(5, 2),
        },
        batch_size=[5],
    )
    rng = torch.Generator().manual_seed(0)
    assert ablate_images(obs, "none", rng) is obs
    blank = ablate_images(obs, "blank", rng)
    assert (blank["rgb"] == 127).all()
    assert torch.equal(blank["proprio"], obs["proprio"])
    shuffled = ablate_images(obs, "shuffled", rng)["rgb"][:, 0, 0, 0].tolist()
    assert sorted(shuffled) == [0, 1, 2, 3, 4]
    assert all(a != b for a, b in zip(shuffled, range(5), strict=True))
    assert obs["rgb"][3, 0, 0, 0] == 3


def test_bootstrap_covers_the_mean_and_narrows_with_the_number():
    few, many = np.array([0.0, 1.0] * 8), np.array([0.0, 1.0] * 512)
    low, high = bootstrap_interval(few)
    assert low < 0.5 < high
    # A share of one half over N episodes has a standard error of 0.5 / sqrt(N).
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 4, rel=0.2)
    assert np.diff(bootstrap_interval(many))[0] == pytest.approx(2 * 1.96 * 0.5 / 32, rel=0.2)


def test_summary_by_hand():
    table = {
        "success": np.array([1.0, 0.0, 0.0, 1.0]),
        "fell": np.array([0.0, 1.0, 0.0, 0.0]),
        "seconds": np.array([10.0, 2.0, 30.0, 14.0]),
        "scene": np.array([0, 0, 1, 1]),
    }
    out = summarize(table, ["a", "b"])
    assert (out["success"], out["fell"], out["timeout"], out["seconds_mean"]) == (0.5, 0.25, 0.25, 14.0)
    assert out["per_scene"] == {"a": {"success": 0.5, "fell": 0.5}, "b": {"success": 0.5, "fell": 0.0}}


def test_plain_robot_moves_as_the_training_environment_does(course):
    """Another code path (mj_step, one robot) with the same commands gives the same motion, commands and images."""
    from gaussgym_deploy.robot_io import JointCommand
    from gaussgym_deploy.shared_memory import EpisodeResult
    from gaussgym_learn.export import camera_spec
    from gaussgym_learn.robot import PlainRobot
    from gaussgym_sim.robot import get_robot

    cfg, starts, go1 = evaluation_cfg("goal"), fixed_starts([course], 3), get_robot("go1")
    env = make_env("goal", course, 3, renderer="cpu", cfg=cfg, starts=starts)
    g = torch.Generator().manual_seed(2)
    actions = torch.randn(30, JOINTS, generator=g) * 0.4
    robot = PlainRobot(go1, course, cfg, starts, camera=camera_spec(go1, cfg.camera), renderer="cpu")
    for number in range(3):
        env.reset(seed=0)
        robot.reset(number)
        for action in actions:
            obs = env.get_observations()
            assert np.allclose(robot.state.joint_pos, env.sim.state.joint_pos[number], atol=1e-4)
            assert np.allclose(robot.state.command, env.env.commands.command[number], atol=1e-3)
            frame = obs["rgb"][number].permute(1, 2, 0).numpy().astype(int)
            assert np.abs(robot.state.rgb.astype(int) - frame).mean() < 0.5
            target = np.array(go1.default_joint_pos) + go1.action_scale * action.numpy().astype(float)
            command = JointCommand(target, np.array(go1.kp), np.array(go1.kd))
            _, _, dones, _ = env.step(action.expand(3, -1))
            result = robot.step(command)
            if bool(dones[number]):
                assert result != EpisodeResult.RUNNING
                break
            assert result == EpisodeResult.RUNNING


def test_starts_file(course, tmp_path):
    from gaussgym_learn.robot import read_starts

    starts = fixed_starts([course], 4)
    path = tmp_path / "starts.json"
    path.write_text(json.dumps(starts.to_dict()))
    assert np.array_equal(read_starts(path).point, starts.point)
    path.write_text('{"point": [1]}')
    with pytest.raises(InputError, match="starts"):
        read_starts(path)
    path.write_text("[")
    with pytest.raises(InputError, match="not valid JSON"):
        read_starts(path)
