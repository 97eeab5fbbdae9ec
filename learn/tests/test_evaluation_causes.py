"""How episodes ended and what went wrong first: by hand, and planted."""

import dataclasses
from pathlib import Path

import gaussgym_learn
import numpy as np
import pytest
import torch
from gaussgym_learn.acting import load_policy
from gaussgym_learn.courses import flat_course
from gaussgym_learn.env import make_env
from gaussgym_learn.evaluate import evaluation_cfg, fixed_starts, run_episodes
from gaussgym_learn.evaluation.causes import MIN_SUCCESSES, NOTHING, first_wrong, normal_limits
from gaussgym_learn.evaluation.quantities import QUANTITIES, measure_all
from gaussgym_learn.evaluation.traces import EpisodeTraces, Failure
from gaussgym_sim.mdp.commands import CommandCfg
from gaussgym_sim.mdp.starts import sample_starts

NAMES = [q.name for q in QUANTITIES]
GOOD = 24


def failure(**courses):
    """A failure of four rows; quantities that are not given stay at 0."""
    values = np.zeros((4, len(QUANTITIES)), np.float32)
    for name, course in courses.items():
        values[:, NAMES.index(name)] = course
    return Failure(0, "fell", 0, np.array([-0.8, -0.6, -0.4, -0.2], np.float32), values, 0.2)


def test_the_first_to_leave_its_range_is_named():
    limits = np.ones(len(QUANTITIES))
    tilt_after_slip = failure(tilt=[0.2, 0.3, 1.5, 3.0], foot_slip=[0.1, 1.2, 0.1, 0.1])
    cause = first_wrong(tilt_after_slip, limits)
    assert (cause.name, cause.limit) == ("foot_slip", 1.0)
    assert cause.before_end_s == pytest.approx(0.6)
    assert (cause.value, cause.worst) == (pytest.approx(1.2), pytest.approx(1.2))
    # In the same instant the cause comes before the consequence; larger limits change the verdict.
    both = failure(tilt=[0.0, 1.5, 1.5, 1.5], foot_slip=[0.0, 1.5, 0.0, 0.0])
    assert first_wrong(both, limits).name == "foot_slip"
    assert first_wrong(both, 2 * limits).name == NOTHING
    limits[NAMES.index("foot_slip")] = 2.0
    assert first_wrong(tilt_after_slip, limits).name == "tilt"


def test_normal_is_what_99_in_100_good_episodes_keep_to():
    peaks = np.tile(np.arange(101.0)[:, None], (1, len(QUANTITIES)))
    assert normal_limits(peaks) == pytest.approx(np.full(len(QUANTITIES), 99.0))
    assert normal_limits(peaks[: MIN_SUCCESSES - 1]) is None


@pytest.fixture(scope="module")
def walker():
    return load_policy(Path(gaussgym_learn.__file__).parent / "policies" / "stairs_teacher")


def test_quantities_of_a_robot_in_a_known_state():
    """Standing at a start: upright, on its path, at rest, commanded to walk; lifted, turned and tilted by known amounts."""
    scene = flat_course()
    cfg, starts = evaluation_cfg("goal"), fixed_starts([scene], 2, seed=0)
    env = make_env("goal", scene, 2, renderer=None, cfg=cfg, starts=starts)
    inner, state = env.env, env.sim.state
    before = dict(zip(NAMES, measure_all(inner).T, strict=True))
    assert before["tilt"].max() < 0.01
    assert before["foot_slip"].max() == 0
    assert before["velocity_error"] == pytest.approx(inner.commands.command[:, :2].norm(dim=1), abs=1e-5)
    assert before["turned_away"].max() < 0.5
    assert (before["off_path"] <= 0).all()
    half = 0.3  # about x: the quaternion of a roll of 0.6 rad
    quat = torch.tensor([np.cos(half), np.sin(half), 0.0, 0.0], dtype=torch.float32).repeat(2, 1)
    env.sim.reset(
        torch.arange(2), root_pos_w=state.root_pos_w + torch.tensor([0.0, 0.0, 0.5]), root_quat_wxyz=quat,
        root_lin_vel_w=torch.zeros(2, 3), root_ang_vel_b=torch.tensor([[0.0, 3.0, 9.0]]).repeat(2, 1),
        joint_pos=state.joint_pos.clone(), joint_vel=torch.zeros(2, 12),
    )  # fmt: skip
    inner._refresh()
    after = dict(zip(NAMES, measure_all(inner).T, strict=True))
    assert after["tilt"] == pytest.approx(torch.full((2,), 0.6), abs=1e-4)
    assert after["spin"] == pytest.approx(torch.full((2,), 3.0), abs=1e-4)
    assert after["base_height"] == pytest.approx(before["base_height"] + 0.5, abs=0.05)


class _Ice:
    """From a step on, the ground under the first foot is ice."""

    def __init__(self, env, step):
        self.env, self.step, self.count = env, step, 0

    def add(self, obs, row, done):
        self.count += 1
        if self.count == self.step:
            slot = self.env.sim._slots[0]
            slot._field("geom_friction")[:, slot.feet[0], 0] = 0.01

    def end(self, row, dones, over, extras):
        pass


def walk(policy, episodes, *, ice_at=None, episode_s=30.0):
    scene = flat_course()
    commands = CommandCfg(goal_distance_m=4.0)
    cfg = dataclasses.replace(evaluation_cfg("goal"), episode_s=episode_s, commands=commands)
    starts = sample_starts([scene], episodes, seed=3, commands=commands)
    env = make_env("goal", scene, episodes, renderer=None, cfg=cfg, starts=starts)
    traces = EpisodeTraces(env, episodes)
    observers = [traces] if ice_at is None else [traces, _Ice(env, ice_at)]
    run_episodes(policy, env, episodes=episodes, observers=observers)
    return traces


def test_friction_dropped_under_one_foot_is_found_as_slip(walker):
    """All walk 4 m well; then eight are cut off after 3.6 s, and of another eight one foot stands on ice from 1 s on."""
    good = walk(walker, GOOD)
    assert good.kinds == ["success"] * GOOD
    limits = normal_limits(good.peaks)
    assert limits is not None
    plain, icy = walk(walker, 8, episode_s=3.6), walk(walker, 8, ice_at=50, episode_s=3.6)
    assert plain.kinds == icy.kinds == ["too slow"] * 8
    found = [first_wrong(f, limits) for f in icy.failures]
    assert [cause.name for cause in found].count("foot_slip") >= 7
    assert all(cause.before_end_s < 2.7 for cause in found if cause.name == "foot_slip")
    assert [first_wrong(f, limits).name for f in plain.failures].count("foot_slip") <= 1


class _Freeze:
    """Holds the pose of a start, or lets all joints go."""

    sees, name = False, "freeze"

    def __init__(self, action=0.0):
        self.action = action

    def check(self, env):
        pass

    def act(self, obs):
        return torch.full((len(obs["proprio"]), 12), self.action)

    def reset(self, dones=None):
        pass


def test_ends_are_named_and_kept():
    standing = walk(_Freeze(), 5, episode_s=4.0)
    assert standing.kinds == ["stuck on flat"] * 5
    assert sorted(f.start for f in standing.failures if f.motion is not None) == [
        0,
        1,
    ]  # two of a kind are kept
    first = min(standing.failures, key=lambda f: f.start)
    assert first.motion.shape == (150, 19)
    assert first.quantities.shape == (17, len(QUANTITIES))  # the whole course from 0.6 s on, every 0.2 s
    assert first.times_s[0] == pytest.approx(-3.4)
    assert first.frames is None
    fallen = walk(_Freeze(10.0), 3)
    assert fallen.kinds == ["fell on flat"] * 3
    assert all(f.times_s[-1] == pytest.approx(-0.02) for f in fallen.failures)
    assert not standing.peaks
