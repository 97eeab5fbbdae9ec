"""Which scenes are drawn: by hand, in the simulator, over saves."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_learn.cli.options import RunOptions
from gaussgym_learn.courses import stairs_course
from gaussgym_learn.distributed import World
from gaussgym_learn.env import make_env
from gaussgym_learn.frontier import Frontier, FrontierCfg, path_steps_m
from gaussgym_learn.recipes import get_recipe
from gaussgym_learn.rotation import AHEAD, DrawnRotation, SceneRotation, ScenesCfg
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.mdp.curriculum import GoalDistanceCfg

torch.set_num_threads(1)
PLAIN = FrontierCfg(floor=0.2, window=50.0, prior=4.0, easiest=0.5, hardest=0.1)


def courses(count=4):
    scenes = []
    for i in range(count):
        made = stairs_course((0.01 * i,), lanes=1, rubble=False, length_m=14.0 + i, seed=i)
        scenes.append(Scene(f"course_{i}", heightfield=made.heightfield, paths=made.paths, metadata={}))
    return scenes


def test_the_first_guess_falls_with_the_steps_on_the_paths():
    frontier = Frontier(3, cfg=PLAIN, difficulty=[0.0, 0.05, 0.2])
    assert frontier.success.tolist() == pytest.approx([0.5, 0.4, 0.1])
    wanted = np.array([0.2 + 0.8 * 4 * p * (1 - p) for p in (0.5, 0.4, 0.1)])
    np.testing.assert_allclose(frontier.shares(), wanted / wanted.sum())
    assert Frontier(2, cfg=PLAIN, difficulty=[0.3, 0.3]).success.tolist() == [0.5, 0.5]


def test_success_moves_the_frontier_on():
    frontier = Frontier(3, cfg=PLAIN, weights=[1.0, 1.0, 2.0], difficulty=[0.0, 0.0, 1.0])
    frontier.count(torch.tensor([0] * 6 + [1] * 2), torch.tensor([True] * 6 + [True, False]))
    # scene 0: (6 + 4 x 0.5) / (6 + 4); scene 1: (1 + 2) / (2 + 4)
    assert frontier.success.tolist() == pytest.approx([0.8, 0.5, 0.1])
    shares = [0.2 + 0.8 * 0.64, 1.0, 2 * (0.2 + 0.8 * 0.36)]
    np.testing.assert_allclose(frontier.shares(), np.array(shares) / sum(shares))
    frontier.count(torch.tensor([0]), torch.tensor([False]))
    kept = np.exp(-1 / 50)
    assert float(frontier.success[0]) == pytest.approx((6 * kept + 2) / (6 * kept + 1 + 4))
    for _ in range(100):
        frontier.count(torch.tensor([0] * 5 + [2] * 5), torch.tensor([True] * 5 + [False] * 5))
    assert frontier.success.tolist() == pytest.approx([0.96, 0.5, 0.01], abs=0.02)
    assert (
        int(frontier.shares().argmax()) == 1
    )  # mastered, and out of reach for now: both rare, none left out
    assert frontier.shares()[1] > 0.5
    assert (frontier.shares() > 0.1).all()


def test_draws_are_where_the_shares_end():
    frontier = Frontier(4, weights=[1.0, 2.0, 4.0, 1.0])
    numbers = torch.tensor([0.0, 0.124, 0.126, 0.374, 0.376, 0.874, 0.876, 0.9999999999])
    assert frontier.draw(numbers).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert frontier.draw(torch.tensor([0.0, 0.32, 0.34, 0.9999]), excluded=[2, 3]).tolist() == [0, 0, 1, 1]
    many = frontier.draw(torch.rand(20000, generator=torch.Generator().manual_seed(0)))
    np.testing.assert_allclose(torch.bincount(many).numpy() / 20000, [0.125, 0.25, 0.5, 0.125], atol=0.015)


def test_numbers_that_cannot_be_weights():
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")], [1.0, -1.0]):
        with pytest.raises(InputError, match="for 2 scenes, expected one positive number a scene"):
            Frontier(2, weights=weights)
    with pytest.raises(InputError, match="counts successes in 3 scenes, this run has 2"):
        Frontier(2).load_state(Frontier(3).state())


def test_steps_on_paths_by_hand():
    z = np.array([0, 0, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], dtype=np.float64)
    points = np.stack([np.arange(11) * 0.25, np.zeros(11), z, np.zeros(11)], axis=1)
    ids = np.array([0] * 9 + [1] * 2)
    field = Heightfield(np.zeros((3, 3), np.float32), 1.0, np.zeros(2), np.ones((3, 3), bool))
    scene = Scene("steps", heightfield=field, paths=Paths(points, ids, np.full(11, 0.4)))
    steps = [0, 0.1, 0, 0.1, 0, 0, 0, 0, 0]  # within lines: eight of the first, one of the second
    assert path_steps_m(scene) == pytest.approx(np.quantile(steps, 0.95))
    hard = [path_steps_m(s) for s in courses()]
    assert hard == sorted(hard)
    assert hard[0] == 0.0


def rotation(frontier, slots=3, seed=0, every=2):
    return DrawnRotation(
        [f"s{i}" for i in range(len(frontier.weights))],
        slots,
        every_steps=every,
        seed=seed,
        frontier=frontier,
    )


def test_drawn_turns_follow_the_weights():
    frontier = Frontier(8, weights=[4.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    turns, seen = rotation(frontier), Counter()
    for _ in range(3000):
        due = turns.advance()
        assert len(set(turns.active)) == 3
        if due is not None:
            slot, number = due
            assert turns.active[slot] == number
            seen[number] += 1
    rare = sum(seen[i] for i in range(2, 8)) / 6
    assert (
        min(seen[0], seen[1]) > 1.7 * rare
    )  # less than 4: a scene is never in two slots, nor follows itself
    assert min(seen.values()) > 80


def test_as_many_slots_as_scenes_hold_each_once():
    turns = rotation(Frontier(5, weights=[9.0, 1.0, 1.0, 1.0, 1.0]), slots=5)
    assert sorted(turns.active) == [0, 1, 2, 3, 4]
    assert turns.coming == []
    assert [turns.advance() for _ in range(9)] == [None] * 9


def test_drawn_turns_go_on_where_their_state_was_taken():
    """With a frontier that moves as it did."""

    def run(turns, frontier, steps, first=0):
        log = []
        for i in range(first, first + steps):
            log.append(turns.advance())
            frontier.count(
                torch.tensor(turns.active), torch.tensor([n * 7 % 10 + i % 3 > 5 for n in turns.active])
            )
        return log

    one = Frontier(7, cfg=PLAIN)
    turns = rotation(one)
    run(turns, one, 31)
    state, counts = turns.state(), one.state()
    assert len(state) == 5 + 3 + AHEAD
    other = Frontier(7, cfg=PLAIN)
    again = rotation(other, seed=4)
    other.load_state(counts)
    again.load_state(state)
    assert (again.active, again.coming) == (turns.active, turns.coming)
    assert run(turns, one, 60, 31) == run(again, other, 60, 31)
    in_turn = SceneRotation([f"s{i}" for i in range(7)], 3, every_steps=2, seed=0)
    with pytest.raises(
        InputError,
        match="scenes are drawn by weight or success, this run's taken in turn; give the same options",
    ):
        in_turn.load_state(state)
    with pytest.raises(InputError, match="scenes are taken in turn, this run's drawn by weight or success"):
        again.load_state(in_turn.state())


SHORT = replace(EnvCfg.for_task("goal"), episode_s=0.1, random_initial_age=True)


def walk(env, steps, seed=0):
    generator, rows = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        obs, *_, extras = env.step(0.3 * torch.randn(env.num_envs, 12, generator=generator))
        rows.append((obs["proprio"].clone(), env.env.sim.scene_of_env.tolist()))
    return rows, extras


@pytest.mark.parametrize(
    "memory", [ScenesCfg(frontier=PLAIN), ScenesCfg(at_once=2, rotate_every=2, frontier=PLAIN)]
)
def test_swaps_keep_runs_deterministic_and_resumable(memory):
    """The same seed gives the same run; one that is made anew goes on from the curriculum's state alike."""
    scenes = courses()
    cfg = replace(
        SHORT, goal_distance=GoalDistanceCfg(first_m=2.0, last_m=6.0, episodes=2, up=0.0, down=-1.0)
    )

    def make(seed=1):
        return make_env(
            "goal", scenes, 6, renderer=None, cfg=cfg, memory=memory, seed=seed, update_steps=2, num_threads=1
        )

    env, twin = make(), make()
    first, second = walk(env, 25)[0], walk(twin, 25)[0]
    assert all(torch.equal(a, b) and s == t for (a, s), (b, t) in zip(first, second, strict=True))
    names = [s.name for s in env.sim.scenes]
    if memory.at_once is None:
        assert len({tuple(s) for _, s in first}) > 5  # robots have moved
    else:
        assert names != [scene.name for scene in scenes[:2]]
        assert len(set(names)) == 2
    state = env.curriculum_state()
    other = make(seed=9)
    other.load_curriculum_state(state)
    env.reset(seed=5)
    other.reset(seed=5)
    assert [s.name for s in other.sim.scenes] == names
    assert torch.equal(other.env.goal_distance.distance_m, env.env.goal_distance.distance_m)
    assert bool((env.env.goal_distance.distance_m > 2.0).any())
    for (a, s), (b, t) in zip(walk(env, 20, 3)[0], walk(other, 20, 3)[0], strict=True):
        assert torch.equal(a, b)
        assert s == t
    after, again = (e.curriculum_state()["scenes"] for e in (env, other))
    assert after.keys() == again.keys()
    assert all(torch.equal(after[k], again[k]) for k in after)
    assert float(env.curriculum.frontier.state()[0].sum()) > 20  # episodes were counted


def test_robots_move_to_where_the_weights_are():
    scenes = courses(3)
    env = make_env(
        "goal",
        scenes,
        12,
        renderer=None,
        cfg=SHORT,
        memory=ScenesCfg(weights=(1e-9, 1.0, 1e-9)),
        num_threads=1,
    )
    assert torch.bincount(env.sim.scene_of_env).tolist() == [4, 4, 4]
    network = env.env.network
    rows, _ = walk(env, 120)
    assert rows[-1][1] == [1] * 12
    assert env.env.network is network  # the scenes are the same: nothing was packed anew
    state = env.sim.state
    ground = env.sim.terrain.sample(state.root_pos_w[:, None, :2], env.sim.scene_of_env)[:, 0]
    assert bool(((state.root_pos_w[:, 2] - ground) > 0.15).all())
    logged = [walk(env, 1)[1]["log"] for _ in range(6)]
    values = [log["Curriculum/effective_scenes"] for log in logged if log]
    assert values
    assert values[0] == pytest.approx(1.0, abs=1e-6)


def test_each_scene_remembers_how_far_its_goals_are():
    scenes = courses(3)
    goals = GoalDistanceCfg(
        first_m=2.0, last_m=9.0, step_m=0.5, episodes=1, up=0.0, down=-1.0
    )  # every episode moves them
    cfg = replace(SHORT, goal_distance=goals)
    env = make_env(
        "goal", scenes, 4, renderer=None, cfg=cfg, memory=ScenesCfg(at_once=1, rotate_every=12), num_threads=1
    )
    seen = {}
    for _ in range(70):
        before = env.rotation.active[0]
        left = float(env.env.goal_distance.distance_m[0])
        env.step(torch.zeros(4, 12))
        now = env.rotation.active[0]
        if now != before:
            seen[before] = left  # the cut episodes say nothing: they have not moved it
            assert float(env.env.goal_distance.distance_m[0]) == seen.get(now, 2.0)
    assert len(seen) == 3
    assert min(seen.values()) > 2.0


def test_options_of_the_command():
    options = RunOptions(scene_curriculum=True, goal_distance="2..10")
    memory = options.arguments((1.0, 3.0))["memory"]
    assert memory == ScenesCfg(weights=(1.0, 3.0), frontier=FrontierCfg())
    assert {"collection", "goal_distance", "scene_curriculum"}.isdisjoint(options.arguments())
    goal = replace(get_recipe("teacher_rough"), task="goal")
    assert options.applied(goal).env.goal_distance == GoalDistanceCfg(first_m=2.0, last_m=10.0)
    with pytest.raises(InputError, match="for task 'velocity', which has no goal"):
        options.applied(get_recipe("teacher_rough"))
    for text in ("10..2", "2", "0..3", "a..b", "-1..3"):
        with pytest.raises(InputError, match=r"expected nearest\.\.farthest in metres, such as 2\.\.10"):
            RunOptions(goal_distance=text).applied(goal)


def test_processes_that_share_scenes_share_weights():
    memory = ScenesCfg(weights=(1.0, 2.0, 3.0, 4.0, 5.0))
    assert memory.shared(World(1, 2)).weights == (2.0, 4.0)
    assert memory.shared(World(0, 2)).weights == (1.0, 3.0, 5.0)
    assert ScenesCfg().shared(World(1, 2)).weights is None


def test_lists_that_cannot_be_trained_on():
    scenes = courses(2)
    with pytest.raises(InputError, match="found an empty list of scenes"):
        make_env("goal", [], 4, renderer=None)
    with pytest.raises(InputError, match="scene course_0 is listed twice; list it once, with a weight"):
        make_env(
            "goal", [scenes[0], scenes[1], scenes[0]], 4, renderer=None, memory=ScenesCfg(frontier=PLAIN)
        )
    with pytest.raises(InputError, match=r"found weights \[1\.0\] for 2 scenes"):
        make_env("goal", scenes, 4, renderer=None, memory=ScenesCfg(weights=(1.0,)))
