"""Random scenes, sizes, lenses, masks, capacities, objects and edits on the backend for CUDA: against the CPU backend, and with
checked indices.
"""

import subprocess
import sys

import numpy as np
import pytest
from gaussgym_render import Instances, SplatRenderer, build_objects, objects
from gaussgym_render.edits import AppearanceCfg, SceneEdits, draw_edits
from gaussgym_render.lod import build_tree
from gaussgym_render.sensor import camera_keys
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene import Splats

pytest.importorskip("warp")

BACKGROUND = (0.1, 0.5, 0.9)
CASES_CHECKED = 12


def random_scene(rng):
    """Any size about those where chunks begin, with levels of detail or without, of needles, clouds and specks."""
    count = int(rng.choice([0, 1, 255, 256, 257, 600, 1500]))
    degree = int(rng.integers(0, 4))
    if count == 0:
        return Splats.empty(degree)
    scene = random_splats(
        count,
        rng,
        sh_degree=degree,
        size_m=tuple(rng.uniform(0.2, 10, 3)),
        log_scale_mean=rng.uniform(-5, 0),
        log_scale_std=rng.uniform(0.1, 2.5),
    )
    return build_tree(scene, threshold_px=rng.uniform(0, 3)) if rng.uniform() < 0.3 else scene


def random_case(seed):
    """Scenes, image size, settings, and what to render."""
    rng = np.random.default_rng(seed)
    width, height, count = (int(n) for n in rng.integers(1, [180, 140, 12]))
    scenes = [random_scene(rng) for _ in range(rng.integers(1, 5))]
    ks = np.stack([pinhole(width, height, rng.uniform(0.2, 2.6)) for _ in range(count)])
    ks[:, :2, 2] += rng.normal(size=(count, 2)) * 0.3 * min(width, height)
    batch = (random_cameras(count, rng), ks, rng.integers(0, len(scenes), count))
    options = {"mask": rng.uniform(size=count) < 0.8}
    if rng.uniform() < 0.5:
        options["sizes"] = rng.integers(1, [width + 1, height + 1], (count, 2))
    settings = {"near": float(rng.choice([0.01, 0.2, 1.0])), "background": BACKGROUND}
    cfg = {"wave_cameras": int(rng.integers(1, 12))}
    tight = {
        "visible_per_camera": int(rng.choice([1, 50, 300, 5000])),
        "pairs_per_visible": float(rng.choice([0.3, 1.0, 3.0])),
    }
    if rng.uniform() < 0.6:
        options["objects"] = random_instances(batch[0], rng)
    if rng.uniform() < 0.6:
        options["edits"] = random_edits(batch[0], rng)
    if rng.uniform() < 0.6:
        options["outputs"] = ("rgb_float", "median_depth", "normals", *(["labels"] * ("edits" in options)))
    return scenes, (width, height), settings, batch, options, cfg, tight


def random_instances(c2w, rng):
    """Up to four objects a camera, most of them before it, some around or behind it."""
    shapes = build_objects(
        [objects.box(rng.uniform(0.1, 2, 3)), objects.sphere(0.5, (200, 80, 20)), objects.capsule(0.2, 0.4)]
    )
    counts = rng.integers(0, 5, len(c2w))
    owner = np.repeat(np.arange(len(c2w)), counts)
    poses = np.tile(np.eye(4), (len(owner), 1, 1))
    poses[:, :3, :3] = random_cameras(len(owner), rng)[:, :3, :3] if len(owner) else poses[:, :3, :3]
    poses[:, :3, 3] = rng.normal(size=(len(owner), 3)) + [0, 0, 2]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Instances(shapes, offsets, rng.integers(0, 3, len(owner)), c2w[owner] @ poses)


def random_edits(c2w, rng):
    """A look for each camera, and patches of none to two."""
    edits = draw_edits(AppearanceCfg.typical(), camera_keys(int(rng.integers(99)), np.arange(len(c2w))))
    for label in range(rng.integers(1, 3)):
        edits = edits.with_patches(
            c2w, rng.uniform(0.1, 4, 3), color=rng.uniform(0, 1, 3), share=rng.uniform(), label=label
        )
    if rng.uniform() < 0.5:
        kept = rng.integers(0, len(c2w), len(c2w))
        edits = edits.take(kept)
    return edits


def draw(case, backend, *, cramped=False):
    """The case's images; on Warp with its waves, and with little room if wanted."""
    scenes, size, settings, batch, options, cfg, tight = case
    renderer = SplatRenderer(scenes, *size, backend=backend, **settings)
    if backend == "warp-cpu":
        from gaussgym_render.cuda.frame import CudaCfg

        renderer.rasterizer.cuda_cfg = CudaCfg(**cfg, **(tight if cramped else {}))
    return renderer.render(*batch, **options)


@pytest.mark.parametrize("seed", range(8))
def test_random_cases(seed):
    case = random_case(1000 + seed)
    ours, other = (draw(case, backend) for backend in ("warp-cpu", "cpu"))
    assert np.abs(ours.rgb.astype(int) - other.rgb).max() <= 1
    assert np.mean(np.abs(ours.alpha - other.alpha) > 1e-3) <= 1e-3
    assert np.mean(np.abs(ours.depth - other.depth) > 1e-3 * (1 + other.depth)) <= 1e-3
    for name in ("instances", "labels", "rgb_float", "median_depth", "normals"):
        found, wanted = getattr(ours, name), getattr(other, name)
        if wanted is not None:
            solid = other.alpha > 0.05 if name == "normals" else np.ones(wanted.shape[:3], bool)
            assert np.sum(np.abs(found - wanted)[solid] > 2e-3) <= 2e-3 * wanted.size, name


def draw_checked():
    """In a process of its own: all indices checked, which takes a compilation of its own; with room and with too little."""
    import warp as wp

    wp.config.mode = "debug"
    for seed in range(CASES_CHECKED):
        for cramped in (False, True):
            image = draw(random_case(5000 + seed), "warp-cpu", cramped=cramped)
            assert np.isfinite(image.depth).all()
        draw_garbage(wp, np.random.default_rng(seed))
    print("checked")


def draw_garbage(wp, rng):
    """Numbers that nobody has looked at: offsets, objects, poses and patches of any value."""
    scenes, size, settings, (c2w, ks, ids), _, _, _ = random_case(int(rng.integers(1 << 30)))
    renderer, count, parts = SplatRenderer(scenes, *size, backend="warp-cpu", **settings), len(c2w), 5

    def integers(*shape):
        return wp.array(rng.integers(-9, 20, shape), dtype=wp.int64, device="cpu")

    def reals(*shape):
        values = np.where(rng.uniform(size=shape) < 0.1, np.nan, rng.normal(size=shape))
        return wp.array(values, dtype=wp.float64, device="cpu")

    poses = np.concatenate([random_cameras(parts - 1, rng), np.full((1, 4, 4), np.inf)])
    poses = wp.array(poses, dtype=wp.float64, device="cpu")
    shapes = build_objects([objects.box((1, 1, 1)), objects.sphere(0.5)])
    camera = [
        wp.array(a, dtype=t, device="cpu") for a, t in ((c2w, wp.float64), (ks, wp.float64), (ids, wp.int64))
    ]
    renderer.render(
        *camera,
        objects=Instances(shapes, integers(count + 1), integers(parts), poses),
        edits=SceneEdits(
            reals(count, 3, 4), reals(count), reals(count, 3, 4), integers(count + 1), poses, reals(parts, 3),
            reals(parts, 4), integers(parts),
        ),
        outputs=("labels", "normals"),
    )  # fmt: skip


@pytest.mark.slow
def test_no_kernel_reads_or_writes_beyond_its_arrays():
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.stdout.endswith("checked\n"), done.stderr[-500:]


if __name__ == "__main__":
    draw_checked()
