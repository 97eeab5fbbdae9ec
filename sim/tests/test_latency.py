from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.frames import matrix_from_quat
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.randomize import RandomizeCfg, Uniform
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.camera import CameraCfg, CameraRig, camera_to_world, intrinsics, mount_pose
from gaussgym_sim.sensors.camera_clock import CameraClock, CameraClockCfg
from gaussgym_sim.sensors.latency import DelayLine, FrameRing
from gaussgym_sim.testing import flat_scene
from gaussgym_sim.vecsim import make_sim

CPU = torch.device("cpu")
CONTROL_S = 0.02


def uniform(seed=0):
    return Uniform(torch.Generator().manual_seed(seed), CPU)


# ---------------------------------------------------------------------- values


def test_each_number_is_read_at_its_own_delay():
    """Against a list of everything that was ever written."""
    line = DelayLine(3, 4, max_delay=5, device=CPU)
    generator = torch.Generator().manual_seed(0)
    written, started = [], torch.zeros(3, dtype=torch.long)
    for step in range(30):
        if step:
            line.advance()
        if step == 13:
            line.restart(torch.tensor([1]))
            started[1] = step
        values = torch.randn(3, 4, generator=generator)
        line.write(values + 1.0)
        line.write(values)  # the later one counts
        written.append(values)
        delay = torch.randint(0, 6, (3, 4), generator=generator)
        got = line.read(delay)
        for e in range(3):
            for k in range(4):
                assert got[e, k] == written[max(step - int(delay[e, k]), int(started[e]))][e, k]


def test_the_ring_is_written_in_place_and_never_moved():
    line = DelayLine(2, 3, max_delay=2, device=CPU)
    ring = line._ring
    for step in range(7):
        line.write(torch.full((2, 3), float(step)))
        kept = ring.clone()
        line.advance()
        assert torch.equal(ring, kept)
    assert line._ring.data_ptr() == ring.data_ptr()
    assert sorted(ring[:, 0, 0].tolist()) == [4.0, 5.0, 6.0]


def test_delayed_values_go_on_from_a_saved_state():
    first, other = (DelayLine(2, 2, max_delay=3, device=CPU) for _ in range(2))
    for step in range(5):
        first.write(torch.full((2, 2), float(step)))
        first.advance()
    other.load_state_dict(first.state_dict())
    for each in (first, other):
        each.write(torch.full((2, 2), 9.0))
    delay = torch.tensor([[0, 1], [2, 3]])
    assert torch.equal(first.read(delay), other.read(delay))
    assert first.read(delay).tolist() == [[9.0, 4.0], [3.0, 2.0]]
    with pytest.raises(InputError, match="saved delayed values: shape"):
        DelayLine(2, 2, max_delay=4, device=CPU).load_state_dict(first.state_dict())


# ---------------------------------------------------------------------- images


def test_as_many_frames_are_kept_as_can_be_on_their_way_and_none_is_lost():
    """Latency 15 steps, frames every 4 to 6: four on their way at most, where a ring of control steps would hold 16."""
    latency, shortest, image = 15, 4, (3, 6, 8)
    ring = FrameRing(5, image, max_latency=latency, min_gap=shortest, device=CPU)
    assert ring.num_bytes == 5 * 4 * 3 * 6 * 8
    rng = np.random.default_rng(0)
    due = np.zeros(5, int)
    sent: list[list[int]] = [[] for _ in range(5)]
    most = 0
    for now in range(300):
        ids = np.flatnonzero(due <= now)
        frames = torch.full((len(ids), *image), now % 256, dtype=torch.uint8)
        ring.send(torch.from_numpy(ids), frames, now=now, latency=torch.full((len(ids),), latency))
        for e in ids:
            sent[e].append(now)
            due[e] = now + rng.integers(shortest, 7)
        arrived, images = ring.receive(now)
        expected = [e for e in range(5) if now - latency in sent[e]]
        assert arrived.tolist() == expected
        assert (images == (now - latency) % 256).all()
        most = max(most, max(sum(t > now - latency for t in s) for s in sent))
    assert most == 4


def test_a_frame_that_is_overtaken_is_dropped():
    ring = FrameRing(1, (3, 1, 1), max_latency=9, min_gap=1, device=CPU)
    env = torch.tensor([0])

    def frame(value):
        return torch.full((1, 3, 1, 1), value, dtype=torch.uint8)

    ring.send(env, frame(1), now=0, latency=torch.tensor([9]))
    ring.send(env, frame(2), now=2, latency=torch.tensor([3]))
    seen = [
        (now, int(images[0, 0, 0, 0])) for now in range(12) for ids, images in [ring.receive(now)] if len(ids)
    ]
    assert seen == [(5, 2)]
    ring.send(env, frame(3), now=20, latency=torch.tensor([4]))
    ring.restart(env)
    assert all(len(ring.receive(now)[0]) == 0 for now in range(20, 30))


# ---------------------------------------------------------------------- clocks


def clock(num_envs=256, period_steps=5, **settings):
    return CameraClock(
        CameraClockCfg(**settings), num_envs, period_steps=period_steps, control_s=CONTROL_S, device=CPU
    )


def run(clocks, u, steps):
    return torch.stack([clocks.tick(u) for _ in range(steps)])


def test_by_default_frames_come_every_five_steps():
    clocks = clock(2)
    due = run(clocks, uniform(), 12)
    assert due[:, 0].nonzero()[:, 0].tolist() == [0, 5, 10]
    clocks.restart(torch.tensor([1]), uniform())
    assert run(clocks, uniform(), 8).nonzero().tolist() == [[0, 1], [3, 0], [5, 1]]


def test_rendering_load_is_flat():
    """256 cameras of one period: the cameras due in a step differ by less than a fifth of their mean, resets or not."""
    u, clocks = uniform(1), clock(period_s=(0.1, 0.1))
    clocks.restart(torch.arange(256), u)
    clocks.stagger(u)
    everybody, *counts = run(clocks, u, 501).sum(dim=1).float()
    assert everybody == 256  # the first image of all
    counts = torch.stack(counts)
    assert counts.mean() == pytest.approx(256 / 5, rel=0.01)
    assert (counts - counts.mean()).abs().max() < 0.2 * counts.mean()


def test_rendering_load_stays_flat_with_periods_of_their_own():
    """Periods of 50 to 150 ms, drawn anew every 3 s: the spread is that of independent cameras."""
    u, clocks = uniform(1), clock(period_s=(0.05, 0.15))
    clocks.restart(torch.arange(256), u)
    clocks.stagger(u)
    counts = run(clocks, u, 1001).sum(dim=1).float()[1:]
    expected = 256 * CONTROL_S * np.log(3) / 0.1  # mean of 1/period
    assert counts.mean() == pytest.approx(expected, rel=0.03)
    assert counts.std() < 0.2 * counts.mean()
    assert counts.max() < 1.5 * counts.mean()


def test_episodes_that_begin_together_do_not_stay_together():
    u, clocks = uniform(1), clock(period_s=(0.1, 0.1))
    clocks.restart(torch.arange(256), u)
    counts = run(clocks, u, 200).sum(dim=1).float()
    assert counts[0] == 256
    assert counts[6:].max() < 1.6 * 256 / 5


def test_periods_between_control_steps_are_right_on_average():
    u, clocks = uniform(), clock(3, period_s=(0.07, 0.07))
    clocks.restart(torch.arange(3), u)
    times = run(clocks, u, 701)[:, 0].nonzero()[:, 0]
    gaps = times[2:] - times[1:-1]  # after the first, whose time is free
    assert sorted(set(gaps.tolist())) == [3, 4]
    assert gaps.float().mean() == pytest.approx(3.5, abs=0.02)


def test_jitter_does_not_add_up_and_gaps_keep_their_least():
    u, clocks = uniform(), clock(64, period_s=(0.1, 0.2), jitter_s=0.02, redraw_s=1e9)
    assert clocks.min_gap == 3  # 5 steps less twice the jitter of one
    clocks.restart(torch.arange(64), u)
    due = run(clocks, u, 2000)
    for e in range(64):
        times = due[:, e].nonzero()[1:, 0]
        gaps = times[1:] - times[:-1]
        assert gaps.min() >= 3
        assert gaps.float().mean() == pytest.approx(float(clocks.period[e]), rel=0.01)
    assert clocks.period.min() < 6 < 9 < clocks.period.max()


def test_clocks_are_drawn_anew_for_an_episode_and_every_three_seconds():
    u, clocks = uniform(), clock(4, period_s=(0.05, 0.15), latency_s=(0.1, 0.3))
    clocks.restart(torch.arange(4), u)
    first = (clocks.period.clone(), clocks.latency.clone())
    clocks.restart(torch.tensor([2]), u)
    assert (clocks.period != first[0]).tolist() == [False, False, True, False]
    first = clocks.period.clone()
    run(clocks, u, 149)
    assert torch.equal(clocks.period, first)
    run(clocks, u, 1)
    assert (clocks.period != first).all()
    assert 5 <= clocks.latency.min() <= clocks.latency.max() <= 15


# ---------------------------------------------------------------------- the rig


class StepRenderer:
    """Paints each image with the number of the step in which it is taken."""

    def __init__(self, cfg):
        self.cfg, self.step, self.sizes, self.c2w, self.K = cfg, 0, [], None, None

    def render(self, c2w, K, scene_ids, *, mask=None):
        self.sizes.append(len(c2w))
        self.c2w, self.K = c2w.clone(), K.clone()
        shape = (len(c2w), self.cfg.height, self.cfg.width, 3)
        return SimpleNamespace(rgb=torch.full(shape, self.step % 256, dtype=torch.uint8))


def make_rig(num_envs, **settings):
    cfg = CameraCfg(width=4, height=3)
    renderer = StepRenderer(cfg)
    rig = CameraRig(
        get_robot("go1"), cfg, renderer, torch.zeros(num_envs, dtype=torch.long), control_s=CONTROL_S,
        clock=CameraClockCfg(**settings),
    )  # fmt: skip
    state = SimpleNamespace(
        root_pos_w=torch.zeros(num_envs, 3), root_quat_wxyz=torch.tensor([[1.0, 0, 0, 0]]).repeat(num_envs, 1)
    )
    return rig, renderer, state


def test_images_are_late_by_their_envs_latency():
    rig, renderer, state = make_rig(2, latency_s=(0.06, 0.12), redraw_s=1e9)
    u = uniform()
    rig.restart(torch.arange(2), RandomizeCfg.none(), u)
    rig.clock.latency[:] = torch.tensor([3, 6])
    ages, news = [], []
    for step in range(60):
        renderer.step = step
        rig.capture(state, torch.zeros(2, 3), u)
        ages.append(step - rig.rgb[:, 0, 0, 0].long())
        news.append(rig.new[:, 0].clone())
    ages, news = torch.stack(ages), torch.stack(news)
    assert ages[0].tolist() == [0, 0]  # an episode's first image is there at once
    assert news[0].tolist() == [1, 1]
    for env, latency in ((0, 3), (1, 6)):
        arrivals = news[1:, env].nonzero()[:, 0] + 1
        assert (ages[arrivals, env] == latency).all()
        assert (arrivals[2:] - arrivals[1:-1] == 5).all()
    assert ages[20:].max() == 6 + 4


def test_memory_of_images_counts_frames_not_control_steps():
    """The original's latency of 300 ms: frames every 100 ms, three on their way and one that is shown, where 16 were kept."""
    image = 3 * 4 * 3
    assert make_rig(7)[0].image_bytes == 7 * image
    assert make_rig(7, latency_s=(0.12, 0.30))[0].image_bytes == 7 * (1 + 3) * image
    assert make_rig(7, period_s=(0.05, 0.15), latency_s=(0.12, 0.30))[0].image_bytes == 7 * (1 + 8) * image


def test_images_go_on_from_a_saved_state():
    settings = {"period_s": (0.05, 0.15), "latency_s": (0.0, 0.30), "jitter_s": 0.01, "redraw_s": 0.5}
    rigs = [make_rig(20, **settings) for _ in range(2)]
    draws = [uniform(3), uniform(9)]
    rigs[0][0].restart(torch.arange(20), RandomizeCfg(), draws[0])
    for step in range(90):
        if step == 40:
            rigs[1][0].load_state_dict(rigs[0][0].state_dict())
            draws[1].generator.set_state(draws[0].generator.get_state())
        for rig, renderer, state in rigs[: 1 + (step >= 40)]:
            renderer.step = step
            rig.capture(state, torch.zeros(20, 3), draws[rig is rigs[1][0]])
        if step >= 40:
            assert torch.equal(rigs[0][0].rgb, rigs[1][0].rgb)
            assert torch.equal(rigs[0][0].new, rigs[1][0].new)
    assert torch.equal(rigs[0][0].pose_b_c, rigs[1][0].pose_b_c)


def test_the_cameras_error_turns_with_the_body():
    """A robot that leans: the same mount is seen from the base, and the world sees its error turned (a world-axis error would
    not be)."""
    rig, renderer, state = make_rig(3)
    cfg = replace(RandomizeCfg.none(), camera_pos_m=0.02, camera_rot_rad=0.03)
    u = uniform()
    rig.restart(torch.arange(3), cfg, u)
    rig.capture(state, torch.zeros(3, 3), u)
    upright, mount = renderer.c2w, mount_pose(get_robot("go1"))
    state.root_quat_wxyz = torch.nn.functional.normalize(
        torch.tensor([[0.7, 0.2, -0.5, 0.35]]), dim=1
    ).repeat(3, 1)
    rig.clock.wait[:] = 0.0
    rig.capture(state, torch.zeros(3, 3), u)
    turn = matrix_from_quat(state.root_quat_wxyz[0])
    assert not torch.allclose(turn, turn.T, atol=0.1)
    error = upright[:, :3, 3] - mount[:3, 3]
    assert error.abs().max() > 0.01
    exact = camera_to_world(state.root_pos_w, state.root_quat_wxyz, mount.repeat(3, 1, 1))
    np.testing.assert_allclose(renderer.c2w[:, :3, 3] - exact[:, :3, 3], error @ turn.T, atol=1e-6)
    np.testing.assert_allclose(renderer.c2w[:, :3, :3], turn @ upright[:, :3, :3], atol=1e-6)


def test_focal_lengths_and_principal_points_vary_anew_in_every_episode():
    rig, *_ = make_rig(2000)
    k = intrinsics(rig.cfg)
    cfg = replace(RandomizeCfg.none(), camera_focal_std=0.05, camera_principal_std_px=1.0)
    for _ in range(3):  # errors must not pile up over episodes
        rig.restart(torch.arange(2000), cfg, uniform())
    focal = rig.K[:, [0, 1], [0, 1]] / k[0, 0]
    assert focal.mean() == pytest.approx(1.0, abs=0.005)
    assert focal.std(dim=0).tolist() == pytest.approx([0.05, 0.05], rel=0.1)
    assert torch.corrcoef(focal.T)[0, 1].abs() < 0.1
    shift = rig.K[:, :2, 2] - k[:2, 2]
    assert shift.std(dim=0).tolist() == pytest.approx([1.0, 1.0], rel=0.1)
    assert (rig.K[:, 2] == k[2]).all()


def test_an_environment_with_late_cameras_goes_on_from_a_saved_state():
    """Everything switched on; two environments, one resumed from the other, see and do the same to the bit."""
    envs = []
    for seed in (1, 2):
        sim = make_sim("mujoco", "go1", [flat_scene()], 8)
        randomize = randomize_preset("extreme").supported_by(sim.capabilities)[0]
        cfg = replace(EnvCfg(), randomize=randomize, camera=CameraCfg(width=4, height=3), episode_s=0.8)
        envs.append(Env(sim, cfg, seed=seed, renderer=StepRenderer(cfg.camera)))
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        if step == 30:
            envs[1].load_state_dict(envs[0].state_dict())
        action = 0.5 * torch.randn(8, 12, generator=generator)
        got = []
        for env in envs[: 1 + (step >= 30)]:
            env.camera._renderer.step = step
            got.append(env.step(action))
        if step >= 30:
            (a, reward_a, dones_a, _), (b, reward_b, dones_b, _) = got
            assert all(torch.equal(a[name], b[name]) for name in a)
            assert torch.equal(reward_a, reward_b)
            assert torch.equal(dones_a, dones_b)


def test_a_seed_repeats_everything_that_is_random():
    sim = make_sim("mujoco", "go1", [flat_scene()], 6)
    randomize = randomize_preset("extreme").supported_by(sim.capabilities)[0]
    cfg = replace(EnvCfg(), randomize=randomize, camera=CameraCfg(width=4, height=3), episode_s=0.9)
    env = Env(sim, cfg, seed=1, renderer=StepRenderer(cfg.camera))

    def run():
        env.camera._renderer.step = 0
        generator, seen = torch.Generator().manual_seed(0), [env.reset(seed=7)]
        for step in range(70):  # past the redraws of every second
            env.camera._renderer.step = step
            seen.append(env.step(0.5 * torch.randn(6, 12, generator=generator))[0])
        return [torch.stack([obs[name] for obs in seen]) for name in ("proprio", "rgb_new", "rgb")]

    first = run()
    for _ in range(13):
        env.step(torch.zeros(6, 12))
    again = run()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
