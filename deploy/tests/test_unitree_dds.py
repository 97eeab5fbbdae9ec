"""The DDS link against simulated robots over real Cyclone DDS on loopback, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gaussgym_deploy import robot_process
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.robot_io import (
    DAMPING_KD,
    BenchRobot,
    JointCommand,
    LinkError,
    RobotState,
    open_robot,
)
from gaussgym_deploy.testing import make_bundle
from gaussgym_deploy.unitree import simulated
from gaussgym_deploy.unitree.dds_link import COMMAND_TOPIC, STATE_TOPIC, DdsLink, DdsLinkCfg
from gaussgym_deploy.unitree.dds_robot import DdsRobot, DdsRobotCfg
from gaussgym_deploy.unitree.messages import MOTOR_NAMES, LowCmdFrame, LowStateFrame
from gaussgym_deploy.unitree.remote import SIMULATED_REMOTE
from gaussgym_deploy.unitree.simulated import SimulatedDdsRobot, bench_command, free_domain
from gaussgym_deploy.unitree.versions import check_versions, is_loopback

dds = pytest.mark.skipif(importlib.util.find_spec("cyclonedds") is None, reason="needs cyclonedds")


def until(condition: Callable[[], Any], what: str, timeout_s: float = 5.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.005)


class Served:
    """A bench robot on DDS, turned by a thread; its commands are written down.

    Attributes:
        spoil: Called with every frame; returns the frames to send instead.
    """

    def __init__(self, domain: int) -> None:
        self.robot = BenchRobot(start_joint_pos=np.full(12, 0.1), command=(0.5, -0.25, 0.125))
        self.server = DdsRobot(self.robot, MOTOR_NAMES, DdsRobotCfg(domain))
        self.written: list[JointCommand] = []
        self.spoil: Callable[[bytes], list[bytes]] = lambda data: [data]
        write, send = self.robot.write, self.server.transmit
        self.robot.write = lambda command: (self.written.append(command), write(command))[1]  # type: ignore[method-assign]
        self.server.transmit = lambda data: [send(part) for part in self.spoil(data)] and None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self.server.run, args=(self._ending.is_set,))
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        self.server.close()


@pytest.fixture
def domain() -> int:
    return free_domain()


@pytest.fixture
def served(domain: int) -> Iterator[Served]:
    made = Served(domain)
    yield made
    made.stop()


@pytest.fixture
def link(served: Served, domain: int) -> Iterator[DdsLink]:
    made = DdsLink(MOTOR_NAMES, DdsLinkCfg(domain, "lo", listen_s=0.05, remote=SIMULATED_REMOTE))
    yield made
    made.close()


def stiff(q: float) -> JointCommand:
    return JointCommand(q=np.full(12, q), kp=np.full(12, 20.0), kd=np.full(12, 0.5))


# Refusals.


@pytest.mark.parametrize(
    ("version", "interface", "number", "refused"),
    [
        ("11.0.1", "lo", 1, None),
        ("11.0.1", "127.0.0.1", 7, None),
        ("11.0.1", "lo", 0, "domain 0"),
        ("11.0.1", "eth0", 1, "interface 'eth0'"),
        ("11.0.1", "", 1, "interface ''"),
        ("12.0.0", "eth0", 1, "interface 'eth0'"),
        ("0.11.0", "eth0", 0, "interface 'eth0'"),
        ("0.10.2", "eth0", 0, None),
        ("0.10.5", "lo", 0, None),
        ("0.10.2", "lo", 231, "0 ... 230"),
    ],
)
def test_which_version_may_speak_where(version: str, interface: str, number: int, refused: Any) -> None:
    if refused is None:
        check_versions(version, interface, number)
    else:
        with pytest.raises(LinkError, match=refused):
            check_versions(version, interface, number)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /sys")
def test_an_interface_is_loopback_by_its_flags_not_by_its_name() -> None:
    assert is_loopback("lo")
    assert not is_loopback("lo0")
    assert not is_loopback("loop")


@dds
def test_refusal_reaches_the_command_line() -> None:
    """Exit status 2 and one line, before DDS is touched (this environment has cyclonedds 11)."""
    for options, text in (
        (["--domain", "0"], "domain 0"),
        (["--domain", "3", "--interface", "eth9"], "eth9"),
    ):
        command = [sys.executable, "-m", "gaussgym_deploy.unitree.bench_server", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if "0.10." in done.stderr and "crashes" not in done.stderr:
            pytest.skip("this environment has cyclonedds 0.10")
        assert done.returncode == 2
        assert text in done.stderr
        assert done.stderr.count("\n") == 1


def test_without_cyclonedds_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from gaussgym_deploy.unitree import versions

    def missing(_: str) -> str:
        raise versions.metadata.PackageNotFoundError

    monkeypatch.setattr(versions.metadata, "version", missing)
    with pytest.raises(LinkError, match=r"gaussgym-deploy\[dds\]"):
        versions.cyclonedds_version()


# The conversation.


@dds
def test_state_command_and_echo(served: Served, link: DdsLink) -> None:
    state = link.read()
    np.testing.assert_allclose(state.joint_pos, 0.1, atol=1e-6)
    np.testing.assert_allclose(state.command, [0.5, -0.25, 0.125], atol=1e-6)
    assert state.lin_acc_b is not None
    np.testing.assert_allclose(state.lin_acc_b, [0.0, 0.0, 9.81], atol=1e-5)
    assert state.battery_fraction == 1.0
    assert link.checks_crc
    for _ in range(40):
        link.write(stiff(0.3))
        time.sleep(0.02)
        state = link.read()
    np.testing.assert_allclose(state.joint_pos, 0.3, atol=0.02)
    report = link.report()
    assert report["commands"] == 40
    assert report["echoed"] >= 38  # a busy machine may overtake one
    assert 0.0 < report["round_trip_ms"]["p50"] < 100.0
    assert report["corrupt"] == report["out_of_order"] == report["rival_writers"] == 0
    assert served.server.crc_errors == served.server.refused == 0
    assert served.server.commands >= 39
    held = served.written[-1]
    np.testing.assert_allclose(held.q, np.float32(0.3))
    np.testing.assert_allclose((held.kp, held.kd), ([20.0] * 12, [0.5] * 12))


@dds
def test_read_never_waits_and_time_grows(link: DdsLink) -> None:
    longest_s, times = 0.0, []
    for _ in range(200):
        start_s = time.thread_time()
        times.append(link.read().t_s)
        longest_s = max(longest_s, time.thread_time() - start_s)
        time.sleep(0.001)
    assert longest_s < 0.02
    assert (np.diff(times) >= 0).all()
    assert len(set(times)) > 20


@dds
def test_silence_damps(served: Served, link: DdsLink) -> None:
    link.write(stiff(0.3))
    until(lambda: served.server.commands == 1, "the command arrives")
    until(lambda: served.server.timeouts == 1, "the motors time out")
    damping = served.written[-1]
    assert not damping.kp.any()
    assert (damping.kd == DAMPING_KD).all()


@dds
def test_corrupt_and_late_states_are_thrown_away_and_counted(served: Served, link: DdsLink) -> None:
    def spoiled(data: bytes) -> list[bytes]:
        flipped = bytearray(data)
        flipped[100] ^= 1
        return [bytes(flipped), data]

    served.spoil = spoiled
    link.read()
    before = link.read().corrupt
    until(lambda: link.read().corrupt >= before + 10, "corrupt states are counted")
    served.spoil = lambda data: [data]
    old: list[bytes] = []
    served.spoil = lambda data: (old.append(data), [data])[1]
    until(lambda: len(old) > 5, "states pass")
    first = old[0]
    served.spoil = lambda data: [data, first]
    until(lambda: link.read().out_of_order >= 5, "late states are counted")
    t_s = link.read().t_s
    time.sleep(0.05)
    assert link.read().t_s > t_s  # good states still pass


@dds
def test_the_tick_may_wrap(served: Served, domain: int) -> None:
    """After seven weeks the robot's milliseconds begin again at 0."""
    frame = LowStateFrame()
    ticks: list[int] = []

    def shifted(data: bytes) -> list[bytes]:
        frame.load(data)
        if not ticks:
            ticks.append(0xFFFFFFFF - 300 - int(frame.tick[0]))
        ticks.append((int(frame.tick[0]) + ticks[0]) & 0xFFFFFFFF)
        frame.tick[0] = ticks[-1]
        return [frame.seal()]

    served.spoil = shifted
    until(lambda: ticks, "ticks are shifted")
    time.sleep(0.05)  # what was sent before has arrived
    link = DdsLink(MOTOR_NAMES, DdsLinkCfg(domain, "lo", listen_s=0.01))
    before = link.read().t_s
    until(lambda: ticks[-1] < 1000, "the tick wraps")
    time.sleep(0.1)
    state = link.read()
    assert 0.1 < state.t_s - before < 3.0
    assert state.out_of_order == 0
    link.close()


@dds
def test_bad_commands_are_ignored_by_the_robot(served: Served, domain: int) -> None:
    from gaussgym_deploy.unitree.wire import Wire

    wire = Wire(domain, "lo")
    writer = wire.writer(COMMAND_TOPIC, "LowCmd_")
    frame = LowCmdFrame()
    time.sleep(0.3)

    def send(change: Callable[[LowCmdFrame], None], spoil: int = 0) -> None:
        frame.q[:], frame.dq[:], frame.tau[:], frame.kp[:], frame.kd[:] = 0.2, 0.0, 0.0, 5.0, 1.0
        change(frame)
        data = bytearray(frame.seal())
        data[50] ^= spoil
        writer.write(bytes(data))
        time.sleep(0.02)

    send(lambda f: None, spoil=1)
    until(lambda: served.server.crc_errors == 1, "bad checksum")
    for count, change in enumerate(
        (
            lambda f: f.q.__setitem__(3, np.nan),
            lambda f: f.kp.__setitem__(3, np.inf),
            lambda f: f.tau.__setitem__(3, 1.0),
            lambda f: f.dq.__setitem__(3, 1.0),
            lambda f: f.q.__setitem__(3, 2.146e9),
        ),
        start=1,
    ):
        send(change)
        until(lambda count=count: served.server.refused == count, f"refusal {count}")
    assert served.server.commands == 0
    send(lambda f: None)
    until(lambda: served.server.commands == 1, "a good command is obeyed")
    wire.close()


@dds
def test_link_sends_nothing_that_is_no_number(served: Served, link: DdsLink) -> None:
    command = stiff(0.1)
    command.q[4] = np.nan
    with pytest.raises(LinkError, match="was not sent"):
        link.write(command)
    time.sleep(0.05)
    assert served.server.commands == served.server.refused == 0


@dds
def test_rivals_are_seen(served: Served, link: DdsLink, domain: int) -> None:
    from gaussgym_deploy.unitree.wire import Wire

    link.write(stiff(0.1))
    until(lambda: link._reads > 30 or bool(link.read()), "reads")
    for _ in range(30):
        assert link.read().rival_writers == 0
    rival = Wire(domain, "lo")
    rival.writer(COMMAND_TOPIC, "LowCmd_")
    until(lambda: link.read().rival_writers == 1, "a second writer is seen before it sends")
    rival.close()
    until(lambda: link.read().rival_writers == 0, "it went away")


@dds
def test_link_refuses_to_be_the_second_commander(served: Served, domain: int) -> None:
    from gaussgym_deploy.unitree.wire import Wire

    rival = Wire(domain, "lo")
    writer = rival.writer(COMMAND_TOPIC, "LowCmd_")
    frame, ending = LowCmdFrame().seal(), threading.Event()

    def send() -> None:
        while not ending.wait(0.02):
            writer.write(frame)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with pytest.raises(LinkError, match="somebody else sends commands"):
            DdsLink(MOTOR_NAMES, DdsLinkCfg(domain, "lo", listen_s=0.5))
    finally:
        ending.set()
        thread.join()
        rival.close()


@dds
def test_a_silent_writer_that_was_there_first_is_not_a_rival(served: Served, domain: int) -> None:
    from gaussgym_deploy.unitree.wire import Wire

    idle = Wire(domain, "lo")
    writer = idle.writer(COMMAND_TOPIC, "LowCmd_")
    link = DdsLink(MOTOR_NAMES, DdsLinkCfg(domain, "lo", listen_s=0.3))
    assert link.idle_writers == 1
    for _ in range(30):
        assert link.read().rival_writers == 0
    writer.write(LowCmdFrame().seal())
    until(lambda: link.read().rival_writers == 1, "it is one as soon as it sends")
    link.close()
    idle.close()


@dds
def test_no_robot_is_one_clear_line(domain: int) -> None:
    with pytest.raises(LinkError, match=f"no robot is heard on {STATE_TOPIC} in DDS domain {domain}"):
        DdsLink(MOTOR_NAMES, DdsLinkCfg(domain, "lo", start_timeout_s=0.2))


@dds
def test_a_robot_that_leaves_is_link_loss_and_may_come_back(domain: int) -> None:
    served = Served(domain)
    link = DdsLink(MOTOR_NAMES, DdsLinkCfg(domain, "lo", listen_s=0.05))
    link.read()
    served.stop()

    def lost() -> bool:
        try:
            link.read()
        except LinkError as error:
            return "has left" in str(error)
        return False

    until(lost, "leaving is noticed")
    assert lost()  # and stays so
    again = Served(domain)  # its tick starts at 0 again
    until(lambda: not lost(), "the new robot is heard")
    assert isinstance(link.read(), RobotState)
    link.close()
    again.stop()
    with pytest.raises(LinkError, match="closed"):
        link.read()


@dds
def test_any_joint_order(served: Served, domain: int) -> None:
    names = [name + "_joint" for name in reversed(MOTOR_NAMES)]
    link = DdsLink(names, DdsLinkCfg(domain, "lo", listen_s=0.05))
    q = np.linspace(0.0, 0.55, 12)
    link.write(JointCommand(q=q, kp=np.full(12, 1.0), kd=np.full(12, 0.1)))
    until(lambda: served.server.commands == 1, "the command arrives")
    until(lambda: served.written[-1].kp.any(), "it is obeyed")
    np.testing.assert_allclose(served.written[-1].q, np.float32(q[::-1]))
    link.close()


# Processes.


@dds
def test_bench_server_process(domain: int, tmp_path: Path) -> None:
    robot = SimulatedDdsRobot(bench_command(domain))
    link = DdsLink(MOTOR_NAMES, DdsLinkCfg(domain, "lo"))
    for _ in range(25):
        link.write(stiff(0.2))
        link.read()
        time.sleep(0.02)
    assert link.report()["echoed"] > 15
    link.close()
    robot.close()
    assert robot.process.returncode == 0
    counts = json.loads(robot.said().split(b"\n")[1])
    assert (
        counts["commands"] >= 24
    )  # the robot may not have discovered the writer yet when the first one leaves
    assert counts["crc_errors"] == 0
    assert counts["states"] > 100


@dds
def test_bench_server_ends_with_its_parent(domain: int) -> None:
    starter = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen({bench_command(domain)!r}, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone() -> bool:
        try:
            with open(f"/proc/{child}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    if os.path.isdir("/proc/self"):
        until(gone, "the orphan ends")


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "policy")


def run_command(*words: str) -> Any:
    command = [sys.executable, "-m", "gaussgym_deploy", "run", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@dds
def test_a_policy_that_sees_runs_on_dds(bundle_dir: Path, tmp_path: Path) -> None:
    """Supervisor, bench robot behind DDS and its camera, as the command starts them."""
    report = tmp_path / "report.json"
    done = run_command(
        str(bundle_dir), "--robot", "dds-sim", "--seconds", "3.5", "--stand-s", "1", "--json", str(report)
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(report.read_text())
    assert numbers["fault"] is None
    assert numbers["ticks_by_mode"]["run"] > 20
    assert numbers["camera"]["frames"] > 10
    assert 0.0 < numbers["round_trip_ms"]["p50"] < 50.0


@dds
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "robot link 'go2' needs the option interface"),
        (["--option", "interface=eth0"], ", this link is for a 'go2'"),
        (["--option", "net=eth0"], "has no option 'net'; there is: interface, domain, start_timeout_s"),
    ],
)
def test_go2_refusals(bundle_dir: Path, options: list[str], text: str) -> None:
    done = run_command(str(bundle_dir), "--robot", "go2", "--seconds", "1", *options)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


@dds
def test_a_robot_process_that_fails_says_why() -> None:
    with pytest.raises(LinkError, match="the robot process ended: error: the DDS domain is 999"):
        SimulatedDdsRobot(bench_command(999))


def test_options_of_the_simulated_robot_reach_its_process(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, started = PolicyBundle.load(bundle_dir), []
    monkeypatch.setattr(robot_process, "learn_program", lambda: "gaussgym-learn")

    def start(command: list[str]) -> None:
        started.append(command)
        raise LinkError("enough")

    monkeypatch.setattr(simulated, "SimulatedDdsRobot", start)
    with pytest.raises(LinkError, match="enough"):
        open_robot("dds-sim", bundle, scene=str(tmp_path), motor_strength=0.85, command_delay_ms="10")
    command = started[0]
    assert command[command.index("--motor-strength") + 1] == "0.85"
    assert command[command.index("--command-delay-ms") + 1] == "10.0"
    with pytest.raises(LinkError, match="option motor_strength is for a robot that is started in a scene"):
        open_robot("dds-sim", bundle, domain=5, motor_strength=0.85)
    with pytest.raises((LinkError, BundleError), match="strength"):
        open_robot("dds-sim", bundle, scene=str(tmp_path), strength=0.85)
