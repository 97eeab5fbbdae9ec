"""Cameras whose images stay on the device, rehearsed on Warp's CPU device: the same episodes, and nobody waits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_learn.courses import stairs_course
from gaussgym_learn.env import make_env
from gaussgym_learn.patch_view import PatchRenderer
from gaussgym_learn.rotation import SlotRenderer
from gaussgym_render import SplatRenderer
from gaussgym_render.testing import look_at, pinhole, random_cameras, random_splats
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene
from gaussgym_sim import robot as robots
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.camera import CameraCfg

pytest.importorskip("warp")
torch.set_num_threads(1)


def course(seed, height_m=0.5):
    """Stairs, with splats of any colour about a height."""
    flat = stairs_course((0.0, 0.03), lanes=1, rubble=False, length_m=10.0, seed=seed)
    splats = random_splats(1500, np.random.default_rng(seed), sh_degree=0)
    splats.means[:] += [5.0, 3.0, height_m]
    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32), None)
    return Scene(
        f"course {seed}",
        splats,
        mesh,
        flat.heightfield,
        flat.paths,
        {"path_level": flat.metadata["path_level"]},
    )


@pytest.mark.parametrize("camera_model", ["ideal", "robot"])
def test_in_place_and_chosen_rows_give_the_same_images(camera_model):
    """A robot's camera moves, has a lens and noise by its own number; frames come at 10 Hz, apart in each env."""
    scenes = [course(seed) for seed in range(2)]
    cfg = replace(EnvCfg(), camera=CameraCfg(width=24, height=16))
    envs = [
        make_env("velocity", scenes, 4, cfg=cfg, renderer="warp-cpu", camera_model=camera_model, seed=1)
        for _ in range(2)
    ]
    assert all(env.env.camera._in_place for env in envs)
    envs[1].env.camera._in_place = False
    generator, seen = torch.Generator().manual_seed(2), 0
    for _ in range(12):
        action = torch.randn(4, 12, generator=generator)
        (in_place, *_), (chosen, *_) = (env.step(action) for env in envs)
        assert torch.equal(in_place["rgb"], chosen["rgb"])
        assert torch.equal(in_place["rgb_new"], chosen["rgb_new"])
        seen += int(in_place["rgb_new"].sum())
    assert 4 < seen < 48
    assert in_place["rgb"].float().std() > 5


@pytest.fixture
def looks_down(monkeypatch):
    """A Go1 whose camera looks down at its feet; the real tilt shows them in no usual pose."""
    robot = replace(get_robot("go1"), name="go1_down", camera_tilt_rad=1.4)
    monkeypatch.setitem(robots.ROBOTS.own, "go1_down", lambda: robot)
    robots.get_robot.cache_clear()
    yield "go1_down"
    robots.get_robot.cache_clear()


@pytest.mark.parametrize("camera_model", ["ideal", "robot"])
def test_robots_are_drawn_on_the_device(looks_down, camera_model):
    """As the processor's backend draws them."""
    cfg = replace(EnvCfg(), camera=CameraCfg(width=24, height=16))
    options = {"cfg": cfg, "seed": 1, "robot": looks_down, "camera_model": camera_model}
    bodies, below = {"show_robot": True, "show_others": 1}, course(0, height_m=-6.0)
    envs = [
        make_env("velocity", below, 4, renderer=name, **bodies, **options) for name in ("warp-cpu", "cpu")
    ]
    envs.append(make_env("velocity", below, 4, renderer="cpu", **options))
    generator, covered = torch.Generator().manual_seed(2), 0
    for _ in range(6):
        action = torch.randn(4, 12, generator=generator)
        ours, theirs, bare = (env.step(action)[0]["rgb"].int() for env in envs)
        difference = (ours - theirs).abs()
        assert (difference > 2).float().mean() < 2e-3  # an object's edge may go to the neighbouring pixel
        covered += int(((theirs - bare).abs() > 20).sum())
    assert covered > 300  # of which an error would be seen: the tolerance above allows 55


def test_patches_are_painted_on_the_device():
    """As the processor's backend paints them; those that are not there have no inside."""
    rng = np.random.default_rng(3)
    scenes = [random_splats(3000, rng, sh_degree=1, size_m=(2.0, 2.0, 0.05))]
    eyes = rng.normal(size=(5, 3)) + [0.0, 0.0, 3.0]
    c2w = torch.as_tensor(np.stack([look_at(eye, rng.normal(size=3) * 0.2, (0.3, 1.0, 0.0)) for eye in eyes]))
    batch = c2w, torch.as_tensor(np.tile(pinhole(24, 16), (5, 1, 1))), torch.zeros(5, dtype=torch.long)
    ours, theirs = (
        PatchRenderer(SplatRenderer(scenes, 24, 16, backend=name)) for name in ("warp-cpu", "cpu")
    )
    assert ours.stays_on(torch.device("cpu"))
    assert not theirs.stays_on(torch.device("cpu"))
    where = torch.as_tensor(rng.normal(size=(5, 3, 3)) * [0.4, 0.4, 0.02])
    half = torch.tensor(
        [[0.8, -1.0, 0.5], [-1.0, -1.0, -1.0], [0.6, 0.6, 0.6], [-1.0, 0.9, -1.0], [1.5, -1.0, -1.0]]
    )
    given = {"patch_pos_w": where, "patch_half_m": half, "patch_rgb": torch.as_tensor(rng.random((5, 3, 3)))}
    a, b = (renderer.render(*batch, **given).rgb.int() for renderer in (ours, theirs))
    assert (a - b).abs().max() <= 1
    bare = SplatRenderer(scenes, 24, 16, backend="warp-cpu").render(*batch).rgb.int()
    changed = (a - bare).abs().amax(dim=(1, 2, 3))
    assert changed[1] == 0
    assert (changed[[0, 2, 3, 4]] > 20).all()


def test_slots_are_looked_up_once(tmp_path):
    """A renderer whose scenes take turns is given the same tensor until a slot or the slots of cameras change."""
    rng = np.random.default_rng(0)
    scenes = [random_splats(200, rng, sh_degree=0) for _ in range(4)]
    whole = SplatRenderer(scenes, 24, 16)
    paged = SplatRenderer(scenes, 24, 16, backend="warp-cpu", memory_budget_bytes=30_000, cache_dir=tmp_path)
    slots = SlotRenderer(paged, [3, 1, 0, 2], [0, 1])
    assert slots.stays_on(torch.device("cpu"))
    assert not SlotRenderer(whole, [0], [0]).stays_on(torch.device("cpu"))
    c2w = torch.as_tensor(random_cameras(3, rng))
    ks, ids = torch.as_tensor(np.tile(pinhole(24, 16), (3, 1, 1))), torch.tensor([0, 1, 1])

    def shows(scenes):
        expected = whole.render(c2w, ks, torch.tensor(scenes)).rgb.int()
        assert (slots.render(c2w, ks, ids).rgb.int() - expected).abs().max() <= 1

    calls = paged.rasterizer.paged
    shows([3, 1, 1])
    looked = calls._looked_at
    shows([3, 1, 1])
    assert calls._looked_at is looked
    slots.show(1, 2)
    shows([3, 0, 0])
    ids[2] = 0
    shows([3, 0, 3])
    assert calls._looked_at[2] == [0, 3]
    looked = calls._looked_at
    with torch.inference_mode():  # as in training: nobody counts writes to what is made here
        shows([3, 0, 3])
        assert calls._looked_at is looked
        slots.show(0, 1)
        shows([1, 0, 1])
        ids = ids.clone()
        shows([1, 0, 1])
        ids[0] = 1
        shows([0, 0, 1])
