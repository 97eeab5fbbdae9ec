"""Opaque objects among splats: formulas worked out by hand, the float64 oracle, and what must not change an image."""

import dataclasses

import numpy as np
import pytest
import torch
from gaussgym_render import (
    Instances,
    SplatRenderer,
    build_objects,
    cpu,
    cuda_backend,
    harmonics,
    objects,
    register_backend,
)
from gaussgym_render.backends import _BACKENDS
from gaussgym_render.testing import (
    pinhole,
    quadruped_before,
    quadruped_parts,
    random_cameras,
    random_splats,
)
from gaussgym_scene import InputError, Mesh, Splats
from gaussgym_scene.frames import matrix_from_quat_wxyz, rigid

AHEAD = np.eye(4)  # camera at the origin, looking along +Z of the world
TOWARDS_CAMERA = (0.0, 0.0, -1.0)
WARP = [
    pytest.param("warp-cpu", marks=pytest.mark.skipif(bool(cuda_backend.missing_warp()), reason="no Warp")),
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(cuda_backend.missing()), reason="no CUDA")]
    ),
]
EVERY = pytest.mark.parametrize("backend", ["cpu", "reference", *WARP])
FAST = pytest.mark.parametrize("backend", ["cpu", *WARP])
NAMES = ("rgb", "depth", "alpha")


def splat(mean, scale, opacity, rgb):
    sh = ((np.asarray(rgb, float) - 0.5) / harmonics.C0)[None, None]
    return Splats(
        np.array([mean]), np.array([[1.0, 0, 0, 0]]), np.full((1, 3), scale), np.array([opacity]), sh
    )


def join(*parts):
    names = ("means", "quats_wxyz", "scales", "opacities", "sh")
    return Splats(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def quad(corners, color=(255, 255, 255)):
    return Mesh(np.array(corners), np.array([[0, 1, 2], [0, 2, 3]]), np.tile(np.uint8(color), (4, 1)))


def wall(z, half=100.0, color=(255, 255, 255)):
    """A square across the optical axis."""
    return quad([(-half, -half, z), (half, -half, z), (half, half, z), (-half, half, z)], color)


def at(x, y, z):
    return rigid(np.eye(3), (x, y, z))


def random_rotations(n, rng):
    return matrix_from_quat_wxyz(rng.normal(size=(n, 4)))


def render_one(
    meshes, size, k, *, splats=None, poses=None, backend="cpu", light_w=TOWARDS_CAMERA, **settings
):
    """One camera at the origin, all meshes in view; ambient light is 0."""
    poses = np.tile(np.eye(4), (len(meshes), 1, 1)) if poses is None else np.stack(poses)
    shapes = build_objects(meshes, light_w=light_w, ambient=0.0)
    instances = Instances.dense(shapes, np.arange(len(meshes)), poses[None])
    renderer = SplatRenderer([splats or Splats.empty(0)], *size, backend=backend, **settings)
    frames = renderer.render(AHEAD[None], np.asarray(k)[None], np.zeros(1, int), objects=instances)
    return frames.rgb[0], frames.depth[0], frames.alpha[0]


def rays(size, k):
    """x and y of each pixel centre's ray at z = 1."""
    u, v = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    return (u - k[0][2]) / k[0][0], (v - k[1][2]) / k[1][1]


@EVERY
def test_a_square_covers_the_pixels_whose_centres_lie_inside(backend):
    k = [[20.0, 0, 8], [0, 25.0, 6], [0, 0, 1]]
    z, (u0, u1), (v0, v1) = 2.0, (3.7, 9.2), (2.3, 6.6)
    x, y = [(u - 8) / 20 * z for u in (u0, u1)], [(v - 6) / 25 * z for v in (v0, v1)]
    square = quad([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], (200, 100, 50))
    rgb, depth, alpha = render_one([square], (16, 12), k, backend=backend, background=(0, 0, 1))
    inside = np.zeros((12, 16), bool)
    inside[2:7, 4:9] = True  # centres 2.5 to 6.5 and 4.5 to 8.5
    np.testing.assert_array_equal(alpha, inside.astype(np.float32))
    np.testing.assert_allclose(depth, np.where(inside, z, 0), rtol=1e-6)
    np.testing.assert_array_equal(rgb, np.where(inside[..., None], [200, 100, 50], [0, 0, 255]))


@EVERY
def test_depth_of_a_slanted_plane_at_every_pixel_centre(backend):
    # The plane 0.6 x - 0.3 y - z + 3 = 0 meets the ray (x, y, 1)·z at z = 3 / (1 + 0.3 y - 0.6 x).
    k = [[18.0, 0, 11.3], [0, 22.0, 6.2], [0, 0, 1]]
    corners = [(x, y, 3 + 0.6 * x - 0.3 * y) for x, y in ((-4, -4), (9, -4), (9, 5), (-4, 5))]
    _, depth, alpha = render_one([quad(corners)], (24, 14), k, backend=backend)
    x, y = rays((24, 14), k)
    expected = 3 / (1 + 0.3 * y - 0.6 * x)
    assert (alpha == 1).all()
    np.testing.assert_allclose(depth, expected, rtol=1e-6)
    assert expected.max() > 1.5 * expected.min()


@EVERY
def test_ground_that_runs_from_behind_the_camera_to_the_horizon(backend):
    k = [[16.0, 0, 16], [0, 16.0, 12], [0, 0, 1]]
    ground = quad([(-500, 0.3, -500), (500, 0.3, -500), (500, 0.3, 500), (-500, 0.3, 500)])
    _, depth, alpha = render_one([ground], (32, 24), k, backend=backend, light_w=(0, -1, 0))
    _, y = rays((32, 24), k)
    below = y > 0
    np.testing.assert_array_equal(alpha, below.astype(np.float32))
    np.testing.assert_allclose(depth[below], 0.3 / y[below], rtol=1e-6)


@EVERY
def test_camera_inside_a_box_sees_its_walls(backend):
    # Some triangles begin behind the camera; a wall at distance 1 is met at depth 1, 1/|x| or 1/|y|.
    k = [[6.0, 0, 10.2], [0, 6.0, 7.7], [0, 0, 1]]
    _, depth, alpha = render_one([objects.box((1, 1, 1))], (20, 15), k, backend=backend)
    x, y = rays((20, 15), k)
    assert (alpha == 1).all()
    np.testing.assert_allclose(depth, 1 / np.maximum(1, np.maximum(np.abs(x), np.abs(y))), rtol=1e-6)


@EVERY
def test_camera_off_the_middle_of_a_turned_box_sees_its_walls(backend):
    # In the box's frame a ray from o along d leaves the cube [-1, 1]³ at the smallest (±1 - o)/d over the axes.
    k = [[6.0, 0, 10.2], [0, 6.0, 7.7], [0, 0, 1]]
    rng = np.random.default_rng(7)
    x, y = rays((20, 15), k)
    ahead = np.stack([x, y, np.ones_like(x)], -1)
    for rotation in random_rotations(8, rng):
        centre = rotation @ rng.uniform(-0.8, 0.8, 3)
        _, depth, alpha = render_one(
            [objects.box((1, 1, 1))], (20, 15), k, poses=[rigid(rotation, centre)], backend=backend
        )
        origin, direction = -rotation.T @ centre, ahead @ rotation
        expected = ((np.sign(direction) - origin) / direction).min(-1)
        assert (alpha == 1).all()
        np.testing.assert_allclose(depth, expected, rtol=1e-5)


@EVERY
def test_what_lies_before_the_near_plane_is_cut_away(backend):
    k = [[10.0, 0, 8], [0, 10.0, 8], [0, 0, 1]]
    pose = [at(0, 0, 1.0)]  # from 0.5 to 1.5 m
    _, whole, _ = render_one([objects.box((0.5, 0.5, 0.5))], (16, 16), k, poses=pose, backend=backend)
    _, cut, _ = render_one([objects.box((0.5, 0.5, 0.5))], (16, 16), k, poses=pose, backend=backend, near=1.0)
    np.testing.assert_allclose(whole[8, 8], 0.5, rtol=1e-6)
    np.testing.assert_allclose(cut[8, 8], 1.5, rtol=1e-6)  # the inside of the far side
    assert cut[cut > 0].min() >= 1.0


@FAST
def test_silhouette_and_depth_of_a_sphere(backend):
    size, k = (65, 65), [[100.0, 0, 32.5], [0, 100.0, 32.5], [0, 0, 1]]
    radius, distance = 1.0, 4.0
    ball = objects.sphere(radius, around=128)
    # A rotation without symmetry: poles and seams anywhere.
    pose = rigid(matrix_from_quat_wxyz([0.3, -0.5, 0.7, 0.2]), (0, 0, distance))
    _, depth, alpha = render_one([ball], size, k, poses=[pose], backend=backend)
    x, y = rays(size, k)
    slope_sq = x * x + y * y
    edge = radius / np.sqrt(distance**2 - radius**2)  # tan(asin(r/d))
    assert (alpha[slope_sq < (0.998 * edge) ** 2] == 1).all()
    assert (alpha[slope_sq > edge**2] == 0).all()
    # |z·ray - centre|² = r², nearer root; inscribed faces lie up to r (1 - cos(π/128)) = 3e-4 m further.
    inner = slope_sq < (0.9 * edge) ** 2
    a, c = 1 + slope_sq[inner], distance**2 - radius**2
    expected = (distance - np.sqrt(distance**2 - a * c)) / a
    assert np.abs(depth[inner] - expected).max() < 2e-3
    np.testing.assert_allclose(depth[32, 32], 3.0, atol=1e-3)


@pytest.mark.parametrize(
    ("mesh", "volume", "tolerance"),
    [
        (objects.box((0.5, 1.0, 1.5)), 6.0, 1e-6),
        (objects.sphere(1.5, around=96), 4 / 3 * np.pi * 1.5**3, 5e-3),
        (objects.capsule(0.5, 2.0, around=96), np.pi * 0.25 * (4 + 4 / 3 * 0.5), 5e-3),
        (objects.cylinder(0.5, 2.0, around=96), np.pi * 0.25 * 4, 5e-3),
        (objects.capsule(0.5, 2.0), np.pi * 0.25 * (4 + 4 / 3 * 0.5), 0.08),
    ],
)
def test_primitives_are_closed_and_wound_outwards(mesh, volume, tolerance):
    edges = np.concatenate([mesh.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges)
    assert directed == {(b, a) for a, b in directed}
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(float), 1, 0)
    assert (np.cross(a, b) * c).sum() / 6 == pytest.approx(volume, rel=tolerance)
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 0


@EVERY
def test_brightness_follows_the_normal_towards_the_camera(backend):
    k = [[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]]
    tilt = np.radians(35.0)  # about a skew axis, so that no transposed rotation gives the same
    axis = np.array([0.6, 0.8, 0.0])
    pose = rigid(matrix_from_quat_wxyz([np.cos(tilt / 2), *(np.sin(tilt / 2) * axis)]), (0, 0, 3.0))
    normal = pose[:3, :3] @ [0, 0, -1]
    light = np.array([-0.2, -0.5, -0.7])
    cosine = normal @ light / np.linalg.norm(light)
    assert cosine > 0.2
    for face in (
        wall(0.0, 50.0),
        Mesh(wall(0.0, 50.0).vertices, [[2, 1, 0], [3, 2, 0]], np.full((4, 3), 255, np.uint8)),
    ):
        shapes = build_objects([face], light_w=light, ambient=0.25)
        renderer = SplatRenderer([Splats.empty(0)], 8, 8, backend=backend)
        frames = renderer.render(
            AHEAD[None],
            np.array(k)[None],
            np.zeros(1, int),
            objects=Instances.dense(shapes, [0], pose[None, None]),
        )
        assert np.abs(frames.rgb[0] - 255 * (0.25 + 0.75 * cosine)).max() <= 0.51
        away = build_objects([face], light_w=-light, ambient=0.25)
        dark = renderer.render(
            AHEAD[None],
            np.array(k)[None],
            np.zeros(1, int),
            objects=Instances.dense(away, [0], pose[None, None]),
        )
        assert np.abs(dark.rgb[0] - 255 * 0.25).max() <= 0.51


@EVERY
def test_nearest_surface_wins_whatever_the_order(backend):
    k = [[10.0, 0, 8], [0, 10.0, 8], [0, 0, 1]]
    red, green = wall(2.0, 0.48, (255, 0, 0)), wall(3.0, 100, (0, 255, 0))
    for meshes in ([red, green], [green, red]):
        rgb, depth, _ = render_one(meshes, (16, 16), k, backend=backend)
        near = np.zeros((16, 16), bool)
        near[6:10, 6:10] = True  # ±2.4 px round (8, 8)
        np.testing.assert_array_equal(rgb[..., 0] == 255, near)
        np.testing.assert_array_equal(rgb[..., 1] == 255, ~near)
        np.testing.assert_allclose(depth, np.where(near, 2.0, 3.0), rtol=1e-6)


@EVERY
def test_two_planes_that_cross_hide_each_other_by_halves(backend):
    k = [[10.0, 0, 8], [0, 10.0, 8], [0, 0, 1]]
    left = quad([(-9, -9, 2.0), (9, -9, 12.0), (9, 9, 12.0), (-9, 9, 2.0)], (255, 0, 0))
    right = quad([(-9, -9, 12.0), (9, -9, 2.0), (9, 9, 2.0), (-9, 9, 12.0)], (0, 255, 0))
    rgb, _, _ = render_one([left, right], (16, 16), k, backend=backend)
    assert (rgb[:, :8, 1] == 0).all()
    assert (rgb[:, 8:, 0] == 0).all()
    assert (rgb.max(-1) > 0).all()


@EVERY
def test_splats_before_an_object_veil_it_and_those_behind_do_not_show(backend):
    k = [[50.0, 0, 0.5], [0, 50, 0.5], [0, 0, 1]]  # one pixel, centre on the axis
    before, same = splat((0, 0, 1), 1, 0.6, (1, 0, 0)), splat((0, 0, 2), 1, 0.5, (0, 0, 1))
    behind = splat((0, 0, 3), 1, 0.9, (0, 0, 1))
    rgb, depth, alpha = render_one(
        [wall(2.0, color=(0, 255, 0))], (1, 1), k, splats=join(behind, before, same), backend=backend,
        antialiased=False, background=(1, 1, 1),
    )  # fmt: skip
    np.testing.assert_array_equal(rgb[0, 0], [153, 102, 0])  # 0.6 red + 0.4 green
    assert alpha[0, 0] == 1
    np.testing.assert_allclose(depth[0, 0], 0.6 * 1 + 0.4 * 2, rtol=5e-4)


@EVERY
def test_an_opaque_splat_hides_an_object(backend):
    k = [[50.0, 0, 0.5], [0, 50, 0.5], [0, 0, 1]]
    parts = [splat((0, 0, 1 + 0.1 * i), 1, 1.0, (1, 0, 0)) for i in range(3)]
    rgb, depth, alpha = render_one(
        [wall(2.0, color=(0, 255, 0))], (1, 1), k, splats=join(*parts), backend=backend, antialiased=False
    )
    # The first leaves T = 1e-3; the second would close the pixel and is not drawn: the object shows with that.
    np.testing.assert_array_equal(rgb[0, 0], [255, 0, 0])
    np.testing.assert_allclose(depth[0, 0], 0.999 * 1 + 0.001 * 2, rtol=1e-6)
    np.testing.assert_allclose(alpha[0, 0], 1.0)


@EVERY
def test_instances_name_the_object_that_makes_up_most_of_a_pixel(backend):
    k = np.array([[[10.0, 0, 8], [0, 10.0, 8], [0, 0, 1]]])
    shapes = build_objects([wall(0.0), wall(0.0, 0.48)])
    # Camera 0 sees nothing; camera 1 the small wall before the big one, both behind a veil on its right half.
    poses = np.stack([at(0, 0, 3.0), at(0, 0, 2.0), at(0, 0, -1.0)])
    instances = Instances(shapes, np.array([0, 0, 3]), np.array([0, 1, 0]), poses)
    veil = [
        splat((x, y, 1.0), 0.1, 0.95, (1, 0, 0)) for x in (0.3, 0.5, 0.7) for y in np.linspace(-0.9, 0.9, 13)
    ]
    renderer = SplatRenderer([join(*veil)], 16, 16, backend=backend)
    cameras = (np.tile(AHEAD, (2, 1, 1)), np.tile(k, (2, 1, 1)), np.zeros(2, int))
    frames = renderer.render(*cameras, objects=instances)
    expected = np.zeros((16, 16), int)
    expected[6:10, 6:10] = 1
    assert (frames.instances[0] == -1).all()
    np.testing.assert_array_equal(frames.instances[1, :, :8], expected[:, :8])
    assert (frames.instances[1, :, 11:15] == -1).all()
    assert renderer.render(*cameras).instances is None
    out = dataclasses.replace(frames, instances=np.full((2, 16, 16), 7, np.int32))
    assert renderer.render(*cameras, objects=instances, out=out) is out
    np.testing.assert_array_equal(out.instances, frames.instances)
    without = dataclasses.replace(frames, instances=None)
    assert renderer.render(*cameras, objects=instances, out=without).instances is None
    with pytest.raises(InputError, match=r"out\.instances is int64"):
        renderer.render(*cameras, objects=instances, out=dataclasses.replace(out, instances=expected))


@FAST
def test_object_inside_a_cloud_shows_behind_the_splats_before_it(backend):
    """A wall across the view: the splats before it alone, and what they let through is the wall."""
    rng = np.random.default_rng(3)
    cloud = random_splats(600, rng, size_m=(1.5, 1.5, 0.8))
    cloud.means[:, 2] += 2.0
    before = cloud.subset(np.flatnonzero(cloud.means[:, 2] < 2.0))
    k = pinhole(48, 32)
    rgb, depth, alpha = render_one(
        [wall(2.0, color=(90, 160, 40))], (48, 32), k, splats=cloud, backend=backend
    )
    alone = SplatRenderer([before], 48, 32, backend=backend).render(AHEAD[None], k[None], np.zeros(1, int))
    left = 1 - alone.alpha[0]
    assert 0.05 < left.mean() < 0.95
    expected = np.clip(alone.rgb[0] + left[..., None] * [90, 160, 40], 0, 255)
    unsaturated = alone.rgb[0] < 255
    assert np.abs(rgb - expected)[unsaturated].max() <= 1.01
    np.testing.assert_allclose(depth, alone.depth[0] * alone.alpha[0] + left * 2.0, rtol=1e-4)
    np.testing.assert_array_equal(alpha, np.ones_like(alpha))


def random_instances(c2w, rng, *, most=7):
    """Between 0 and `most` objects per camera, most of them somewhere before it, some around or behind it."""
    coat = rng.integers(0, 256, (30, 3)).astype(np.uint8)
    tangle = Mesh(rng.normal(size=(30, 3)) * 0.4, rng.integers(0, 30, (20, 3)), coat)
    shapes = build_objects(
        [
            objects.box((0.3, 0.2, 0.6), (200, 30, 60)),
            objects.sphere(0.4, (40, 200, 90), around=10),
            objects.capsule(0.15, 0.5, (240, 240, 40), around=8),
            objects.cylinder(0.3, 0.2, (20, 80, 220), around=9),
            Mesh(np.zeros((0, 3)), np.zeros((0, 3))),
            tangle,
            objects.joined(
                [(objects.box((0.1, 0.1, 0.1)), at(0.3, 0, 0)), (objects.sphere(0.2, around=8), np.eye(4))]
            ),
        ],
        light_w=rng.normal(size=3),
        ambient=0.3,
    )
    counts = rng.integers(0, most + 1, len(c2w))
    counts[: min(2, len(c2w))] = (0, most)[: min(2, len(c2w))]
    owner = np.repeat(np.arange(len(c2w)), counts)
    poses = np.tile(np.eye(4), (len(owner), 1, 1))
    poses[:, :3, :3] = random_rotations(len(owner), rng)
    poses[:, :3, 3] = rng.normal(size=(len(owner), 3)) * [0.8, 0.8, 1.2] + [0, 0, 1.5]
    poses = c2w[owner] @ poses
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Instances(shapes, offsets, rng.integers(0, len(shapes), len(owner)), poses)


def skewed_pinhole(width, height):
    k = pinhole(width, height)
    k[0, 2], k[1, 2], k[1, 1] = 0.41 * width, 0.57 * height, 1.15 * k[1, 1]
    return k


@pytest.fixture(scope="module", params=["cpu", *WARP])
def batch(request):
    rng = np.random.default_rng(21)
    scenes = [random_splats(1500, rng), Splats.empty(1), random_splats(300, rng, sh_degree=1)]
    c2w, ids = random_cameras(14, rng), np.arange(14) % 3
    k = np.tile(skewed_pinhole(40, 30), (14, 1, 1))
    instances = random_instances(c2w, rng)
    renderer = SplatRenderer(scenes, 40, 30, backend=request.param, background=(0.2, 0.4, 0.6))
    return scenes, c2w, k, ids, instances, renderer, renderer.render(c2w, k, ids, objects=instances)


def assert_same(a, b):
    for name in NAMES:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def assert_parity(fast, slow):
    """PSNR >= 50 dB, |difference| <= 2/255 on >= 99.9 % of pixels; says how many edges were covered otherwise."""
    difference = np.abs(fast.rgb.astype(int) - slow.rgb.astype(int)).max(-1)
    psnr_db = 10 * np.log10(255.0**2 / max(np.mean((fast.rgb.astype(float) - slow.rgb) ** 2), 1e-12))
    covered_otherwise = int((np.abs(fast.alpha - slow.alpha) > 2 / 255).sum())
    print(
        f"PSNR {psnr_db:.1f} dB, largest difference {difference.max()}/255, {(difference > 2).sum()} of {difference.size} "
        f"pixels beyond 2/255, {covered_otherwise} covered otherwise"
    )
    assert psnr_db >= 50
    assert np.mean(difference <= 2) >= 0.999
    assert covered_otherwise <= 1e-3 * difference.size
    assert np.mean(fast.instances == slow.instances) >= 0.999
    relative = np.abs(fast.depth - slow.depth) / (1 + slow.depth)
    assert np.quantile(relative[slow.alpha > 0.02], 0.999) < 2e-3


def test_parity_on_random_ragged_scenes(batch):
    scenes, c2w, k, ids, instances, _, frames = batch
    slow = SplatRenderer(scenes, 40, 30, backend="reference", background=(0.2, 0.4, 0.6))
    truth = slow.render(c2w, k, ids, objects=instances)
    plain = slow.render(c2w, k, ids)
    assert 0.05 < np.mean(truth.depth != plain.depth) < 0.9
    assert_parity(frames, truth)


@FAST
def test_parity_with_a_quadruped_among_splats(backend):
    rng = np.random.default_rng(22)
    scene = random_splats(1200, rng, log_scale_mean=-3.0)
    c2w, k = random_cameras(3, rng), np.tile(skewed_pinhole(64, 48), (3, 1, 1))
    instances = quadruped_before(c2w)
    fast, slow = (
        SplatRenderer([scene], 64, 48, backend=name).render(c2w, k, np.zeros(3, int), objects=instances)
        for name in (backend, "reference")
    )
    assert 0.03 < (slow.alpha == 1).mean() < 0.9
    assert_parity(fast, slow)


def test_without_objects_in_view_nothing_changes(batch):
    _, c2w, k, ids, instances, renderer, _ = batch
    plain = renderer.render(c2w, k, ids)
    none = Instances(instances.objects, np.zeros(15, int), np.zeros(0, int), np.zeros((0, 4, 4)))
    assert_same(renderer.render(c2w, k, ids, objects=none), plain)
    no_shapes = Instances(build_objects([]), np.zeros(15, int), np.zeros(0, int), np.zeros((0, 4, 4)))
    assert_same(renderer.render(c2w, k, ids, objects=no_shapes), plain)
    for x, y, z in ((0, 0, -3.0), (9.0, 0, 2.0), (-9.0, 0, 2.0), (0, 9.0, 2.0), (0, -9.0, 2.0)):
        unseen = Instances.dense(
            instances.objects, [0, 1, 4], np.tile(c2w[:, None] @ at(x, y, z), (1, 3, 1, 1))
        )
        assert_same(renderer.render(c2w, k, ids, objects=unseen), plain)
    no_cameras = dataclasses.replace(none, camera_offsets=np.zeros(1, int))
    assert renderer.render(c2w[:0], k[:0], ids[:0], objects=no_cameras).rgb.shape == (0, 30, 40, 3)


def only(instances, camera):
    own = slice(instances.camera_offsets[camera], instances.camera_offsets[camera + 1])
    ids = instances.object_ids[own]
    return Instances(instances.objects, np.array([0, len(ids)]), ids, instances.poses_w[own])


def test_a_camera_alone_equals_itself_in_the_batch(batch):
    _, c2w, k, ids, instances, renderer, together = batch
    for c in range(len(c2w)):
        one = slice(c, c + 1)
        alone = renderer.render(c2w[one], k[one], ids[one], objects=only(instances, c))
        for name in NAMES:
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[c])


def test_images_do_not_depend_on_threads_or_buffers(batch):
    scenes, c2w, k, ids, instances, first, together = batch
    for threads in (1, 3):
        renderer = SplatRenderer(
            scenes, 40, 30, backend=first.backend, background=(0.2, 0.4, 0.6), num_threads=threads
        )
        plain = renderer.render(c2w, k, ids)
        small = Instances.dense(
            build_objects([objects.box((0.1, 0.1, 0.1))]), [0], c2w[:, None] @ at(0, 0, 1)
        )
        renderer.render(c2w, k, ids, objects=small)  # buffers grow afterwards
        assert_same(renderer.render(c2w, k, ids, objects=instances), together)
        assert_same(renderer.render(c2w, k, ids), plain)


def test_masked_cameras_are_not_looked_at(batch):
    _, c2w, k, ids, instances, renderer, together = batch
    poses = instances.poses_w.copy()
    mask = np.arange(14) % 2 == 0
    poses[np.repeat(~mask, np.diff(instances.camera_offsets))] = np.nan
    frames = renderer.render(c2w, k, ids, mask=mask, objects=dataclasses.replace(instances, poses_w=poses))
    np.testing.assert_array_equal(frames.rgb[mask], together.rgb[mask])
    np.testing.assert_array_equal(frames.instances[mask], together.instances[mask])
    assert (frames.instances[~mask] == -1).all()
    assert (frames.rgb[~mask] == 0).all()


def test_tiles_do_not_show():
    rng = np.random.default_rng(23)
    scene, c2w = random_splats(800, rng), random_cameras(1, rng)
    instances, k = random_instances(np.repeat(c2w, 2, axis=0), rng), skewed_pinhole(150, 90)
    cameras = (np.repeat(c2w, 2, axis=0), np.tile(k, (2, 1, 1)), np.zeros(2, int))
    whole = SplatRenderer([scene], 150, 90, backend="cpu").render(*cameras, objects=instances)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "MAX_TILE_PIXELS", 1000)
        tiled = SplatRenderer([scene], 150, 90, backend="cpu").render(*cameras, objects=instances)
    assert np.abs(whole.rgb.astype(int) - tiled.rgb).max() <= 1
    np.testing.assert_allclose(whole.alpha, tiled.alpha, atol=1e-5)


def test_tensors_and_any_layout_use_the_one_compiled_kernel(batch):
    _, c2w, k, ids, instances, renderer, together = batch
    tensors = Instances(
        instances.objects,
        torch.as_tensor(instances.camera_offsets, dtype=torch.int32),
        torch.as_tensor(instances.object_ids, dtype=torch.int32),
        torch.as_tensor(instances.poses_w),
    )
    frames = renderer.render(*(torch.as_tensor(a) for a in (c2w, k, ids)), objects=tensors)
    np.testing.assert_array_equal(frames.rgb.numpy(), together.rgb)
    np.testing.assert_array_equal(frames.instances.numpy(), together.instances)
    frozen = dataclasses.replace(instances, poses_w=np.asfortranarray(instances.poses_w))
    frozen.poses_w.flags.writeable = False
    assert_same(renderer.render(c2w, k, ids, objects=frozen), together)
    assert renderer.backend != "cpu" or len(cpu._render_jobs.signatures) == 1


def test_dense_instances_of_tensors_share_their_memory(batch):
    _, c2w, k, ids, instances, renderer, _ = batch
    poses = c2w[:, None] @ np.stack([at(0, 0.1, 1.0), at(0.3, 0, 1.5)])
    twists = np.zeros((14, 2, 6))
    arrays = Instances.dense(instances.objects, [0, 2], poses, twists)
    place = "cuda" if renderer.backend == "cuda" else "cpu"
    held = torch.tensor(poses, device=place)
    given = Instances.dense(instances.objects, [0, 2], held, torch.tensor(twists, device=place))
    assert given.poses_w.data_ptr() == held.data_ptr()
    assert given.twists_o.shape == (28, 6)
    frames = renderer.render(*(torch.tensor(a, device=place) for a in (c2w, k, ids)), objects=given)
    expected = renderer.render(c2w, k, ids, objects=arrays)
    np.testing.assert_array_equal(frames.rgb.cpu(), expected.rgb)
    np.testing.assert_array_equal(frames.instances.cpu(), expected.instances)
    with pytest.raises(InputError, match=r"poses_w has shape \(14, 2, 4, 4\), expected \(C, 1, 4, 4\)"):
        Instances.dense(instances.objects, [0], held)
    with pytest.raises(InputError, match=r"twists_o has shape \(2, 6\), expected \(14, 2, 6\)"):
        Instances.dense(instances.objects, [0, 2], held, torch.zeros((2, 6)))


def test_quadruped_stands_on_four_feet():
    meshes, poses = quadruped_parts()
    assert len(meshes) == len(poses) == 13
    feet = np.array([pose @ [0, 0, -0.213, 1] for pose in poses[3::3]])[:, :3]
    # Both links at ±0.9 rad to the plumb line: right below the hip; the leg leans outwards by 0.1 rad.
    height = 0.426 * np.cos(0.9) * np.cos(0.1) - 0.08 * np.sin(0.1)
    np.testing.assert_allclose(feet[:, 0], [0.1881, 0.1881, -0.1881, -0.1881], atol=1e-9)
    np.testing.assert_allclose(feet[:, 2], -height, atol=1e-9)
    assert (feet[:, 1] * [-1, 1, -1, 1] > 0.1268).all()


def change(instances, **values):
    return dataclasses.replace(instances, **values)


def test_bad_instances(batch):
    _, c2w, k, ids, good, renderer, _ = batch
    n = len(good.object_ids)
    scaled, broken = good.poses_w.copy(), good.poses_w.copy()
    scaled[3, :3, :3] *= 2
    broken[5, 1, 3] = np.nan
    falling = good.camera_offsets.copy()
    falling[2], falling[3] = falling[3], falling[2] - 1
    unknown = good.object_ids.copy()
    unknown[4] = 7
    for bad, text in (
        (change(good, poses_w=good.poses_w[:, :3]), rf"objects\.poses_w has shape \({n}, 3, 4\), expected \({n}, 4, 4\)"),
        (change(good, object_ids=good.object_ids[:-1]), r"objects\.poses_w has shape"),
        (change(good, object_ids=np.zeros((n, 1), int)), r"objects\.object_ids has shape"),
        (change(good, object_ids=np.int64(3)), r"objects\.object_ids has shape"),
        (change(good, camera_offsets=good.camera_offsets[:-1]), r"objects\.camera_offsets has shape \(14,\), expected \(15,\)"),
        (change(good, camera_offsets=good.camera_offsets.astype(float)), "expected integers"),
        (change(good, object_ids=good.object_ids.astype(float)), "expected integers"),
        (change(good, camera_offsets=good.camera_offsets + 1), "camera_offsets run from 1"),
        (change(good, camera_offsets=falling), "expected never to fall"),
        (change(good, object_ids=unknown), r"instance 4: objects\.object_ids is out of range, expected 0 to 6; found 7"),
        (change(good, object_ids=unknown - 8), "instance 0: .*out of range"),
        (change(good, poses_w=scaled), r"instance 3: objects\.poses_w is not a rigid pose"),
        (change(good, poses_w=broken), r"instance 5: objects\.poses_w has NaN"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=text):
            renderer.render(c2w, k, ids, objects=bad)


def test_bad_shapes_and_light():
    ball = objects.sphere(1.0)
    with pytest.raises(InputError, match="light_w"):
        build_objects([ball], light_w=(0, 0, 0))
    with pytest.raises(InputError, match="light_w"):
        build_objects([ball], light_w=(0, 1))
    with pytest.raises(InputError, match=r"ambient is 1\.5"):
        build_objects([ball], ambient=1.5)
    with pytest.raises(InputError, match=r"expected \(C, 2, 4, 4\)"):
        Instances.dense(build_objects([ball]), [0, 0], np.zeros((5, 3, 4, 4)))


def test_a_backend_that_takes_no_objects_says_which_do(batch):
    class White:
        def __init__(self, splats, cfg):
            pass

        def render(self, c2w, ks, scene_ids, cameras, background, frames):
            frames[0][cameras] = 255

    scenes, c2w, k, ids, instances, _, _ = batch
    register_backend("white", White)
    try:
        renderer = SplatRenderer(scenes, 40, 30, backend="white")
        assert (renderer.render(c2w, k, ids).rgb == 255).all()
        with pytest.raises(
            InputError, match=r"'white' cannot take objects; those that can: cpu, .*reference"
        ):
            renderer.render(c2w, k, ids, objects=instances)
    finally:
        del _BACKENDS["white"]
