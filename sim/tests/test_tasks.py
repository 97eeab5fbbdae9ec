"""The tasks beyond walking and goals, on hand-placed robots."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.ground.terrain import TerrainLookup
from gaussgym_sim.mdp.commands import PathNetwork
from gaussgym_sim.mdp.patches import Patches, to_base_xy
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.task import get_task, task_names
from gaussgym_sim.tasks.gaps import path_level_m
from gaussgym_sim.tasks.goal_semantic import SemanticCfg
from gaussgym_sim.tasks.navigate import NavigateCfg
from gaussgym_sim.testing import flat_scene, heights_scene, place
from gaussgym_sim.vecsim import make_sim
from gaussgym_sim.views.command_env import CommandEnv, CommandEnvCfg

torch.set_num_threads(1)
CPU = torch.device("cpu")
FAR = torch.tensor([50.0, 50.0])


def make(task, scene=None, num_envs=2, **changes):
    cfg = EnvCfg.for_task(task, **changes).for_evaluation()
    return Env(make_sim("mujoco", "go1", [scene or flat_scene()], num_envs, num_threads=1), cfg)


def stand(env, steps=1):
    for _ in range(steps):
        out = env.step(torch.zeros(env.num_envs, env.num_actions))
    return out


def test_names():
    assert task_names()[:6] == ["velocity", "goal", "goal_semantic", "navigate", "gaps", "stepping_stones"]
    assert all(get_task(name).name == name for name in task_names())


def test_settings_that_suit_a_task():
    assert EnvCfg.for_task("velocity") == EnvCfg()
    cfg = EnvCfg.for_task("navigate", episode_s=5.0)
    assert (cfg.task, cfg.episode_s, cfg.commands.goal_distance_m, cfg.rewards.track_lin_vel) == (
        "navigate",
        5.0,
        6.0,
        0.0,
    )


def test_patches_by_hand():
    patches = Patches(2, 3, CPU)
    points = torch.tensor([[[0.0, 0.0], [1.4, 2.1]], [[0.0, 0.0], [1.4, 2.1]]])
    assert not patches.hit(points).any()  # none is there, not even at the origin
    patches.xy_m[:, 1] = torch.tensor([1.0, 2.0])
    patches.half_m[:, 1] = torch.tensor([0.3, 0.5])
    assert patches.hit(points).tolist() == [[False, False], [False, True]]
    assert not patches.hit(points, first=2).any()
    assert not patches.hit(points, end=1).any()


def test_points_as_the_base_sees_them():
    seen = to_base_xy(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[1.0, 1.0]]), torch.tensor([math.pi / 2]))
    torch.testing.assert_close(seen, torch.tensor([[[2.0, 0.0]]]), atol=1e-6, rtol=0)
    seen = to_base_xy(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[1.0, 1.0]]), torch.tensor([math.pi / 2]))
    torch.testing.assert_close(seen, torch.tensor([[[0.0, 1.0]]]), atol=1e-6, rtol=0)  # to its left


# ---------------------------------------------------------------------- goal_semantic


def test_patches_lie_between_start_and_goal():
    env = make("goal_semantic", num_envs=64, task_cfg=SemanticCfg(count=3, free_m=1.2, lateral_m=0.4))
    start, goal = env.episodes.start_xy, env.follower.goal_xy()
    along = (env.task_state.patches.xy_m[..., 0] - start[:, None, 0]) * torch.sign(goal - start)[:, None, 0]
    length = (goal - start).norm(dim=1, keepdim=True)
    assert (along > 1.2 - 0.26).all()
    assert (along < length - 1.2 + 0.26).all()
    assert (along[:, 1:] > along[:, :-1] - 0.26).all()  # one in each third
    assert along.std() > 1.0
    across = env.task_state.patches.xy_m[..., 1]
    assert 0.35 < across.abs().max() <= 0.4
    half = env.task_state.patches.half_m
    assert 0.3 <= half.min() < 0.32 < 0.48 < half.max() <= 0.5


def test_a_foot_in_a_patch_costs_and_is_counted():
    env = make("goal_semantic")
    stand(env, 25)
    state, dt = env.task_state, env.cfg.control_s
    seconds_before = state.patch_s.clone()
    state.patches.xy_m[:] = FAR
    state.patches.xy_m[0, 2] = env.sim.state.foot_pos_w[0, 1, :2]
    state.patches.half_m[0, 2] = 0.05
    stand(env, 10)
    assert state.foot_hit.tolist() == [[False, True, False, False], [False] * 4]
    terms = dict(zip(env.rewards.names, env.rewards.terms, strict=True))
    assert terms["patch_cost"].tolist() == [-2.0, 0.0]
    assert (state.patch_s - seconds_before).tolist() == pytest.approx([10 * dt, 0.0], abs=1e-6)
    assert state.patch_m.sum() == 0
    state.patches.xy_m[0, 2] = env.sim.state.root_pos_w[0, :2]
    state.patches.half_m[0, 2] = 0.5
    before = env.sim.state.root_pos_w[0, :2].clone()
    env.sim.kick(torch.tensor([0]), torch.tensor([[0.4, 0.0, 0.0]]))
    stand(env, 5)
    moved = (env.sim.state.root_pos_w[0, :2] - before).norm()
    assert float(state.patch_m[0]) == pytest.approx(float(moved), rel=0.1)
    scan = env.get_observations()["cost_scan"]
    inside = (env.scan_xy()[0] - state.patches.xy_m[0, 2]).abs().amax(dim=1) <= 0.5
    assert torch.equal(scan[0] > 0, inside)
    assert 0 < scan[0].sum() < 63
    assert not scan[1].any()


def test_the_patches_metrics_are_of_the_episode_that_ends():
    env = make("goal_semantic", episode_s=0.5)
    env.task_state.patches.xy_m[:] = FAR
    env.task_state.patches.xy_m[1] = env.sim.state.root_pos_w[1, :2]
    env.task_state.patches.half_m[1] = 1.0
    log = stand(env, 25)[3]["log"]
    assert (
        0.4 / 2 < float(log["episode/patch_s"]) <= 0.5 / 2 + 1e-6
    )  # the mean of 0 and, once it stands, all the time
    assert not env.task_state.patch_s.any()


class Painter:
    """Keeps what it was given."""

    takes_patches = True

    def render(self, c2w, K, scene_ids, **given):
        self.given = given
        self.rgb = torch.zeros(len(c2w), 48, 64, 3, dtype=torch.uint8)
        return self


def test_cameras_are_told_of_patches():
    scene = heights_scene(lambda x, y: 0.1 * x)
    cfg = EnvCfg.for_task("goal_semantic").for_evaluation()
    painter = Painter()
    env = Env(make_sim("mujoco", "go1", [scene], 3), cfg, renderer=painter)
    assert set(painter.given) == {"patch_pos_w", "patch_half_m", "patch_rgb"}
    pos = painter.given["patch_pos_w"]
    assert torch.equal(pos[..., :2], env.task_state.patches.xy_m)
    torch.testing.assert_close(pos[..., 2], 0.1 * pos[..., 0], atol=1e-5, rtol=0)  # on the ground
    assert painter.given["patch_rgb"][0, 0].tolist() == pytest.approx([0.95, 0.85, 0.05])
    plain = Painter()
    Env(make_sim("mujoco", "go1", [scene], 3), EnvCfg().for_evaluation(), renderer=plain)
    assert plain.given == {}


# ---------------------------------------------------------------------- navigate


class Stand:
    """A walker that ignores its commands, and remembers what it was shown and told."""

    def __init__(self):
        self.commands, self.told = [], []

    def __call__(self, obs):
        self.commands.append(obs["proprio"][:, 6:9] / torch.tensor([2.0, 2.0, 0.25]))
        return torch.zeros(len(obs["proprio"]), 12)

    def reset(self, dones):
        self.told.append(dones.tolist())


def navigate(num_envs=2, cfg=None, **changes):
    env = make("navigate", num_envs=num_envs, task_cfg=cfg or NavigateCfg(), **changes)
    clear(env)
    walker = Stand()
    return CommandEnv(env, walker), walker


def clear(env):
    """Put areas and obstacles far away."""
    state = env.task_state
    state.patches.xy_m[:, 1:] = FAR
    state._centre[:] = FAR


def test_the_walker_is_told_the_commands_at_its_own_rate():
    env, walker = navigate()
    action = torch.tensor([[1.0, -1.0, 0.0], [0.0, 5.0, torch.nan]])
    obs, _, dones, _ = env.step(action)
    assert len(walker.commands) == 10
    want = torch.tensor([[1.0, -0.3, 0.0], [0.0, 0.0, 0.0]])  # not finite: stand
    for command in walker.commands:
        torch.testing.assert_close(command, want, atol=1e-6, rtol=0)
    assert not dones.any()
    assert env.episode_length_buf.tolist() == [1, 1]
    assert (env.num_actions, env.max_episode_length) == (3, 150)
    assert obs["target_b"].shape == (2, 2)
    assert obs["hazards_b"].shape == (2, 5, 3)
    env.step(torch.tensor([[0.0, 0.0, -1.0]] * 2))
    torch.testing.assert_close(walker.commands[-1], torch.tensor([[0.35, 0.0, -1.0]] * 2), atol=1e-6, rtol=0)


def test_spl_and_reward_by_hand():
    """Env 0 is put 0.4 m before its goal; it counts as having walked the way. Env 1 has made a detour of as much again."""
    env, _ = navigate()
    env.step(torch.zeros(2, 3))
    inner, state = env.env, env.env.task_state
    goal = inner.follower.goal_xy()
    shortest = (goal - inner.episodes.start_xy).norm(dim=1) - 0.5
    torch.testing.assert_close(state.shortest_m, shortest, atol=1e-4, rtol=0)
    state.walked_m[1] += 2.0 * shortest[1]
    before = state.goal_m.clone()
    pos = torch.cat((goal - torch.tensor([0.4, 0.0]), torch.full((2, 1), 0.3)), dim=1)
    place(inner.sim, pos_w=pos)
    _, reward, dones, extras = env.step(torch.zeros(2, 3))
    assert extras["success"].tolist() == dones.tolist() == [True, True]
    assert (state.walked_m < 0.2).all()  # the new episodes'
    assert extras["metrics"]["spl"].mean() == extras["log"]["episode/spl"]
    jumped = before - 0.4
    want = [
        float(shortest[0] / max(jumped[0], shortest[0])),
        float(shortest[1] / (2 * shortest[1] + jumped[1])),
    ]
    assert extras["metrics"]["spl"].tolist() == pytest.approx(want, abs=0.02)
    assert reward.tolist() == pytest.approx((jumped + 5.0).tolist(), abs=0.05)  # metres nearer, and the bonus


def test_seconds_in_areas():
    env, _ = navigate(cfg=NavigateCfg(areas=1, obstacles=1))
    state = env.env.task_state
    state.patches.xy_m[0, 1] = env.env.sim.state.root_pos_w[0, :2]
    _, reward, _, _ = env.step(torch.zeros(2, 3))
    assert state.in_area.tolist() == [True, False]
    assert state.no_go_s.tolist() == pytest.approx([0.2, 0.0])
    assert float(reward[0] - reward[1]) == pytest.approx(-0.2, abs=0.05)


@pytest.mark.parametrize("ends", [True, False])
def test_touching_an_obstacle(ends):
    cfg = NavigateCfg(obstacles=2, touch_ends=ends)
    env, walker = navigate(cfg=cfg)
    state = env.env.task_state
    state._centre[1, 1] = env.env.sim.state.root_pos_w[1, :2] + torch.tensor([0.56, 0.0])
    state._sweep[1, 1] = torch.tensor([0.8, 0.0])
    state._phase[1, 1], state._rate[1, 1] = 0.0, -0.5
    out = [env.step(torch.zeros(2, 3)) for _ in range(2)]
    touched = torch.stack([o[2] for o in out]).any(dim=0)
    assert touched.tolist() == [False, ends]
    if ends:
        assert [True for o in out if o[3]["fell"][1]] == [True]
        assert walker.told == [[False, True]]
    else:
        assert 0.1 < float(state.touch_s[1]) < 0.4
        assert out[1][1][1] < -0.5


def test_obstacles_sweep_across_the_way_and_the_camera_sees_them_there():
    env, _ = navigate(num_envs=1)
    state = env.env.task_state
    state._centre[:] = torch.tensor([3.0, 0.0])
    first = env.env.task_cfg.areas + 1
    seen = []
    for _ in range(40):
        env.step(torch.zeros(1, 3))
        seen.append(state.patches.xy_m[0, first].clone())
    seen = torch.stack(seen)
    assert (seen[:, 0] == 3.0).all()  # the path runs along x
    assert 0.3 < seen[:, 1].abs().max() <= 0.8
    speed = seen.diff(dim=0).norm(dim=1) / 0.2
    assert speed.max() <= 0.5
    assert torch.equal(
        env.env.task_state.patches.camera_inputs(env.env.sim.terrain, env.env.sim.scene_of_env)[
            "patch_pos_w"
        ][0, first, :2],
        seen[-1],
    )


def test_an_env_that_starts_anew_stands_until_the_next_decision():
    env, walker = navigate()
    goal = env.env.follower.goal_xy()
    place(env.env.sim, pos_w=torch.cat((goal[:1], torch.tensor([[0.3]])), dim=1), env_ids=torch.tensor([0]))
    _, _, dones, extras = env.step(torch.ones(2, 3))
    assert dones.tolist() == [True, False]
    assert extras["time_outs"].tolist() == [1.0, 0.0]
    first, second = walker.commands[0], walker.commands[1]
    assert (first[0] == torch.tensor([1.0, 0.3, 1.0])).all()
    assert not second[0].any()
    assert second[1].all()
    env.step(torch.ones(2, 3))
    assert walker.commands[-1][0].all()


def test_what_cannot_be_commanded():
    with pytest.raises(InputError, match="task 'goal' makes its own commands"):
        CommandEnv(make("goal"), Stand())
    with pytest.raises(
        InputError, match=r"decisions every 0.03 s, expected a multiple of the control step, 0.02 s"
    ):
        CommandEnv(make("navigate"), Stand(), CommandEnvCfg(decision_s=0.03))


# ---------------------------------------------------------------------- gaps, stepping_stones


def gap_scene():
    """A gap 0.3 m wide and 0.5 m deep at x in 0..0.3, and a path over it whose points follow the ground."""
    scene = heights_scene(lambda x, y: np.where((x > 0.01) & (x < 0.29), -0.5, 0.0), cell_m=0.05)
    x = np.arange(-4, 4.01, 0.25)
    z = np.where((x > 0.01) & (x < 0.29), -0.5, 0.0)
    paths = Paths(np.stack([x, 0 * x, z, 0 * x], 1), np.zeros(len(x), int), np.full(len(x), 0.5))
    return Scene("gap", heightfield=scene.heightfield, paths=paths, metadata={})


def feet_at(env, feet_xyz, touch_down=True):
    """Let the state say that the feet are there."""
    env.sim.state.foot_pos_w[0] = torch.tensor(feet_xyz)
    env.feet.touch_down[0] = touch_down
    env.task_state.update()


def test_footholds_by_hand():
    env = make("gaps", gap_scene(), num_envs=1)
    r = env.sim.robot.foot_radius_m
    # On the ground far from the gap; 5 cm from it; 20 cm deep in it; at its far bank, right at the edge.
    env.follower.start(torch.tensor([0]), torch.tensor([16]), torch.tensor([1]), torch.tensor([30]))
    feet_at(env, [[-0.4, 0.0, r], [-0.055, 0.0, r], [0.15, 0.1, r - 0.15], [0.31, 0.1, r]])
    state = env.task_state
    assert state.below_m[0].tolist() == pytest.approx([0.0, 0.0, 0.15, 0.0], abs=1e-5)
    assert state.edge_m[0, [0, 3]].tolist() == pytest.approx([0.12, 0.03])
    assert float(state.edge_m[0, 1]) == pytest.approx(
        0.06
    )  # the ring of 3 cm is on the ground, that of 6 cm is not
    task = get_task("gaps")
    near = task.rewards["near_edge"].term(env)
    assert float(near) == pytest.approx(0.0 + 0.5 + (1 - float(state.edge_m[0, 2]) / 0.12) + 0.75)
    assert float(task.rewards["in_gap"].term(env)) == 1.0
    assert not task.failed(env)
    assert (state.landings.tolist(), state.bad.tolist()) == ([4.0], [2.0])
    assert float(task.metrics["bad_landings"](env, None)) == 0.5
    feet_at(env, [[-0.4, 0.0, r], [-0.4, 0.0, r], [0.15, 0.1, r - 0.25], [0.4, 0.1, r]], touch_down=False)
    assert task.failed(env)
    assert float(task.rewards["near_edge"].term(env)) == 0.0
    assert state.landings.tolist() == [4.0]


def test_falling_into_a_gap_ends_the_episode():
    env = make("gaps", gap_scene())
    place(env.sim, pos_w=torch.tensor([[0.15, 0.0, 0.05]]), env_ids=torch.tensor([0]))
    env.follower.start(torch.tensor([0]), torch.tensor([16]), torch.tensor([1]), torch.tensor([30]))
    _, _, dones, extras = stand(env)
    assert extras["fell"].tolist() == dones.tolist() == [True, False]


def test_stepping_stones_are_stricter():
    gaps, stones = get_task("gaps"), get_task("stepping_stones")
    assert stones.rewards["near_edge"].weight < gaps.rewards["near_edge"].weight < 0
    cfg = EnvCfg.for_task("stepping_stones")
    assert cfg.commands.lin_vel_x_m_s[1] < EnvCfg.for_task("gaps").commands.lin_vel_x_m_s[1]
    env = make("stepping_stones", gap_scene())
    assert "foothold" in env.rewards.names
    stand(env, 3)


def test_tasks_of_footholds_want_holes():
    with pytest.raises(InputError, match="scene 'flat': its paths cross no gap deeper than"):
        make("gaps")
    env = make("gaps", gap_scene())
    with pytest.raises(InputError, match="scene 'heights': its paths cross no gap"):
        env.replace_scene(0, heights_scene(lambda x, y: 0.2 * x))


@pytest.mark.parametrize("direction", [1, -1])
def test_slopes_and_stairs_are_no_gaps(direction):
    """A path up a slope, up a step and over a gap: its level is the ground but for the gap."""
    x = np.arange(0, 6.01, 0.25)
    z = np.select([x < 2, x < 4, (x > 4.9) & (x < 5.3)], [0.2 * x, 0.4, 0.0], 0.55)[::direction]
    paths = Paths(np.stack([x, 0 * x, z, 0 * x], 1), np.zeros(len(x), int), np.full(len(x), 0.5))
    network = PathNetwork(
        [Scene("s", heightfield=gap_scene().heightfield, paths=paths, metadata={})], device=CPU
    )
    want = np.where((x > 4.9) & (x < 5.3), 0.55, z[::direction])[::direction]

    def sample(xy, scene_ids):
        """That ground, with a slope across the path."""
        return torch.from_numpy(np.interp(xy[..., 0], x, z)).float() + 0.3 * xy[..., 1]

    np.testing.assert_allclose(path_level_m(network, SimpleNamespace(sample=sample)).numpy(), want, atol=1e-6)


def test_between_stones_the_level_is_theirs():
    field = heights_scene(
        lambda x, y: np.where((abs(x) < 2.5) & (abs(y) < 0.15), -0.6, 0.0), cell_m=0.05
    ).heightfield
    x = np.arange(-4, 4.01, 0.25)
    z = np.where(abs(x) < 2.5, -0.6, 0.0)
    paths = Paths(np.stack([x, 0 * x, z, 0 * x], 1), np.zeros(len(x), int), np.full(len(x), 0.5))
    network = PathNetwork([Scene("s", heightfield=field, paths=paths, metadata={})], device=CPU)
    assert not path_level_m(network, TerrainLookup([field], device=CPU)).any()


PRESETS = [
    ("a1", "gaussgym_a1"),
    ("go1", "gaussgym_go1"),
    ("t1", "gaussgym_t1"),
    ("anymal_c", "gaussgym_anymal_c"),
]


@pytest.mark.parametrize(("robot", "preset"), PRESETS)
def test_the_originals_robots_run_under_the_originals_rewards(robot, preset):
    for to_goal in (False, True):
        cfg = EnvCfg(
            task="goal" if to_goal else "velocity",
            rewards=RewardCfg.preset(preset, to_goal=to_goal),
            gait_hz=(0.8, 1.2),
        )
        env = Env(make_sim("mujoco", robot, [gap_scene()], 3, num_threads=1), cfg)
        obs = env.get_observations()
        assert obs["gait"].square().sum(dim=1).tolist() == pytest.approx([1.0] * 3)
        for i in range(10):
            action = torch.randn(3, env.num_actions, generator=torch.Generator().manual_seed(i))
            obs, reward, *_ = env.step(action)
        assert torch.isfinite(reward).all()
        assert all(torch.isfinite(v).all() for v in obs.values())
        assert ("goal_pos" in env.rewards.names) == to_goal


def test_a_gait_reward_wants_a_gait():
    with pytest.raises(InputError, match="feet_phase follows a gait's clock"):
        make("velocity", rewards=RewardCfg.preset("gaussgym_t1"))


@pytest.mark.parametrize(("kind", "task"), [("gaps", "gaps"), ("stones", "stepping_stones")])
def test_scenes_that_are_made_for_the_tasks(kind, task):
    """Robots that stand at their starts stand in no gap; those that are put over one fall in."""
    env = make(task, synthesize(kind, seed=0, max_splats=2000), num_envs=16)
    fell = stand(env, 10)[3]["fell"]
    on_ground = env.sim.terrain.sample(env.sim.state.foot_pos_w[..., :2], env.sim.scene_of_env) > -0.1
    assert on_ground.all(dim=1).sum() >= 4
    below = env.task_state.below_m[on_ground]
    assert below.abs().max() < 0.06
    assert not fell[on_ground.all(dim=1)].any()


def test_resumed_decisions_are_bit_identical():
    def roll(env, steps, first):
        return [
            env.step(torch.randn(3, 3, generator=torch.Generator().manual_seed(first + i)))[:2]
            for i in range(steps)
        ]

    def fresh(seed):
        cfg = EnvCfg.for_task("navigate", episode_s=1.0)
        return CommandEnv(
            Env(make_sim("mujoco", "go1", [flat_scene()], 3, num_threads=1), cfg, seed=seed), Stand()
        )

    env, other = fresh(0), fresh(1)
    roll(env, 4, 0), roll(other, 2, 50)
    other.load_state_dict(env.state_dict())
    assert all(torch.equal(other.get_observations()[k], v) for k, v in env.get_observations().items())
    for (obs, reward), (obs_there, reward_there) in zip(roll(env, 12, 4), roll(other, 12, 4), strict=True):
        assert torch.equal(reward, reward_there)
        assert all(torch.equal(obs[k], obs_there[k]) for k in obs)


def test_levels_of_a_course_of_gaps():
    scene = synthesize("course", seed=0, terrain="gaps", levels=3, max_splats=2000)
    cfg = EnvCfg.for_task("gaps", random_initial_age=False, episode_s=0.04)
    env = Env(make_sim("mujoco", "go1", [scene], 6, num_threads=1), cfg)
    assert env.network.num_levels == 3
    env.episodes.start_xy[:3] -= 5.0  # as if they had walked
    stand(env, 2)
    assert env.level.tolist() == [1, 1, 1, 0, 0, 0]
    assert torch.equal(env.network.level[env.follower.index], env.level)
