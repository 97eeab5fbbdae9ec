import weakref

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.scene import Scene
from gaussgym_sim.engines.mujoco_model import build_model
from gaussgym_sim.ground.terrain import TerrainLookup, ground_of, is_flat, physics_heightfield
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.observations import ObservationCfg, Observations
from gaussgym_sim.testing import flat_scene, heights_scene, wavy_scene

CPU = torch.device("cpu")


def test_flat_becomes_a_plane_at_its_height():
    model = build_model(get_robot("go1"), ground_of(flat_scene(z_m=-0.75)))
    assert model.nhfield == 0
    assert model.geom("terrain").type == mujoco.mjtGeom.mjGEOM_PLANE
    assert model.geom("terrain").pos[2] == pytest.approx(-0.75)


def test_rays_hit_the_heightfield_where_it_is():
    """MuJoCo's own ray caster against `Heightfield.sample`: normalisation, row order, origin, size."""
    scene = wavy_scene()
    model = build_model(get_robot("go1"), ground_of(scene))
    data = mujoco.MjData(model)
    data.qpos[2] = 50.0
    mujoco.mj_forward(model, data)
    field = scene.heightfield
    rng = np.random.default_rng(0)
    ny, nx = field.height_m.shape
    geom = np.zeros(1, np.int32)
    for _ in range(40):
        i, j = rng.integers(1, nx - 1), rng.integers(1, ny - 1)
        x, y = field.origin_xy_m + field.cell_m * np.array(
            [i + 0.3, j + 0.6]
        )  # on an edge a ray may slip through
        distance = mujoco.mj_ray(
            model, data, np.array([x, y, 10.0]), np.array([0.0, 0, -1]), None, 1, 1, geom
        )
        assert model.geom(int(geom[0])).name == "terrain"
        assert 10.0 - distance == pytest.approx(float(field.sample([x, y])), abs=1e-3)


def test_ground_never_overrides_the_robots_friction():
    for scene in (flat_scene(), wavy_scene()):
        model = build_model(get_robot("go1"), ground_of(scene))
        assert model.geom("terrain").priority[0] < model.geom("FR_foot").priority[0]


def test_fine_grids_are_resampled_and_coarse_ones_kept():
    fine = heights_scene(lambda x, y: 0.3 * x - 0.2 * y, cell_m=0.02)
    field = physics_heightfield(fine)
    assert field.cell_m == 0.05
    assert field.size_m == pytest.approx(fine.heightfield.size_m)
    xy = np.random.default_rng(1).uniform((-5.9, -1.9), (5.9, 2.9), (100, 2))
    np.testing.assert_allclose(field.sample(xy), fine.heightfield.sample(xy), atol=1e-5)
    coarse = heights_scene(lambda x, y: 0.3 * x, cell_m=0.1)
    assert physics_heightfield(coarse) is coarse.heightfield


def test_flatness():
    heights = np.zeros((3, 3), np.float32)
    known = np.ones((3, 3), bool)
    assert is_flat(Heightfield(heights, 0.1, np.zeros(2), known))
    heights = heights.copy()
    heights[1, 1] = 0.001
    assert not is_flat(Heightfield(heights, 0.1, np.zeros(2), known))


def test_heights_that_are_not_finite_are_refused():
    scene = wavy_scene()
    scene.heightfield.height_m[3, 4] = np.nan
    with pytest.raises(InputError, match="1 heights are not finite"):
        physics_heightfield(scene)


def test_scan_by_hand():
    """A robot at (1, 0.5) facing +y sees, 0.8 m ahead and 0.4 m to its left, the ground at (0.6, 1.3)."""
    scene = heights_scene(lambda x, y: 0.1 * x + 0.5 * y)
    lookup = TerrainLookup([scene.heightfield], device=CPU)
    obs = Observations(get_robot("go1"), ObservationCfg(), device=CPU, generator=torch.Generator())
    ground = obs.scan_ground(
        torch.tensor([[1.0, 0.5, 9.0]]),
        torch.tensor([torch.pi / 2]),
        lookup,
        torch.zeros(1, dtype=torch.long),
    )
    assert ground.shape == (1, 63)
    assert obs.grid_b[-1].tolist() == pytest.approx([0.8, 0.4])
    assert float(ground[0, -1]) == pytest.approx(0.1 * 0.6 + 0.5 * 1.3, abs=1e-5)
    seen = obs.scan(torch.tensor([[0.0, 0.0, float(ground[0, -1]) + 0.28 + 0.1]]), ground, noisy=False)
    assert float(seen[0, -1]) == pytest.approx(4 * 0.1, abs=1e-5)
    assert float(obs.scan(torch.tensor([[0.0, 0.0, 9.0]]), ground, noisy=False).max()) == pytest.approx(
        2.0
    )  # clipped at 0.5 m


def test_scan_equals_heightfield_sample_at_any_pose():
    scenes = [
        wavy_scene(),
        heights_scene(lambda x, y: np.sin(3 * x) * np.cos(2 * y), origin_xy_m=(1.0, 2.0), size_m=(3.0, 7.0)),
    ]
    lookup = TerrainLookup([s.heightfield for s in scenes], device=CPU)
    obs = Observations(get_robot("go1"), ObservationCfg(), device=CPU, generator=torch.Generator())
    rng = np.random.default_rng(2)
    pos = rng.uniform(-3, 8, (20, 3)).astype(np.float32)
    yaw = rng.uniform(-4, 4, 20).astype(np.float32)
    ids = rng.integers(0, 2, 20)
    got = obs.scan_ground(torch.from_numpy(pos), torch.from_numpy(yaw), lookup, torch.from_numpy(ids)).numpy()
    for e in range(20):
        turn = np.array([[np.cos(yaw[e]), -np.sin(yaw[e])], [np.sin(yaw[e]), np.cos(yaw[e])]])
        xy = obs.grid_b.numpy() @ turn.T + pos[e, :2]
        np.testing.assert_allclose(got[e], scenes[ids[e]].heightfield.sample(xy), atol=5e-6)


def test_outside():
    scene = heights_scene(lambda x, y: 0.1 * x, origin_xy_m=(0.0, 0.0), size_m=(4.0, 2.0))
    lookup = TerrainLookup([scene.heightfield, flat_scene().heightfield], device=CPU)
    xy = torch.tensor([[2.0, 1.0], [0.1, 1.0], [3.95, 1.0], [2.0, 1.95], [2.0, -1.0], [99.0, 99.0]])
    ids = torch.tensor([0, 0, 0, 0, 0, 1])
    assert lookup.outside(xy, ids, margin_m=0.15).tolist() == [False, True, True, True, True, False]


def test_scene_without_heightfield():
    with pytest.raises(InputError, match="heightfield"):
        physics_heightfield(Scene("empty"))


def test_a_scenes_ground_is_found_once_and_goes_with_it():
    scene = flat_scene()
    ground = ground_of(scene)
    assert ground_of(scene) is ground
    assert ground_of(scene, "heightfield") is not ground
    assert ground_of(flat_scene()) is not ground
    known = weakref.ref(scene)
    del scene
    assert known() is None


def test_grid_kernel_equals_the_tensor_code():
    lookup = TerrainLookup([ground_of(wavy_scene()), ground_of(flat_scene(z_m=0.5))], device=CPU)
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randint(2, (64,), generator=generator)
    xy, yaw = 8 * torch.randn(64, 2, generator=generator), 6 * torch.rand(64, generator=generator)
    grid = torch.randn(2, 40, generator=generator)
    found = lookup.sample_grid(xy, yaw, grid, scenes)
    assert torch.allclose(found, lookup._sample_grid_by_tensors(xy, yaw, grid, scenes), atol=2e-5)
    assert found.std() > 0.1
