"""The camera's thread, and which frames count."""

import threading
import time

import numpy as np
import pytest
from gaussgym_deploy.bundle import CameraSpec
from gaussgym_deploy.camera import CameraFrame, CameraThread, CameraWatch
from gaussgym_deploy.guards import GuardLimits
from gaussgym_deploy.robot_io import LinkError

SPEC = CameraSpec(12, 8, 10.0, 10.0, 6.0, 4.0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)


class Shown:
    """A watch that is shown a frame every 0.1 s, 50 looks a second."""

    def __init__(self):
        self.watch, self.now_s = CameraWatch(SPEC, GuardLimits()), 0.0

    def until(self, end_s, frame, *, age_s=0.02, moving=True, stamp=None):
        """``frame(number)`` gives the picture; returns the first fault with its time, or None."""
        first = None
        while self.now_s < end_s - 1e-9:
            number = int(self.now_s * 10 + 1e-6)
            shown_stamp = 0.1 * number if stamp is None else stamp
            self.watch.show(frame(number), shown_stamp, age_s, self.now_s, moving=moving)
            fault = self.watch.check(self.now_s)
            if fault is not None and first is None:
                first = (self.now_s, fault)
            self.now_s += 0.02
        return first


def test_good_frames_count_once_each():
    shown = Shown()
    assert shown.until(2.0, picture) is None
    assert shown.watch.number == 20
    np.testing.assert_array_equal(shown.watch.rgb, picture(19))


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (lambda number: picture(3), "camera_frozen"),
        (lambda number: np.full((8, 12, 3), 1, np.uint8), "camera_black"),
        (lambda number: None, "camera_age"),
    ],
)
def test_frames_that_do_not_count_are_ridden_through_and_then_a_fault_within_half_a_second(frame, kind):
    shown = Shown()
    assert shown.until(1.0, picture) is None
    assert shown.until(1.2, frame) is None
    assert shown.until(2.0, picture) is None
    at_s, fault = shown.until(3.0, frame)
    assert fault.kind == kind
    assert at_s - 2.0 <= 0.5


def test_the_same_picture_is_fine_while_the_robot_stands_still():
    shown = Shown()
    assert shown.until(3.0, lambda number: picture(0), moving=False) is None


def test_frozen_time_stamps_and_stamps_from_the_future_age():
    for stamp, age_s in ((0.0, 0.0), (1e6, -1e6)):
        shown = Shown()
        at_s, fault = shown.until(2.0, picture, stamp=stamp, age_s=age_s)
        assert fault.kind == "camera_age"
        assert at_s == pytest.approx(0.42, abs=0.021)


def test_late_frames_are_old_when_they_come():
    at_s, fault = Shown().until(1.0, picture, age_s=0.6)
    assert (at_s, fault.kind) == (0.0, "camera_age")


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 12, 3), np.uint8), np.ones((8, 12, 3), np.float32), np.zeros((8, 12), np.uint8)]
)
def test_a_frame_that_does_not_fit_is_a_fault_at_once(bad):
    shown = Shown()
    shown.until(1.0, picture)
    at_s, fault = shown.until(1.1, lambda number: bad)
    assert (at_s, fault.kind) == (pytest.approx(1.0), "camera_shape")


def test_no_frame_yet_and_none_of_it_for_the_blind():
    assert CameraWatch(SPEC, GuardLimits()).check(0.0).detail == "no usable camera frame yet"
    blind = CameraWatch(None, GuardLimits())
    blind.show(np.zeros((3, 3), np.float64), 0.0, 9.0, 0.0, moving=True)
    assert blind.check(100.0) is None


class ScriptedCamera:
    """A camera whose frames the test releases; an exception in the queue is raised."""

    def __init__(self):
        self.queue, self.ready, self.closed = [], threading.Semaphore(0), 0

    def release(self, item):
        self.queue.append(item)
        self.ready.release()

    def read(self):
        if not self.ready.acquire(timeout=0.2):
            return None
        item = self.queue.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self):
        self.closed += 1


def wait_for(condition):
    end_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def test_the_thread_keeps_the_newest_frame_and_estimates_latency_and_rate():
    camera = ScriptedCamera()
    thread = CameraThread(camera)
    assert thread.latest() is None
    thread.start()
    for number in range(40):
        camera.release(CameraFrame(picture(number), 0.1 * number, 0.1 * number + 0.03, number))
    wait_for(lambda: thread.frames == 40)
    assert thread.latest().number == 39
    assert thread.latency_s == pytest.approx(0.03)
    assert thread.period_s == pytest.approx(0.1)
    thread.close()
    assert camera.closed == 1
    assert not thread._thread.is_alive()


def test_a_camera_that_raises_is_asked_again():
    camera = ScriptedCamera()
    thread = CameraThread(camera).start()
    camera.release(LinkError("unplugged"))
    wait_for(lambda: thread.error == "unplugged")
    camera.release(CameraFrame(picture(0), 0.0, 0.0, 0))
    wait_for(lambda: thread.frames == 1)
    assert thread.error == ""
    thread.close()
