"""Fusion of depth into a mesh and of a mesh into ground, on surfaces known exactly."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gaussgym_recon.depth_views import DepthView
from gaussgym_recon.fusion import FusionCfg, fitted_to, fuse_mesh
from gaussgym_recon.ground import ground_heightfield
from gaussgym_recon.posed import PosedCapture, Similarity
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from gaussgym_scene.mesh import Mesh


def looking_down(x, y, z, pitch):
    """Camera at (x, y, z) that looks along +X, ``pitch`` [rad] below the horizon."""
    forward = np.array([np.cos(pitch), 0, -np.sin(pitch)])
    right = np.array([0, -1.0, 0])
    c2w = np.eye(4)
    c2w[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    c2w[:3, 3] = [x, y, z]
    return c2w


def cameras(n=12, length=6.0):
    return np.stack(
        [looking_down(x, 0.1 * np.sin(3 * x), 1.5 + 0.1 * x, 0.5) for x in np.linspace(0, length, n)]
    )


def posed(c2w, height=1.5):
    n = len(c2w)
    camera = Intrinsics(width=320, height=240, fx=240.0, fy=240.0, cx=160.0, cy=120.0)
    empty = np.zeros((0, 3))
    return PosedCapture(
        Path("."), [str(i) for i in range(n)], [], [camera] * n, c2w, empty, empty.astype(np.uint8), np.zeros(0),
        np.zeros(0, np.int32), [np.zeros(0, np.int32)] * n, Similarity.identity(), "user", "sensor", height, None, 0.5, 1.0,
        1, None, None, 1.0,
    )  # fmt: skip


def plane_depth(c2w, k, slope, shape=(240, 320)):
    """Depth of the ground z = slope * x."""
    v, u = np.mgrid[: shape[0], : shape[1]] + 0.5
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], -1) @ c2w[:3, :3].T
    o = c2w[:3, 3]
    depth = (slope * o[0] - o[2]) / (rays[..., 2] - slope * rays[..., 0])
    return np.where((depth > 0) & (depth < 8), depth, 0).astype(np.float32)


def test_depth_of_a_slope_comes_back_as_that_slope():
    c2w = cameras()
    p = posed(c2w)
    k = p.intrinsics[0].K
    views = [DepthView(c, k, plane_depth(c, k, 0.1), np.full((240, 320, 3), 0.5, np.float32)) for c in c2w]
    mesh = fuse_mesh(views, FusionCfg())
    off = mesh.vertices[:, 2] - 0.1 * mesh.vertices[:, 0]
    assert np.quantile(np.abs(off), 0.9) < 0.006
    assert abs(np.median(off)) < 0.001
    ground = ground_heightfield(mesh, p, FusionCfg())
    xy = ground.grid_xy()[ground.known]
    error = ground.height_m[ground.known] - 0.1 * xy[:, 0]
    assert len(error) > 1000
    assert np.sqrt((error**2).mean()) < 0.01
    assert not ground.is_known([-2.9, 0.0])  # behind the first camera nothing was seen
    assert ground.is_known([4.0, 0.0])


def sheet(z, x=(0.0, 6.0), y=(-2.0, 2.0), step=0.04):
    """Mesh of a function z(x, y), facing up."""
    gx, gy = np.meshgrid(np.arange(*x, step), np.arange(*y, step))
    vertices = np.stack([gx, gy, z(gx, gy)], -1).reshape(-1, 3)
    ny, nx = gx.shape
    a = (np.arange(ny - 1)[:, None] * nx + np.arange(nx - 1)).reshape(-1)
    faces = np.concatenate([np.stack([a, a + 1, a + nx], 1), np.stack([a + 1, a + nx + 1, a + nx], 1)])
    return Mesh(vertices, faces)


def both(a, b):
    return Mesh(
        np.concatenate([a.vertices, b.vertices]), np.concatenate([a.faces, b.faces + len(a.vertices)])
    )


def test_floaters_above_the_ground_are_not_ground():
    floor = sheet(lambda x, y: 0 * x)
    floater = sheet(lambda x, y: 0 * x + 0.3, x=(2.0, 2.6), y=(-0.3, 0.3))
    c2w = np.stack([looking_down(x, 0.0, 1.5, 0.5) for x in np.linspace(0.5, 5.5, 10)])
    ground = ground_heightfield(both(floor, floater), posed(c2w), FusionCfg())
    assert np.abs(ground.height_m[ground.known]).max() < 0.02


def test_steps_stay_sharp():
    c2w = np.stack([looking_down(x, 0.0, 1.5 + 0.15 * (x > 3), 0.5) for x in np.linspace(0.5, 5.5, 20)])
    ground = ground_heightfield(sheet(lambda x, y: np.where(x > 3, 0.15, 0.0)), posed(c2w), FusionCfg())
    x = np.arange(1.0, 5.0, 0.05)
    z = ground.sample(np.stack([x, 0 * x], axis=1))
    assert np.abs(z[x < 2.85]).max() < 0.02
    assert np.abs(z[x > 3.15] - 0.15).max() < 0.02


def test_small_holes_count_as_known_and_large_ones_do_not():
    mesh = sheet(lambda x, y: 0.05 * x)
    centre = mesh.vertices[mesh.faces].mean(1)
    small = np.hypot(centre[:, 0] - 2, centre[:, 1]) < 0.1
    large = np.hypot(centre[:, 0] - 4, centre[:, 1]) < 0.6
    mesh = Mesh(mesh.vertices, mesh.faces[~small & ~large])
    c2w = np.stack([looking_down(x, 0.0, 1.5 + 0.05 * x, 0.5) for x in np.linspace(0.5, 5.5, 10)])
    ground = ground_heightfield(mesh, posed(c2w), FusionCfg())
    assert ground.is_known([2.0, 0.0])
    assert not ground.is_known([4.0, 0.0])
    assert ground.sample([4.0, 0.0]) == pytest.approx(0.2, abs=0.05)


def test_no_ground_is_said_clearly():
    c2w = cameras()
    with pytest.raises(InputError, match="no ground"):
        ground_heightfield(sheet(lambda x, y: 0 * x + 5.0), posed(c2w), FusionCfg())
    empty = [
        DepthView(
            c2w[0],
            posed(c2w).intrinsics[0].K,
            np.zeros((60, 80), np.float32),
            np.zeros((60, 80, 3), np.float32),
        )
    ]
    with pytest.raises(InputError, match="no depth"):
        fuse_mesh(empty, FusionCfg())


@pytest.mark.parametrize(
    ("height_m", "step_m", "wanted_m"),
    [(1.5, 0.4, 8.0), (1.6, 12.0, 25.0), (50.0, 8.0, 100.0), (12.0, 2.0, 25.0)],
)
def test_depth_is_fused_as_far_as_photographs_lie_apart_and_from_a_drone_down_to_the_ground(
    height_m, step_m, wanted_m
):
    c2w = np.tile(np.eye(4), (20, 1, 1))
    c2w[:, 0, 3] = np.linspace(0.0, 19 * step_m, 20)
    posed: Any = SimpleNamespace(c2w=c2w, camera_height_m=height_m)
    assert fitted_to(FusionCfg(), posed).depth_max_m == pytest.approx(wanted_m)
