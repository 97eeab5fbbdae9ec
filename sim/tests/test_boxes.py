"""Walls and overhangs as boxes: exact where the mesh is upright, unbiased where it slants, never in anybody's way."""

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene import synthesize
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import KINDS
from gaussgym_sim.ground.boxes import BoxCfg, Boxes, boxes_of
from gaussgym_sim.ground.terrain import Ground, TerrainLookup, add_ground, ground_of
from gaussgym_sim.grounds import straight_path

ROBOT_HEIGHT_M = 0.6


def level(z_m=0.0, *, cell_m=0.1, size_m=(6.0, 4.0)):
    """Known ground from (0, 0) to ``size_m``."""
    heights = np.full((round(size_m[1] / cell_m) + 1, round(size_m[0] / cell_m) + 1), z_m, np.float32)
    return Heightfield(heights, cell_m, np.zeros(2), np.ones_like(heights, bool))


def quads(*corners):
    """Mesh of quads, each four corners anticlockwise seen from the front."""
    vertices = np.array(corners, np.float32).reshape(-1, 3)
    first = 4 * np.arange(len(corners))[:, None]
    faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]])
    return Mesh(vertices, faces.astype(np.int32))


def block(low, high):
    """The six sides of a box, fronts outward."""
    (a, b, c), (d, e, f) = low, high
    return [
        [(a, b, c), (a, e, c), (d, e, c), (d, b, c)], [(a, b, f), (d, b, f), (d, e, f), (a, e, f)],
        [(a, b, c), (d, b, c), (d, b, f), (a, b, f)], [(d, e, c), (a, e, c), (a, e, f), (d, e, f)],
        [(a, e, c), (a, b, c), (a, b, f), (a, e, f)], [(d, b, c), (d, e, c), (d, e, f), (d, b, f)],
    ]  # fmt: skip


def corners(boxes):
    return boxes.centre_m - boxes.half_m, boxes.centre_m + boxes.half_m


def solid(boxes, points):
    """Whether points [..., 3] lie in a box."""
    low, high = corners(boxes)
    points = np.asarray(points, float)[..., None, :]
    return ((points >= low) & (points <= high)).all(-1).any(-1)


def test_a_wall_is_one_box_with_its_face_on_the_mesh():
    """Its front looks along -x at x = 4.123; what lies behind it, above 1.5 m and below the ground is nobody's business."""
    wall = [(4.123, 3.5, -0.3), (4.123, 0.5, -0.3), (4.123, 0.5, 3.0), (4.123, 3.5, 3.0)]
    boxes, note = boxes_of(quads(wall), level())
    assert len(boxes) == 1
    assert note == "1 boxes of 5 cm voxels"
    low, high = (c[0] for c in corners(boxes))
    assert low[0] == pytest.approx(4.123, abs=1e-6)
    assert high[0] == pytest.approx(4.123 + 0.15, abs=1e-6)
    assert (low[1], high[1]) == pytest.approx((0.5, 3.5), abs=1e-6)
    assert low[2] < 0.0
    assert high[2] == pytest.approx(1.5, abs=0.02)


def test_one_can_walk_under_a_table_and_stand_on_it():
    """A top of 3 cm at 0.7 m on four legs of 6 cm."""
    legs = [block((x, y, 0.0), (x + 0.06, y + 0.06, 0.7)) for x in (2.0, 3.14) for y in (1.0, 1.74)]
    boxes, _ = boxes_of(
        quads(*(side for leg in legs for side in leg), *block((1.95, 0.95, 0.7), (3.25, 1.85, 0.73))), level()
    )
    under = np.stack(np.meshgrid([2.2, 2.6, 3.0], [0.5, 1.2, 1.6, 2.4], [0.1, 0.4, 0.65]), -1)
    assert not solid(boxes, under).any()
    assert solid(boxes, [(2.6, 1.4, 0.715), (2.03, 1.03, 0.3), (3.17, 1.77, 0.05), (3.2, 1.0, 0.72)]).all()
    lookup = TerrainLookup([Ground(level(), boxes)], device=torch.device("cpu"))
    down = torch.tensor([[[2.6, 1.4, 2.0], [2.6, 1.4, 0.6], [2.6, 1.4, 0.6]]])
    direction = torch.tensor([[[0, 0, -1.0], [0, 0, 1.0], [0, 0, -1.0]]])
    distance = lookup.raycast(down, direction, torch.zeros(1, dtype=torch.long))[0]
    assert distance.tolist() == pytest.approx([2.0 - 0.73, 0.1, 0.6], abs=1e-5)


@pytest.mark.parametrize("degrees", [3, 20, 45, 70])
def test_walls_aslant_are_not_displaced(degrees):
    """Level rays against boxes and against the mesh: at most a voxel apart, and 4 mm on average."""
    turn = np.radians(degrees)
    a, along = np.array([1.5, 0.2]), np.array([np.cos(turn), np.sin(turn)])
    b = a + 3.5 * along
    mesh = quads([(*a, -0.2), (*b, -0.2), (*b, 2.0), (*a, 2.0)])
    field = level()
    boxes, _ = boxes_of(mesh, field)
    rng = np.random.default_rng(0)
    front = np.array([along[1], -along[0]])
    at = a + rng.uniform(0.2, 3.3, (1000, 1)) * along
    origin = np.column_stack([at + 0.5 * front, rng.uniform(0.1, 1.3, 1000)]).astype(np.float32)
    direction = np.tile([*-front, 0.0], (1000, 1)).astype(np.float32)
    grounds = [Ground(field, boxes), Ground(field, Boxes.none(), mesh)]
    lookup = TerrainLookup(grounds, device=torch.device("cpu"))
    got, want = lookup.raycast(
        torch.from_numpy(np.stack([origin] * 2)), torch.from_numpy(np.stack([direction] * 2)), torch.arange(2)
    ).numpy()
    np.testing.assert_allclose(want, 0.5, atol=1e-5)
    assert np.abs(got - want).max() < 0.05
    assert abs((got - want).mean()) < 0.004


def test_thin_walls_are_not_thicker_than_they_are():
    """Both faces of a wall of 8 cm, which lie in different voxels: nothing sticks out behind."""
    boxes, _ = boxes_of(quads(*block((3.0, 0.5, -0.1), (3.08, 3.5, 2.5))), level())
    low, high = corners(boxes)
    assert low[:, 0].min() == pytest.approx(3.0, abs=1e-6)
    assert high[:, 0].max() == pytest.approx(3.08, abs=1e-6)
    assert solid(
        boxes, np.column_stack([np.full(20, 3.04), np.linspace(0.6, 3.4, 20), np.full(20, 0.7)])
    ).all()


def test_what_the_heightfield_has_is_no_box():
    """A step of 20 cm, with its riser, and the ground itself, in a mesh that wavers by 3 cm."""
    field = level(cell_m=0.05)
    field.height_m[:, 60:] = 0.2
    rng = np.random.default_rng(0)
    tread = [[(x, y, z), (x + 0.1, y, z), (x + 0.1, y + 0.1, z), (x, y + 0.1, z)]
             for x, y, z in zip(rng.uniform(0, 2.8, 300), rng.uniform(0, 3.9, 300), rng.uniform(-0.03, 0.03, 300))]  # fmt: skip
    riser = [(2.975, 4.0, 0.0), (2.975, 0.0, 0.0), (2.975, 0.0, 0.2), (2.975, 4.0, 0.2)]
    top = [(2.975, 0, 0.2), (6.0, 0, 0.2), (6.0, 4, 0.2), (2.975, 4, 0.2)]
    assert len(boxes_of(quads(*tread, riser, top), field)[0]) == 0


def test_low_walls_behind_the_heightfields_own_are_no_boxes():
    """Unknown ground, 1 m higher from x = 4.1 on, and a wall at 4.05 that ends below that or above."""
    field = level()
    field.height_m[:, 41:] = 1.0
    field.known[:, 41:] = False
    for top, count in ((0.9, 0), (1.4, 1)):
        wall = [(4.05, 3.5, -0.3), (4.05, 0.5, -0.3), (4.05, 0.5, top), (4.05, 3.5, top)]
        assert len(boxes_of(quads(wall), field)[0]) == count


def test_a_ball_stops_at_a_wall():
    """In MuJoCo, rolling at 1 m/s against a wall whose front is at x = 4.123: its centre comes to 10 cm before it, within 1 cm."""
    mesh = quads([(4.123, 3.5, -0.3), (4.123, 0.5, -0.3), (4.123, 0.5, 3.0), (4.123, 3.5, 3.0)])
    spec = mujoco.MjSpec()
    spec.option.timestep = 0.005
    add_ground(spec, ground_of(Scene("wall", heightfield=level(), mesh=mesh)))
    body = spec.worldbody.add_body(pos=[3.5, 2.0, 0.1])
    body.add_freejoint()
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.1, 0, 0], contype=1, conaffinity=0)
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qvel[0] = 1.0
    furthest = 0.0
    for _ in range(200):
        mujoco.mj_step(model, data)
        furthest = max(furthest, data.qpos[0])
    assert 4.01 < furthest < 4.03
    assert data.qvel[0] < 0.05


def test_specks_go_and_paths_are_free():
    """Something of 4 cm in the air, and a wall across a path, in which a door opens as wide as people are."""
    speck = block((1.0, 1.0, 0.5), (1.04, 1.04, 0.54))
    wall = block((4.0, 0.5, 0.0), (4.1, 3.5, 2.0))
    x = np.arange(1.0, 5.01, 0.25)
    path = Paths(
        np.stack([x, np.full_like(x, 2.0), 0 * x, 0 * x], axis=1).astype(np.float32),
        np.zeros(len(x), np.int32), np.full(len(x), 0.3, np.float32),
    )  # fmt: skip
    boxes, note = boxes_of(quads(*speck, *wall), level(), path)
    assert "voxels on paths left out" in note
    assert not solid(boxes, [(1.02, 1.02, 0.5), (1.02, 1.02, 0.54), (1.0, 1.02, 0.52)]).any()
    across = np.column_stack([np.full(5, 4.05), 2.0 + np.array([-1.0, -0.2, 0.0, 0.2, 1.0]), np.full(5, 0.5)])
    assert solid(boxes, across).tolist() == [True, False, False, False, True]
    nowhere = Paths(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert solid(boxes_of(quads(*speck, *wall), level(), nowhere)[0], across).all()
    wide = Paths(path.points, path.path_id, np.full(len(x), 0.6, np.float32))
    boxes, _ = boxes_of(quads(*speck, *wall), level(), wide)
    across[:, 1] = 2.0 + np.array([-0.7, -0.5, 0.0, 0.5, 0.7])
    assert solid(boxes, across).tolist() == [True, False, False, False, True]


def test_too_many_boxes_take_coarser_voxels_and_then_say_so():
    rng = np.random.default_rng(0)
    crumbs = [block(c, c + [0.15, 0.15, 0.3]) for c in rng.uniform((0.2, 0.2, 0.3), (5.7, 3.7, 0.9), (60, 3))]
    mesh = quads(*(side for crumb in crumbs for side in crumb))
    fine, _ = boxes_of(mesh, level(), cfg=BoxCfg(max_boxes=10_000))
    coarse, note = boxes_of(mesh, level(), cfg=BoxCfg(max_boxes=len(fine) - 1))
    assert 0 < len(coarse) < len(fine)
    assert note.startswith(f"{len(coarse)} boxes of ")
    assert note.endswith(f"0 cm voxels (5 cm needed more than {len(fine) - 1} boxes)")
    with pytest.raises(InputError, match="of 40 cm voxels, expected at most 2; raise max_boxes"):
        boxes_of(mesh, level(), cfg=BoxCfg(max_boxes=2))


def test_scenes_without_a_mesh_have_none():
    scene = Scene("bare", heightfield=level(), paths=straight_path(4.0))
    assert ground_of(scene).note == "no boxes: the scene has no mesh"
    assert len(ground_of(scene).boxes) == 0
    scene = Scene("walled", heightfield=level(), mesh=quads([(4, 3, 0), (4, 1, 0), (4, 1, 2), (4, 3, 2)]))
    assert len(ground_of(scene, "boxes").boxes) == 1
    assert len(ground_of(scene, "heightfield").boxes) == 0
    with pytest.raises(
        InputError, match="unknown kind of terrain 'voxels'; choose one of: heightfield, boxes, mesh"
    ):
        ground_of(scene, "voxels")


SMALL = {
    "street": {"length_m": 14.0}, "flat": {"length_m": 8.0}, "corridor": {"length_m": 6.0, "length_after_m": 5.0},
    "course": {"levels": 2, "terrain": "stones"},
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(KINDS.own))
def place(request):
    """One small scene of each procedural kind, and its ground."""
    scene = synthesize(request.param, seed=2, max_splats=2000, **SMALL.get(request.param, {}))
    return scene, ground_of(scene)


def test_nothing_stands_on_paths(place):
    """Within the half width of every path, from the ground to a robot's height, on all procedural kinds."""
    scene, ground = place
    paths = scene.paths
    left = np.stack([-np.sin(paths.points[:, 3]), np.cos(paths.points[:, 3])], axis=1)
    lateral = np.linspace(-1, 1, 15)[:, None] * paths.half_width_m[:, None, None]
    xy = paths.points[:, None, :2] + lateral * left[:, None]
    z = ground.heightfield.sample(xy)[..., None] + np.linspace(0.02, ROBOT_HEIGHT_M, 8)
    points = np.concatenate([np.broadcast_to(xy[:, :, None], (*z.shape, 2)), z[..., None]], axis=-1)
    assert not solid(ground.boxes, points.reshape(-1, 3)).any()


def test_walls_stop_rays_where_the_mesh_does(place):
    """Level rays from the paths, 0.9 m above the ground, within 6 m and a robot's height, against all triangles of the mesh."""
    scene, ground = place
    rng = np.random.default_rng(0)
    start = scene.paths.points[rng.integers(0, len(scene.paths), 600)]
    turn = rng.uniform(-np.pi, np.pi, 600)
    origin = (start[:, :3] + [0, 0, 0.9]).astype(np.float32)
    direction = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1).astype(np.float32)
    exact = Ground(ground.heightfield, Boxes.none(), scene.mesh)
    bare = Ground(ground.heightfield, Boxes.none())
    lookup = TerrainLookup([ground, exact, bare], device=torch.device("cpu"))
    got, want, heights = lookup.raycast(
        torch.from_numpy(np.stack([origin] * 3)), torch.from_numpy(np.stack([direction] * 3)), torch.arange(3)
    ).numpy()
    end = origin + np.where(want < 6.0, want, 0.0)[:, None] * direction
    near = (want < 6.0) & (end[:, 2] < ground.heightfield.sample(end[:, :2] - 0.1 * direction[:, :2]) + 1.4)
    # Doors lie back from the end of the known ground, where the heightfield has a wall of its own.
    near &= got < heights - 1e-4
    assert near.mean() > 0.15
    error = np.abs(got - want)[near]
    assert np.median(error) < 0.02
    assert (error < 0.15).mean() > 0.95


def test_the_same_boxes_again():
    scene = synthesize("stairs", seed=2, max_splats=2000)
    first, again = ground_of(scene).boxes, ground_of(scene).boxes
    assert len(first) > 3
    np.testing.assert_array_equal(first.centre_m, again.centre_m)
    np.testing.assert_array_equal(first.half_m, again.half_m)
