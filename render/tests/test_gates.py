"""The gates of the CPU backend, over many random scenes: how near it is to the oracle, batches of any size, memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
from gaussgym_render import SplatRenderer, oracle
from gaussgym_render.testing import pinhole, random_cameras, random_splats
from gaussgym_scene import Splats
from gaussgym_scene.frames import look_at

BACKGROUND = (0.2, 0.4, 0.6)
SCENES_PER_KIND = 30


def plain(rng):
    return random_splats(int(rng.integers(1, 250)), rng, sh_degree=int(rng.integers(0, 4)))


def behind(rng):
    """Every other splat lies behind the cameras, which stand at the middle and look along +x."""
    s = random_splats(200, rng)
    s.means[:, 0] = np.abs(s.means[:, 0]) * rng.choice([-1, 1], 200)
    return s


def off_screen(rng):
    """Most splats lie far to the sides: only the wide ones reach into the image."""
    s = random_splats(200, rng, log_scale_mean=-0.5)
    s.means[:, 1] = (np.abs(s.means[:, 1]) + 2 * np.abs(s.means[:, 0])) * rng.choice([-1, 1], 200)
    return s


def huge(rng):
    s = random_splats(60, rng)
    s.scales[:] = np.exp(rng.uniform(np.log(0.5), np.log(300.0), (60, 3)))
    return s


def tiny(rng):
    """Splats far below a pixel, many to a pixel, so that what is left of their opacities shows."""
    s = random_splats(1200, rng, size_m=(1.0, 0.4, 0.3))
    s.means[:, 0] += 4
    s.scales[:] = np.exp(rng.uniform(np.log(1e-5), np.log(2e-2), (1200, 3)))
    s.opacities[:] = rng.uniform(0.5, 1.0, 1200)
    return s


def degenerate(rng):
    """No extent along one axis (discs), along two (needles), along any (points), and quaternions of any length.

    `Splats` refuses scales of 0 when made; denormal ones it takes, and they behave no better.
    """
    s = random_splats(200, rng, log_scale_mean=-1.5)
    s.quats_wxyz *= rng.uniform(0.05, 20.0, (200, 1)).astype(np.float32)
    flat = np.arange(200) % 4
    for axes in (1, 2, 3):
        s.scales[flat == axes, :axes] = 0.0
    s.scales[:] = np.take_along_axis(s.scales, rng.permuted(np.tile(np.arange(3), (200, 1)), axis=1), 1)
    return s


def near_plane(rng):
    """Means on either side of the near plane, a few centimetres before the cameras; some a float apart from it."""
    s = random_splats(120, rng, log_scale_mean=-3.0)
    s.means[:, 0] = rng.choice(
        [0.05, np.nextafter(np.float32(0.05), 1), np.nextafter(np.float32(0.05), 0), 0.2, 0.02], 120
    )
    s.means[:, 1:] *= 0.03
    return s


KINDS = (plain, behind, off_screen, huge, tiny, degenerate, near_plane)
ALONG_X = look_at(np.zeros(3), np.array([1.0, 0.0, 0.0]))


def cameras_for(make, rng, count):
    """Random cameras, or for the kinds arranged about the x axis: cameras about the origin that look along it, a bit rolled."""
    if make in (plain, huge, degenerate):
        return random_cameras(count, rng)
    poses = []
    for c in range(count):
        still = make is near_plane and c % 2 == 0  # depths are then exact: a splat at the near plane is drawn
        eye, up = (
            (np.zeros(3), np.array([0.0, 0.3, 1.0]))
            if still
            else (rng.normal(size=3) * [0, 0.01, 0.01], rng.normal(size=3))
        )
        poses.append(
            look_at(eye, eye + [1.0, 0.0, 0.0] + (0 if still else rng.normal(size=3) * [0, 0.1, 0.1]), up)
        )
    return np.stack(poses)


def gate(fast, slow):
    """Squared error by image, pixels off by more than 2/255, relative errors of depth where both see something."""
    difference = np.abs(fast.rgb.astype(int) - slow.rgb)
    seen = (slow.alpha > 1 / 255) & (fast.alpha > 1 / 255)
    depth = np.abs(fast.depth - slow.depth)[seen] / slow.depth[seen]
    return (difference.astype(float) ** 2).mean((1, 2, 3)), difference.max(-1).ravel() > 2, depth


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_images_are_the_oracles_on_many_random_scenes(make):
    """210 scenes in all, two cameras each, different focal lengths and principal points, half of them antialiased."""
    rng = np.random.default_rng(KINDS.index(make))
    errors, off, depths, covered = [], [], [], 0.0
    for antialiased in (True, False):
        scenes = [make(rng) for _ in range(SCENES_PER_KIND // 2)]
        ids = np.repeat(np.arange(len(scenes)), 2)
        c2w = cameras_for(make, rng, len(ids))
        width, height = (31, 24) if antialiased else (24, 17)
        k = np.tile(pinhole(width, height), (len(ids), 1, 1))
        k[:, 0, 0] *= rng.uniform(0.7, 1.6, len(ids))
        k[:, :2, 2] += rng.uniform(-4, 4, (len(ids), 2))
        near = 0.05 if make is near_plane else 0.01
        settings = {"background": BACKGROUND, "antialiased": antialiased, "near": near}
        fast, slow = (
            SplatRenderer(scenes, width, height, backend=name, **settings).render(c2w, k, ids)
            for name in ("cpu", "reference")
        )
        squared, wrong, depth = gate(fast, slow)
        errors.append(squared), off.append(wrong), depths.append(depth)
        covered += slow.alpha.mean() / 2
    squared = np.concatenate(errors)
    assert covered > 0.02, "the scenes show nothing"
    assert 10 * np.log10(255.0**2 / max(squared.max(), 1e-9)) >= 50, "the worst image"
    assert np.concatenate(off).mean() <= 1e-4
    assert np.median(np.concatenate(depths)) <= 1e-3


def test_the_kinds_are_what_they_say():
    """Else the gate would pass over them: what each kind is there for occurs, and shows."""
    rng = np.random.default_rng(0)
    k = pinhole(31, 24)

    def seen(s, pose=ALONG_X, near=0.01):
        return oracle.project(s, pose, k, 31, 24, near=near)

    s = behind(rng)
    assert 20 < (s.means[:, 0] < 0).sum() < 180
    assert (s.means[seen(s).index, 0] > 0).all()
    s = off_screen(rng)
    p = seen(s)
    outside = (p.means_px < 0).any(1) | (p.means_px > [31, 24]).any(1)
    assert outside.mean() > 0.5
    assert oracle.composite(p, 31, 24).alpha.max() > 0.1
    assert (huge(rng).scales.max(1) > 10).mean() > 0.5
    p = seen(tiny(rng))
    sharp = p.covariances_px - 0.3 * np.eye(2)
    assert np.median(sharp[:, 0, 0]) < 0.01  # a tenth of a pixel
    s = degenerate(rng)
    assert sorted(set((s.scales == 0).sum(1))) == [0, 1, 2, 3]
    s = near_plane(rng)
    assert 0 < (s.means[seen(s, near=0.05).index, 0] < 0.051).sum() < (s.means[:, 0] < 0.051).sum()


@pytest.mark.parametrize("count", [1, 2, 3, 17, 64, 1000, 4096])
def test_a_camera_alone_is_itself_in_a_batch_of_any_size(count):
    rng = np.random.default_rng(count)
    scenes = [
        random_splats(n, rng, sh_degree=d) if n else Splats.empty(d)
        for n, d in ((300, 3), (0, 0), (1, 1), (90, 2))
    ]
    c2w, ids = random_cameras(count, rng), rng.integers(0, 4, count)
    k = np.tile(pinhole(12, 9), (count, 1, 1))
    k[:, 0, 0] *= rng.uniform(0.8, 1.2, count)
    renderer = SplatRenderer(scenes, 12, 9, backend="cpu", background=BACKGROUND)
    together = renderer.render(c2w, k, ids)
    some = np.unique(np.r_[0, count - 1, rng.integers(0, count, 40)])
    for c in some:
        alone = renderer.render(c2w[c : c + 1], k[c : c + 1], ids[c : c + 1])
        for name in ("rgb", "depth", "alpha"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[c])
    slow = SplatRenderer(scenes, 12, 9, backend="reference", background=BACKGROUND)
    expected = slow.render(c2w[some], k[some], ids[some])
    difference = np.abs(together.rgb[some].astype(int) - expected.rgb)
    assert (difference.max(-1) <= 2).mean() >= 0.9999


MEMORY_PROGRAM = """
import json, re
import numpy as np
from gaussgym_render import SplatRenderer
from gaussgym_render.bench.scenes import make_workload, synthetic_place

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

workload = make_workload(synthetic_place("street", 100_000), 8, 4096, 84, 48)
scenes = sum(getattr(s, name).nbytes for s in workload.scenes for name in ("means", "quats_wxyz", "scales", "opacities", "sh"))
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # forget the peak so far
before = status("VmRSS")
renderer = SplatRenderer(workload.scenes, 84, 48, backend="cpu")
frames = renderer.render(workload.c2w, workload.K, workload.scene_ids)
print(json.dumps({"over": status("VmHWM") - before, "scenes": scenes, "covered": float(frames.alpha.mean())}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_4096_cameras_take_little_memory():
    """Peak of a process that renders 4096 cameras at 84x48 over what it held with its 8 scenes of 100,000 splats loaded."""
    out = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM], capture_output=True, text=True, check=True
    ).stdout
    used = json.loads(out.splitlines()[-1])
    print(f"{used['over'] / 1e9:.2f} GB over the scenes' {used['scenes'] / 1e9:.2f} GB")
    assert used["covered"] > 0.5
    assert used["over"] < 1.5e9
