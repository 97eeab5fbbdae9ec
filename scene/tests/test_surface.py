import numpy as np
import pytest
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.surface import AveragedTextures, Patch, heights_below, mesh_of, splats_of


def two_tone():
    """Left half red, right half blue, 4 x 2 texels."""
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2, 0] = 200
    image[:, 2:, 2] = 100
    return image


def quad(corners, **options):
    a, b, c, d = np.asarray(corners, float)
    uv = np.array([[(0, 1), (1, 1)], [(0, 0), (1, 0)]], float)
    return Patch(np.array([[a, b], [d, c]]), uv, 0, **options)


def test_quad_becomes_two_triangles_facing_front():
    patch = quad([(0, 0, 1), (2, 0, 1), (2, 1, 1), (0, 1, 1)])
    mesh, look = mesh_of([patch], [two_tone()])
    assert mesh.faces.shape == (2, 3)
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    np.testing.assert_allclose(np.cross(b - a, c - a), [(0, 0, 2), (0, 0, 2)])
    # uv must follow the corners: u = x / 2, v = 1 − y
    corners = mesh.vertices[mesh.faces]
    np.testing.assert_allclose(look.uv[..., 0], corners[..., 0] / 2)
    np.testing.assert_allclose(look.uv[..., 1], 1 - corners[..., 1])


def test_splats_of_a_flat_quad_by_hand():
    patch = quad([(0, 0, 1), (2, 0, 1), (2, 1, 1), (0, 1, 1)])
    splats, spacing = splats_of([patch], [two_tone()], splat_spacing_m=0.5, max_splats=100)
    assert spacing == 0.5
    x, y = np.meshgrid([0.25, 0.75, 1.25, 1.75], [0.25, 0.75])
    np.testing.assert_allclose(splats.means, np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3), atol=1e-6)
    np.testing.assert_allclose(splats.scales[:, :2], 0.65 * 0.5, rtol=1e-6)
    rotations = matrix_from_quat_wxyz(splats.quats_wxyz)
    np.testing.assert_allclose(np.abs(rotations[:, :, 2]), np.tile([0, 0, 1], (8, 1)), atol=1e-6)
    # The outer columns lie a texel or more from the seam between red and blue.
    np.testing.assert_allclose(splats.colors.reshape(2, 4, 3)[:, 0] * 255, [(200, 0, 0)] * 2, atol=0.01)
    np.testing.assert_allclose(splats.colors.reshape(2, 4, 3)[:, 3] * 255, [(0, 0, 100)] * 2, atol=0.01)


def test_splats_of_a_warped_grid_lie_in_its_triangles():
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.cumsum(rng.uniform(0.1, 0.4, 7)), np.cumsum(rng.uniform(0.1, 0.4, 5)))
    points = np.stack([x, y, rng.uniform(0, 0.3, x.shape)], -1)
    points = points @ matrix_from_quat_wxyz([0.4, 0.7, -0.3, 0.5]).T
    uv = np.stack([(x - x.min()) / np.ptp(x), (y - y.min()) / np.ptp(y)], -1)
    patch = Patch(points, uv, 0)
    mesh, _ = mesh_of([patch], [two_tone()])
    splats, _ = splats_of([patch], [two_tone()], splat_spacing_m=0.03, max_splats=10_000)
    corners = mesh.vertices[mesh.faces].astype(float)
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normals = np.cross(edge1, edge2)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    for mean, rotation in zip(splats.means[::7], matrix_from_quat_wxyz(splats.quats_wxyz[::7])):
        basis = np.stack([edge1, edge2, normals], axis=2)
        u, v, height = np.moveaxis(np.linalg.solve(basis, (mean - corners[:, 0])[..., None])[..., 0], -1, 0)
        on = (np.abs(height) < 1e-5) & (u > -1e-4) & (v > -1e-4) & (u + v < 1 + 1e-4)
        assert on.any()
        assert np.max(normals[on] @ rotation[:, 2]) > 1 - 1e-5  # its axis is that triangle's front normal


def test_spacing_widens_until_the_budget_is_kept():
    patch = quad([(0, 0, 0), (3, 0, 0), (3, 2, 0), (0, 2, 0)])
    splats, spacing = splats_of([patch], [two_tone()], splat_spacing_m=0.01, max_splats=500)
    assert 400 < len(splats) <= 500
    assert spacing == pytest.approx(np.sqrt(6 / 500), rel=0.1)
    # Coverage does not depend on the spacing: scales follow it.
    assert splats.scales[:, 0].mean() == pytest.approx(0.65 * spacing, rel=0.05)


@pytest.mark.parametrize(
    "options", [{"splat_spacing_m": 0.0}, {"splat_spacing_m": float("nan")}, {"max_splats": 0}]
)
def test_bad_budget_is_one_clear_error(options):
    with pytest.raises(InputError, match="expected > 0 and at least 1"):
        splats_of([quad([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])], [two_tone()], **options)


def test_averages_cover_the_box_and_keep_the_mean():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 128, 3)).astype(np.uint8)
    u, v = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(4) + 0.5) / 4)
    colors = AveragedTextures([image]).colors(0, np.stack([u, v], -1).reshape(-1, 2), (16.0, 16.0))
    expected = image.reshape(4, 16, 8, 16, 3).mean(axis=(1, 3)).reshape(-1, 3) / 255
    np.testing.assert_allclose(colors, expected, atol=0.6 / 255)


def slow_height(vertices, faces, x, y):
    """Topmost crossing of a vertical line with any triangle, one triangle after the other."""
    best = -np.inf
    for a, b, c in np.asarray(vertices, float)[faces]:
        m = np.array([[b[0] - a[0], c[0] - a[0]], [b[1] - a[1], c[1] - a[1]]])
        if abs(np.linalg.det(m)) < 1e-12:
            continue
        u, v = np.linalg.solve(m, [x - a[0], y - a[1]])
        if u >= -1e-7 and v >= -1e-7 and u + v <= 1 + 1e-7:
            best = max(best, a[2] + u * (b[2] - a[2]) + v * (c[2] - a[2]))
    return best


def test_heights_equal_a_slow_ray_caster_on_random_triangles():
    rng = np.random.default_rng(5)
    centers = rng.uniform(-1, 1, (60, 1, 3))
    vertices = (centers + rng.normal(size=(60, 3, 3)) * 0.3).reshape(-1, 3)
    faces = np.arange(180).reshape(60, 3)
    x, y = np.meshgrid(-0.9 + 0.07 * np.arange(23), -1.1 + 0.07 * np.arange(29))
    heights = heights_below(vertices, faces, np.stack([x, y], -1), 0.07)
    expected = np.array([[slow_height(vertices, faces, a, b) for a, b in zip(*row)] for row in zip(x, y)])
    assert np.isfinite(expected).mean() > 0.2
    np.testing.assert_array_equal(np.isfinite(heights), np.isfinite(expected))
    known = np.isfinite(expected)
    np.testing.assert_allclose(heights[known], expected[known], atol=1e-6)


def test_vertical_walls_do_not_raise_the_ground():
    wall = quad([(0, 0.5, 0), (1, 0.5, 0), (1, 0.5, 2), (0, 0.5, 2)])
    floor = quad([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])
    mesh, _ = mesh_of([wall, floor], [two_tone()])
    x, y = np.meshgrid(np.arange(0.05, 1, 0.1), np.arange(0.05, 1, 0.1))
    np.testing.assert_array_equal(heights_below(mesh.vertices, mesh.faces, np.stack([x, y], -1), 0.1), 0)
