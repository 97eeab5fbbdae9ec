"""Cameras shared out between renderers: the same images as one renderer's."""

import numpy as np
import pytest
import torch
from gaussgym_render import Frames, RobotCameraCfg, SplatRenderer, make_robot_camera
from gaussgym_render.sharded import ShardedRenderer, plan_shards, shard_splats
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene import InputError

WIDTH, HEIGHT, COUNT = 24, 16, 9
NAMES = ("rgb", "depth", "alpha")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [random_splats(n, rng, sh_degree=1) for n in (300, 200, 400, 100)]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    ids = np.array([3, 0, 1, 1, 3, 0, 1, 3, 3])  # nobody is in scene 2
    return random_cameras(COUNT, rng), np.tile(pinhole(WIDTH, HEIGHT), (COUNT, 1, 1)), ids


def assert_same(a, b):
    for name in NAMES:
        np.testing.assert_array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name)), name)


def test_a_hand_computed_plan():
    """Nine cameras, two devices: 0 0 1 1 1 on one, 3 3 3 3 on the other; on four, scenes 1 and 3 are cut."""
    ids = [3, 0, 1, 1, 3, 0, 1, 3, 3]
    two = plan_shards(ids, 2)
    assert [shard.cameras.tolist() for shard in two] == [[1, 2, 3, 5, 6], [0, 4, 7, 8]]
    assert [shard.scenes.tolist() for shard in two] == [[0, 1], [3]]
    four = plan_shards(ids, 4)
    assert [len(shard.cameras) for shard in four] == [3, 2, 2, 2]
    assert [shard.scenes.tolist() for shard in four] == [[0, 1], [1], [3], [3]]
    assert len(plan_shards([0, 0], 8)) == 2


def test_plans_are_balanced_and_whole():
    rng = np.random.default_rng(2)
    for _ in range(50):
        ids, devices = rng.integers(0, 20, rng.integers(1, 200)), int(rng.integers(1, 9))
        shards = plan_shards(ids, devices)
        assert sorted(c for shard in shards for c in shard.cameras.tolist()) == list(range(len(ids)))
        sizes = [len(shard.cameras) for shard in shards]
        assert max(sizes) - min(sizes) <= 1
        assert all(set(ids[shard.cameras]) == set(shard.scenes) for shard in shards)
        held = sum(len(shard.scenes) for shard in shards)
        assert held <= len(np.unique(ids)) + len(shards) - 1  # each cut copies one scene at most


@pytest.mark.parametrize("devices", [1, 2, 3, 20])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_images_are_those_of_one_renderer(scenes, batch, devices, kind):
    sharded = shard_splats(scenes, batch[2], WIDTH, HEIGHT, devices=["cpu"] * devices)
    whole = SplatRenderer(scenes, WIDTH, HEIGHT)
    given = [kind(a) for a in batch]
    frames = sharded.render(*given)
    assert isinstance(frames.rgb, torch.Tensor) == (kind is torch.as_tensor)
    assert_same(frames, whole.render(*batch))
    # Cameras that are left out keep what they have, whatever they showed before.
    mask = np.random.default_rng(3).random(COUNT) < 0.5
    out = Frames(
        *(
            kind(np.full(np.shape(getattr(frames, name)), 7, np.asarray(getattr(frames, name)).dtype))
            for name in NAMES
        )
    )
    moved = (kind(np.roll(batch[0], 1, axis=0)), *given[1:])
    assert sharded.render(*moved, mask=kind(mask), out=out) is out
    expected = whole.render(np.roll(batch[0], 1, axis=0), *batch[1:], mask=mask)
    for name in NAMES:
        np.testing.assert_array_equal(np.asarray(getattr(out, name))[mask], getattr(expected, name)[mask])
        assert (np.asarray(getattr(out, name))[~mask] == 7).all()


def test_a_camera_is_the_same_camera_on_any_device(scenes, batch):
    """Noise and lens follow from a camera's id, which by default is its place among all."""
    size = pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, RobotCameraCfg.typical()
    sharded = ShardedRenderer(
        scenes, batch[2], ["cpu", "cpu"], lambda own, _: make_robot_camera(own, *size, seed=5)
    )
    whole = make_robot_camera(scenes, *size, seed=5)
    assert sharded.takes_motion
    twist = np.random.default_rng(4).normal(size=(COUNT, 6))
    for _ in range(2):
        assert_same(sharded.render(*batch, twist_c=twist), whole.render(*batch, twist_c=twist))


def test_shards_stay_where_they_are(scenes, batch):
    sharded = shard_splats(scenes, batch[2], WIDTH, HEIGHT, devices=["cpu"] * 2)
    first = sharded.render_shards(*batch)
    again = sharded.render_shards(*batch)
    assert [a is b for a, b in zip(first, again)] == [True, True]  # the same memory
    whole = SplatRenderer(scenes, WIDTH, HEIGHT).render(*batch)
    for shard, part in zip(sharded.shards, again):
        np.testing.assert_array_equal(np.asarray(part.rgb), whole.rgb[shard.cameras])


def test_a_camera_may_move_to_another_scene_of_its_device(scenes, batch):
    sharded = shard_splats(scenes, batch[2], WIDTH, HEIGHT, devices=["cpu"] * 2)
    ids = batch[2].copy()
    ids[1] = 1
    assert_same(sharded.render(*batch[:2], ids), SplatRenderer(scenes, WIDTH, HEIGHT).render(*batch[:2], ids))
    ids[2] = 3
    with pytest.raises(InputError, match=r"camera 2: scene 3 is not on its device, which holds \[0, 1\]"):
        sharded.render(*batch[:2], ids)
    with pytest.raises(InputError, match="scene_ids is out of range"):
        sharded.render(*(torch.as_tensor(a) for a in (*batch[:2], ids)))


@pytest.mark.parametrize(
    "devices",
    [
        pytest.param(["cpu", "cpu"], id="cpu"),
        pytest.param(
            ["cuda:0", "cuda:1"],
            id="two gpus",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices"),
            ],
        ),
    ],
)
def test_a_renderer_a_device(scenes, batch, devices):
    """The backend of GPUs, once for each device: on two instances of Warp's CPU device, or on two GPUs."""
    backend = "warp-cpu" if devices[0] == "cpu" else "cuda"
    size = pinhole(WIDTH, HEIGHT), WIDTH, HEIGHT, RobotCameraCfg.typical()
    sharded = ShardedRenderer(
        scenes,
        batch[2],
        devices,
        lambda own, at: make_robot_camera(own, *size, seed=5, backend=backend, device=at),
    )
    whole = make_robot_camera(scenes, *size, seed=5, backend=backend, device=devices[0])
    given = [torch.as_tensor(a, device=devices[0]) for a in batch]
    for _ in range(2):
        ours, expected = sharded.render(*given), whole.render(*given)
        for name in NAMES:
            assert torch.equal(getattr(ours, name), getattr(expected, name)), name
    assert [str(part.rgb.device) for part in sharded.render_shards(*given)] == devices


def test_bad_arguments(scenes, batch):
    with pytest.raises(InputError, match="expected integers"):
        plan_shards([0.5], 2)
    with pytest.raises(InputError, match="found 0 devices"):
        plan_shards([0], 0)
    with pytest.raises(InputError, match="scene_of_camera is out of range, expected 0 to 3"):
        shard_splats(scenes, [0, 4], WIDTH, HEIGHT, devices=["cpu"])
    sharded = shard_splats(scenes, batch[2], WIDTH, HEIGHT, devices=["cpu"] * 2)
    with pytest.raises(InputError, match=r"c2w is \(3, 4, 4\), expected a row for each of 9 cameras"):
        sharded.render(batch[0][:3], *batch[1:])
    with pytest.raises(InputError, match=r"edits is str, expected a row"):
        sharded.render(*batch, edits="none")
