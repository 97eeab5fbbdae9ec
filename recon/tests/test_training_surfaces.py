"""Normals from depth, and their pull on splats, against known planes and finite differences."""

import numpy as np
from gaussgym_recon.training.surfaces import MeasuredSurfaces, add_normal_slopes, normals_of_depth
from gaussgym_scene.cameras import Intrinsics

CAMERA = Intrinsics(width=32, height=24, fx=30.0, fy=30.0, cx=16.0, cy=12.0)


def plane_depth(normal, offset):
    """Depth of the plane ``normal . x = offset`` in a camera at the origin."""
    v, u = np.mgrid[:24, :32] + 0.5
    rays = np.stack([(u - 16) / 30, (v - 12) / 30, np.ones_like(u)], -1)
    return (offset / (rays @ normal)).astype(np.float32)


def test_normals_of_a_slanted_plane():
    normal = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])
    c2w = np.eye(4)
    c2w[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    found = normals_of_depth(plane_depth(normal, 2.0), CAMERA, c2w)
    inside = found[1:-1, 1:-1]
    np.testing.assert_allclose(np.abs(inside @ (c2w[:3, :3] @ normal)), 1, atol=1e-4)
    assert not found[0].any()


def test_no_normals_beside_gaps_and_edges():
    depth = np.full((24, 32), 2.0, np.float32)
    depth[10, 10] = 0
    depth[:, 20:] = 3.0
    found = np.linalg.norm(normals_of_depth(depth, CAMERA, np.eye(4)), axis=-1) > 0
    assert not found[10, 9:12].any()
    assert not found[9, 10]
    assert not found[:, 19:21].any()
    assert found[5, 5]
    assert found[5, 25]


def slow_loss(quats, scales, normals, weight):
    total = 0.0
    for q, s, n in zip(quats, scales, normals):
        w, x, y, z = q / np.linalg.norm(q)
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        total += 1 - (rotation[:, np.argmin(s)] @ n) ** 2
    return weight * total / len(quats)


def test_pull_agrees_with_finite_differences():
    rng = np.random.default_rng(2)
    n = 9
    means = np.column_stack([rng.uniform(-0.5, 0.5, (n, 2)), np.full(n, 2.0)]).astype(np.float32)
    quats = rng.normal(size=(n, 4)).astype(np.float32)
    scales = np.stack([np.roll([0.01, 0.05, 0.06], i % 3) for i in range(n)]).astype(np.float32)
    normals = np.tile(np.float32([0.6, 0.0, 0.8]), (24, 32, 1))
    depth = np.full((24, 32), 2.02, np.float32)
    found = np.zeros_like(quats)
    add_normal_slopes(
        np.arange(n, dtype=np.int32), means, quats, scales, np.eye(4), CAMERA, depth, normals, 0.7, found
    )
    exact = quats.astype(float)
    for i in range(n):
        for j in range(4):
            step = np.zeros_like(exact)
            step[i, j] = 1e-6
            ahead, behind = (
                slow_loss(exact + s, scales, np.tile([0.6, 0, 0.8], (n, 1)), 0.7) for s in (step, -step)
            )
            assert abs(found[i, j] - (ahead - behind) / 2e-6) < 1e-5
    away = np.zeros_like(quats)
    add_normal_slopes(
        np.arange(n, dtype=np.int32), means, quats, scales, np.eye(4), CAMERA, 1.5 * depth, normals, 0.7, away
    )
    assert not away.any()


def test_measured_surfaces_fit_any_level():
    depth = plane_depth(np.array([0.0, 0.6, 0.8]), 2.0)
    surfaces = MeasuredSurfaces({3: depth})
    half = CAMERA.resized(16, 12)
    assert surfaces.depth(0, half) is None
    assert surfaces.depth(3, half).shape == (12, 16)
    normals = surfaces.normals(3, half, np.eye(4))
    np.testing.assert_allclose(np.abs(normals[2:-2, 2:-2] @ [0, 0.6, 0.8]), 1, atol=1e-4)
