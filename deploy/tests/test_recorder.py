"""Flights are written whole, and replay to the same actions bit for bit."""

import json

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.camera import CameraFrame, CameraThread
from gaussgym_deploy.operator import OperatorCommand
from gaussgym_deploy.recorder import FIELDS, FlightRecorder, read_flight
from gaussgym_deploy.replay import replay
from gaussgym_deploy.robot_io import LinkError
from gaussgym_deploy.runtime import Runtime
from gaussgym_deploy.testing import FakeClock, FaultyRobot, make_bundle, tilted


@pytest.fixture(scope="module", params=["vision", "blind"])
def bundle(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("b") / "policy"
    return PolicyBundle.load(make_bundle(directory, steps=6, vision=request.param == "vision"))


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=6, gain=0.1))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def robot(clock):
    return FaultyRobot(clock)


def fly(bundle, robot, clock, path, seconds=3.0, record_s=60.0, **options):
    runtime = Runtime(
        bundle, robot, clock=clock, sleep=clock.sleep, damp_s=0.1, stand_s=0.4, flight=path, **options
    )
    if record_s != 60.0:
        runtime.recorder = FlightRecorder(bundle, path, about=runtime._about(0.4), seconds=record_s)
    report = runtime.run(seconds)
    assert report.flight_error is None
    return report, read_flight(path)


def shake(robot, generator):
    """Readings that differ in every bit from one step to the next."""

    def spoil(state):
        state.joint_pos += generator.normal(0.0, 0.02, 12)
        state.joint_vel += generator.normal(0.0, 0.5, 12)
        state.quat_wxyz += generator.normal(0.0, 0.01, 4)
        state.quat_wxyz /= np.linalg.norm(state.quat_wxyz)
        state.ang_vel_b += generator.normal(0.0, 0.3, 3)

    robot.spoil = spoil


def test_a_whole_run_replays_bit_for_bit(bundle, robot, clock, tmp_path):
    shake(robot, np.random.default_rng(0))
    report, flight = fly(bundle, robot, clock, tmp_path / "flight")
    assert report.fault is None
    assert flight.manifest["from_start"]
    assert len(flight) == report.ticks
    again = replay(bundle, flight)
    assert again.identical, again
    assert again.steps == report.ticks
    assert again.policy_steps == report.ticks_by_mode["run"] > 100


def test_a_run_longer_than_the_recorder_replays_from_its_middle(bundle, robot, clock, tmp_path):
    shake(robot, np.random.default_rng(1))
    report, flight = fly(bundle, robot, clock, tmp_path / "flight", record_s=2.0)
    assert not flight.manifest["from_start"]
    assert len(flight) == 99
    assert flight.arrays["t_s"][-1] - flight.arrays["t_s"][0] == pytest.approx(1.96)
    again = replay(bundle, flight)
    assert again.identical, again
    assert again.steps == 98
    assert 20 < again.policy_steps < report.ticks_by_mode["run"]


def test_what_was_recorded_is_what_happened(seeing, robot, clock, tmp_path):
    bundle = seeing
    _, flight = fly(bundle, robot, clock, tmp_path / "flight")
    rows, modes = flight.arrays, flight.manifest["modes"]
    assert set(rows) == {*FIELDS, "rgb"}
    sent = np.isfinite(rows["target"]).all(axis=1)
    np.testing.assert_array_equal(rows["target"][sent], [command[1] for command in robot.commands[:-1]])
    np.testing.assert_array_equal(rows["kp"][sent], [command[2] for command in robot.commands[:-1]])
    running = rows["mode"] == modes.index("run")
    np.testing.assert_array_equal(np.isfinite(rows["action"]).all(axis=1), running)
    # target = default + scale * action where no limit acted
    free = running & ~rows["interventions"].any(axis=1)
    expected = bundle.default_joint_pos + bundle.action_scale * rows["action"][free].astype(np.float64)
    np.testing.assert_allclose(rows["target"][free], expected, atol=1e-6)
    assert free.sum() > 100
    # one image per 0.1 s of the camera, each once
    frame = rows["rgb_frame"]
    assert len(rows["rgb"]) == len(np.unique(frame)) == pytest.approx(40, abs=2)
    np.testing.assert_allclose(np.unique(rows["rgb_t_s"]), 0.1 * np.arange(len(rows["rgb"])))
    assert (np.diff(frame) >= 0).all()
    np.testing.assert_array_equal(rows["rgb"][5], np.roll(rows["rgb"][4], 1, axis=1))


@pytest.mark.parametrize(
    "how", ["tilt", "link", "estop", "policy", "nan", "shape", "dark", "late", "supervisor"]
)
def test_faults_replay_to_the_same_fault_in_the_same_step(seeing, robot, clock, tmp_path, how):
    bundle = seeing
    start_s = clock()

    def spoil(state):
        if clock() - start_s < 1.5:
            return
        if how == "tilt":
            state.quat_wxyz[:] = tilted(1.5, 0)
        elif how == "link":
            raise LinkError("cable pulled")
        elif how == "estop":
            runtime.stop("button")
        elif how == "nan":
            state.joint_pos[3] = np.nan
        elif how == "shape":
            state.rgb = state.rgb[:4]
        elif how == "dark":
            state.rgb[:] = 0
        elif how == "late":
            clock.now_s += 0.05
        elif how == "supervisor":
            state.supervisor_fault = "heartbeat: x"

    robot.spoil = spoil
    runtime = Runtime(
        bundle, robot, clock=clock, sleep=clock.sleep, damp_s=0.1, stand_s=0.4, flight=tmp_path / "f"
    )
    if how == "policy":
        honest = runtime._policy.act
        runtime._policy.act = lambda *a: (
            honest(*a) if clock() - start_s < 1.5 else np.full(12, np.nan, np.float32)
        )
    report = runtime.run(3.0)
    flight = read_flight(tmp_path / "f")
    again = replay(bundle, flight)
    if how == "policy":  # the networks of the replay are honest
        assert again.what == "action"
        row = again.first_difference
        assert flight.fault("fault", row).kind == "non_finite_action"
        assert flight.fault("fault", row - 1) is None
        return
    assert again.identical, again
    assert again.fault == report.fault or how == "shape"
    assert again.fault.split(":")[0] == report.fault.split(":")[0]
    assert again.policy_steps > 20


class Stick:
    """An operator whose command and mode change and whose link is lost in the end."""

    def __init__(self, clock, lost_s):
        self.start_s, self.clock, self.lost_s = clock(), clock, lost_s

    def read(self, state, now_s):
        t_s = now_s - self.start_s
        velocity = np.array([np.sin(t_s), 0.1 * t_s, 0.3])
        mode = "stand" if t_s < 0.8 else "run"
        return OperatorCommand(velocity, self.start_s + min(t_s, self.lost_s), mode=mode)

    def close(self):
        self.closed = True


def test_an_operators_commands_replay(bundle, robot, clock, tmp_path):
    operator = Stick(clock, lost_s=2.5)
    report, flight = fly(bundle, robot, clock, tmp_path / "flight", operator=operator)
    assert report.fault.startswith("operator: last sign of life 0.2")
    assert operator.closed
    assert 0 < report.ticks_by_mode["run"] < 110
    again = replay(bundle, flight)
    assert again.identical, again
    assert again.fault == report.fault


class StillCamera:
    """Frames whose time stamps are the runtime's; the test pulls them one by one."""

    def __init__(self, clock):
        self.clock, self.number = clock, 0

    def read(self):
        return None

    def close(self):
        pass


class PulledCamera(CameraThread):
    def __init__(self, clock):
        super().__init__(StillCamera(clock))
        self._clock = clock
        self._generator = np.random.default_rng(2)

    def start(self):
        return self

    def latest(self):
        number = int(self._clock() / 0.07)
        if number != getattr(self, "_number", -1):
            self._number = number
            rgb = self._generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)
            self._newest = CameraFrame(rgb, 0.07 * number - 0.05, 0.07 * number, number)
        return super().latest()


def test_a_cameras_thread_replays(seeing, clock, tmp_path):
    robot = FaultyRobot(clock, vision=False)
    report, flight = fly(seeing, robot, clock, tmp_path / "flight", camera=PulledCamera(clock))
    assert report.fault is None
    assert report.frame_age_ms["p50"] == pytest.approx(85.0, abs=20.0)
    assert replay(seeing, flight).identical


def test_one_changed_bit_is_found(seeing, robot, clock, tmp_path):
    _, flight = fly(seeing, robot, clock, tmp_path / "flight")
    row = 80
    flight.arrays["joint_vel"][row, 4] = np.nextafter(flight.arrays["joint_vel"][row, 4] + 0.01, 10.0)
    again = replay(seeing, flight)
    assert not again.identical
    assert again.first_difference == row
    assert again.max_abs_error["action"] > 0.0


def test_another_bundle_is_refused(seeing, robot, clock, tmp_path):
    _, flight = fly(seeing, robot, clock, tmp_path / "flight", seconds=1.0)
    other = PolicyBundle.load(make_bundle(tmp_path / "other", steps=6, seed=5))
    with pytest.raises(BundleError, match="give the bundle that flew"):
        replay(other, flight)


def test_a_damaged_flight_is_refused(seeing, robot, clock, tmp_path):
    fly(seeing, robot, clock, tmp_path / "flight", seconds=1.0)
    data = bytearray((tmp_path / "flight" / "flight.npz").read_bytes())
    data[1000] ^= 1
    (tmp_path / "flight" / "flight.npz").write_bytes(data)
    with pytest.raises(BundleError, match="differs from the hash"):
        read_flight(tmp_path / "flight")
    with pytest.raises(BundleError, match="not the folder of a flight"):
        read_flight(tmp_path)


def test_it_is_written_a_second_after_a_fault_and_then_again_at_the_end(seeing, robot, clock, tmp_path):
    start_s, seen = clock(), []

    def spoil(state):
        t_s = clock() - start_s
        if t_s > 1.0:
            state.quat_wxyz[:] = tilted(1.5, 0)
        if t_s > 2.5 and not seen:
            runtime.recorder._writer.join()
            seen.append(read_flight(tmp_path / "f"))

    robot.spoil = spoil
    runtime = Runtime(
        seeing, robot, clock=clock, sleep=clock.sleep, damp_s=0.1, stand_s=0.4, flight=tmp_path / "f"
    )
    runtime.run(3.0)
    early, late = seen[0], read_flight(tmp_path / "f")
    assert early.arrays["t_s"][-1] - start_s == pytest.approx(2.0, abs=0.06)
    assert late.arrays["t_s"][-1] - start_s > 3.9
    assert not (tmp_path / "f.partial").exists()


def test_a_disk_that_refuses_does_not_stop_the_run(seeing, robot, clock, tmp_path):
    (tmp_path / "file").write_text("")
    runtime = Runtime(
        seeing, robot, clock=clock, sleep=clock.sleep, damp_s=0.1, stand_s=0.4, flight=tmp_path / "file" / "f"
    )
    report = runtime.run(1.0)
    assert report.fault is None
    assert "the flight is not written" in report.flight_error


def test_the_table_of_texts_is_bounded(seeing, robot, clock, tmp_path):
    def spoil(state):
        raise LinkError(f"number {clock()}")

    robot.spoil = spoil
    _, flight = fly(seeing, robot, clock, tmp_path / "flight")
    assert len(flight.manifest["texts"]) == 64
    json.dumps(flight.manifest)
