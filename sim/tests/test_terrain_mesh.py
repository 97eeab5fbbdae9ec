"""Exact triangles: things rest on the mesh itself, in valleys, on edges, on and under tables."""

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene
from gaussgym_sim.ground.boxes import Boxes
from gaussgym_sim.ground.terrain import Ground, TerrainLookup, add_ground, ground_of
from gaussgym_sim.ground.triangles import MeshCfg, clustered, ground_mesh, shifted_back
from gaussgym_sim.grounds import place
from gaussgym_sim.vecsim import make_sim

BALL_M = 0.05


def level(*, size_m=(6.0, 4.0)):
    heights = np.zeros((round(size_m[1] / 0.1) + 1, round(size_m[0] / 0.1) + 1), np.float32)
    return Heightfield(heights, 0.1, np.zeros(2), np.ones_like(heights, bool))


def mesh_of(vertices, faces):
    return Mesh(np.array(vertices, np.float32), np.array(faces, np.int32))


def block(low, high):
    """Closed box, fronts outward, eight shared vertices."""
    (a, b, c), (d, e, f) = low, high
    vertices = [(x, y, z) for z in (c, f) for y in (b, e) for x in (a, d)]
    faces = [[0, 2, 3], [0, 3, 1], [4, 5, 7], [4, 7, 6], [0, 1, 5], [0, 5, 4]]
    return mesh_of(vertices, [*faces, [3, 2, 6], [3, 6, 7], [2, 0, 4], [2, 4, 6], [1, 3, 7], [1, 7, 5]])


def joined(*meshes):
    first = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    faces = [m.faces + n for m, n in zip(meshes, first, strict=False)]
    return Mesh(np.concatenate([m.vertices for m in meshes]), np.concatenate(faces).astype(np.int32))


def balls_on(mesh, xy, *, z_m):
    """Balls at points [N, 2] and a height, each alone on the ground and free to move up and down."""
    spec = mujoco.MjSpec()
    spec.option.timestep = 0.005
    add_ground(spec, Ground(level(), Boxes.none(), mesh))
    for x, y in xy:
        body = spec.worldbody.add_body(pos=[x, y, z_m])
        body.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, 1], damping=3.0)
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[BALL_M, 0, 0], contype=1, conaffinity=0, mass=0.1
        )
    model = spec.compile()
    return model, mujoco.MjData(model)


def rest_height(mesh, xy, *, z_m, seconds=1.5):
    """Where the centres of falling balls end."""
    model, data = balls_on(mesh, xy, z_m=z_m)
    for _ in range(round(seconds / 0.005)):
        mujoco.mj_step(model, data)
    return z_m + data.qpos


def contacts(mesh, xy, *, z_m):
    """How many contacts a ball has there."""
    model, data = balls_on(mesh, [xy], z_m=z_m)
    mujoco.mj_forward(model, data)
    return data.ncon


def test_a_ball_rests_in_a_concave_valley():
    """Two planes at 45 degrees: the centre is sqrt(2) radii above the bottom, where a convex hull would hold it up at 1 m."""
    valley = mesh_of(
        [(1, 0, 1), (2, 0, 0), (3, 0, 1), (1, 4, 1), (2, 4, 0), (3, 4, 1)],
        [[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]],
    )
    assert rest_height(valley, [(2.0, 2.0)], z_m=0.5)[0] == pytest.approx(BALL_M * np.sqrt(2), abs=1e-3)


def test_balls_rest_where_the_mesh_is():
    """On rough triangles, at random points: the centre is where the ball, moved down, first touches any triangle."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 6, 21), np.linspace(0, 4, 15))
    vertices = np.stack([x, y, 0.12 * rng.uniform(size=x.shape)], axis=-1).reshape(-1, 3)
    index = np.arange(21 * 15).reshape(15, 21)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int32))
    xy = rng.uniform((0.3, 0.3), (5.7, 3.7), (40, 2))
    corners = mesh.vertices[mesh.faces].astype(float)
    # Points all over the triangles: a ball over (x, y) touches p at height p_z + sqrt(r^2 - distance^2).
    u, v = np.meshgrid(np.linspace(0, 1, 41), np.linspace(0, 1, 41))
    weights = np.stack([(1 - u - v), u, v], axis=-1)[u + v <= 1 + 1e-9]
    points = np.einsum("sk,fkc->fsc", weights, corners).reshape(-1, 3)
    want = []
    for at in xy:
        distance = np.hypot(*(points[:, :2] - at).T)
        near = distance < BALL_M
        want.append((points[near, 2] + np.sqrt(BALL_M**2 - distance[near] ** 2)).max())
    error = rest_height(mesh, xy, z_m=0.3) - want
    assert np.abs(error).max() < 2.5e-3
    assert abs(np.median(error)) < 1e-3


def test_one_stands_on_a_table_and_fits_under_it():
    table = joined(block((-1, -1, -0.1), (7, 5, 0.0)), block((2, 1, 0.7), (3.2, 2, 0.73)))
    assert rest_height(table, [(2.6, 1.5)], z_m=1.0)[0] == pytest.approx(0.73 + BALL_M, abs=1e-3)
    assert rest_height(table, [(2.6, 1.5)], z_m=0.4)[0] == pytest.approx(BALL_M, abs=1e-3)
    # From below, too, its face is where the mesh is.
    assert contacts(table, (2.6, 1.5), z_m=0.7 - BALL_M - 0.002) == 0
    assert contacts(table, (2.6, 1.5), z_m=0.7 - BALL_M + 0.002) > 0


def test_shifting_is_exact_at_faces_edges_and_corners():
    inner = shifted_back(block((0, 0, 0), (2, 1, 0.5)), 0.01)
    np.testing.assert_allclose(inner.min(axis=0), 0.01, atol=1e-7)
    np.testing.assert_allclose(inner.max(axis=0), [1.99, 0.99, 0.49], atol=1e-7)
    roof = mesh_of([(0, 0, 0), (0, 5, 0), (1, 0, 1), (1, 5, 1), (2, 0, 0), (2, 5, 0)],
                   [[0, 2, 3], [0, 3, 1], [2, 4, 5], [2, 5, 3]])  # fmt: skip
    np.testing.assert_allclose(
        shifted_back(roof, 0.01)[2:4],
        [(1, 0, 1 - 0.01 * np.sqrt(2)), (1, 5, 1 - 0.01 * np.sqrt(2))],
        atol=1e-7,
    )


def test_far_triangles_go_and_near_ones_stay():
    field = level()
    floor, roof = block((0, 0, -0.1), (6, 4, 0.0)), block((0, 0, 2.4), (6, 4, 2.6))
    far = block((40, 0, 0), (41, 1, 1))
    mesh, note = ground_mesh(joined(floor, roof, far), field)
    assert note == "12 of 36 triangles"
    np.testing.assert_allclose(mesh.vertices.max(axis=0), [6, 4, 0], atol=1e-6)
    with pytest.raises(InputError, match="none of the mesh's triangles is near the ground"):
        ground_mesh(far, field)


def test_a_budget_merges_near_vertices_or_says_so():
    x, y = np.meshgrid(np.linspace(0, 6, 151), np.linspace(0, 4, 101))
    vertices = np.stack([x, y, 0.05 * np.sin(3 * x)], axis=-1).reshape(-1, 3).astype(np.float32)
    index = np.arange(151 * 101).reshape(101, 151)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    mesh = Mesh(vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32))
    few, note = ground_mesh(mesh, level(), MeshCfg(max_triangles=12_000))
    assert len(few.faces) <= 12_000
    assert "(30000 before vertices within" in note
    np.testing.assert_allclose(few.vertices[:, 2], 0.05 * np.sin(3 * few.vertices[:, 0]), atol=2e-3)
    with pytest.raises(
        InputError, match=r"30000 triangles near the ground.*expected at most 50; crop the scene"
    ):
        ground_mesh(mesh, level(), MeshCfg(max_triangles=50))


def test_doubled_and_shrunken_triangles_go():
    mesh = mesh_of(
        [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 0), (1, 0, 0), (0, 1, 1e-5), (5, 5, 5)],
        [[0, 1, 2], [3, 4, 5], [0, 3, 1]],
    )
    welded = clustered(mesh, 1e-4)
    assert len(welded.faces) == 1
    assert len(welded.vertices) == 3


def test_a_robot_stands_on_triangles_as_on_the_ground():
    """Weight on the feet, and the same height of the base as on a plane to 2 mm."""
    floor = block((-3, -3, -0.1), (3, 3, 0.0))
    heights = np.zeros((61, 61), np.float32)
    field = Heightfield(heights, 0.1, np.array([-3.0, -3.0]), np.ones_like(heights, bool))
    scene = Scene("floor", heightfield=field, mesh=floor)
    base = {}
    for mode in ("heightfield", "mesh"):
        sim = make_sim("mujoco", "go1", [scene], 2, terrain=mode)
        joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 0.3]] * 2))
        for _ in range(100):
            sim.step(joints)
        assert sim.state.foot_contact.all()
        weight = 9.81 * sim.total_mass_kg
        assert sim.state.foot_force_w[..., 2].sum(dim=1).tolist() == pytest.approx([weight] * 2, rel=0.02)
        base[mode] = float(sim.state.root_pos_w[0, 2])
        edge = torch.tensor([[2.95, 0.0], [0.0, 0.0]])
        outside = sim.terrain.outside(edge, torch.zeros(2, dtype=torch.long), margin_m=0.1).tolist()
        assert outside == [mode == "mesh", False]  # triangles end, a plane does not
    assert base["mesh"] == pytest.approx(base["heightfield"], abs=2e-3)


def test_rays_meet_the_triangles_that_physics_has():
    rng = np.random.default_rng(1)
    table = joined(block((0, 0, -0.1), (6, 4, 0.0)), block((2, 1, 0.7), (3.2, 2, 0.73)))
    ground = ground_of(Scene("table", heightfield=level(), mesh=table), "mesh")
    spec = mujoco.MjSpec()
    add_ground(spec, Ground(level(), Boxes.none(), ground.mesh))
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    origin = rng.uniform((0.5, 0.5, 0.1), (5.5, 3.5, 0.6), (300, 3))
    direction = rng.normal(size=(300, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    want = np.array([mujoco.mj_rayFlex(model, data, 0, False, False, True, False, 0, o, d, None, None)
                     for o, d in zip(origin, direction)])  # fmt: skip
    got = TerrainLookup([ground], device=torch.device("cpu")).raycast(
        torch.from_numpy(origin[None]), torch.from_numpy(direction[None]), torch.zeros(1, dtype=torch.long)
    )[0].numpy()  # fmt: skip
    assert (want >= 0).mean() > 0.4
    assert (np.isfinite(got) == (want >= 0)).mean() > 0.99  # but for rays along an edge
    # MuJoCo's lie 1 cm behind, seen along a ray at most 1 cm over the cosine with the surface they hit, here level or upright.
    steep = np.abs(direction).max(axis=1)
    hit = (want >= 0) & np.isfinite(got) & (steep > 0.7)
    assert ((want - got)[hit] > -1e-5).mean() > 0.99
    assert np.median((want - got)[hit]) < 0.02


def test_a_scene_without_a_mesh_has_no_exact_ground():
    with pytest.raises(InputError, match="scene 'bare' has no mesh; choose terrain 'heightfield'"):
        ground_of(Scene("bare", heightfield=level()), "mesh")
