"""Unitree's services over real DDS on loopback, against stand-ins of the robot's end; cameras."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gaussgym_deploy.bundle import CameraSpec
from gaussgym_deploy.cameras import open_camera
from gaussgym_deploy.image_fit import ImageFit, LensCfg, lens_from
from gaussgym_deploy.realsense import RealSenseCamera
from gaussgym_deploy.robot_io import ROBOT_LINKS, BenchRobot, JointCommand, LinkError, open_robot
from gaussgym_deploy.unitree.dds_robot import DdsRobot, DdsRobotCfg
from gaussgym_deploy.unitree.messages import MOTOR_NAMES
from gaussgym_deploy.unitree.simulated import free_domain

dds = pytest.mark.skipif(importlib.util.find_spec("cyclonedds") is None, reason="needs cyclonedds")
vision = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="needs opencv")
SPEC = CameraSpec(84, 48, 60.0, 60.0, 42.0, 24.0, (0.3, 0.0, 0.0), (0.5, -0.5, 0.5, -0.5))


class Robot:
    """The robot's services, answered by a thread, and (optionally) its low-level topics."""

    def __init__(self, domain: int) -> None:
        from gaussgym_deploy.unitree.wire import Wire

        self.wire = Wire(domain, "lo")
        self.mode, self.keeps_mode, self.answers = "normal", False, True
        self.asked: list[tuple[str, int]] = []
        self.image = b""
        self.steps: list[Callable[[], Any]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop)

    def start(self) -> None:
        from gaussgym_deploy.unitree.services import ServiceServer

        for name in ("motion_switcher", "sport", "videohub"):
            server = ServiceServer(
                self.wire, name, lambda api, text, name=name: self._answer(name, api, text)
            )
            self.steps.append(server.step)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self.wire.close()

    def _loop(self) -> None:
        while not self._ending.wait(0.002):
            for step in self.steps:
                step()

    def _answer(self, service: str, api: int, _: str) -> tuple[int, str, bytes] | None:
        self.asked.append((service, api))
        if not self.answers:
            return None
        if (service, api) == ("motion_switcher", 1001):
            return 0, json.dumps({"form": "0", "name": self.mode}), b""
        if (service, api) == ("motion_switcher", 1003):
            self.mode = self.mode if self.keeps_mode else ""
            return 0, "", b""
        if (service, api) == ("videohub", 1001):
            return 0, "", self.image
        return (0 if service == "sport" else 3203), "", b""


@pytest.fixture
def domain() -> int:
    return free_domain()


@pytest.fixture
def robot(domain: int) -> Iterator[Robot]:
    made = Robot(domain)
    yield made
    made.stop()


@pytest.fixture
def wire(domain: int) -> Iterator[Any]:
    from gaussgym_deploy.unitree.wire import Wire

    made = Wire(domain, "lo")
    yield made
    made.close()


@dds
def test_release_lies_down_and_lets_go(robot: Robot, wire: Any) -> None:
    from gaussgym_deploy.unitree.motion_switcher import release_motion_service

    robot.start()
    waits: list[float] = []
    release_motion_service(wire, sleep=waits.append)
    assert robot.mode == ""
    assert robot.asked == [
        ("motion_switcher", 1001),
        ("sport", 1005),
        ("motion_switcher", 1003),
        ("motion_switcher", 1001),
    ]
    release_motion_service(wire, sleep=waits.append)  # nothing to do
    assert robot.asked[-1] == ("motion_switcher", 1001)
    assert len(robot.asked) == 5


@dds
def test_a_service_that_keeps_its_mode_is_refused(robot: Robot, wire: Any) -> None:
    from gaussgym_deploy.unitree.motion_switcher import release_motion_service

    robot.keeps_mode = True
    robot.start()
    with pytest.raises(LinkError, match="stays in mode 'normal'"):
        release_motion_service(wire, sleep=lambda _: None)


@dds
def test_services_that_are_silent_absent_or_refuse_are_one_clear_line(robot: Robot, wire: Any) -> None:
    from gaussgym_deploy.unitree.services import ServiceClient

    absent = ServiceClient(wire, "videohub", discovery_timeout_s=0.1)
    with pytest.raises(LinkError, match=r"'videohub' \(GetImageSample\) is not there"):
        absent.call(1001, what="GetImageSample")
    robot.start()
    client = ServiceClient(wire, "motion_switcher")
    with pytest.raises(LinkError, match="answers with error code 3203"):
        client.call(77)
    robot.answers = False
    with pytest.raises(LinkError, match=r"did not answer within 0.1 s"):
        client.call(1001, timeout_s=0.1)
    robot.answers = True
    assert json.loads(client.call(1001, "{}")[0])["name"] == "normal"


@dds
def test_go2_link_releases_before_it_commands(
    robot: Robot, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gaussgym_deploy.unitree import go2, motion_switcher

    monkeypatch.setattr(motion_switcher.release_motion_service, "__kwdefaults__", {"sleep": lambda _: None})
    monkeypatch.setattr(go2, "LISTEN_S", 0.1)
    bench = BenchRobot()
    server = DdsRobot(bench, MOTOR_NAMES, DdsRobotCfg(domain))
    robot.steps.append(server.step)
    robot.start()
    bundle: Any = SimpleNamespace(robot="go2", joint_names=MOTOR_NAMES, path="bundle")
    link = go2.open_go2(bundle, interface="lo", domain=domain)
    assert robot.mode == ""
    assert server.commands == 0
    assert link.read().t_s > 0.0
    link.close()
    robot.steps.remove(server.step)
    time.sleep(0.05)
    server.close()
    bundle.robot = "go1"
    with pytest.raises(LinkError, match="is for 'go1', this link is for a 'go2'"):
        go2.open_go2(bundle, interface="lo", domain=domain)


@dds
def test_a_dry_run_of_the_go2_releases_nothing_and_joins_nothing(robot: Robot, domain: int) -> None:
    bench = BenchRobot()
    server = DdsRobot(bench, MOTOR_NAMES, DdsRobotCfg(domain))
    robot.steps.append(server.step)
    robot.start()
    mode = robot.mode
    bundle: Any = SimpleNamespace(robot="go2", joint_names=MOTOR_NAMES, path="bundle")
    ROBOT_LINKS["go2-unchecked"] = ROBOT_LINKS["go2"]  # a bundle that is none fits no description
    try:
        link = open_robot("go2-unchecked", bundle, dry_run=True, interface="lo", domain=domain)
    finally:
        del ROBOT_LINKS["go2-unchecked"]
    assert link.read().t_s > 0.0
    with pytest.raises(LinkError, match="only listens"):
        link.write(JointCommand.zeros(12))
    for _ in range(50):
        time.sleep(0.005)
        state = link.read()
    assert state.rival_writers == 0
    link.close()
    robot.steps.remove(server.step)
    time.sleep(0.05)
    server.close()
    assert (robot.mode, server.commands) == (mode, 0)
    assert mode != ""


def test_no_dry_run_of_a_go1() -> None:
    bundle: Any = SimpleNamespace(robot="bench", joint_names=MOTOR_NAMES, path="bundle")
    with pytest.raises(LinkError, match="answers only who sends"):
        open_robot("go1", bundle, dry_run=True, accept_untested=True)


# Cameras.


def card(width: int, height: int) -> np.ndarray:
    """Red grows to the right, green downwards, in steps of the whole range."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None, :]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    image[..., 2] = 40
    return image


@dds
@vision
def test_front_camera(robot: Robot, wire: Any) -> None:
    import cv2
    from gaussgym_deploy.unitree.front_camera import Go2FrontCamera

    encoded, jpeg = cv2.imencode(".jpg", card(1280, 720)[..., ::-1])
    assert encoded
    robot.image = jpeg.tobytes()
    robot.start()
    camera = Go2FrontCamera(wire, SPEC, hz=50.0, latency_s=0.05)
    frames = [camera.read() for _ in range(3)]
    assert [frame.number for frame in frames if frame is not None] == [0, 1, 2]
    frame = frames[-1]
    assert frame is not None
    assert frame.rgb.shape == (48, 84, 3)
    assert frame.received_s - frame.t_s == pytest.approx(0.05)
    assert np.abs(frame.rgb[24, 42].astype(int) - (128, 128, 40)).max() <= 4
    assert frame.rgb[0, 0, 0] < 12  # red is left dark: the colours are not swapped
    robot.image = b"no image"
    with pytest.raises(LinkError, match="8 bytes that are no image"):
        camera.read()
    camera.close()
    camera.close()
    with pytest.raises(LinkError, match="closed"):
        camera.read()


class FakeRealSense:
    """What the camera asks of pyrealsense2."""

    def __init__(self) -> None:
        self.started: Any = None
        self.stopped, self.late = 0, False
        self.stream = SimpleNamespace(color="colour")
        self.format = SimpleNamespace(rgb8="rgb8")

    def config(self) -> Any:
        return SimpleNamespace(
            enable_device=lambda serial: None,
            enable_stream=lambda *words: setattr(self, "started", words),
        )

    def pipeline(self) -> Any:
        intrinsics = SimpleNamespace(
            width=424, height=240, fx=300.0, fy=300.0, ppx=211.5, ppy=119.5, coeffs=[0.0] * 5
        )
        stream = SimpleNamespace(
            as_video_stream_profile=lambda: SimpleNamespace(get_intrinsics=lambda: intrinsics)
        )
        frame = SimpleNamespace(get_data=lambda: card(424, 240))

        def wait(timeout_ms: int) -> Any:
            if self.late:
                raise RuntimeError(f"Frame didn't arrive within {timeout_ms}")
            return SimpleNamespace(get_color_frame=lambda: frame)

        def start(_: Any) -> Any:
            if self.started[1] == 1:
                raise RuntimeError("Couldn't resolve requests")
            return SimpleNamespace(get_stream=lambda _: stream)

        return SimpleNamespace(
            start=start, wait_for_frames=wait, stop=lambda: setattr(self, "stopped", self.stopped + 1)
        )


@vision
def test_realsense() -> None:
    fake = FakeRealSense()
    camera = RealSenseCamera(SPEC, latency_s=0.03, module=fake)
    assert fake.started == ("colour", 424, 240, "rgb8", 30)
    frame = camera.read()
    assert frame is not None
    assert frame.rgb.shape == (48, 84, 3)
    assert time.monotonic() - frame.received_s < 5.0
    assert frame.received_s - frame.t_s == pytest.approx(0.03)
    # its focal length is 5 times the policy's: the policy's left border is 42 / 60 * 300 = 210 px left of the middle
    assert frame.rgb[24, 0, 0] == pytest.approx(255 * 4.0 / 423, abs=1.5)
    fake.late = True
    assert camera.read() is None
    camera.close()
    camera.close()
    assert fake.stopped == 1
    with pytest.raises(LinkError, match="closed"):
        camera.read()
    with pytest.raises(LinkError, match="does not start with 1x240"):
        RealSenseCamera(SPEC, width=1, module=fake)


@vision
def test_fit_follows_rays_through_the_lens() -> None:
    """A picture whose value is the ray's own tangent stays so, whatever lens took it."""
    lens = LensCfg(640, 480, 400.0, 410.0, 330.0, 236.0, (-0.12, 0.03, 0.001, -0.002))
    x_grid = np.linspace(-1.2, 1.2, 481)
    # distort many rays, and paint each pixel of the real image with the tangent of the ray that reaches it (slow, by inversion)
    u, v = np.meshgrid(np.arange(640) + 0.5, np.arange(480) + 0.5)
    xd, yd = (u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy
    x, y = xd.copy(), yd.copy()
    k1, k2, p1, p2 = lens.distortion
    for _ in range(60):
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2 * r2
        x = (xd - 2 * p1 * x * y - p2 * (r2 + 2 * x * x)) / radial
        y = (yd - p1 * (r2 + 2 * y * y) - 2 * p2 * x * y) / radial
    assert x_grid[0] < x.min()
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    image[..., 0] = np.clip(np.rint(128 + 120 * x), 0, 255)
    image[..., 1] = np.clip(np.rint(128 + 120 * y), 0, 255)
    fit = ImageFit(SPEC, lens)
    seen = fit(image)
    want_x = 128 + 120 * (np.arange(84) + 0.5 - SPEC.cx) / SPEC.fx
    want_y = 128 + 120 * (np.arange(48) + 0.5 - SPEC.cy) / SPEC.fy
    assert fit.covered == 1.0
    assert np.abs(seen[..., 0] - want_x[None, :]).max() <= 1.5
    assert np.abs(seen[..., 1] - want_y[:, None]).max() <= 1.5


@vision
def test_fit_says_what_it_cannot_do() -> None:
    narrow = ImageFit(SPEC, LensCfg(640, 480, 2000.0, 2000.0, 320.0, 240.0))
    assert narrow.covered < 0.2
    with pytest.raises(LinkError, match="sends 320x240 pixels, in its calibration it was"):
        narrow(card(320, 240))
    with pytest.raises(LinkError, match=r"expected \[width, height, fx"):
        lens_from([1, 2, 3])
    assert lens_from([640, 480, 400, 410, 330, 236, 0.1, 0, 0, 0]).distortion == (0.1, 0.0, 0.0, 0.0)
    uncalibrated = ImageFit(SPEC)
    assert np.abs(uncalibrated(card(1280, 720))[24, 42].astype(int) - (128, 128, 40)).max() <= 4


def test_cameras_by_name() -> None:
    bundle: Any = SimpleNamespace(camera=None, path="bundle")
    for name, options, text in (
        ("webcam", {}, "no camera named 'webcam'; there is: go2-front, realsense, shared-memory"),
        ("realsense", {"depth": 1}, "has no option 'depth'"),
        ("go2-front", {}, "needs the option interface"),
        ("realsense", {}, "is blind"),
    ):
        with pytest.raises(LinkError, match=text):
            open_camera(name, bundle, **options)
