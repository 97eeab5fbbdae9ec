"""Levels of detail: moments, the tree, the choice of nodes, files, and the command that makes them."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from gaussgym_render import SplatRenderer, harmonics, lod, oracle
from gaussgym_render import __main__ as cli
from gaussgym_render.atlas import CHUNK
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.lod import Gaussians, LodSplats, build_tree, cluster, merge, principal_axes
from gaussgym_render.optimize import (
    OptimizeCfg,
    digest,
    importance,
    optimize,
    render_all,
    split_cameras,
    tune,
)
from gaussgym_render.testing import pinhole, random_cameras, random_splats, street_cameras, street_splats
from gaussgym_render.viewpoints import Viewpoints
from gaussgym_scene import InputError, Scene, Splats, synthesize
from gaussgym_scene.frames import matrix_from_quat_wxyz

BACKGROUND = (0.2, 0.4, 0.6)


def covariances_of(quats_wxyz, scales):
    factor = matrix_from_quat_wxyz(quats_wxyz) * np.asarray(scales, float)[:, None, :]
    return factor @ factor.transpose(0, 2, 1)


def viewpoints(c2w, width=64, height=48):
    k = np.tile(pinhole(width, height), (len(c2w), 1, 1))
    return Viewpoints([f"{i}" for i in range(len(c2w))], c2w, k, width, height)


@pytest.fixture(scope="module")
def street():
    return street_splats(6000, np.random.default_rng(0))


@pytest.fixture(scope="module")
def street_tree(street):
    return build_tree(street, threshold_px=0.3)


@pytest.fixture(scope="module")
def cameras():
    return viewpoints(street_cameras(16, np.random.default_rng(1)))


def render(scenes, cameras, ids=None, **settings):
    ids = np.zeros(len(cameras), int) if ids is None else ids
    scenes = scenes if isinstance(scenes, list) else [scenes]
    renderer = SplatRenderer(scenes, cameras.width, cameras.height, background=BACKGROUND, **settings)
    return renderer.render(cameras.c2w, cameras.K, ids)


def assert_same(a, b):
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


# ---------------------------------------------------------------------------------------------------------- moments


def test_two_equal_splats_by_hand():
    # Discs of σ 0.2 and 0.1 m across x, 0.6 m apart along x: the variance along x grows by 0.3² and no other.
    s = Splats(
        [[-0.3, 1, 2], [0.3, 1, 2]],
        np.tile([1.0, 0, 0, 0], (2, 1)),
        np.tile([0.2, 0.1, 0.01], (2, 1)),
        [0.5, 0.5],
        np.array([[[0.2, 0, 0]], [[0.4, 0, 1]]]),
    )
    merged = merge(Gaussians.of(s), np.zeros(2, int), 1)
    np.testing.assert_allclose(merged.masses, [2 * 0.5 * 0.2 * 0.1], rtol=1e-6)
    np.testing.assert_allclose(merged.means, [[0, 1, 2]], atol=1e-7)
    np.testing.assert_allclose(merged.covariances[0], np.diag([0.04 + 0.09, 0.01, 0.0001]), atol=1e-7)
    np.testing.assert_allclose(merged.sh[0, 0], [0.3, 0, 0.5], atol=1e-7)


def test_moments_of_a_mixture():
    """Second moments about the origin add up: `Σ p (C + μμᵀ) = C' + μ'μ'ᵀ`; all rotations are at random."""
    rng = np.random.default_rng(2)
    s = random_splats(40, rng, sh_degree=1)
    labels = np.concatenate([np.arange(7), rng.integers(0, 7, 33)])
    seen = rng.uniform(0.1, 1, 40)
    merged = merge(Gaussians.of(s, seen), labels, 7)
    two = np.sort(s.scales.astype(float), axis=1)[:, 1:]
    mass = s.opacities.astype(float) * two[:, 0] * two[:, 1]
    covariance = covariances_of(s.quats_wxyz, s.scales)
    weight = seen / seen.sum() + 1e-3 * mass / mass.sum()
    for g in range(7):
        own = np.flatnonzero(labels == g)
        p = mass[own] / mass[own].sum()
        first = sum(pi * s.means[i].astype(float) for pi, i in zip(p, own))
        second = sum(
            pi * (covariance[i] + np.outer(s.means[i], s.means[i].astype(float))) for pi, i in zip(p, own)
        )
        np.testing.assert_allclose(merged.masses[g], mass[own].sum(), rtol=1e-6)
        np.testing.assert_allclose(merged.means[g], first, atol=1e-6)
        np.testing.assert_allclose(merged.covariances[g], second - np.outer(first, first), atol=1e-5)
        color = sum(weight[i] * s.sh[i].astype(float) for i in own) / weight[own].sum()
        np.testing.assert_allclose(merged.sh[g], color, atol=1e-6)


def test_merging_twice_is_merging_once():
    rng = np.random.default_rng(3)
    gaussians = Gaussians.of(random_splats(60, rng))
    fine = np.concatenate([np.arange(12), rng.integers(0, 12, 48)])
    coarse = np.arange(12) // 4
    twice = merge(merge(gaussians, fine, 12), coarse, 3)
    once = merge(gaussians, coarse[fine], 3)
    for name in ("masses", "means", "covariances", "seen", "sh"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=1e-9, atol=1e-12)


def test_principal_axes_give_the_covariance_back():
    s = random_splats(50, np.random.default_rng(4))
    covariances = covariances_of(s.quats_wxyz, s.scales)
    scales, quats = principal_axes(covariances)
    assert (np.diff(scales, axis=1) >= 0).all()
    np.testing.assert_allclose(np.linalg.det(matrix_from_quat_wxyz(quats)), 1, atol=1e-9)
    np.testing.assert_allclose(covariances_of(quats, scales), covariances, rtol=1e-6, atol=1e-12)


def test_optical_depth_is_the_integral():
    peaks, depths = lod._optical_depth_table()
    assert (np.diff(peaks) > 0).all()
    assert (np.diff(depths) > 0).all()
    assert np.interp(0.5, peaks, depths) == pytest.approx(
        np.pi**2 / 12 - np.log(2) ** 2 / 2, rel=1e-4
    )  # Li2(1/2)
    t = np.linspace(0, 40, 400001)
    for x in (0.01, 0.3, 0.95, 0.999, 2.0, 8.0):
        values = -np.log1p(-np.minimum(oracle.MAX_ALPHA, x * np.exp(-t)))
        integral = float(((values[1:] + values[:-1]) / 2 * np.diff(t)).sum())
        assert np.interp(x, peaks, depths) == pytest.approx(integral, rel=2e-3), x


def test_a_merged_wall_hides_what_the_wall_hid():
    """Transmittance through a dense wall whose splats are smaller than a pixel, merged four to one."""
    spacing = 0.02
    grid = np.stack(np.meshgrid(*[np.arange(-1.5, 1.5, spacing)] * 2, indexing="ij"), -1).reshape(-1, 2)
    n = len(grid)
    opacity = 0.6
    wall = Splats(
        np.concatenate([grid, np.full((n, 1), 1.0)], 1),
        np.tile([1.0, 0, 0, 0], (n, 1)),
        np.tile([0.6 * spacing, 0.6 * spacing, 1e-4], (n, 1)),
        np.full(n, opacity),
        np.zeros((n, 1, 3)),
    )
    cells = np.floor((grid + 1.5) / (2 * spacing) + 1e-6).astype(int)
    _, labels = np.unique(cells, axis=0, return_inverse=True)
    count = int(labels.max()) + 1
    merged = merge(Gaussians.of(wall), labels, count)
    scales, quats = principal_axes(merged.covariances)
    match = lod._OpacityMatch()
    opacities = match.solve(wall.scales.astype(float), wall.opacities.astype(float), labels, scales, 20.0)
    coarse = lod._Cut(*(a.astype(np.float32) for a in (merged.means, quats, scales, opacities, merged.sh)))
    k = np.array([[20.0, 0, 8], [0, 20.0, 8], [0, 0, 1]])
    fine_alpha, coarse_alpha = (oracle.render(s, np.eye(4), k, 16, 16).alpha for s in (wall, coarse))
    assert 0.5 < fine_alpha.mean() < 0.999
    np.testing.assert_allclose(coarse_alpha.mean(), fine_alpha.mean(), atol=0.04)


# --------------------------------------------------------------------------------------------------------- the tree


def test_clusters_are_neighbours_of_one_colour():
    rng = np.random.default_rng(5)
    centres = np.array([[0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0.3, 0]], float)
    group = np.repeat(np.arange(4), 20)
    s = random_splats(80, rng, sh_degree=0, log_scale_mean=-4, log_scale_std=0.1)
    s.means[:] = centres[group] + rng.normal(size=(80, 3)) * 0.05
    s.sh[:] = np.where(group == 3, 1.0, -1.0)[
        :, None, None
    ]  # the fourth lies beside the first, in another colour
    labels = cluster(Gaussians.of(s), 4)
    assert sorted(set(labels)) == [0, 1, 2, 3]
    for g in range(4):
        assert len(set(group[labels == g])) == 1
    assert sorted(cluster(Gaussians.of(s), 80)) == list(range(80))


def leaves_below(tree, node):
    span = np.arange(node, tree.skip[node])
    return span[tree.is_leaf[span]]


def test_every_cut_holds_every_splat_once(street, street_tree):
    tree = street_tree
    leaf_splats = np.repeat(tree.is_leaf, tree.node_sizes)
    np.testing.assert_array_equal(np.sort(tree.source[leaf_splats]), np.arange(len(street)))
    np.testing.assert_array_equal(tree.means[leaf_splats], street.means[tree.source[leaf_splats]])
    assert lod.NODE_SPLATS == CHUNK
    assert tree.node_sizes.max() <= CHUNK
    for i in np.flatnonzero(~tree.is_leaf):
        left, right = i + 1, tree.skip[i + 1]
        assert tree.errors_m[i] >= max(tree.errors_m[left], tree.errors_m[right])
    heights = set()
    for c2w in street_cameras(6, np.random.default_rng(6)):
        nodes = tree.select(c2w, pinhole(64, 48))
        covered = np.concatenate([leaves_below(tree, i) for i in nodes])
        np.testing.assert_array_equal(np.sort(covered), np.flatnonzero(tree.is_leaf))
        heights |= {len(leaves_below(tree, i)) for i in nodes}
    assert len(heights) >= 3  # several levels at once


@pytest.mark.parametrize("n", [0, 1, 5, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
def test_trees_of_any_size(n):
    rng = np.random.default_rng(n)
    splats = random_splats(n, rng, sh_degree=1) if n else Splats.empty(1)
    tree = build_tree(splats)
    assert tree.is_leaf.sum() == -(-n // CHUNK)
    cameras = viewpoints(random_cameras(4, rng), 32, 24)
    assert_same(render(tree, cameras, backend="cpu"), render(splats, cameras, backend="cpu"))


def test_nodes_grow_with_distance(street_tree):
    """Along a way out of the scene, what is drawn only becomes coarser: each node of a farther cut covers nodes of the nearer."""
    k, counts, before = pinhole(64, 48), [], None
    for away in (0.0, 2.0, 5.0, 10.0, 30.0, 100.0, 1000.0):
        c2w = np.eye(4)
        c2w[:3, 3] = [-away, 0.0, 0.4]
        nodes = street_tree.select(c2w, k)
        if before is not None:
            covering = np.searchsorted(nodes, before, side="right") - 1
            assert (before < street_tree.skip[nodes[covering]]).all()
        counts.append(int(street_tree.node_sizes[nodes].sum()))
        before = nodes
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[3] > 2 * counts[5]
    assert counts[-1] <= CHUNK


# -------------------------------------------------------------------------------------------------------- rendering


def test_threshold_zero_is_the_full_scene_bit_for_bit(street, street_tree, cameras):
    exact = replace(street_tree, threshold_px=0.0)
    assert_same(render(exact, cameras, backend="cpu"), render(street, cameras, backend="cpu"))
    scene = random_splats(2000, np.random.default_rng(7))
    around = viewpoints(random_cameras(12, np.random.default_rng(8)))
    assert_same(render(build_tree(scene), around, backend="cpu"), render(scene, around, backend="cpu"))


def test_the_cpu_backend_draws_the_nodes_of_the_reference(street_tree, cameras):
    few = Viewpoints(cameras.names[:4], cameras.c2w[:4], cameras.K[:4], 64, 48)
    fast, slow = (render(street_tree, few, backend=name) for name in ("cpu", "reference"))
    assert psnr_db(fast.rgb, slow.rgb).min() >= 50
    degree_one = build_tree(random_splats(1500, np.random.default_rng(9), sh_degree=1), threshold_px=0.5)
    far = viewpoints(random_cameras(4, np.random.default_rng(10)))
    far.c2w[:, :3, 3] *= 3.0
    fast, slow = (render(degree_one, far, backend=name) for name in ("cpu", "reference"))
    assert psnr_db(fast.rgb, slow.rgb).min() >= 50


def test_images_do_not_depend_on_the_batch(street, street_tree, cameras):
    scenes = [
        street,
        street_tree,
        build_tree(random_splats(700, np.random.default_rng(11)), threshold_px=1.0),
    ]
    ids = np.arange(16) % 3
    together = render(scenes, cameras, ids, backend="cpu")
    for c in (1, 2, 13):
        one = Viewpoints(["x"], cameras.c2w[c : c + 1], cameras.K[c : c + 1], 64, 48)
        alone = render(scenes[ids[c]], one, backend="cpu", num_threads=1)
        np.testing.assert_array_equal(alone.rgb[0], together.rgb[c])
        np.testing.assert_array_equal(alone.depth[0], together.depth[c])


def test_merged_levels_look_like_the_scene(cameras):
    dense = street_splats(25000, np.random.default_rng(0))
    full, less = (SplatRenderer([s], 64, 48) for s in (dense, build_tree(dense, threshold_px=0.4)))
    ids = np.zeros(16, int)
    a, b = (r.render(cameras.c2w, cameras.K, ids) for r in (full, less))
    assert psnr_db(b.rgb, a.rgb).mean() >= 36
    assert less.rasterizer.num_visible.sum() < 0.8 * full.rasterizer.num_visible.sum()


def test_levels_need_antialiasing(street_tree):
    with pytest.raises(InputError, match="antialiased"):
        SplatRenderer([street_tree], 64, 48, antialiased=False)


# ------------------------------------------------------------------------------------------------------------ files


def test_round_trip(street_tree, cameras, tmp_path):
    tree = replace(street_tree, recipe={"seed": 3})
    assert tree.save(tmp_path / "a") == tmp_path / "a" / "lod.json"
    again = LodSplats.load(tmp_path / "a")
    assert again.threshold_px == tree.threshold_px
    assert again.recipe == {"seed": 3}
    for name in lod._ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(tree, name), err_msg=name)
    assert_same(render(again, cameras), render(tree, cameras))


def test_damaged_files_are_refused(street_tree, tmp_path):
    street_tree.save(tmp_path / "good")

    def copy(name):
        return shutil.copytree(tmp_path / "good", tmp_path / name)

    cut = copy("cut") / "lod.npz"
    cut.write_bytes(cut.read_bytes()[:-100])
    flipped = copy("flipped") / "lod.npz"
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 0xFF
    flipped.write_bytes(data)
    (copy("lost") / "lod.npz").unlink()
    manifest = copy("other") / "lod.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 99}))
    for name, text in (
        ("cut", "bytes"),
        ("flipped", "sha256"),
        ("lost", "missing"),
        ("other", "version"),
        ("no", "found"),
    ):
        with pytest.raises(InputError, match=text):
            LodSplats.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("means", lambda a: a[:-1]),
        ("sh", lambda a: a[:, :, :2]),
        ("opacities", lambda a: a * np.nan),
        ("opacities", lambda a: a - 2),
        ("scales", lambda a: a * 0),
        ("source", lambda a: a * 0),
        ("node_sizes", lambda a: a + 1),
        ("skip", lambda a: a + 1),
        ("skip", lambda a: a * 0),
        ("errors_m", lambda a: a * 0),
        ("errors_m", lambda a: a + 1),
        ("threshold_px", lambda a: -1.0),
        ("threshold_px", lambda a: float("nan")),
    ],
)
def test_impossible_trees_are_refused(street_tree, name, spoil):
    with pytest.raises(InputError):
        replace(street_tree, **{name: spoil(getattr(street_tree, name))})


# ------------------------------------------------------------------------------------------------------- optimising


def test_importance_is_the_blending_weight():
    """Against the oracle: a splat's weight in an image is what the image loses when only that splat is white."""
    rng = np.random.default_rng(12)
    s = random_splats(60, rng, sh_degree=0)
    cameras = viewpoints(random_cameras(3, rng), 24, 16)
    highest, total = importance(s, cameras)
    expected = np.zeros((3, 60))
    for c in range(3):
        for i in range(60):
            sh = np.full_like(s.sh, -0.5 / harmonics.C0)
            sh[i] = 0.5 / harmonics.C0
            one = Splats(s.means, s.quats_wxyz, s.scales, s.opacities, sh)
            expected[c, i] = oracle.render(one, cameras.c2w[c], cameras.K[c], 24, 16).rgb[..., 0].sum()
    np.testing.assert_allclose(highest, expected.max(0), atol=2e-3, rtol=1e-3)
    np.testing.assert_allclose(total, expected.sum(0), atol=5e-3, rtol=1e-3)
    assert expected.max() > 1


def test_held_out_cameras_are_others():
    cameras = viewpoints(street_cameras(40, np.random.default_rng(13)))
    views, held_out = split_cameras(cameras, 18, 0)
    assert (len(views), len(held_out)) == (18, 18)
    assert not set(views.names) & set(held_out.names)
    assert np.abs(views.c2w[:, None, :3, 3] - held_out.c2w[None, :, :3, 3]).max(-1).min() > 1e-9
    gram = views.c2w[:, :3, :3] @ views.c2w[:, :3, :3].transpose(0, 2, 1)
    np.testing.assert_allclose(gram, np.tile(np.eye(3), (18, 1, 1)), atol=1e-9)


def test_tuning_brings_other_views_nearer():
    street = street_splats(25000, np.random.default_rng(0))
    tree = build_tree(street, threshold_px=0.8)
    views, held_out = split_cameras(viewpoints(street_cameras(40, np.random.default_rng(15))), 40, 0)
    tuned = tune(tree, views, render_all(street, views))
    full, before, after = (render_all(s, held_out) for s in (street, tree, tuned))
    assert psnr_db(after, full).mean() > psnr_db(before, full).mean() + 1
    for name in ("quats_wxyz", "source", "skip", "errors_m"):
        np.testing.assert_array_equal(getattr(tuned, name), getattr(tree, name))
    leaves = np.repeat(tree.is_leaf, tree.node_sizes)
    for name in ("means", "scales", "opacities", "sh"):  # what is right stays
        np.testing.assert_array_equal(getattr(tuned, name)[leaves], getattr(tree, name)[leaves])


def test_the_psnr_gate_holds(street):
    cameras = viewpoints(street_cameras(40, np.random.default_rng(14)))
    cfg = OptimizeCfg(psnr_db=38.0, max_cameras=36)
    result = optimize(street, cameras, cfg)
    _, held_out = split_cameras(cameras, 36, 0)
    full, less = render(street, held_out), render(result, held_out)
    assert result.recipe["held_out_psnr_db"] >= 38
    # Rendered here over a background, which shows through what merging left open.
    assert psnr_db(less.rgb, full.rgb).mean() >= 36
    assert result.threshold_px > 0.05
    assert result.recipe["source"]["sha256"] == digest(street)
    assert sum(result.recipe["splats_by_height"]) == len(result)
    assert result.recipe["splats_by_height"][0] == result.recipe["splats_kept"] <= len(street)


@pytest.mark.parametrize(("psnr", "text"), [(0.0, "PSNR"), (90.0, "PSNR"), (float("nan"), "PSNR")])
def test_impossible_wishes_are_refused(street, cameras, psnr, text):
    with pytest.raises(InputError, match=text):
        optimize(street, cameras, OptimizeCfg(psnr_db=psnr))
    with pytest.raises(InputError, match="cameras"):
        optimize(street, viewpoints(cameras.c2w[:1]), OptimizeCfg())


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gaussgym-render", *map(str, arguments)])
    return cli.main()


def test_command(tmp_path, monkeypatch, capsys):
    synthesize("flat", 0, max_splats=3000).save(tmp_path / "flat")
    output = tmp_path / "lod"
    arguments = ("optimize", tmp_path / "flat", "--output", output, "--psnr-db", 34, "--max-cameras", 16)
    assert run(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(output / "lod.json")
    assert any(line.startswith("64x48") for line in printed)
    assert any(line.startswith("84x48") for line in printed)
    result = LodSplats.load(output)
    fields = json.loads((output / "lod.json").read_text())
    assert fields["recipe"]["held_out_psnr_db"] >= 34
    assert [row["width_px"] for row in fields["recipe"]["measured"]] == [64, 84]
    assert fields["recipe"]["source"]["sha256"] == digest(Scene.load(tmp_path / "flat").splats)
    assert fields["num_splats"] + fields["num_merged"] == len(result)
    assert not list(tmp_path.glob("*.partial"))


def test_command_with_bad_input(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "optimize", tmp_path / "none", "--output", tmp_path / "x") == 2
    assert run(monkeypatch, "optimize", tmp_path / "a.ply", "--output", tmp_path / "x") == 2
    assert "--cameras" in capsys.readouterr().err
    assert run(monkeypatch, "optimize", tmp_path / "none", "--output", tmp_path / "x", "--width", 0) == 2
    assert not (tmp_path / "x").exists()
