"""Rays: by hand, against MuJoCo's own, and against a slow loop over all triangles."""

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_sim.ground.boxes import Boxes
from gaussgym_sim.ground.terrain import Ground, TerrainLookup, add_ground

CPU = torch.device("cpu")


def field(heights, *, cell_m=0.1, origin=(-1.0, 0.5)):
    heights = np.asarray(heights, np.float32)
    return Heightfield(heights, cell_m, np.array(origin), np.ones(heights.shape, bool))


def rough(rng, *, shape=(61, 83), step_m=0.3):
    """Blocks and noise: walls of one cell, no symmetry."""
    blocks = np.kron(rng.uniform(0, step_m, (13, 17)), np.ones((5, 5)))[: shape[0], : shape[1]]
    return field(blocks + 0.02 * rng.normal(size=blocks.shape), origin=(-3.0, 1.0))


def some_boxes(rng, low, high, count=25):
    half = rng.uniform(0.03, 0.4, (count, 3))
    return Boxes(rng.uniform(low, high, (count, 3)), half)


def cast(ground, origin, direction):
    """Distances [N] of rays [N, 3]."""
    lookup = TerrainLookup([ground], device=CPU)
    return lookup.raycast(
        torch.tensor(origin, dtype=torch.float32)[None],
        torch.tensor(direction, dtype=torch.float32)[None],
        torch.zeros(1, dtype=torch.long),
    )[0].numpy()


def unit(rng, count):
    direction = rng.normal(size=(count, 3))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True)


def mujoco_distances(ground, origin, direction):
    spec = mujoco.MjSpec()
    add_ground(spec, ground)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    geom = np.zeros(1, np.int32)
    out = [mujoco.mj_ray(model, data, o, d, None, 1, -1, geom) for o, d in zip(origin, direction)]
    return np.where(np.array(out) < 0, np.inf, out)


def test_by_hand():
    """A cell split along the diagonal from (0, 0) to (1, 1): the corner (1, 1) lifts both triangles, (1, 0) one of them."""
    ground = Ground(field([[0, 0], [0, 1]], cell_m=1.0, origin=(0.0, 0.0)), Boxes.none())
    down = [[0.5, 0.5, 3.0], [0.75, 0.25, 3.0], [0.25, 0.75, 3.0], [1.5, 0.5, 3.0]]
    assert cast(ground, down, [[0, 0, -1]] * 4).tolist() == pytest.approx([2.5, 2.75, 2.75, np.inf])
    ground = Ground(field([[0, 1], [0, 0]], cell_m=1.0, origin=(0.0, 0.0)), Boxes.none())
    assert cast(ground, down[:3], [[0, 0, -1]] * 3).tolist() == pytest.approx([3.0, 2.5, 3.0])
    # Level, from below, and along the surface's fall.
    assert cast(ground, [[0.0, 0.25, 0.25]], [[1.0, 0, 0]]).tolist() == pytest.approx([0.5])
    assert cast(ground, [[0.75, 0.25, -1.0]], [[0, 0, 1.0]]).tolist() == pytest.approx([1.5])


def test_plane_has_no_border_and_boxes_stand_on_it():
    flat = field(np.full((3, 3), 0.25))
    box = Boxes(np.array([[50.0, 0.0, 1.25]]), np.array([[1.0, 2.0, 0.5]]))
    ground = Ground(flat, box)
    origin = [[0, 0, 1.25], [0, 0, 1.25], [900.0, -900, 1.25], [50.0, 0, 1.25], [50.0, 0, 9.0], [0, 0, 0.1]]
    direction = [[1, 0, 0], [-1, 0, 0], [0, 0, -1], [0, 1, 0], [0, 0, -1], [0, 0, -1]]
    got = cast(ground, origin, direction).tolist()
    assert got == pytest.approx([49.0, np.inf, 1.0, 2.0, 7.25, np.inf])


@pytest.mark.parametrize("seed", range(4))
def test_equals_mujocos_rays(seed):
    """Random rays into blocks with boxes standing about, half of the grounds planes."""
    rng = np.random.default_rng(seed)
    heights = rough(rng) if seed % 2 == 0 else field(np.full((61, 83), -0.3), origin=(-3.0, 1.0))
    ground = Ground(heights, some_boxes(rng, (-3, 1, -0.5), (5, 7, 1.2)))
    origin = rng.uniform((-2.9, 1.1, 0.4), (5.1, 6.9, 2.5), (4000, 3))
    direction = unit(rng, 4000)
    direction[:400] = [0, 0, -1]
    direction[400:600] = np.eye(3)[rng.integers(0, 2, 200)]
    origin, direction = origin.astype(np.float32), direction.astype(np.float32)
    got, want = (
        cast(ground, origin, direction),
        mujoco_distances(ground, origin.astype(float), direction.astype(float)),
    )
    hit = np.isfinite(want)
    assert hit.mean() > 0.3
    np.testing.assert_array_equal(np.isfinite(got), hit)
    np.testing.assert_allclose(got[hit], want[hit], atol=1e-5)


def test_triangles_equal_a_loop_over_all_of_them():
    rng = np.random.default_rng(5)
    corners = rng.uniform(-2, 2, (300, 1, 3)) + rng.uniform(-0.4, 0.4, (300, 3, 3))
    mesh = Mesh(corners.reshape(-1, 3).astype(np.float32), np.arange(900, dtype=np.int32).reshape(-1, 3))
    ground = Ground(field(np.zeros((9, 9))), Boxes.none(), mesh)
    origin = rng.uniform(-3, 3, (1500, 3)).astype(np.float32)
    direction = unit(rng, 1500).astype(np.float32)
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(float), 1, 0)
    want = np.full(1500, np.inf)
    for n in range(1500):
        system = np.stack([b - a, c - a, np.broadcast_to(-direction[n].astype(float), a.shape)], axis=2)
        u, v, t = np.linalg.solve(system, (origin[n] - a)[..., None])[..., 0].T
        inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0)
        want[n] = t[inside].min(initial=np.inf)
    got = cast(ground, origin, direction)
    assert np.isfinite(want).mean() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_nothing_slips_through_edges():
    """Rays aimed at grid points, edges and diagonals from straight above and aslant all meet the ground."""
    rng = np.random.default_rng(6)
    heights = rough(rng)
    at = heights.grid_xy()[1:-1, 1:-1].reshape(-1, 2)
    z = heights.height_m[1:-1, 1:-1].reshape(-1)
    target = np.column_stack([at, z])
    for shift in ((0, 0), (0.05, 0), (0, 0.05), (0.05, 0.05)):
        aim = target + [*shift, 0]
        origin = np.concatenate([aim + [0, 0, 4], aim + [0.01, -0.02, 4.0]])
        direction = np.concatenate([aim, aim]) - origin
        distance = cast(
            Ground(heights, Boxes.none()), origin, direction / np.linalg.norm(direction, axis=1)[:, None]
        )
        assert np.isfinite(distance).all()


def test_scenes_are_apart_and_replaced_ones_are_as_fresh_ones():
    rng = np.random.default_rng(7)
    grounds = [
        Ground(rough(rng), some_boxes(rng, (-3, 1, 0), (5, 7, 1))),
        Ground(field(np.zeros((4, 4))), Boxes.none()),
    ]
    grounds.append(Ground(rough(rng, step_m=0.6), Boxes.none()))
    origin = torch.from_numpy(rng.uniform((-2, 2, 0.8), (4, 6, 2), (30, 20, 3)).astype(np.float32))
    direction = torch.from_numpy(unit(rng, 600).reshape(30, 20, 3).astype(np.float32))
    ids = torch.arange(30) % 3
    lookup = TerrainLookup(grounds, device=CPU)

    def check():
        got = lookup.raycast(origin, direction, ids)
        for e in range(30):
            alone = cast(grounds[int(ids[e])], origin[e].numpy(), direction[e].numpy())
            np.testing.assert_array_equal(got[e].numpy(), alone)

    check()
    for index in (1, 0):
        grounds[index] = Ground(rough(rng, step_m=0.1), some_boxes(rng, (-3, 1, 0), (5, 7, 1), count=3))
        lookup.replace(index, grounds[index])
        check()


@pytest.mark.slow
def test_warp_meshes_equal_the_cpus_rays():
    """The kernel for CUDA devices, on Warp's CPU device: heightfields, planes, boxes, triangles, a ground replaced."""
    pytest.importorskip("warp")
    from gaussgym_sim.ground.raycast import RayCaster
    from gaussgym_sim.ground.raycast_warp import WarpRayCaster

    rng = np.random.default_rng(8)
    corners = rng.uniform((-2, 1, 0), (4, 6, 1), (200, 1, 3)) + rng.uniform(-0.4, 0.4, (200, 3, 3))
    mesh = Mesh(corners.reshape(-1, 3).astype(np.float32), np.arange(600, dtype=np.int32).reshape(-1, 3))
    grounds = [
        Ground(rough(rng), some_boxes(rng, (-3, 1, 0), (5, 7, 1))),
        Ground(field(np.zeros((4, 4))), some_boxes(rng, (-3, 1, 0), (5, 7, 1))),
        Ground(field(np.zeros((4, 4))), Boxes.none()),
        Ground(field(np.zeros((4, 4))), Boxes.none(), mesh),
    ]
    origin = torch.from_numpy(rng.uniform((-2, 2, 0.5), (4, 6, 2), (400, 10, 3)).astype(np.float32))
    direction = torch.from_numpy(unit(rng, 4000).reshape(400, 10, 3).astype(np.float32))
    ids = torch.arange(400) % 4
    slow, fast = RayCaster(grounds), WarpRayCaster(grounds, CPU)
    for replaced in (None, 1, 3):
        if replaced is not None:
            grounds[replaced] = Ground(rough(rng, step_m=0.6), some_boxes(rng, (-3, 1, 0), (5, 7, 1)))
            slow.replace(replaced, grounds[replaced])
            fast.replace(replaced, grounds[replaced])
        want, got = torch.empty(400, 10), torch.empty(400, 10)
        slow.cast(origin.numpy(), direction.numpy(), ids.numpy(), want.numpy())
        fast.cast(origin, direction, ids, got)
        hit = torch.isfinite(want)
        assert 0.2 < hit.float().mean() < 0.9
        # float32 decides otherwise for rays that graze an edge.
        assert (torch.isfinite(got) == hit).float().mean() > 0.998
        both = hit & torch.isfinite(got)
        close = (got[both] - want[both]).abs() < 1e-4
        assert close.float().mean() > 0.998
