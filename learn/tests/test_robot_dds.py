"""The plain robot behind Unitree's DDS topics."""

import importlib.util
import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from gaussgym_deploy.camera import CameraThread
from gaussgym_deploy.robot_io import JointCommand
from gaussgym_deploy.simulated_robot import SimulatedRobotCfg
from gaussgym_learn.courses import flat_course
from gaussgym_learn.evaluate import evaluation_cfg, fixed_starts
from gaussgym_learn.robot import PlainRobot
from gaussgym_learn.robot.dds import DrivenRobot
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize
from gaussgym_sim.robot import get_robot

GO1 = get_robot("go1")
STAND = JointCommand(np.array(GO1.default_joint_pos), np.array(GO1.kp), np.array(GO1.kd))


def plain(physics_hz):
    course = flat_course()
    return PlainRobot(
        GO1, course, evaluation_cfg("goal"), fixed_starts([course], 2), camera=None,
        options=SimulatedRobotCfg(physics_hz=physics_hz), endless=True,
    )  # fmt: skip


def test_a_read_is_two_milliseconds_and_the_camera_has_its_own_rate():
    robot, poses = plain(500), []
    robot.reset(0)
    driven = DrivenRobot(robot, look=lambda p, q: poses.append((p.copy(), q.copy())), camera_period_s=0.1)
    driven.write(STAND)
    before = robot.state.t_s
    for _ in range(500):
        state = driven.read()
    assert state.t_s - before == pytest.approx(1.0)
    assert len(poses) == 10
    assert state.position_w is not None
    assert state.position_w[2] > 0.2  # it stands
    np.testing.assert_allclose(poses[-1][0][2], state.position_w[2], atol=0.02)


def test_physics_that_does_not_divide_into_states_is_refused():
    with pytest.raises(InputError, match="physics_hz is 750, expected a multiple of 500"):
        DrivenRobot(plain(750))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("cyclonedds") is None, reason="needs cyclonedds")
def test_the_process_walks_on_dds_and_shows_what_it_sees(tmp_path):
    from gaussgym_deploy.unitree.camera_link import SharedMemoryCamera
    from gaussgym_deploy.unitree.dds_link import DdsLink, DdsLinkCfg
    from gaussgym_deploy.unitree.remote import SIMULATED_REMOTE
    from gaussgym_deploy.unitree.simulated import SimulatedDdsRobot, free_domain

    synthesize("street", 0).save(tmp_path / "street")
    domain, name = free_domain(), f"dds-{time.time_ns() % 10**9}"
    command = [sys.executable, "-m", "gaussgym_learn", "robot", "--scene", str(tmp_path / "street")]
    command += ["--shm", name, "--link", "dds", "--domain", str(domain), "--until-orphaned"]
    robot = SimulatedDdsRobot(command)
    cfg = DdsLinkCfg(domain, "lo", start_timeout_s=30.0, remote=SIMULATED_REMOTE)
    link = DdsLink(GO1.joint_names, cfg)
    camera = CameraThread(SharedMemoryCamera(name)).start()
    seen, end_s = [], time.monotonic() + 60.0
    while len(seen) < 20 and time.monotonic() < end_s:
        link.write(STAND)
        state = link.read()
        frame = camera.latest()
        if frame is not None and (not seen or frame is not seen[-1]):
            seen.append(frame)
        time.sleep(0.02)
    assert len(seen) == 20
    assert all(later.t_s > earlier.t_s for earlier, later in itertools.pairwise(seen))
    assert all(0.0 < frame.received_s - frame.t_s < 1.0 for frame in seen)
    assert seen[-1].rgb.std() > 5.0  # a street, not a wall of one colour
    assert state.position_w is not None
    assert state.position_w[2] > 0.05
    assert state.command[0] > 0.2  # its path asks it to walk
    assert link.report()["corrupt"] == 0
    camera.close()
    link.close()
    robot.close()
    assert json.loads(robot.said().splitlines()[-1])["crc_errors"] == 0


def test_domain_and_link_go_together(tmp_path):
    synthesize("flat", 0).save(tmp_path / "flat")
    command = [
        sys.executable,
        "-m",
        "gaussgym_learn",
        "robot",
        "--scene",
        str(tmp_path / "flat"),
        "--shm",
        "",
    ]
    done = subprocess.run([*command, "--link", "dds"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--link dds and --domain N go together" in done.stderr
