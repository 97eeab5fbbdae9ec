"""A calibrated camera is the one that policies are trained with and that their bundles state."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussgym_deploy.calibrate.camera_file import CameraFile
from gaussgym_learn.calibrated import calibrated, is_calibration
from gaussgym_learn.env import make_env
from gaussgym_learn.export import camera_spec, trained_cfg
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.camera import CameraCfg, intrinsics, mount_pose

# Turned about all three axes: a transposed rotation would show.
QUAT = (0.52, -0.47, 0.41, -0.58)
NORM = float(np.linalg.norm(QUAT))
FILE = CameraFile(
    640, 480, 401.0, 399.0, 331.0, 236.0, (-0.1, 0.02, 0.001, -0.002),
    position_b_m=(0.31, 0.02, 0.05), quat_b_c_wxyz=(QUAT[0] / NORM, QUAT[1] / NORM, QUAT[2] / NORM, QUAT[3] / NORM),
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return FILE.save(tmp_path / "camera.json")


def test_optics_and_mount_are_those_of_the_image_that_the_robot_hands_over(path):
    cfg, go1 = calibrated(CameraCfg(width=64, height=48), path), get_robot("go1")
    k, spec = intrinsics(cfg), FILE.spec(64, 48)
    assert torch.allclose(k, torch.tensor([[40.1, 0, 33.1], [0, 39.9, 23.6], [0, 0, 1]]))
    assert spec.quat_b_c_wxyz is not None
    w, x, y, z = spec.quat_b_c_wxyz
    forward = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]  # what +Z becomes, by hand
    pose = mount_pose(go1, cfg)
    assert pose[:3, 2].tolist() == pytest.approx(forward, abs=1e-6)
    assert pose[:3, 3].tolist() == pytest.approx([0.31, 0.02, 0.05])
    stated = camera_spec(go1, cfg)
    for name in ("fx", "fy", "cx", "cy", "position_b_m", "quat_b_c_wxyz"):
        assert getattr(stated, name) == pytest.approx(getattr(spec, name), abs=1e-5)


def test_an_image_of_another_shape_is_cut_from_the_middle(path):
    cfg = calibrated(CameraCfg(width=48, height=48), path)
    assert cfg.focal_px == pytest.approx((40.1, 39.9))
    assert cfg.center_px == pytest.approx((33.1 - 8.0, 23.6))


def test_without_a_calibrated_mount_the_robots_nominal_one_stays(path):
    dataclasses.replace(FILE, position_b_m=None, quat_b_c_wxyz=None).save(path)
    cfg, go1 = calibrated(CameraCfg(), path), get_robot("go1")
    assert torch.equal(mount_pose(go1, cfg), mount_pose(go1))
    assert cfg.focal_px == pytest.approx((40.1, 39.9))


def test_training_looks_through_it(path):
    course = synthesize("flat", seed=0, max_splats=2000)
    env = make_env("velocity", course, 2, renderer="cpu", camera_model=str(path))
    assert env.cfg.camera == calibrated(CameraCfg(), path)
    eye = env.env.camera
    assert eye is not None
    error = env.cfg.randomize.camera_focal  # episodes draw focal lengths around the calibrated ones
    assert torch.allclose(eye.K, intrinsics(env.cfg.camera).expand(2, 3, 3), rtol=error + 1e-5)
    assert torch.allclose(eye.K[:, 0, 2], torch.tensor(33.1))
    fields = {"environment": json.loads(json.dumps(dataclasses.asdict(env.cfg)))}  # as a checkpoint keeps it
    assert trained_cfg(fields, EnvCfg()).camera == env.cfg.camera


def test_what_is_no_calibration_is_left_to_others_or_refused(tmp_path):
    preset = tmp_path / "preset.json"
    preset.write_text('{"format": "gaussgym-preset", "version": 1, "sensor": {}}')
    assert not is_calibration("robot")
    assert not is_calibration(str(preset))
    assert not is_calibration(str(tmp_path / "missing.json"))
    for bad in (preset, tmp_path / "missing.json"):
        with pytest.raises(InputError, match=Path(bad).name):
            calibrated(CameraCfg(), bad)
