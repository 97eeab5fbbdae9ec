from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.starts import sample_starts
from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.observations import proprio_terms
from gaussgym_sim.testing import flat_scene, heights_scene, place, wavy_scene
from gaussgym_sim.vecsim import make_sim

torch.set_num_threads(1)
QUIET = EnvCfg().for_evaluation()


def make_env(scenes=None, num_envs=4, cfg=QUIET, **options):
    scenes = scenes or [flat_scene()]
    return Env(make_sim("mujoco", "go1", scenes, num_envs), cfg, **options)


def actions(env, seed=0, std=0.3):
    return std * torch.randn(env.num_envs, 12, generator=torch.Generator().manual_seed(seed))


def test_step_contract():
    env = make_env([flat_scene(), wavy_scene()], cfg=EnvCfg())
    obs, reward, dones, extras = env.step(actions(env))
    assert {k: tuple(v.shape) for k, v in obs.items()} == {
        "proprio": (4, 45),
        "base_vel": (4, 3),
        "scan": (4, 63),
    }
    assert (
        reward.shape
        == dones.shape
        == extras["time_outs"].shape
        == extras["success"].shape
        == extras["fell"].shape
        == (4,)
    )
    assert (reward >= 0).all()
    again, *_ = env.step(actions(env))
    assert all(again[k].data_ptr() != obs[k].data_ptr() for k in obs)  # rollouts keep what they were given
    assert env.max_episode_length == 1000
    assert env.num_actions == 12
    assert isinstance(env.cfg.to_dict()["rewards"]["torque"], float)


def test_proprio_by_hand():
    """Every term at its place, with its scale, from a state without symmetry."""
    env = make_env(num_envs=1)
    quat = torch.nn.functional.normalize(torch.tensor([[0.9, 0.1, -0.2, 0.3]]), dim=1)
    place(
        env.sim,
        pos_w=torch.tensor([[0.0, 0.0, 3.0]]),
        quat_wxyz=quat,
        lin_vel_w=torch.tensor([[1.0, 2.0, 3.0]]),
        ang_vel_b=torch.tensor([[0.4, -0.8, 1.2]]),
    )
    action = torch.linspace(-1, 1, 12)[None]
    obs, *_ = env.step(action)
    s = env.sim.state
    w, x, y, z = s.root_quat_wxyz[0].double().numpy()
    matrix = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    want = np.concatenate([
        0.25 * s.root_ang_vel_b[0].numpy(),
        matrix.T @ [0, 0, -1],
        env.commands.command[0].numpy() * [2, 2, 0.25],
        s.joint_pos[0].numpy() - np.array(env.sim.robot.default_joint_pos),
        0.05 * s.joint_vel[0].numpy(),
        action[0].numpy(),
    ])  # fmt: skip
    np.testing.assert_allclose(obs["proprio"][0].numpy(), want, atol=2e-6)
    np.testing.assert_allclose(
        obs["base_vel"][0].numpy(), 2 * matrix.T @ s.root_lin_vel_w[0].numpy(), atol=1e-5
    )


def test_terms_are_what_a_bundle_lists():
    terms = proprio_terms(get_robot("go1"))
    assert [(t.name, t.size) for t in terms] == [
        ("ang_vel_b", 3),
        ("gravity_b", 3),
        ("command", 3),
        ("joint_pos_offset", 12),
        ("joint_vel", 12),
        ("last_action", 12),
    ]
    assert all(len(t.scale) == t.size for t in terms)
    assert [t.scale[0] for t in terms] == [0.25, 1.0, 2.0, 1.0, 0.05, 1.0]


def test_noise_has_the_stated_amplitude():
    quiet, noisy = make_env(num_envs=400), make_env(num_envs=400, cfg=replace(QUIET, noisy_observations=True))
    gap = (noisy.get_observations()["proprio"] - quiet.get_observations()["proprio"]).abs().amax(dim=0)
    amplitude = torch.tensor([t.noise for t in proprio_terms(get_robot("go1")) for _ in range(t.size)])
    assert (gap <= amplitude + 1e-6).all()
    assert (gap >= 0.9 * amplitude).all()
    assert torch.equal(quiet.get_observations()["proprio"], quiet.get_observations()["proprio"])


def test_same_seed_same_bits():
    cfg = replace(EnvCfg(), randomize=RandomizeCfg())
    runs = []
    for seed in (3, 3, 4):
        env = make_env([wavy_scene(), flat_scene()], 12, cfg, seed=seed)
        for i in range(40):
            obs, reward, *_ = env.step(actions(env, i, std=1.0))
        runs.append((obs["proprio"], obs["scan"], reward, env.episode_length_buf))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1]))
    assert not torch.equal(runs[0][0], runs[2][0])


def test_time_out_is_not_a_fall():
    env = make_env(cfg=replace(QUIET, episode_s=0.2))
    for step in range(1, 11):
        _, _, dones, extras = env.step(torch.zeros(4, 12))
        assert bool(dones.all()) == (step == 10)
    assert extras["time_outs"].tolist() == [1.0] * 4
    assert not extras["fell"].any()
    assert (env.episode_length_buf == 0).all()
    assert float(extras["log"]["episode/seconds"]) == pytest.approx(0.2)


def test_falls_end_the_episode_alone():
    env = make_env()
    tipped = torch.tensor([[0.5, 0.866, 0.0, 0.0]])  # rolled by 120 degrees
    place(env.sim, pos_w=torch.tensor([[0.0, 0.0, 0.5]]), quat_wxyz=tipped, env_ids=torch.tensor([2]))
    before = env.sim.state.root_pos_w.clone()
    _, _, dones, extras = env.step(torch.zeros(4, 12))
    assert dones.tolist() == extras["fell"].tolist() == [False, False, True, False]
    assert extras["time_outs"].tolist() == [0.0] * 4
    assert float(env.sim.state.root_quat_wxyz[2].abs().max()) > 0.7  # upright again
    assert env.episode_length_buf.tolist() == [1, 1, 0, 1]
    assert (env.sim.state.root_pos_w - before)[[0, 1, 3]].abs().max() < 0.05


def test_non_finite_states_are_reset_and_counted():
    env = make_env()
    place(env.sim, pos_w=torch.tensor([[0.0, float("nan"), 0.5]]), env_ids=torch.tensor([1]))
    obs, reward, _dones, extras = env.step(torch.zeros(4, 12))
    assert extras["fell"].tolist() == [False, True, False, False]
    assert env.sim.invalid_count == 1
    assert all(torch.isfinite(v).all() for v in obs.values())
    assert torch.isfinite(reward).all()
    obs, *_ = env.step(torch.zeros(4, 12))
    assert env.sim.invalid_count == 1


def test_non_finite_actions_do_not_spread():
    env = make_env()
    action = torch.zeros(4, 12)
    action[3, 5] = torch.nan
    obs, reward, _, extras = env.step(action)
    assert extras["fell"].tolist() == [False, False, False, True]
    assert all(torch.isfinite(v).all() for v in obs.values())
    assert torch.isfinite(reward).all()


def test_leaving_the_ground_is_a_time_out():
    env = make_env([wavy_scene()])
    place(env.sim, pos_w=torch.tensor([[5.95, 0.0, 1.6]]), env_ids=torch.tensor([0]))
    _, _, dones, extras = env.step(torch.zeros(4, 12))
    assert dones.tolist() == [True, False, False, False]
    assert extras["time_outs"].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_goal_success():
    cfg = replace(QUIET, task="goal")
    starts = sample_starts([flat_scene()], 4, seed=2)
    env = make_env(cfg=cfg, starts=starts)
    assert env.start_id.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(env.sim.state.root_pos_w[:, :2], torch.from_numpy(starts.xy_m))
    goal = env.follower.goal_xy()[1].clone()
    place(
        env.sim,
        pos_w=torch.tensor([[float(goal[0]) + 0.3, float(goal[1]) + 0.3, 0.3]]),
        env_ids=torch.tensor([1]),
    )
    _, _, dones, extras = env.step(torch.zeros(4, 12))
    assert extras["success"].tolist() == dones.tolist() == [False, True, False, False]
    assert extras["start_id"].tolist() == [0, 1, 2, 3]
    assert float(extras["log"]["episode/success"]) == 1.0
    speed = env.commands.command[:, 0]
    assert (speed <= torch.from_numpy(starts.speed_m_s) + 1e-6).all()


def test_starts_stand_on_the_ground_along_the_path():
    env = make_env([wavy_scene()], 64, replace(QUIET, randomize=RandomizeCfg.light()))
    feet = env.sim.state.foot_pos_w
    ground = env.sim.terrain.sample(feet[..., :2], env.sim.scene_of_env)
    clearance = feet[..., 2] - 0.023 - ground
    assert float(clearance.min()) > -0.02
    assert float(clearance.amin(dim=1).max()) < 0.12
    assert (env.sim.state.root_pos_w[:, 1].abs() <= 0.26).all()


def lanes_scene():
    """Two parallel lanes, level 0 and level 1."""
    base = heights_scene(lambda x, y: 0.02 * np.round(5 * y), name="lanes")
    x = np.arange(-5, 5.01, 0.25)
    points = np.concatenate([np.stack([x, np.full_like(x, y), 0 * x, 0 * x], 1) for y in (-1.0, 1.5)])
    paths = Paths(points, np.repeat([0, 1], len(x)), np.full(2 * len(x), 0.3))
    return Scene(
        "lanes", heightfield=base.heightfield, paths=paths, metadata={"path_level": {"0": 0, "1": 1}}
    )


def test_curriculum_moves_robots_between_lanes():
    env = make_env([lanes_scene()], 8, replace(EnvCfg(), random_initial_age=False, episode_s=0.04))
    assert (env.sim.state.root_pos_w[:, 1] < 0).all()
    env.episodes.start_xy[:4] -= 5.0  # as if they had walked
    env.episodes.commanded_m[:] = 3.0
    env.step(torch.zeros(8, 12))
    env.step(torch.zeros(8, 12))
    assert env.level.tolist() == [1] * 4 + [0] * 4
    assert ((env.sim.state.root_pos_w[:, 1] > 0) == (env.level == 1)).all()
    env.episodes.commanded_m[:] = 3.0  # commanded but did not move: down again
    env.step(torch.zeros(8, 12))
    env.step(torch.zeros(8, 12))
    assert env.level.tolist() == [0] * 8
    env.set_levels(torch.full((8,), 5))
    assert (env.sim.state.root_pos_w[:, 1] > 0).all()


def test_without_curriculum_all_lanes_are_used():
    env = make_env([lanes_scene()], 64)
    assert 0.2 < (env.sim.state.root_pos_w[:, 1] > 0).float().mean() < 0.8


def test_kicks_happen_at_the_stated_rate():
    cfg = replace(QUIET, randomize=replace(RandomizeCfg.none(), kick_m_s=0.3, kick_interval_s=0.5))
    env = make_env(num_envs=200, cfg=cfg)
    kicked, sizes = 0, []
    original = env.sim.kick
    env.sim.kick = lambda ids, delta, turn: (sizes.append(delta), original(ids, delta, turn))
    for _ in range(50):
        env.step(torch.zeros(200, 12))
    delta = torch.cat(sizes)
    kicked = len(delta)
    assert kicked == pytest.approx(200 * 1.0 / 0.5, rel=0.15)
    assert 0.25 < delta[:, :2].abs().max() <= 0.3
    assert (delta[:, 2] == 0).all()


def test_randomization_reaches_the_physics():
    cfg = replace(QUIET, randomize=RandomizeCfg())
    env = make_env(num_envs=50, cfg=cfg)
    slot, params = env.sim._slots[0], env.sim.params
    friction = slot.batch.expanded("geom_friction")[:, -1, 0]
    np.testing.assert_array_equal(friction.astype(np.float32), params["friction"].numpy())
    assert 0.5 <= friction.min() < 0.6 < 1.1 < friction.max() <= 1.25
    mass = slot.batch.expanded("body_mass")[:, 1]
    np.testing.assert_array_equal(mass.astype(np.float32), params["trunk_mass_kg"].numpy())
    assert 0.85 * 5.204 <= mass.min() < mass.max() <= 1.25 * 5.204
    assert 27.0 <= params["kp"].min() < 28.0 < 32.0 < params["kp"].max() <= 33.0
    nominal = make_env(num_envs=2).sim._slots[0]
    assert nominal.batch.expanded("body_mass") is None
    assert nominal.batch.expanded("geom_friction") is None


def test_unknown_task():
    with pytest.raises(InputError, match="unknown task 'fly'; choose one of: velocity, goal"):
        make_env(cfg=replace(QUIET, task="fly"))


def test_short_episodes_on_rough_ground():
    """Lengths are uniform in the range, ends are time-outs; flat ground keeps to `episode_s`, evaluation too."""
    cfg = replace(QUIET, rough_episode_s=(0.1, 0.2), episode_s=0.5)
    env = make_env([flat_scene(), wavy_scene()], 200, cfg)
    lengths, flat = [], []
    for _ in range(50):
        age = env.episode_length_buf + 1
        _, _, dones, extras = env.step(torch.zeros(200, 12))
        lengths += age[100:][dones[100:]].tolist()
        flat += age[:100][dones[:100]].tolist()
        assert torch.equal(extras["time_outs"].bool(), dones)
        assert not extras["fell"].any()
    assert flat == [25] * 200
    counts = torch.bincount(torch.tensor(lengths), minlength=11)
    assert counts[:5].sum() == 0
    assert len(counts) == 11
    # Lengths seen in a fixed time are a little shorter than those drawn; six of them, each a sixth.
    np.testing.assert_allclose(counts[5:] / counts.sum(), 1 / 6, atol=0.05)
    assert cfg.for_evaluation().rough_episode_s is None


def test_short_episodes_draw_nothing_on_flat_ground():
    """What is trained on flat ground before rough ground comes in does not depend on the setting."""
    cfg = replace(EnvCfg(), rough_episode_s=(0.1, 0.2))
    plain, short = (make_env([flat_scene()], 4, c, seed=3) for c in (EnvCfg(), cfg))
    for i in range(30):
        assert torch.equal(
            plain.step(actions(plain, i))[0]["proprio"], short.step(actions(short, i))[0]["proprio"]
        )


@pytest.mark.parametrize("lengths", [(0.0, 1.0), (2.0, 1.0), (1.0,)])
def test_short_episodes_need_a_range(lengths):
    with pytest.raises(InputError, match=r"rough_episode_s: found .*, expected a shortest length"):
        make_env(cfg=replace(QUIET, rough_episode_s=lengths))


def test_random_initial_age():
    env = make_env(num_envs=64, cfg=EnvCfg())
    assert env.episode_length_buf.float().std() > 100


def test_reset_with_a_seed_repeats_the_episodes():
    env = make_env([wavy_scene(), flat_scene()], 6, replace(EnvCfg(), randomize=RandomizeCfg()), seed=1)

    def run():
        got = [env.reset(seed=5)["proprio"]]
        got += [env.step(actions(env, i, std=2.0))[0]["proprio"] for i in range(60)]
        return torch.stack(got)

    first = run()
    assert torch.equal(first, run())
    fresh = make_env([wavy_scene(), flat_scene()], 6, replace(EnvCfg(), randomize=RandomizeCfg()), seed=5)
    assert torch.equal(fresh.get_observations()["proprio"], first[0])
    assert not torch.equal(env.reset()["proprio"], first[0])


def test_final_observations_are_those_before_the_reset():
    env = make_env([flat_scene()], 3, replace(QUIET, episode_s=0.1))
    env.keep_final_observations = True
    env.episode_length_buf[1] = 2
    endings = []
    for i in range(5):
        obs, _, dones, extras = env.step(actions(env, i))
        assert ("final_ids" in extras) == bool(dones.any())
        if "final_ids" in extras:
            endings += extras["final_ids"].tolist()
            last = extras["final_observations"]["proprio"][:, -12:]
            assert torch.equal(last, actions(env, i)[extras["final_ids"]])  # the episode's last action
            assert (obs["proprio"][extras["final_ids"], -12:] == 0).all()  # the new episode's none
    assert endings == [1, 0, 2]


def test_a_tasks_own_terms_and_who_may_change_their_weights():
    from gaussgym_sim.task import RewardTerm, Task, register_task

    calls = []
    task = Task(
        "test-task",
        cfg=3.0,
        success=lambda env: env.sim.state.root_pos_w[:, 2] > env.task_cfg,
        failed=lambda env: env.sim.state.root_pos_w[:, 2] < 0.0,
        rewards={
            "high": RewardTerm(2.0, lambda env: env.height_m),
            "off": RewardTerm(0.0, lambda env: calls.append(1)),
        },
        observations={"height": lambda env: env.height_m[:, None]},
        metrics={"steps": lambda env, success: env.episode_length_buf + 100 * success},
    )
    register_task(task)
    env = make_env(cfg=replace(QUIET, task="test-task"))
    place(env.sim, pos_w=torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, -3.0]]), env_ids=torch.tensor([1, 3]))
    obs, _, dones, extras = env.step(torch.zeros(4, 12))
    assert dones.tolist() == [False, True, False, True]
    assert extras["success"].tolist() == [False, True, False, False]
    assert extras["fell"].tolist() == [False, False, False, True]
    assert float(extras["log"]["episode/steps"]) == (101 + 1) / 2
    assert torch.equal(obs["height"][:, 0], env.height_m)
    assert env.rewards.names[-1] == "high"
    assert not calls  # a term without weight is not computed
    twice = make_env(cfg=replace(QUIET, task="test-task", task_rewards={"high": 4.0}))
    assert twice.rewards._weights[-1].tolist() == [4.0] * 4
    with pytest.raises(InputError, match="task 'test-task' has no reward term 'low'; it has: high, off"):
        make_env(cfg=replace(QUIET, task="test-task", task_rewards={"low": 4.0}))
