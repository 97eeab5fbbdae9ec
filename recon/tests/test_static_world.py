import json

import cv2
import numpy as np
import pytest
from gaussgym_recon import poses
from gaussgym_recon.build import BuildCfg, build
from gaussgym_recon.consistency import RecaptureError
from gaussgym_recon.posed import Similarity
from gaussgym_recon.poses import PoseCfg
from gaussgym_recon.sfm import SfmCfg
from gaussgym_recon.sfm_model import SfmModel
from gaussgym_recon.sightings import project
from gaussgym_recon.static_world import StaticWorldCfg, patch_correlations, sampson_px
from gaussgym_recon.synthetic import SynthesizeCfg, synthesize_capture
from gaussgym_recon.walks import camera_rotation
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import FORMAT, MANIFEST, VERSION, Capture, CaptureImage
from gaussgym_scene.synth import synthesize
from PIL import Image
from scipy.spatial.transform import Rotation

LENS = Intrinsics(width=240, height=180, fx=200, fy=200, cx=120, cy=90)


def flight(count=10, step_m=0.3):
    """Cameras that look down on the plane z = 0 from 4 m while they fly along it."""
    c2w = np.tile(np.eye(4), (count, 1, 1))
    yaw = 0.05 * np.sin(np.arange(count))
    c2w[:, :3, :3] = camera_rotation(yaw, np.full(count, -1.45), np.zeros(count))
    c2w[:, :3, 3] = np.c_[step_m * np.arange(count), 0.1 * np.cos(np.arange(count)), np.full(count, 4.0)]
    return c2w


def texture(seed, size=700):
    rng = np.random.default_rng(seed)
    fine = cv2.resize(
        rng.normal(size=(120, 120)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    return np.clip(128 + 45 * fine, 0, 255).astype(np.uint8)


def photograph(ground, pose):
    """The plane, 14 m wide about (2, 0), as one camera sees it."""
    corners = np.array([[-5.0, 7, 0], [9, 7, 0], [9, -7, 0], [-5, -7, 0]])
    pixels = project(corners, pose, LENS)[0] - 0.5
    edge = len(ground) - 0.5
    drawn = np.array([[-0.5, -0.5], [edge, -0.5], [edge, edge], [-0.5, edge]])
    turn = cv2.getPerspectiveTransform(drawn.astype(np.float32), pixels.astype(np.float32))
    return cv2.warpPerspective(ground, turn, (240, 180), flags=cv2.INTER_AREA)


def swirl(image, amplitude_px, rng):
    """An image bent smoothly, as a generated video bends the world."""
    bend = cv2.resize(
        rng.normal(size=(4, 5, 2)).astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_CUBIC
    )
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    x, y = x + amplitude_px * bend[..., 0], y + amplitude_px * bend[..., 1]
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def write(folder, images, intrinsics, names=None, metadata=None):
    names = names or [f"images/{i}.png" for i in range(len(images))]
    with ArtifactWriter(folder, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        (writer.path / "images").mkdir()
        for name, image in zip(names, images):
            Image.fromarray(image).save(writer.path / name, quality=95)
        entries = [CaptureImage(name, lens) for name, lens in zip(names, intrinsics)]
        writer.fields.update(Capture(writer.path, entries, metadata or {"ordered": True}).manifest_fields())
    return Capture.load(folder)


def model_of(capture, c2w):
    """The map that structure from motion would make of the plane, in a frame of its own."""
    frame = Similarity(
        0.3, Rotation.from_euler("zyx", [1.0, -0.4, 2.2]).as_matrix(), np.array([1.0, 2.0, -3.0])
    )
    xy = np.random.default_rng(1).uniform([-2, -2], [5, 2], (250, 2))
    points = np.c_[xy, np.zeros(250)]
    visible = []
    for pose in c2w:
        pixels, _ = project(points, pose, LENS)
        inside = (pixels > 8).all(axis=1) & (pixels < [232, 172]).all(axis=1)
        visible.append(np.flatnonzero(inside).astype(np.int32))
    lengths = np.bincount(np.concatenate(visible), minlength=250).astype(np.int32)
    return SfmModel(
        names=[image.file for image in capture.images],
        intrinsics=[LENS] * len(c2w),
        c2w=frame.apply_c2w(c2w),
        points=frame.apply(points),
        colors=np.zeros((250, 3), np.uint8),
        errors_px=np.full(250, 0.3),
        track_lengths=lengths,
        visible=visible,
    )


def seen_again(folder, images, c2w, *, apart_at_least=1):
    capture = write(folder, images, [LENS] * len(images))
    correlations, apart = patch_correlations(
        capture, model_of(capture, c2w), StaticWorldCfg(long_side_px=240)
    )
    chosen = apart >= apart_at_least
    assert chosen.sum() > 100
    return float((correlations[chosen] > 0.5).mean())


def test_points_of_one_world_look_alike_and_those_of_a_changing_one_do_not(tmp_path):
    c2w, rng = flight(), np.random.default_rng(0)
    one, other = texture(0), texture(1)
    true = [photograph(one, pose) for pose in c2w]
    noisy = [np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8) for image in true]
    darker = [
        np.clip(image * gain, 0, 255).astype(np.uint8) for image, gain in zip(noisy, np.linspace(1, 0.6, 10))
    ]
    bent = [swirl(image, 4.0, rng) for image in true]
    assert seen_again(tmp_path / "static", darker, c2w) > 0.95
    assert seen_again(tmp_path / "bent", bent, c2w) < 0.6
    # Neighbours in a slow blend look alike, however it ends.
    slow = flight(step_m=0.08)
    pairs = [(photograph(one, pose), photograph(other, pose)) for pose in slow]
    blend = [cv2.addWeighted(a, 1 - t, b, t, 0) for (a, b), t in zip(pairs, np.linspace(0, 1, 10))]
    assert seen_again(tmp_path / "slow", [a for a, _ in pairs], slow, apart_at_least=7) > 0.95
    assert seen_again(tmp_path / "blend", blend, slow, apart_at_least=7) < 0.5


def test_sampson_distance_of_matches_moved_off_their_epipolar_line():
    c2w = flight()[[1, 4]]
    points = np.random.default_rng(2).uniform([-1, -1.5, 0], [3, 1.5, 0.5], (40, 3))
    first, second = project(points, c2w[0], LENS)[0], project(points, c2w[1], LENS)[0]
    assert sampson_px(first, second, c2w, [LENS, LENS]).max() < 1e-6
    # Move each match of the second image by 3 px across its epipolar line: half of that to first order, in each image.
    away = (
        c2w[1, :3, 3]
        + 1e-3 * (points - c2w[0, :3, 3])
        + (c2w[0, :3, 3] - c2w[1, :3, 3])
        + (points - c2w[0, :3, 3])
    )
    along = project(away, c2w[1], LENS)[0] - second
    across = np.c_[-along[:, 1], along[:, 0]] / np.linalg.norm(along, axis=1, keepdims=True)
    moved = sampson_px(first, second + 3.0 * across, c2w, [LENS, LENS])
    np.testing.assert_allclose(moved, 3.0 / np.sqrt(2), rtol=0.05)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_video_whose_world_bends_is_to_be_taken_again_and_its_source_is_not(tmp_path):
    """A walk through a street, as it is and with every frame bent by a hundredth of its width, as generated videos are."""
    scene = synthesize("street", seed=3, length_m=14.0, max_splats=2000)
    cfg = SynthesizeCfg(images=24, turn_images=6, width=320, height=240, gps_std_m=0.5)
    source = Capture.load(synthesize_capture(scene, tmp_path / "street", seed=1, cfg=cfg))
    rng = np.random.default_rng(3)
    frames = [swirl(np.asarray(Image.open(source.path(i))), 3.0, rng) for i in range(len(source.images))]
    lenses = [image.intrinsics for image in source.images]
    names = [image.file for image in source.images]
    write(tmp_path / "bent", frames, lenses, names, {"source": "video", "ordered": True})
    settings = BuildCfg(poses=PoseCfg(camera_height_m=1.5, sfm=SfmCfg(max_attempts=1, min_attempts=1)))
    with pytest.raises(RecaptureError, match="contradict each other"):
        build(tmp_path / "bent", tmp_path / "scene", settings)
    assert not (tmp_path / "scene").exists()
    verdict = json.loads((tmp_path / "scene.work" / "verdict.json").read_text())
    assert verdict["verdict"] == "recapture"
    assert "look the same" in " ".join(verdict["reasons"])

    posed = poses.pose(source, tmp_path / "work", settings.poses)
    assert len(posed) >= 22
