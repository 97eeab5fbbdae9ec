"""Ground from the mesh and the votes of views: depth rendered from true triangles, so that every error is this code's."""

from types import SimpleNamespace

import numpy as np
import pytest
from gaussgym_recon.agreement import splat_mesh_agreement
from gaussgym_recon.depth_views import SPLATS_WEIGHT, DepthView, anchor_depths, plane_of
from gaussgym_recon.floaters import floating_splats, mesh_without_floaters
from gaussgym_recon.fusion import FusionCfg, fuse_mesh
from gaussgym_recon.ground import fill_holes, finish_heightfield, ground_heightfield, sink, without_rims
from gaussgym_recon.stereo import DepthMap
from gaussgym_recon.trainer import model_from_points
from gaussgym_recon.truth import TrueGround, step_edges
from gaussgym_recon.visibility import votes_of
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh

CAMERA = Intrinsics(width=160, height=120, fx=120.0, fy=120.0, cx=80.0, cy=60.0)


def looking(x, z, pitch, back=False):
    """Camera at (x, 0, z) that looks along +X, or -X, ``pitch`` [rad] below the horizon."""
    way = -1.0 if back else 1.0
    forward = np.array([way * np.cos(pitch), 0, -np.sin(pitch)])
    right = np.array([0, -way, 0])
    c2w = np.eye(4)
    c2w[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    c2w[:3, 3] = [x, 0, z]
    return c2w


def strip(profile, half_width=1.5):
    """Mesh of a profile of corners (x, z), drawn out along Y; its top is its front."""
    x, z = np.array(profile, float).T
    n = len(x)
    vertices = np.concatenate([np.column_stack([x, s * half_width + 0 * x, z]) for s in (-1, 1)])
    a = np.arange(n - 1)
    faces = np.concatenate([np.stack([a, a + 1, a + n + 1], 1), np.stack([a, a + n + 1, a + n], 1)])
    return Mesh(vertices, faces)


def both(*meshes):
    offset = np.cumsum([0] + [len(m.vertices) for m in meshes])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + o for m, o in zip(meshes, offset)]),
    )


def depths_of(mesh, c2ws, *, noise=0.0):
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(mesh.vertices), o3d.core.Tensor(mesh.faces.astype(np.uint32)))
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width] + 0.5
    rays_c = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)], -1)
    rng, out = np.random.default_rng(0), []
    for c2w in c2ws:
        rays = np.concatenate([np.broadcast_to(c2w[:3, 3], rays_c.shape), rays_c @ c2w[:3, :3].T], -1)
        t = scene.cast_rays(o3d.core.Tensor(rays.astype(np.float32)))["t_hit"].numpy()
        t = np.where(np.isfinite(t) & (t < 8), t * (1 + noise * rng.normal(size=t.shape)), 0).astype(
            np.float32
        )
        out.append(DepthView(c2w, CAMERA.K, t, np.full((*t.shape, 3), 0.5, np.float32)))
    return out


def walk(profile, first, last, count=10):
    """Cameras 1.5 m above a profile, there looking ahead and back looking back."""
    x, z = np.array(profile, float).T
    at = np.linspace(first, last, count)
    height = np.interp(at, x + 1e-6 * np.arange(len(x)), z) + 1.5
    there = [looking(a, h, 0.5) for a, h in zip(at, height)]
    return np.stack(there + [looking(a, h, 0.5, back=True) for a, h in zip(at[::-1], height[::-1])])


def posed(c2w):
    return SimpleNamespace(c2w=c2w, points=np.zeros((0, 3)), camera_height_m=1.5)


def ground_of(mesh, c2w, *, noise=0.0, drop=lambda m: m):
    depths = depths_of(mesh, c2w, noise=noise)
    fused = drop(fuse_mesh(depths, FusionCfg()))
    return ground_heightfield(fused, posed(c2w), FusionCfg(), depths=depths)


STAIRS = [(-3, 0), (2, 0)] + [
    p for k in range(4) for p in ((2 + 0.3 * k, 0.15 * k), (2 + 0.3 * k, 0.15 * (k + 1)))
]
STAIRS = STAIRS + [(8, 0.6)]


def test_a_slope_comes_back_to_the_millimetre():
    slope = [(-3, -0.3), (9, 0.9)]
    ground = ground_of(strip(slope), walk(slope, 0, 6))
    xy = ground.grid_xy()
    inner = ground.known & (np.abs(xy[..., 1]) < 1.2) & (xy[..., 0] > 0.5) & (xy[..., 0] < 6)
    assert inner.sum() > 0.95 * ((np.abs(xy[..., 1]) < 1.2) & (xy[..., 0] > 0.5) & (xy[..., 0] < 6)).sum()
    error = ground.height_m - 0.1 * xy[..., 0]
    assert np.sqrt((error[inner] ** 2).mean()) < 0.001


@pytest.mark.parametrize(("noise", "flat_m", "edge_m"), [(0.0, 0.002, 0.014), (0.005, 0.006, 0.02)])
def test_stairs_keep_their_heights_and_their_edges(noise, flat_m, edge_m):
    mesh, c2w = strip(STAIRS), walk(STAIRS, 0, 6, count=14)
    ground = ground_of(mesh, c2w, noise=noise)
    field = Heightfield(np.zeros((2, 2)) + 0.3, 20.0, np.array([-10.0, -10.0]), np.ones((2, 2), bool))
    truth = TrueGround(mesh, field)
    lines = [np.array([[0.5, y], [5.5, y]]) for y in np.arange(-0.9, 0.91, 0.1)]
    edges = step_edges(truth, ground, lines).summary()
    assert edges["step_edges"] == 19 * 4
    assert edges["step_edges_missed_fraction"] == 0.0
    assert edges["step_edge_p95_m"] < edge_m  # half a cell is 1.25 cm
    middles = np.array([[2.15, 0.15], [2.45, 0.30], [2.75, 0.45], [3.5, 0.6], [1.5, 0.0]])
    for x, z in middles:
        found = ground.sample(np.stack([np.full(9, x), np.linspace(-0.8, 0.8, 9)], 1))
        assert np.abs(found - z).max() < 3 * flat_m
        assert np.abs(found - z).mean() < flat_m


def test_no_floor_is_invented_over_a_drop():
    # A gap of 30 cm, narrow enough to count as a small hole, 1 m deep: its bottom is never seen.
    gap = [(-3, 0), (3, 0), (3, -1), (3.3, -1), (3.3, 0), (8, 0)]
    c2w = walk([(-3, 0), (8, 0)], 0, 6, count=14)
    ground = ground_of(strip(gap), c2w)
    middle = np.stack([np.full(9, 3.15), np.linspace(-0.8, 0.8, 9)], 1)
    assert not ground.is_known(middle).any()
    assert ground.sample(middle).max() < -0.04
    assert ground.is_known(middle + [0.4, 0]).all()
    assert np.abs(ground.sample(middle + [0.4, 0])).max() < 0.003
    # The same hole in the mesh over a floor that views did see is filled and known.
    flat = strip([(-3, 0), (8, 0)])

    def without_gap(mesh):
        x = mesh.vertices[mesh.faces].mean(1)[:, 0]
        return Mesh(mesh.vertices, mesh.faces[np.abs(x - 3.15) > 0.12])

    filled = ground_of(flat, c2w, drop=without_gap)
    assert filled.is_known(middle).all()
    assert np.abs(filled.sample(middle)).max() < 0.005


def test_a_lower_floor_that_was_seen_is_ground():
    pit = [(-3, 0), (3, 0), (3, -0.5), (5, -0.5), (5, 0), (9, 0)]
    ground = ground_of(strip(pit), walk([(-3, 0), (9, 0)], 0, 7, count=16))
    assert ground.sample([4.0, 0.0]) == pytest.approx(-0.5, abs=0.01)
    assert ground.is_known([4.0, 0.0])


def test_holes_behind_a_step_take_the_lower_level():
    height = np.zeros((40, 60))
    height[:, 30:] = 0.15
    seen = np.ones(height.shape, bool)
    seen[5:35, 30:34] = False  # just behind the edge: upper or lower? nobody saw it
    cfg = FusionCfg()
    filled, rise = fill_holes(np.where(seen, height, np.nan), seen, np.zeros(height.shape), cfg)
    np.testing.assert_allclose(filled[10:30, 30:34], 0.0, atol=1e-9)
    assert rise[20, 31] == pytest.approx(0.15)
    # On a slope a hole goes on along it.
    slope = np.tile(0.01 * np.arange(60.0), (40, 1))
    seen = np.ones(slope.shape, bool)
    seen[15:23, 20:28] = False
    filled, _ = fill_holes(np.where(seen, slope, np.nan), seen, np.zeros(slope.shape), cfg)
    np.testing.assert_allclose(filled, slope, atol=1e-6)


def test_votes_tell_the_surface_from_what_is_before_and_behind_it():
    depths = depths_of(strip([(-3, 0), (9, 0)]), walk([(-3, 0), (9, 0)], 0, 6))
    points = np.array([[4.0, 0.1, 0.0], [4.0, 0.1, 0.4], [4.0, 0.1, -0.4], [100.0, 0, 0]])
    votes = votes_of(points, depths)
    assert votes.confirm[0] >= 5
    assert votes.through[0] == 0
    assert votes.through[1] >= 5
    assert votes.confirm[1] == 0
    assert votes.through[2] == votes.confirm[2] == 0  # hidden below the floor: nobody knows
    assert votes.refuted().tolist() == [False, True, False, False]
    assert sink(points[1:2], depths)[0] == pytest.approx(0.4 - 0.4, abs=0.06)


def test_floaters_leave_mesh_and_splats():
    floor = strip([(-3, 0), (9, 0)])
    depths = depths_of(floor, walk([(-3, 0), (9, 0)], 0, 6))
    corners = [(3.8, -0.2, 0.5), (4.2, -0.2, 0.5), (4.2, 0.2, 0.5), (3.8, 0.2, 0.5)]
    floater = Mesh(np.array(corners), np.array([[0, 1, 2], [0, 2, 3]]))
    cleaned = mesh_without_floaters(both(floor, floater), depths, crumbs=1)
    assert cleaned.vertices[:, 2].max() == 0.0
    assert len(cleaned.faces) == len(floor.faces)
    points = np.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.5], [4.0, 0.0, 40.0]])
    model = model_from_points(points, np.full((3, 3), 0.5), np.full(3, 0.02))
    assert floating_splats(model, depths).tolist() == [False, True, False]
    assert not floating_splats(model, []).any()


def test_the_plane_a_pixel_sees_is_found_at_any_angle():
    for pitch in (0.3, 0.8):
        view = depths_of(strip([(-3, 0), (9, 0)]), looking(0, 1.5, pitch)[None])[0]
        normal, facing = plane_of(view.depth_m, CAMERA.K)
        middle = (slice(55, 65), slice(60, 100))
        up_c = view.c2w[:3, :3].T @ np.array([0, 0, 1.0])
        np.testing.assert_allclose(normal[middle], np.broadcast_to(up_c, (10, 40, 3)), atol=0.02)
        # A metre along the camera's axis on such a pixel's ray comes nearer to the floor by height over depth.
        np.testing.assert_allclose(facing[middle], 1.5 / view.depth_m[middle], rtol=0.02)


def test_splats_before_the_mesh_are_counted_as_such():
    floor = strip([(-3, 0), (9, 0)])
    views = depths_of(floor, walk([(-3, 0), (9, 0)], 0, 6, count=3))
    exact = splat_mesh_agreement(views, floor, max_depth_m=8)
    assert exact["splat_mesh_disagreement_m"] < 1e-5
    assert exact["splat_mesh_beyond_5cm"] == 0.0
    for view in views:
        view.depth_m = np.where(view.depth_m > 0, view.depth_m - 0.06, 0).astype(np.float32)
    moved = splat_mesh_agreement(views, floor, max_depth_m=8)
    assert moved["splat_mesh_bias_m"] == pytest.approx(0.06, abs=1e-4)
    assert moved["splat_mesh_beyond_5cm"] == 1.0
    assert splat_mesh_agreement([], floor, max_depth_m=8)["splat_mesh_p90_m"] is None


def test_splats_fill_in_only_where_they_agree_with_what_was_measured():
    shape = (60, 200)
    measured = np.full(shape, 4.0, np.float32)
    measured[20:40] = 0  # nobody measured a band in the middle
    rng = np.random.default_rng(0)
    splats = np.full(shape, 3.8, np.float32)  # 5 % before the surface, evenly: right once tied to it
    splats[:, 100:] = rng.uniform(2, 6, (60, 100))  # and on the right half anything
    view = DepthView(np.eye(4), CAMERA.K, splats, np.zeros((*shape, 3), np.float32))
    view.weight[:] = SPLATS_WEIGHT
    cost = np.full(shape, 0.5, np.float32)
    (tied,) = anchor_depths(
        {0: view}, {0: DepthMap(measured, np.zeros((*shape, 3), np.float32), cost)}, reach_px=5
    )
    np.testing.assert_allclose(tied.depth_m[22:38, 5:70], 4.0, rtol=0.005)
    np.testing.assert_allclose(tied.weight[30, 5:60], SPLATS_WEIGHT, rtol=0.05)
    assert (tied.depth_m[22:38, 130:] == 0).all()
    np.testing.assert_array_equal(tied.depth_m[:20], 4.0)
    np.testing.assert_array_equal(tied.weight[:20], 0.5)
    assert not tied.measured[30].any()
    assert tied.measured[10].all()


def test_the_rim_of_a_large_hole_is_not_trusted_that_of_a_small_one_is():
    height = np.zeros((60, 60))
    height[20:40, 20:40] = np.nan  # half a metre wide
    height[18:20, 20:40] = -0.03
    height[5:8, 50:53] = np.nan  # the shadow of a post
    height[4, 50:53] = 0.02
    kept = without_rims(height, 0.025)
    assert np.isnan(kept[18:20, 20:40]).all()
    assert np.isnan(kept[20:40, 18:20]).all()
    assert (kept[17, 20:40] == 0).all()
    np.testing.assert_array_equal(kept[:15, 45:], height[:15, 45:])
    np.testing.assert_array_equal(without_rims(np.ones((5, 5)), 0.025), np.ones((5, 5)))


def test_a_patch_that_is_all_rim_is_better_than_nothing():
    height = np.full((60, 60), np.nan)
    height[:, 10:14] = 0.5
    height[:, 30:50] = 0.2
    kept = without_rims(height, 0.025)
    np.testing.assert_array_equal(kept[:, 10:14], 0.5)
    assert np.isnan(kept[:, 30:32]).all()
    np.testing.assert_array_equal(kept[:, 32:48], 0.2)


def test_the_rim_of_a_large_hole_is_ground_at_the_height_of_what_lies_behind_it():
    height = np.zeros((80, 80))
    height[28:52, 30:50] = height[30:50, 28:52] = -0.03  # within 5 cm
    height[30:50, 30:50] = np.nan
    cfg = FusionCfg(cell_m=0.025, hole_m=0.1)
    field = finish_heightfield(height, np.zeros((80, 80)), np.ones((80, 80), bool), np.zeros(2), cfg)
    rim = np.isfinite(height) & (height < 0)
    assert field.known[rim].all()
    assert np.abs(field.height_m[rim]).max() < 1e-3
    assert not field.known[36:44, 36:44].any()
