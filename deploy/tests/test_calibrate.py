"""Calibration: planted cameras are found again in clips drawn by a ray tracer of the tests' own."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError
from gaussgym_deploy.calibrate.boards import Board
from gaussgym_deploy.calibrate.camera_file import CameraFile
from gaussgym_deploy.calibrate.clips import Clip, read_clip
from gaussgym_deploy.calibrate.intrinsics import calibrate_intrinsics
from gaussgym_deploy.calibrate.latency import blink_latency, shake_latency
from gaussgym_deploy.calibrate.mount import BoardPlace, calibrate_mount
from gaussgym_deploy.image_fit import ImageFit

cv2 = pytest.importorskip("cv2")

PLANTED = CameraFile(480, 360, 330.0, 334.0, 247.3, 171.8, (-0.12, 0.05, 0.0012, -0.0008))
CHECKER = Board("checkerboard", 8, 5, 0.04)
TAGS = Board("apriltag", 4, 3, 0.06, 0.015)


def rays(camera, samples=2):
    """Directions (x, y, 1) of samples of all pixels `[H s, W s, 2]`: distortion is undone by fixed-point iteration."""
    k1, k2, p1, p2 = camera.distortion
    u = (np.arange(camera.width * samples) + 0.5) / samples
    v = (np.arange(camera.height * samples) + 0.5) / samples
    xd, yd = np.meshgrid((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy)
    x, y = xd.copy(), yd.copy()
    for _ in range(40):
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2 * r2
        dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        x, y = (xd - dx) / radial, (yd - dy) / radial
    return np.stack([x, y], axis=-1)


def print_of(board):
    """Brightness 0..1 of a board's print as a function of plane coordinates [m]."""
    if board.kind == "checkerboard":

        def shade(x, y):
            i, j = np.floor(x / board.size_m).astype(int), np.floor(y / board.size_m).astype(int)
            on = (i >= -1) & (i < board.columns) & (j >= -1) & (j < board.rows)
            paper = (
                np.abs(x - board.size_m * (board.columns - 1) / 2) < board.size_m * (board.columns + 2) / 2
            ) & (np.abs(y - board.size_m * (board.rows - 1) / 2) < board.size_m * (board.rows + 2) / 2)
            return np.where(on & ((i + j) % 2 == 0), 0.05, np.where(paper, 0.95, 0.4))

        return shade
    scale = 2000.0  # pixels of the print a metre
    pitch = board.size_m + board.gap_m
    wide, high = pitch * board.columns - board.gap_m, pitch * board.rows - board.gap_m
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    sheet = np.full((round(high * scale), round(wide * scale)), 255, np.uint8)
    side = round(board.size_m * scale)
    for tag in range(board.columns * board.rows):
        left, top = round(tag % board.columns * pitch * scale), round(tag // board.columns * pitch * scale)
        sheet[top : top + side, left : left + side] = cv2.aruco.generateImageMarker(family, tag, side)

    def shade(x, y):
        i, j = np.floor(x * scale).astype(int), np.floor(y * scale).astype(int)
        inside = (i >= 0) & (i < sheet.shape[1]) & (j >= 0) & (j < sheet.shape[0])
        paper = (x > -0.03) & (x < wide + 0.03) & (y > -0.03) & (y < high + 0.03)
        value = sheet[np.clip(j, 0, sheet.shape[0] - 1), np.clip(i, 0, sheet.shape[1] - 1)] / 255.0
        return np.where(inside, 0.05 + 0.9 * value, np.where(paper, 0.95, 0.4))

    return shade


def draw(camera, board, pose_c_board, rng, *, noise=2.0, directions=None):
    """One image of a board at a pose T_camera_board: supersampled, blurred, noisy."""
    direction = rays(camera) if directions is None else directions
    rotation, shift = pose_c_board[:3, :3], pose_c_board[:3, 3]
    d = np.concatenate([direction, np.ones((*direction.shape[:2], 1))], axis=-1) @ rotation  # in board axes
    origin = -rotation.T @ shift
    distance = -origin[2] / np.where(np.abs(d[..., 2]) < 1e-9, 1e-9, d[..., 2])
    x, y = (origin[i] + distance * d[..., i] for i in (0, 1))
    value = np.where(distance > 0, print_of(board)(x, y), 0.3)
    height, width = camera.height, camera.width
    image = 255 * value.reshape(height, 2, width, 2).mean(axis=(1, 3))
    image = cv2.GaussianBlur(image, (0, 0), 0.6) + rng.normal(0, noise, (height, width))
    return np.clip(image, 0, 255).round().astype(np.uint8)


def rotation(rx, ry, rz):
    return cv2.Rodrigues(np.array([0.0, 0.0, rz]))[0] @ cv2.Rodrigues(np.array([rx, ry, 0.0]))[0]


def looks(board, count, rng, *, tilt=0.7, middle=None):
    """Poses of a board before a camera: tilted and moved about."""
    pitch = board.size_m + board.gap_m
    centre = np.array([board.columns - 1, board.rows - 1, 0.0]) * pitch / 2
    for n in range(count):
        pose = np.eye(4)
        pose[:3, :3] = rotation(*(tilt * rng.uniform(-1, 1, 2)), 0.3 * rng.uniform(-1, 1) * (tilt > 0))
        place = np.array([(n % 3 - 1) * 0.09, (n // 3 % 3 - 1) * 0.07, 0.38 + 0.12 * rng.uniform()])
        pose[:3, 3] = (place if middle is None else middle) - pose[:3, :3] @ centre
        yield pose


def clip_of(camera, board, poses, seed=0, **options):
    rng, directions = np.random.default_rng(seed), rays(camera)
    images = [draw(camera, board, pose, rng, directions=directions, **options) for pose in poses]
    return Clip("clip", np.stack(images), None)


@pytest.fixture(scope="module")
def checker_clip():
    return clip_of(PLANTED, CHECKER, looks(CHECKER, 24, np.random.default_rng(1)))


@pytest.fixture(scope="module")
def found(checker_clip):
    return calibrate_intrinsics(checker_clip, CHECKER)


def distortion_gap_px(a, b):
    """Largest difference of where two lenses put the rays within the image (not in its very corners)."""
    inner = rays(a, samples=1)[20:-20:20, 20:-20:20].reshape(-1, 2)
    points = np.concatenate([inner, np.ones((len(inner), 1))], axis=1)
    pixels = [
        cv2.projectPoints(points, np.zeros(3), np.zeros(3), c.matrix, np.array(c.distortion))[0]
        for c in (a, b)
    ]
    return float(np.abs(pixels[0] - pixels[1]).max())


def test_planted_intrinsics_are_found_from_a_checkerboard(found):
    for name in ("fx", "fy", "cx", "cy"):
        assert abs(getattr(found, name) - getattr(PLANTED, name)) < 0.5, name
    assert distortion_gap_px(PLANTED, found) < 0.8  # all errors together, at the worst pixel
    assert np.abs(np.subtract(PLANTED.distortion, found.distortion)).max() < 0.005
    assert found.errors["reprojection_rms_px"] < 0.3
    errors = found.errors["std_fx_fy_cx_cy_px"]
    assert all(0 < e < 0.5 for e in errors)


@pytest.mark.slow
def test_planted_intrinsics_are_found_from_tags():
    clip = clip_of(PLANTED, TAGS, looks(TAGS, 24, np.random.default_rng(2)))
    found = calibrate_intrinsics(clip, TAGS)
    for name in ("fx", "fy", "cx", "cy"):
        assert abs(getattr(found, name) - getattr(PLANTED, name)) < 0.5, name
    assert distortion_gap_px(PLANTED, found) < 0.8


def mount_of(tilt_deg, position=(0.3, 0.02, 0.05), yaw_deg=1.5, roll_deg=-0.7):
    """T_base_camera of a camera that looks forward and down by a tilt."""
    tilt = np.radians(tilt_deg)
    level = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=float)  # camera axes in the base frame
    turn = cv2.Rodrigues(np.array([0.0, tilt, 0.0]))[0]
    small = (
        cv2.Rodrigues(np.array([0.0, 0.0, np.radians(yaw_deg)]))[0]
        @ cv2.Rodrigues(np.array([np.radians(roll_deg), 0, 0]))[0]
    )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = small @ turn @ level, position
    return pose


def angle_deg(a, b):
    return np.degrees(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1)))


def matrix_of(quat):
    w, x, y, z = quat
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.mark.parametrize(
    ("board", "place", "tilt"),
    [
        (CHECKER, BoardPlace((0.75, 0.14, -0.32)), 25.0),
        (
            Board("checkerboard", 7, 5, 0.04),
            BoardPlace((0.8, 0.1, -0.3), (180.0, 0.0, -90.0)),
            25.0,
        ),  # two ends alike
        (TAGS, BoardPlace((0.8, 0.13, 0.12), (-90.0, 0.0, -90.0)), 0.0),  # on a wall, facing the robot
    ],
    ids=["floor", "floor-turned", "wall"],
)
def test_a_planted_mount_is_found(found, board, place, tilt):
    planted = mount_of(tilt)
    pose = np.linalg.inv(planted) @ place.pose
    clip = clip_of(PLANTED, board, [pose] * 3, seed=5)
    mounted = calibrate_mount(clip, board, found, place)
    assert angle_deg(planted[:3, :3], matrix_of(mounted.quat_b_c_wxyz)) < 0.5
    assert np.abs(planted[:3, 3] - mounted.position_b_m).max() < 0.01
    assert mounted.fx == found.fx


def test_files_go_round_and_give_the_policys_camera(tmp_path, found):
    camera = CameraFile(
        **{**found.__dict__, "position_b_m": (0.3, 0.0, 0.05), "quat_b_c_wxyz": (0.5, -0.5, 0.5, -0.5)}
    )
    assert CameraFile.load(camera.save(tmp_path / "camera.json")) == camera
    spec = camera.spec(64, 48)
    assert spec.fx == pytest.approx(camera.fx / 7.5)
    assert spec.cx == pytest.approx(camera.cx / 7.5)
    wide = camera.spec(96, 48)  # the middle 480x240 of 480x360
    assert (wide.fx, wide.cy) == (pytest.approx(camera.fx / 5), pytest.approx((camera.cy - 60) / 5))
    # What the camera thread makes of this lens' image is what such a pinhole camera sees: a board's corners lie where they should.
    assert ImageFit(spec, camera.lens()).covered > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "x"}, "expected format"),
        ({"fx": -1}, "fx is -1"),
        ({"distortion": [0, 0]}, "expected 4 finite numbers"),
        ({"cx": "a"}, "cx is"),
    ],
)
def test_bad_camera_files_are_one_clear_line(tmp_path, found, change, words):
    fields = json.loads(found.save(tmp_path / "camera.json").read_text())
    (tmp_path / "camera.json").write_text(json.dumps({**fields, **change}))
    with pytest.raises(BundleError, match=words):
        CameraFile.load(tmp_path / "camera.json")


def test_bad_clips_are_one_clear_line(checker_clip, tmp_path):
    grey = checker_clip.grey
    alike = clip_of(PLANTED, CHECKER, looks(CHECKER, 9, np.random.default_rng(0), tilt=0.0))
    for clip, board, words in (
        (
            Clip("c", np.full((9, 90, 120), 128, np.uint8), None),
            CHECKER,
            "no checkerboard of 8 x 5 seen in 9 frames",
        ),
        (Clip("c", grey[:9], None), Board("checkerboard", 9, 6, 0.04), "no checkerboard of 9 x 6"),
        (Clip("c", grey[:5], None), CHECKER, "seen in 5 of 5 frames, expected at least 8"),
        (alike, CHECKER, "always seen alike"),
    ):
        with pytest.raises(BundleError, match=words) as error:
            calibrate_intrinsics(clip, board)
        assert "\n" not in str(error.value)
    with pytest.raises(BundleError, match="not found"):
        read_clip(tmp_path / "none")
    with pytest.raises(BundleError, match="holds no images"):
        read_clip(tmp_path)
    for bad in (
        lambda: Board("circles", 5, 5, 0.1),
        lambda: Board("checkerboard", 2, 5, 0.1),
        lambda: Board("apriltag", 3, 3, 0.1),
    ):
        with pytest.raises(BundleError):
            bad()


def test_a_board_that_moves_or_a_wrong_place_is_refused(checker_clip, found):
    with pytest.raises(BundleError, match="must stand still"):
        calibrate_mount(checker_clip, CHECKER, found, BoardPlace((0.75, 0.14, -0.32)))
    place = BoardPlace((0.75, 0.14, -0.32))
    clip = clip_of(PLANTED, CHECKER, [np.linalg.inv(mount_of(25.0)) @ place.pose])
    with pytest.raises(BundleError, match="from the base's origin"):
        calibrate_mount(clip, CHECKER, found, BoardPlace((5.0, 0.0, -0.3)))


def shaken(latency_s, *, seconds=12.0, camera_hz=15.0, gyro_hz=50.0, seed=0, readings_noise=0.02):
    """A textured wall far away seen by a camera that turns to and fro, and the gyroscope."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6.28, (3, 3))
    rates = np.array([1.1, 2.3, 3.7])
    amplitude = np.array([[0.08, 0.05, 0.03], [0.09, 0.05, 0.02], [0.04, 0.02, 0.01]])

    def angle(t):
        waves = np.sin(2 * np.pi * rates * np.asarray(t)[..., None, None] + phase)
        return (amplitude * waves).sum(axis=-1)

    def rate(t):
        waves = 2 * np.pi * rates * np.cos(2 * np.pi * rates * np.asarray(t)[..., None, None] + phase)
        return (amplitude * waves).sum(axis=-1)

    texture = cv2.GaussianBlur(rng.uniform(0, 255, (700, 900)), (0, 0), 3.0)
    texture = ((texture - texture.min()) / np.ptp(texture) * 255).astype(np.uint8)
    exposed = np.arange(0.7, seconds - 0.7, 1 / camera_hz)
    images = []
    for roll, pitch, yaw in angle(exposed):
        cos, sin = np.cos(roll), np.sin(roll)
        turn = np.array([[cos, -sin], [sin, cos]])
        shift = np.array([450, 350]) + 200 * np.array([yaw, pitch]) - turn @ [120, 90]
        warp = np.concatenate([turn, shift[:, None]], axis=1)
        images.append(
            cv2.warpAffine(texture, warp, (240, 180), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        )
    gyro_t = np.arange(0.0, seconds, 1 / gyro_hz)
    readings = rate(gyro_t) + rng.normal(0, readings_noise, (len(gyro_t), 3))
    return Clip("shaken", np.stack(images), exposed + latency_s), gyro_t, readings


@pytest.mark.parametrize("latency_s", [0.0, 0.0373, 0.121])
def test_a_planted_latency_is_found_in_a_shaken_clip(latency_s):
    clip, times, readings = shaken(latency_s)
    found = shake_latency(clip, times, readings)
    assert abs(found.seconds - latency_s) < 0.003
    assert found.std_error_s < 0.003
    assert found.explained > 0.9


def test_a_clip_that_was_not_shaken_or_is_of_another_log_is_refused():
    clip, times, readings = shaken(0.05, seconds=6.0)
    with pytest.raises(BundleError, match="shake harder"):
        shake_latency(clip, times, readings * 0.02)
    with pytest.raises(BundleError, match="do not move alike"):
        shake_latency(clip, times, np.random.default_rng(9).normal(0, 1, readings.shape))
    with pytest.raises(BundleError, match="clock"):
        shake_latency(Clip("c", clip.grey, clip.t_s + 1000), times, readings)
    with pytest.raises(BundleError, match="no times"):
        shake_latency(Clip("c", clip.grey, None), times, readings)


def test_a_planted_latency_is_found_in_a_blinking_light():
    rng = np.random.default_rng(0)
    toggles = np.cumsum(rng.uniform(0.15, 0.4, 40))
    exposed, latency_s, exposure_s = np.arange(0.3, toggles[-1], 1 / 30.0), 0.083, 0.008
    images = []
    for t in exposed:
        fine = np.linspace(t - exposure_s / 2, t + exposure_s / 2, 33)
        on = (np.searchsorted(toggles, fine, side="right") % 2 == 1).mean()
        image = np.full((60, 80), 60.0)
        image[20:30, 30:45] += 150 * on
        images.append(np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8))
    found = blink_latency(Clip("blink", np.stack(images), exposed + latency_s), toggles)
    assert abs(found.seconds - latency_s) < 0.003
    with pytest.raises(BundleError, match="do not move alike"):
        blink_latency(Clip("c", np.stack(images)[::-1], exposed + latency_s), toggles)
    with pytest.raises(BundleError, match="expected at least 4"):
        blink_latency(Clip("c", np.stack(images), exposed), toggles[:3])


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "gaussgym_deploy", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_the_commands_write_one_file(checker_clip, tmp_path):
    folder = tmp_path / "views"
    folder.mkdir()
    for number, image in enumerate(checker_clip.grey):
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)
    board = ("--columns", 8, "--rows", 5, "--size-m", 0.04)
    output = tmp_path / "camera.json"
    done = command("calibrate", "camera", folder, *board, "--output", output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(output)
    place = BoardPlace((0.75, 0.14, -0.32))
    still = tmp_path / "still"
    still.mkdir()
    clip = clip_of(PLANTED, CHECKER, [np.linalg.inv(mount_of(25.0)) @ place.pose])
    cv2.imwrite(str(still / "0.png"), clip.grey[0])
    done = command(
        "calibrate-mount", still, *board, "--camera", output, "--board-position-m", 0.75, 0.14, -0.32
    )
    assert done.returncode == 0, done.stderr
    shaken_clip, times, readings = shaken(0.06)
    moving, flight = tmp_path / "moving", tmp_path / "flight"
    moving.mkdir()
    with open(moving / "times.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "time_s"])
        for number, (image, t_s) in enumerate(zip(shaken_clip.grey, shaken_clip.t_s, strict=True)):
            cv2.imwrite(str(moving / f"{number:03d}.png"), image)
            table.writerow([f"{number:03d}.png", t_s])
    flight.mkdir()
    rows = len(times)
    arrays = {name: np.zeros((rows, 12)) for name in ("joint_pos", "joint_vel", "target", "kp", "kd")}
    np.savez(
        flight / "flight.npz",
        t_s=times,
        robot_t_s=times,
        ang_vel_b=readings,
        quat_wxyz=np.ones((rows, 4)),
        **arrays,
    )
    (flight / "flight.json").write_text(
        json.dumps({"robot": "go1", "joint_names": [f"j{i}" for i in range(12)]})
    )
    done = command("calibrate-latency", moving, "--states", flight, "--camera", output)
    assert done.returncode == 0, done.stderr
    camera = CameraFile.load(output)
    assert abs(camera.latency_s - 0.06) < 0.003
    assert camera.spec(64, 48).position_b_m == camera.position_b_m
    refused = command("calibrate-camera", still, *board, "--output", tmp_path / "x.json")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
