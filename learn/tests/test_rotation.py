"""Many scenes, a few at a time: whose turn it is, what the robots then see, and runs that go on."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.cli.options import RunOptions
from gaussgym_learn.courses import stairs_course
from gaussgym_learn.env import make_env
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, get_recipe
from gaussgym_learn.rotation import SceneRotation, ScenesCfg, slot_renderer
from gaussgym_learn.scene_list import hash_scenes, scene_hash
from gaussgym_learn.train import train
from gaussgym_render import SplatRenderer
from gaussgym_render.lod import LodSplats
from gaussgym_render.optimize import digest
from gaussgym_render.testing import random_splats
from gaussgym_scene.errors import InputError
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.sensors.camera import camera_to_world

torch.set_num_threads(1)
NUM_SCENES = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Scene folders; each has ground, colours and a number of splats of its own."""
    root = tmp_path_factory.mktemp("scenes")
    for i in range(NUM_SCENES):
        rng = np.random.default_rng(i)
        course = stairs_course((0.0, 0.02 + 0.01 * i), lanes=1, rubble=False, length_m=10.0 + i, seed=i)
        splats = random_splats(300 + 150 * i, rng, sh_degree=0)
        splats.means[:] += [5.0, 3.0, 0.5]
        mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32), None)
        Scene(
            f"course_{i}",
            splats,
            mesh,
            course.heightfield,
            course.paths,
            {"path_level": course.metadata["path_level"]},
        ).save(root / f"course_{i}")
    return sorted(root.iterdir())


def turns(rotation, steps):
    """(step, slot, scene) of the exchanges of some steps."""
    return [(i, *due) for i in range(steps) if (due := rotation.advance()) is not None]


def test_turns_by_hand():
    rotation = SceneRotation([f"s{i}" for i in range(4)], 2, every_steps=3, seed=0)
    a, b, c, d = rotation._order
    assert sorted((a, b, c, d)) == [0, 1, 2, 3]
    assert (rotation.active, rotation.coming) == ([a, b], [c, d])
    assert turns(rotation, 3) == []
    assert turns(rotation, 1) == [(0, 0, c)]
    assert (rotation.active, rotation.coming) == ([c, b], [d, a])
    assert turns(rotation, 12) == [(2, 1, d), (5, 0, a), (8, 1, b), (11, 0, c)]
    assert rotation.active == [c, b]


def test_every_scene_has_its_share_and_none_is_there_twice():
    rotation = SceneRotation([f"s{i}" for i in range(7)], 3, every_steps=2, seed=5)
    seen = Counter()
    for _ in range(2 * 7 * 4 + 1):
        rotation.advance()
        assert len(set(rotation.active)) == 3
        seen.update(rotation.active)
    assert set(seen) == set(range(7))
    assert max(seen.values()) - min(seen.values()) <= 2 * 3
    assert SceneRotation(["a"] * 50, 3, every_steps=2, seed=6).active != rotation.active


def test_a_rotation_goes_on_where_its_state_was_taken():
    sources = [f"s{i}" for i in range(6)]
    rotation = SceneRotation(sources, 4, every_steps=5, seed=1)
    turns(rotation, 23)
    other = SceneRotation(sources, 4, every_steps=5, seed=2)
    other.load_state(rotation.state())
    assert other.active == rotation.active
    assert turns(other, 40) == turns(rotation, 40)
    with pytest.raises(InputError, match="rotates 6 scenes, 4 at once; this run has 5, 4 at once"):
        SceneRotation(sources[:5], 4, every_steps=5, seed=1).load_state(rotation.state())


def test_without_more_scenes_than_slots_nothing_moves():
    rotation = SceneRotation(["a", "b"], 2, every_steps=1, seed=0)
    assert turns(rotation, 20) == []
    assert rotation.coming == []


@pytest.mark.parametrize("slots", [0, 3])
def test_slots_without_scenes(slots):
    with pytest.raises(InputError, match=f"{slots} scenes at once of 2 scenes; expected 1 to 2"):
        SceneRotation(["a", "b"], slots, every_steps=1, seed=0)


def test_options_of_the_command_arrive():
    options = RunOptions(scene_memory_gb=0.5, scenes_at_once=4, rotate_every=7)
    assert options.arguments()["memory"] == ScenesCfg(0.5, None, 4, 7)
    assert "scene_memory_gb" not in options.arguments()


def test_robots_stand_and_look_in_the_scene_whose_turn_it_is(folders, tmp_path):
    memory = ScenesCfg(
        memory_gb=130e-6, cache=tmp_path, at_once=2, rotate_every=1
    )  # 12 chunks: 2 scenes and 2 ahead
    env = make_env("velocity", folders, 6, renderer="cpu", seed=3, memory=memory, update_steps=5)
    scenes = [Scene.load(folder) for folder in folders]
    assert env.scene_hashes == hash_scenes(folders) == {s.name: scene_hash(s) for s in scenes}
    truth = SplatRenderer([scene.splats for scene in scenes], 64, 48)
    rig, shown = env.env.camera, Counter()
    for step in range(32):
        obs, _, dones, extras = env.step(torch.zeros(6, 12))
        rig = env.env.camera
        assert [scene.name for scene in env.sim.scenes] == [f"course_{i}" for i in env.rotation.active]
        if step in (5, 10, 15, 20, 25, 30):
            assert int(extras["time_outs"].sum()) >= 3  # all of a slot
            ids = env.rotation.active
            state, fresh = env.sim.state, obs["rgb_new"][:, 0].bool()
            c2w = camera_to_world(state.root_pos_w, state.root_quat_wxyz, rig.pose_b_c)
            scene = torch.tensor(ids)[env.sim.scene_of_env]
            expected = torch.as_tensor(truth.render(c2w, rig.K, scene).rgb).permute(0, 3, 1, 2)
            new = dones.bool() & fresh
            assert int(new.sum()) >= 3
            assert torch.equal(obs["rgb"][new], expected[new])
            assert bool((obs["rgb"][new].float().std(dim=(1, 2, 3)) > 1).any())
            ground = env.sim.terrain.sample(state.root_pos_w[:, None, :2], env.sim.scene_of_env)[:, 0]
            wanted = [
                scenes[int(s)].heightfield.sample(xy) for s, xy in zip(scene, state.root_pos_w[:, :2].numpy())
            ]
            np.testing.assert_allclose(ground.numpy(), wanted, atol=1e-5)
            shown.update(ids)
    assert set(shown) == set(range(NUM_SCENES))
    assert env._renderer._renderer.paging.evictions > 0


def test_robots_see_the_scene_that_they_have_moved_to(folders):
    """All scenes are there, and robots whose episodes end are sent to the last."""
    weights = (*[1e-9] * (NUM_SCENES - 1), 1.0)
    cfg = replace(EnvCfg(), episode_s=0.1)
    env = make_env("velocity", folders, 5, renderer="cpu", cfg=cfg, memory=ScenesCfg(weights=weights), seed=2)
    truth = SplatRenderer([Scene.load(folder).splats for folder in folders], 64, 48)
    moved = 0
    for _ in range(40):
        before = env.sim.scene_of_env.clone()
        with torch.inference_mode():  # as in training
            obs, *_ = env.step(torch.zeros(5, 12))
        here = env.sim.scene_of_env
        changed = (here != before) & obs["rgb_new"][:, 0].bool()
        moved += int(changed.sum())
        if bool(changed.any()):
            rig, state = env.env.camera, env.sim.state
            c2w = camera_to_world(state.root_pos_w, state.root_quat_wxyz, rig.pose_b_c)
            expected = torch.as_tensor(truth.render(c2w, rig.K, here).rgb).permute(0, 3, 1, 2)
            assert torch.equal(obs["rgb"][changed], expected[changed])
    assert moved == NUM_SCENES - 1
    assert env.sim.scene_of_env.tolist() == [NUM_SCENES - 1] * 5


def test_robots_are_drawn_over_the_scene_whose_turn_it_is(folders):
    env = make_env(
        "velocity", folders, 4, renderer="cpu", show_robot=True, memory=ScenesCfg(at_once=2, rotate_every=3)
    )
    for _ in range(8):
        env.step(torch.zeros(4, 12))
    assert env.rotation.state()[0] == 2
    assert slot_renderer(env._renderer)._shown.tolist() == env.rotation.active


def test_levels_of_detail_take_turns_too(folders, tmp_path):
    """Here each is all of its scene's splats, cut into leaves."""
    lod = []
    for folder in folders:
        splats = Scene.load(folder).splats
        starts = np.arange(0, len(splats), 256)
        LodSplats(
            splats.means, splats.quats_wxyz, splats.scales, splats.opacities, splats.sh, np.arange(len(splats)),
            np.diff(starts, append=len(splats)), np.arange(len(starts)) + 1, np.zeros(len(starts)), 0.5,
            {"source": {"sha256": digest(splats)}},
        ).save(tmp_path / folder.name)  # fmt: skip
        lod.append(tmp_path / folder.name)
    images = []
    for memory_gb in (None, 130e-6):
        memory = ScenesCfg(memory_gb, tmp_path / "cache", at_once=2, rotate_every=3)
        env = make_env("velocity", folders, 4, renderer="cpu", lod=lod, memory=memory)
        for _ in range(8):
            obs, *_ = env.step(torch.zeros(4, 12))
        images.append(obs["rgb"])
    assert torch.equal(*images)
    assert images[0].float().std() > 1
    with pytest.raises(InputError, match="made from other splats than those of scene 'course_0'"):
        make_env("velocity", folders, 4, renderer="cpu", lod=lod[1:] + lod[:1], memory=memory)


TINY_NET = NetworkCfg(
    actor_groups=("proprio", "rgb"),
    critic_groups=("proprio", "scan"),
    actor_hidden=(8,),
    critic_hidden=(8,),
    rnn_hidden=8,
    aux_group="scan",
)


def tiny(folders, out, memory, **options):
    recipe = replace(
        get_recipe("pixels"), network=TINY_NET, ppo=PPOCfg(num_envs=4, steps=6, mini_batches=2, epochs=1)
    )
    train(recipe, folders, out, memory=memory, save_iterations=3, **options)
    return load_checkpoint(out)


def kept(checkpoint):
    return checkpoint.state["processes"][0]["curriculum"]


def assert_same(a, b):
    for name in ("actor_state_dict", "critic_state_dict"):
        for key, value in a.state[name].items():
            assert torch.equal(value, b.state[name][key]), key
    assert torch.equal(kept(a)["rotation"], kept(b)["rotation"])
    assert torch.equal(kept(a)["level"], kept(b)["level"])


def test_training_resumes_bit_for_bit_and_does_not_depend_on_memory(folders, tmp_path):
    paged = ScenesCfg(memory_gb=130e-6, cache=tmp_path / "cache", at_once=2, rotate_every=1)
    whole = tiny(folders, tmp_path / "whole", paged, iterations=6)
    assert kept(whole)["rotation"].tolist() == [
        5,
        6,
        0,
        NUM_SCENES,
        2,
    ]  # each update but the first began with one
    tiny(folders, tmp_path / "cut", paged, iterations=3)
    torch.manual_seed(99)
    assert_same(whole, tiny(folders, tmp_path / "cut", paged, iterations=6, resume=True))
    resident = replace(paged, memory_gb=None)
    assert_same(whole, tiny(folders, tmp_path / "resident", resident, iterations=6))
    with pytest.raises(InputError, match="rotates 5 scenes, 2 at once; this run has 4, 2 at once"):
        tiny(folders[:4], tmp_path / "cut", paged, iterations=7, resume=True)


def test_what_does_not_fit_says_so(folders, tmp_path):
    with pytest.raises(InputError, match="6 scenes at once of 5 scenes"):
        make_env("velocity", folders, 8, renderer=None, memory=ScenesCfg(at_once=6))
    with pytest.raises(
        InputError, match=r"3 scenes at once take up to 0.000108 GB of the renderer's memory, found 8e-05 GB"
    ):
        make_env(
            "velocity",
            folders,
            8,
            renderer="cpu",
            memory=ScenesCfg(memory_gb=80e-6, cache=tmp_path, at_once=3),
        )
    with pytest.raises(InputError, match="scene memory of 1 GB for a policy without a camera"):
        make_env("velocity", folders, 8, renderer=None, memory=ScenesCfg(memory_gb=1))
    with pytest.raises(InputError, match="every 0 steps"):
        make_env("velocity", folders, 8, renderer=None, memory=ScenesCfg(at_once=2, rotate_every=0))
