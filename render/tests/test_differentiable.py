"""The differentiable rasterizer: its images against the float64 oracle, its gradients against finite differences of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussgym_render import differentiable, oracle
from gaussgym_render.differentiable import camera as camera_pass
from gaussgym_render.differentiable import rasterize
from gaussgym_scene.errors import InputError

WIDTH, HEIGHT = 53, 37  # not multiples of the tile


def random_scene(seed, n=60, bases=4):
    rng = np.random.default_rng(seed)
    return {
        "means": rng.uniform([-2, -1.5, 1.5], [2, 1.5, 6], (n, 3)).astype(np.float32),
        "quats": rng.normal(size=(n, 4)).astype(np.float32),  # neither unit nor symmetric
        "scales": np.exp(rng.normal(-1.6, 0.6, (n, 3))).astype(np.float32),
        "opacities": rng.uniform(0.1, 0.95, n).astype(np.float32),
        "colors": (rng.normal(size=(n, bases, 3)) * 0.4).astype(np.float32),
    }


def camera():
    """A camera that looks along +Z, turned about all three axes, principal point off centre."""
    a, b, c = 0.11, -0.17, 0.23
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    view = np.eye(4)
    view[:3, :3] = rx @ ry @ rz
    view[:3, 3] = [0.1, -0.2, 0.3]
    return view, np.array([[41.0, 0, 24.5], [0, 38.0, 20.0], [0, 0, 1]])


def oracle_render(scene, view, k, *, antialiased=True, sh_degree=1):
    splats = SimpleNamespace(
        means=scene["means"],
        quats_wxyz=scene["quats"],
        scales=scene["scales"],
        opacities=scene["opacities"],
        sh=scene["colors"],
    )
    return oracle.render(
        splats, np.linalg.inv(view), k, WIDTH, HEIGHT, antialiased=antialiased, sh_degree=sh_degree
    )


def tensors(scene, view, k, grad=False):
    out = {key: torch.from_numpy(value.copy()).requires_grad_(grad) for key, value in scene.items()}
    out["view"] = torch.tensor(view[None], dtype=torch.float64, requires_grad=grad)
    out["k"] = torch.from_numpy(k[None])
    return out


def draw(t, **kwargs):
    return rasterize(
        t["means"],
        t["quats"],
        t["scales"],
        t["opacities"],
        t["colors"],
        t["view"],
        t["k"],
        WIDTH,
        HEIGHT,
        **kwargs,
    )


@pytest.mark.parametrize("antialiased", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_images_agree_with_the_oracle(seed, antialiased):
    scene = random_scene(seed, n=400, bases=16)
    view, k = camera()
    truth = oracle_render(scene, view, k, antialiased=antialiased, sh_degree=3)
    rgb, alpha, depth, info = draw(tensors(scene, view, k), sh_degree=3, antialiased=antialiased)
    difference = np.abs(rgb[0].numpy() - truth.rgb)
    # A pixel where alpha meets 1/255 to within rounding may count in one and not in the other: that is 0.004 at most.
    assert np.quantile(difference, 0.999) < 2e-5
    assert difference.max() < 1.5 / 255
    np.testing.assert_allclose(alpha[0].numpy(), truth.alpha, atol=1 / 255)
    seen = truth.alpha > 0.05
    assert np.quantile(np.abs(depth[0].numpy() - truth.depth_m)[seen], 0.999) < 1e-3
    assert 20 < int(info["visible"].sum()) <= 400


def loss_weights(seed):
    rng = np.random.default_rng(seed + 100)
    return (
        rng.normal(size=(HEIGHT, WIDTH, 3)),
        rng.normal(size=(HEIGHT, WIDTH)),
        rng.normal(size=(HEIGHT, WIDTH)) * 0.3,
    )


def oracle_loss(scene, view, k, weights, **kwargs):
    image = oracle_render(scene, view, k, **kwargs)
    depth = image.depth_m * image.alpha  # accumulated: finite differences stay smooth where alpha is tiny
    return (image.rgb * weights[0]).sum() + (image.alpha * weights[1]).sum() + (depth * weights[2]).sum()


@pytest.mark.parametrize(
    ("seed", "antialiased", "degree"), [(0, True, 1), (1, True, 3), (2, False, 2), (3, True, 0)]
)
def test_gradients_agree_with_finite_differences(seed, antialiased, degree):
    scene = random_scene(seed, n=40, bases=(degree + 1) ** 2)
    view, k = camera()
    weights = loss_weights(seed)
    t = tensors(scene, view, k, grad=True)
    rgb, alpha, depth, info = draw(t, sh_degree=degree, antialiased=antialiased)
    w = [torch.from_numpy(x).float() for x in weights]
    ((rgb[0] * w[0]).sum() + (alpha[0] * w[1]).sum() + (depth[0] * alpha[0] * w[2]).sum()).backward()
    assert torch.isfinite(info["means2d_grad"]).all()

    rng = np.random.default_rng(seed)
    exact = {key: value.astype(np.float64) for key, value in scene.items()}
    kwargs = {"antialiased": antialiased, "sh_degree": degree}
    for key in scene:
        entries = rng.permutation(exact[key].size)[:60]
        numeric = np.empty(len(entries))
        for j, entry in enumerate(entries):
            numeric[j] = _difference(exact, key, entry, lambda s: oracle_loss(s, view, k, weights, **kwargs))
        analytic = t[key].grad.numpy().reshape(-1)[entries]
        _assert_close(analytic, numeric, key)
    numeric = np.empty(12)
    for entry in range(12):
        numeric[entry] = _difference(
            {"view": view[:3]},
            "view",
            entry,
            lambda s: oracle_loss_affine(exact, s["view"], k, weights, **kwargs),
        )
    _assert_close(t["view"].grad[0, :3].numpy().reshape(-1), numeric, "view")


def oracle_loss_affine(scene, rows, k, weights, **kwargs):
    """The oracle takes c2w; a viewmat whose nine rotation entries vary freely needs scene and camera moved apart.

    The camera is put at identity, and means and the covariance factor are transformed by the (no longer orthonormal) view:
    it is done by replacing the oracle's rotation and centre.
    """
    view = np.vstack([rows, [0, 0, 0, 1]])
    splats = SimpleNamespace(
        means=scene["means"],
        quats_wxyz=scene["quats"],
        scales=scene["scales"],
        opacities=scene["opacities"],
        sh=scene["colors"],
    )
    projection = _project_affine(splats, view, k, **kwargs)
    image = oracle.composite(projection, WIDTH, HEIGHT)
    depth = image.depth_m * image.alpha
    return (image.rgb * weights[0]).sum() + (image.alpha * weights[1]).sum() + (depth * weights[2]).sum()


def _project_affine(splats, view, k, *, antialiased, sh_degree):
    """`oracle.project` with a view matrix that need not be a rotation: position for the colours is -Rᵀ t, as in rasterize."""
    from gaussgym_render import harmonics

    rotation, shift = view[:3, :3], view[:3, 3]
    z = (splats.means @ rotation.T + shift)[:, 2]
    x, y = (splats.means @ rotation.T + shift)[:, :2].T
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    mx, my = 0.15 * WIDTH / fx, 0.15 * HEIGHT / fy
    jacobian = np.zeros((len(z), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 1, 1] = fx / z, fy / z
    jacobian[:, 0, 2] = -fx * np.clip(x / z, -(cx / fx + mx), (WIDTH - cx) / fx + mx) / z
    jacobian[:, 1, 2] = -fy * np.clip(y / z, -(cy / fy + my), (HEIGHT - cy) / fy + my) / z
    factor = jacobian @ rotation @ (oracle.rotation_matrices(splats.quats_wxyz) * splats.scales[:, None, :])
    sharp = factor @ np.swapaxes(factor, -1, -2)
    blurred = sharp + 0.3 * np.eye(2)
    opacities = splats.opacities.copy()
    if antialiased:
        opacities = opacities * np.sqrt(np.maximum(np.linalg.det(sharp) / np.linalg.det(blurred), 0.005**2))
    kept = np.flatnonzero((z > 0.01) & (opacities > 1 / 255))
    kept = kept[np.argsort(z[kept])]
    directions = splats.means[kept] + rotation.T @ shift
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    means_px = np.stack([fx * x / z + cx, fy * y / z + cy], -1)
    colors = harmonics.colors(splats.sh[kept], directions, sh_degree)
    none = np.zeros((len(colors), 3))
    return oracle.Projection(
        kept, means_px[kept], blurred[kept], opacities[kept], z[kept], colors, none, np.zeros(len(colors), int),
        none[:, :0],
    )  # fmt: skip


def _difference(arrays, key, entry, loss):
    """Central difference in float64: a step of 1e-6 keeps rounding (1e-10) and jumps at the 1/255 cut-off unlikely."""
    step, values = 1e-6, []
    for sign in (1, -1):
        moved = {name: value.copy() for name, value in arrays.items()}
        moved[key].reshape(-1)[entry] += sign * step
        values.append(loss(moved))
    return (values[0] - values[1]) / (2 * step)


def _assert_close(analytic, numeric, key):
    size = np.abs(numeric).max()
    assert size > 0, key
    error = np.abs(analytic - numeric) / np.maximum(np.abs(numeric), 1e-2 * size)
    assert error.max() < 1e-3, f"{key}: {error.max():.2e} at {error.argmax()}"


def test_one_splat_by_hand():
    """A round splat in front of the camera: alpha at its centre is opacity times compensation, colour times that."""
    k = np.array([[20.0, 0, 8.5], [0, 20.0, 8.5], [0, 0, 1]])
    sigma_px2 = (20.0 * 0.2 / 2.0) ** 2
    expected = 0.7 * np.sqrt(sigma_px2**2 / (sigma_px2 + 0.3) ** 2)
    rgb, alpha, depth, _ = rasterize(
        torch.tensor([[0.0, 0.0, 2.0]]),
        torch.tensor([[2.0, 0.0, 0.0, 0.0]]),
        torch.full((1, 3), 0.2),
        torch.tensor([0.7]),
        torch.tensor([[0.2, 0.4, 0.8]]),
        torch.eye(4)[None],
        torch.from_numpy(k)[None],
        17,
        17,
        background=torch.tensor([1.0, 0.0, 0.0]),
    )
    assert alpha[0, 8, 8].item() == pytest.approx(expected, rel=1e-5)
    assert depth[0, 8, 8].item() == pytest.approx(2.0, rel=1e-5)
    one_off = expected * np.exp(-0.5 / (sigma_px2 + 0.3))
    assert alpha[0, 8, 9].item() == pytest.approx(one_off, rel=1e-4)
    np.testing.assert_allclose(
        rgb[0, 8, 8].numpy(),
        expected * np.array([0.2, 0.4, 0.8]) + (1 - expected) * np.array([1, 0, 0]),
        rtol=1e-5,
    )


def test_gradients_are_bit_identical_and_add_over_cameras():
    scene = random_scene(5, n=300)
    view, k = camera()
    other = view.copy()
    other[0, 3] += 0.4
    w = torch.from_numpy(loss_weights(5)[0]).float()

    def gradient(views, threads):
        differentiable.set_threads(threads)
        t = tensors(scene, view, k, grad=True)
        t["view"] = torch.from_numpy(np.stack(views))
        t["k"] = t["k"].expand(len(views), 3, 3)
        rgb, *_ = draw(t, sh_degree=1)
        (rgb * w).sum().backward()
        return [t[key].grad.clone() for key in scene]

    try:
        both, again, single = (
            gradient([view, other], 2),
            gradient([view, other], 2),
            gradient([view, other], 1),
        )
        first, second = gradient([view], 2), gradient([other], 2)
    finally:
        differentiable.set_threads(1 << 10)
    for a, b, c, d, e in zip(both, again, single, first, second):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        torch.testing.assert_close(a, d + e)


def test_nothing_visible_gives_background_and_zero_gradients():
    scene = random_scene(6, n=10)
    scene["means"][:, 2] = -5.0
    t = tensors(scene, np.eye(4), camera()[1], grad=True)
    rgb, alpha, depth, info = draw(t, sh_degree=1, background=torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(alpha, torch.zeros_like(alpha))
    assert torch.equal(depth, torch.zeros_like(depth))
    assert torch.equal(rgb[0, 3, 4], torch.tensor([0.1, 0.2, 0.3]))
    assert not info["visible"].any()
    rgb.sum().backward()
    assert not t["means"].grad.any()


def test_nan_and_degenerate_splats_are_skipped():
    scene = random_scene(7, n=40)
    view, k = camera()
    clean, *_ = draw(tensors({key: value[:-4] for key, value in scene.items()}, view, k), sh_degree=1)
    scene["means"][-4] = np.nan
    scene["quats"][-3] = 0
    scene["opacities"][-2] = 0
    scene["opacities"][-1] = np.nan
    dirty, *_ = draw(tensors(scene, view, k), sh_degree=1)
    assert torch.equal(clean, dirty)


@pytest.mark.parametrize("key", ["means", "quats", "colors"])
def test_wrong_shapes_are_named(key):
    scene = random_scene(8, n=10)
    scene[key] = scene[key][:, :2]
    with pytest.raises(InputError, match=key if key != "quats" else "quats_wxyz"):
        draw(tensors(scene, *camera()), sh_degree=1)


def test_hop_visits_every_tile_once():
    for tiles in (1, 2, 3, 4, 6, 7, 12, 510, 8160):
        hop = camera_pass._hop(tiles)
        assert sorted(turn * hop % tiles for turn in range(tiles)) == list(range(tiles))


@pytest.mark.parametrize("rows", [1, 3, 5, 8, 11])
def test_tiles_hold_their_splats_front_to_back(rows):
    rng = np.random.default_rng(rows)
    n, width, height = 300, 50, 16 * rows
    means = rng.uniform([-1, -2, 2], [1, 2, 4], (n, 3)).astype(np.float32)
    quats = rng.normal(size=(n, 4)).astype(np.float32)
    scales = rng.uniform(0.01, 0.4, (n, 3)).astype(np.float32)
    opacities, colors = np.full(n, 0.5, np.float32), rng.random((n, 3)).astype(np.float32)
    k = np.array([[40.0, 0, 25], [0, 40.0, height / 2], [0, 0, 1]])
    *_, state = differentiable.raster_forward(
        means, quats, scales, opacities, colors, np.eye(4), k, width, height
    )
    tiles_x, tiles_y = state.tiles
    slots, listed = [], []
    for rank, i in enumerate(state.ids):  # a splat's slots follow one another: tile rows from top to bottom
        first = state.rect[i, 2] // 16
        for t in range(first, (state.rect[i, 3] - 1) // 16 + 1):
            p = state.row_offset[rank] + t - first
            for slot in range(state.slot[p], state.slot[p + 1]):
                slots.append((rank, t, slot))
    for tile in range(tiles_x * tiles_y):
        here = slice(state.tile_start[tile], state.tile_start[tile + 1])
        ranks = state.list_rank[here]
        assert (np.diff(ranks) > 0).all()
        listed += zip(ranks, [tile // tiles_x] * len(ranks), state.list_slot[here])
    assert sorted(listed) == sorted(slots)
