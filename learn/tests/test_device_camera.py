"""Cameras whose images stay on the device, rehearsed on Warp's CPU device: the same episodes, and nobody waits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_learn.courses import stairs_course
from gaussgym_learn.env import make_env
from gaussgym_learn.rotation import SlotRenderer
from gaussgym_render import SplatRenderer
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.sensors.camera import CameraCfg

pytest.importorskip("warp")
torch.set_num_threads(1)


def course(seed):
    """Stairs, with splats of any colour about them."""
    flat = stairs_course((0.0, 0.03), lanes=1, rubble=False, length_m=10.0, seed=seed)
    splats = random_splats(1500, np.random.default_rng(seed), sh_degree=0)
    splats.means[:] += [5.0, 3.0, 0.5]
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
