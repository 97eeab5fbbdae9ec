"""The robot drawn into renders, the chase camera, the video files."""

import json
import subprocess

import numpy as np
import pytest
from gaussgym import video
from gaussgym.robot_drawing import RobotShape, box, capsule, cylinder, draw
from gaussgym.video import Episode, FilmCfg, chase_poses, choose, look_at, slow, write_video
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_sim.robot import get_robot

K = np.array([[200.0, 0, 80], [0, 200.0, 60], [0, 0, 1]])
GREY = np.full((120, 160, 3), 90, np.uint8)


def volume(vertices, faces):
    """Signed volume by the divergence theorem: positive if all normals point outward."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return (a * np.cross(b, c)).sum() / 6


@pytest.mark.parametrize(
    ("shape", "exact"),
    [
        (box(np.array([0.1, 0.2, 0.3])), 8 * 0.1 * 0.2 * 0.3),
        (capsule(0.2, 0.5, around=48, along=16), np.pi * 0.04 + 4 / 3 * np.pi * 0.008),
        (capsule(0.3, 0.0, around=48, along=16), 4 / 3 * np.pi * 0.027),
        (cylinder(0.2, 0.5, around=48), np.pi * 0.04),
    ],
)
def test_solids_are_closed_with_outward_normals(shape, exact):
    assert volume(*shape) == pytest.approx(exact, rel=0.01)


def sphere(centre, radius=0.2):
    vertices, faces = capsule(radius, 0.0, around=32, along=10)
    return vertices + centre, faces, np.tile([1.0, 0.2, 0.1], (len(faces), 1))


def looking_along_x(eye):
    return look_at(np.asarray(eye, float), np.asarray(eye, float) + [1.0, 0, 0])


def test_sphere_covers_the_disc_that_projection_predicts():
    pose = looking_along_x([-2.0, 0.3, 0.5])
    depth = np.zeros((120, 160), np.float32)  # nothing was hit: the sky is behind everything
    image = draw(GREY, depth, K, pose, sphere([0.0, 0.0, 0.5]))
    rows, columns = np.nonzero((image != GREY).any(axis=2))
    # the sphere stands 0.3 m to the right of the optical axis, 2 m ahead
    assert columns.mean() + 0.5 == pytest.approx(80 + 200 * 0.3 / 2, abs=1.0)
    assert rows.mean() + 0.5 == pytest.approx(60, abs=0.5)
    # pixels that it covers in part count whole: half a pixel more all round
    assert len(rows) == pytest.approx(np.pi * (200 * 0.2 / 2 + 0.5) ** 2, rel=0.04)


def test_nearer_splats_hide_the_robot():
    pose, ball = looking_along_x([-2.0, 0, 0.5]), sphere([0.0, 0.0, 0.5])
    near = np.full((120, 160), 1.5, np.float32)
    assert (draw(GREY, near, K, pose, ball) == GREY).all()
    half = np.where(np.arange(160) < 80, 1.5, 9.0).astype(np.float32) * np.ones((120, 1), np.float32)
    changed = (draw(GREY, half, K, pose, ball) != GREY).any(axis=2)
    assert not changed[:, :79].any()
    assert changed[:, 81:].any()


def test_what_lies_behind_the_camera_is_not_drawn():
    pose, depth = looking_along_x([2.0, 0, 0.5]), np.zeros((120, 160), np.float32)
    assert (draw(GREY, depth, K, pose, sphere([0.0, 0.0, 0.5])) == GREY).all()


def test_shadow_darkens_the_ground_below_only():
    eye = np.array([-2.0, 0, 1.5])
    pose = look_at(eye, np.array([0.0, 0, 0]))
    rows, columns = np.mgrid[0:120, 0:160]
    rays = np.stack([(columns + 0.5 - 80) / 200, (rows + 0.5 - 60) / 200, np.ones((120, 160))], -1)
    ground = (-eye[2] / (rays @ pose[:3, :3].T)[..., 2]).astype(np.float32)
    with_shadow = draw(GREY, ground, K, pose, sphere([0, 0, 0.3], 0.1), ground_z_m=0.0)
    without = draw(GREY, ground, K, pose, sphere([0, 0, 0.3], 0.1))
    darker = with_shadow.astype(int).sum(axis=2) < without.astype(int).sum(axis=2)
    assert 100 < darker.sum() < 3000
    assert with_shadow.min() >= 0.4 * 90 * 0.3
    wall = np.where(ground > 0, 0.5, 0).astype(np.float32)  # something stands before it all
    assert (draw(GREY, wall, K, pose, sphere([0, 0, 0.3], 0.1), ground_z_m=0.0) == GREY).all()


def test_robot_stands_on_its_feet_where_it_is_put():
    robot = get_robot("go1")
    shape = RobotShape(robot.mjcf, robot.joint_names)
    turn = np.array([np.cos(0.6), 0.0, 0.0, np.sin(0.6)])
    vertices, faces, colors = shape.triangles(
        np.array([3.0, -2.0, robot.base_height_m]), turn, np.array(robot.default_joint_pos)
    )
    assert faces.max() < len(vertices)
    assert colors.shape == (shape.num_faces, 3)
    assert np.abs(vertices[:, :2].mean(axis=0) - [3.0, -2.0]).max() < 0.1
    assert abs(vertices[:, 2].min()) < 0.05
    assert 0.25 < np.ptp(vertices[:, 2]) < 0.5


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
    monkeypatch.setattr(video.subprocess, "Popen", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError()))
    with pytest.raises(InputError, match="ffmpeg was not found"):
        write_video(tmp_path / "b.mp4", [np.zeros((48, 64, 3), np.uint8)], 25.0)
