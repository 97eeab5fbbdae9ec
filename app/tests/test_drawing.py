"""The robot drawn into renders, the chase camera, the video files."""

import json
import subprocess

import numpy as np
import pytest
import torch
from gaussgym.video import Episode, FilmCfg, choose
from gaussgym_learn.film import chase
from gaussgym_learn.film.chase import chase_poses, look_at, slow, write_video
from gaussgym_learn.film.robot_drawing import ThirdPerson
from gaussgym_learn.robot_view import robot_shapes
from gaussgym_render import Instances, SplatRenderer
from gaussgym_render.objects import LIGHT_W
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.splats import Splats
from gaussgym_sim.robot import get_robot
from gaussgym_sim.robots.kinematics import BodyKinematics

K = np.array([[200.0, 0, 80], [0, 200.0, 60], [0, 0, 1]])
SIZE = (160, 120)
SKY = (0.4, 0.5, 0.6)
GO1 = get_robot("go1")
UPRIGHT = np.array([1.0, 0, 0, 0])
STANDING = np.array(GO1.default_joint_pos)
EYE = np.array([-1.9, -0.8, 0.9])


def sheet(centre, across, along, *, spacing=0.05, rgb=(0.5, 0.5, 0.5)):
    """A flat sheet of opaque splats about `centre`, 41 x 41 of them along two axes."""
    steps = spacing * (np.mgrid[0:41, 0:41].reshape(2, -1) - 20)
    means = (
        np.asarray(centre) + steps[0][:, None] * np.asarray(across) + steps[1][:, None] * np.asarray(along)
    )
    count = len(means)
    return Splats(
        means,
        np.tile([1.0, 0, 0, 0], (count, 1)),
        np.full((count, 3), 0.6 * spacing) * np.where(np.abs(np.cross(across, along)) > 0.5, 0.02, 1.0),
        np.full(count, 0.99),
        np.tile((np.array(rgb) - 0.5) / 0.28209479, (count, 1))[:, None],
    )


GROUND = sheet((0, 0, 0), (1, 0, 0), (0, 1, 0))


def stand(splats, *, eye=EYE, at=(0.0, 0.0, 0.28), ground_z_m=None, size=SIZE):
    """The picture of a standing Go1 from `eye`, which looks at its trunk, and the place without it."""
    pose = look_at(np.asarray(eye, float), np.array([0.0, 0.0, 0.2]))
    third = ThirdPerson(splats, GO1, *size, background=SKY)
    plain = SplatRenderer([splats], *size, background=SKY).render(pose[None], K[None], np.zeros(1, int))
    picture = third.picture(pose, K, np.array(at), UPRIGHT, STANDING, ground_z_m=ground_z_m)
    return picture, plain.rgb[0], pose


def test_the_robot_shows_where_it_projects_with_its_feet_on_the_ground():
    picture, plain, pose = stand(GROUND)
    changed = (picture != plain).any(axis=2)
    rows, columns = np.nonzero(changed)
    local = pose[:3, :3].T @ (np.array([0.0, 0.0, 0.28]) - pose[:3, 3])
    u, v = (K @ local)[:2] / local[2]
    assert changed[int(v), int(u)]
    assert abs(columns.mean() - u) < 6
    foot = pose[:3, :3].T @ (np.array([-0.188, -0.13, 0.0]) - pose[:3, 3])  # the nearest
    assert abs(rows.max() - (K @ foot)[1] / foot[2]) < 3
    assert 0.02 < changed.mean() < 0.25


def test_edges_are_the_mean_of_four_rays():
    """In the pixels that show the robot, the picture is a picture of twice the size, averaged; others are as without it."""
    picture, plain, pose = stand(GROUND)
    double = K * [[2.0], [2.0], [1.0]]
    shapes = robot_shapes(GO1)
    bodies = BodyKinematics(GO1, 1).poses(
        *(torch.tensor(a, dtype=torch.float64)[None] for a in ([0, 0, 0.28], UPRIGHT, STANDING))
    )
    seen = Instances.dense(shapes.objects, shapes.whole, bodies.numpy()[:, shapes.whole_bodies])
    fine = SplatRenderer([GROUND], 2 * SIZE[0], 2 * SIZE[1], background=SKY).render(
        pose[None], double[None], np.zeros(1, int), objects=seen
    )
    rays = fine.rgb[0].reshape(SIZE[1], 2, SIZE[0], 2, 3).astype(float)
    shown = (fine.instances[0] >= 0).reshape(SIZE[1], 2, SIZE[0], 2)
    whole, some = shown.all(axis=(1, 3)), shown.any(axis=(1, 3))
    assert (some & ~whole).sum() > 50
    error = np.abs(picture - rays.mean(axis=(1, 3))).max(axis=2)
    assert error[some].max() <= 1.5
    away = ~some & (np.abs(picture.astype(int) - plain).max(axis=2) > 0)
    assert away.sum() < 0.02 * some.sum()  # 1x rays that meet the robot between those four


def test_nearer_splats_hide_the_robot():
    wall = sheet((-0.6, -0.25, 0.4), (0, 1, 0), (0, 0, 1))  # between the eye and the robot
    picture, plain, _ = stand(wall)
    assert np.abs(picture.astype(int) - plain).max() <= 8  # what 0.99 opaque splats let through


def test_what_lies_behind_the_camera_is_not_drawn():
    picture, plain, _ = stand(GROUND, at=(-3.0, -1.2, 0.28), ground_z_m=0.0)
    np.testing.assert_array_equal(picture, plain)


def test_shadow_darkens_the_ground_and_not_the_robot():
    without, plain, pose = stand(GROUND)
    with_shadow, _, _ = stand(GROUND, ground_z_m=0.0)
    robot = (without != plain).any(axis=2)
    ratio = with_shadow.astype(float).sum(axis=2) / without.astype(float).sum(axis=2)
    assert ratio.max() <= 1.01
    assert 0.45 < ratio[~robot].min() < 0.65
    dark = (ratio < 0.9) & ~robot
    assert 200 < dark.sum() < 3000
    # It falls away from the light: that of the trunk's middle lies where the light's ray through it meets the ground.
    fallen = np.array([0.0, 0.0, 0.28]) - 0.28 / LIGHT_W[2] * np.array(LIGHT_W)
    local = pose[:3, :3].T @ (fallen - pose[:3, 3])
    u, v = (K @ local)[:2] / local[2]
    assert dark[int(v) - 2 : int(v) + 3, int(u) - 2 : int(u) + 3].any()
    high, _, _ = stand(GROUND, ground_z_m=-1.0)  # a plane far below what is seen takes none of it
    np.testing.assert_array_equal(high, without)


def test_a_picture_may_be_narrower_than_the_robot():
    picture, plain, _ = stand(GROUND, eye=(-0.5, -0.2, 0.3), size=(31, 24))
    assert picture.shape == (24, 31, 3)
    assert (picture != plain).any()


def plane(height=0.0):
    return Heightfield(
        np.full((81, 81), height, np.float32), 0.25, np.array([-10.0, -10.0]), np.ones((81, 81), bool)
    )


def test_chase_camera_follows_from_behind_and_sees_the_robot():
    count, cfg = 60, FilmCfg()
    yaw = np.linspace(0.3, 0.9, count)
    positions = np.cumsum(np.stack([0.03 * np.cos(yaw), 0.03 * np.sin(yaw), np.zeros(count)], axis=1), axis=0)
    positions[:, 2] = 0.28
    quats = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
    poses = chase_poses(positions, quats, plane(), cfg)
    for pose, position, angle in zip(poses, positions, yaw):
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        assert pose[2, 0] == pytest.approx(0, abs=1e-9)  # horizon level
        behind = (position - pose[:3, 3]) @ [np.cos(angle), np.sin(angle), 0]
        assert 0.8 < behind < 2.2
        local = pose[:3, :3].T @ (position - pose[:3, 3])
        assert local[2] > 0.5
        assert np.abs(local[:2] / local[2]).max() < 0.6
    high = chase_poses(positions, quats, plane(2.0), cfg)
    assert high[:, 2, 3].min() >= 2.3 - 1e-9


def test_slow_keeps_constants_and_does_not_lag():
    ramp = np.linspace(0, 1, 200)[:, None]
    assert slow(np.ones((50, 2)), 0.1) == pytest.approx(np.ones((50, 2)))
    middle = slow(ramp, 0.2)[80:120]
    assert np.abs(middle - ramp[80:120]).max() < 0.01


def test_filmed_episode_is_the_first_that_reached_its_goal():
    def episode(outcome, length):
        return Episode(root_pos_w=[np.zeros(3)] * length, outcome=outcome)

    assert choose([episode("fell", 9), episode("goal reached", 5), episode("goal reached", 7)]) == 1
    assert choose([episode("fell", 3), episode("time ran out", 9), episode("fell", 4)]) == 1


def test_video_has_its_frames_and_plays_in_browsers(tmp_path):
    images = [np.full((48, 64, 3), value, np.uint8) for value in range(0, 250, 10)]
    path = write_video(tmp_path / "a.mp4", images, 25.0)
    words = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)]
    stream = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["streams"][0]
    assert (stream["codec_name"], stream["pix_fmt"]) == ("h264", "yuv420p")
    assert (stream["width"], stream["height"], int(stream["nb_read_frames"])) == (64, 48, 25)
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")  # starts before it is loaded


def test_ffmpeg_failure_and_absence_are_one_clear_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="could not write the video"):
        write_video(tmp_path / "no" / "folder.mp4", [np.zeros((48, 64, 3), np.uint8)] * 400, 25.0)
    monkeypatch.setattr(chase.subprocess, "Popen", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError()))
    with pytest.raises(InputError, match="ffmpeg was not found"):
        write_video(tmp_path / "b.mp4", [np.zeros((48, 64, 3), np.uint8)], 25.0)
