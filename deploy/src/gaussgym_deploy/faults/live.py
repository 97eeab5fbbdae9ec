"""Trials in real time, with real processes and real wires: a robot's end here, a supervisor and a runtime of their own.

::

    runtime process ──shared memory──▶ supervisor process ──shared memory or DDS──▶ host with robot (in the campaign's process)
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from ..bundle import PolicyBundle
from ..guards import GuardLimits
from ..processes import new_name
from ..robot_io import DAMPING_KD, LinkError, RobotIO
from .conductor import Outcome
from .hosts import DdsHost, HostThread, ShmHost
from .injection import Injection
from .live_supervisor import BRIEF
from .table import FaultKind, allowed_s
from .tap import Tap
from .trials import AFTER_DAMP_S, Observed, Trial, judge
from .virtual import BenchSource
from .wire_faults import WIRE_FAULTS

__all__ = ["LiveRig"]

TRIES = 10
STALL_S = 0.015
"""A trial is taken again, at most five times, when the machine itself stood still for longer [s]: when the robot's own loop, or a
bare loop in an ordinary process beside it (:mod:`.stall_watch`), was not woken for that long."""
PATIENCE_S = 30.0
ENDS_RUNTIME = ("runtime_killed", "runtime_crashes")
OWN_SUPERVISOR = (*ENDS_RUNTIME, "supervisor_killed")
"""Kinds whose runtime starts the supervisor process by itself, as ``gaussgym-deploy run`` does."""


class Child:
    """A process that speaks JSON lines.

    Args:
        module: Python module.
        task: Its argument.

    Raises:
        LinkError: When it does not come up.
    """

    def __init__(self, module: str, task: Dict[str, Any]) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(task)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True,
        )  # fmt: skip
        self._lines: queue.Queue[Optional[Dict[str, Any]]] = queue.Queue()
        threading.Thread(target=self._listen, name=module, daemon=True).start()

    def ask(self, request: Dict[str, Any]) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise LinkError(f"a process of the campaign died: {self.words()}") from None

    def answer(self, timeout_s: float = PATIENCE_S) -> Optional[Dict[str, Any]]:
        """The next line; None when the process has ended.

        Raises:
            LinkError: When none comes in time.
        """
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise LinkError(
                f"a process of the campaign said nothing for {timeout_s:g} s: {self.words()}"
            ) from None

    def pending(self) -> List[Dict[str, Any]]:
        """The lines that came and were not taken yet."""
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get() or {})
        return lines

    def words(self) -> str:
        """The last of what it wrote to stderr."""
        self._words.seek(0)
        return self._words.read().decode("utf-8", "replace")[-400:]

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=3.0)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self._words.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)


class LiveRig:
    """Trials of one link in real time.

    Args:
        name: Name of the link.
        bundle: The policy.
        domain: DDS domain (``dds-sim``); None: the wire is shared memory.
        source: Robots; default: bench robots.

    Attributes:
        retaken: Trials begun again, since the robot was not ready or the machine stood still.
    """

    def __init__(
        self, name: str, bundle: PolicyBundle, *, domain: Optional[int] = None, source: Any = None
    ) -> None:
        self.name, self.bundle, self.retaken = name, bundle, 0
        self._domain = domain
        self._source = source or BenchSource(bundle, camera=domain is None)
        self._limits = GuardLimits.of(bundle.guards)
        generator = np.random.default_rng(0)
        wired = () if domain is None else (*WIRE_FAULTS, "second_publisher")
        self._tap = Tap(
            self._source.fresh(time.monotonic, generator),
            len(bundle.joint_names),
            time.monotonic,
            on_wire=wired,
        )
        self._began_s = time.monotonic()
        self._thread: Optional[HostThread] = None
        self._supervisor: Optional[Child] = None
        self._runtime_process: Optional[Child] = None
        self._watch = Child("gaussgym_deploy.faults.stall_watch", {})
        if domain is not None:
            self._thread = HostThread(DdsHost(domain, bundle, self._tap))

    def close(self) -> None:
        """End all processes."""
        self._watch.process.kill()
        for child in (self._runtime_process, self._supervisor, self._watch):
            if child is not None:
                child.close()
        if self._thread is not None:
            self._thread.close()
        self._source.close()

    def trial(self, kind: FaultKind, mode: str, generator: np.random.Generator) -> Trial:
        """One fault at a random moment.

        Args:
            kind: Which.
            mode: In which mode: ``stand`` or ``run``.
            generator: Draws the moment and the joint.

        Raises:
            LinkError: When the processes do not come up, or the robot is never ready.
        """
        outcome = Outcome()
        for attempt in range(TRIES):
            outcome, seen = self._observe(kind, mode, generator)
            if outcome.ready and (seen.worst_turn_s <= STALL_S or attempt >= TRIES // 2):
                return judge(
                    kind,
                    self.name,
                    mode,
                    seen,
                    self.bundle,
                    self._limits,
                    moment=outcome.moment,
                    damping_kd=DAMPING_KD,
                )
            self.retaken += 1
        raise LinkError(
            f"{self.name}: {TRIES} times in a row the robot was not ready for {kind.name} ({outcome.why})"
        )

    # ------------------------------------------------------------------------------------------------ one trial

    def _observe(self, kind: FaultKind, mode: str, generator: np.random.Generator) -> Any:
        injection = Injection.draw(kind, self.bundle, generator)
        own = kind.name in OWN_SUPERVISOR
        request = {
            "kind": kind.name, "mode": mode, "joint": injection.joint, "sign": injection.sign,
            "delay": float(generator.uniform()),
        }  # fmt: skip
        runtime = self._runtime()
        if own and self._supervisor is not None:  # one supervisor at a time
            self._supervisor.close()
            self._supervisor = None
        supervisor = None if own else self._standing_supervisor()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "supervisor.jsonl"
            if supervisor is None:
                link, options = self._own_link()
                request.update(robot=link, options=options, log=str(log))
            else:
                request["shm"] = new_name()
                supervisor.ask({"shm": request["shm"]})
            host = self._begin(injection, generator)
            runtime.ask(request)
            outcome, pid = self._follow(runtime, injection, generator)
            seen = self._seen(outcome, host)
            self._call(self._end_fault)
            self._hear_supervisor(seen, supervisor, pid, log)
        if own and self._runtime_process is not None:  # a runtime whose supervisor died is of no use any more
            self._runtime_process.close()
            self._runtime_process = None
        if own and self._domain is None:
            self._drop_host()
        return outcome, seen

    def _begin(self, injection: Injection, generator: np.random.Generator) -> HostThread:
        """A fresh robot at the host, whose clock goes on."""
        host = self._thread
        assert host is not None

        def fresh() -> None:
            robot: RobotIO = self._source.fresh(time.monotonic, generator)
            # A clock that only goes on: DDS links throw away what is older than the newest they saw.
            epoch_s = max(time.monotonic() - self._began_s, self._tap.newest_s) + 0.1
            self._tap.begin(robot, injection, epoch_s=epoch_s)
            host.host.begin(injection)
            host.exceptions.clear()
            host.worst_turn_s = 0.0

        host.call(fresh)
        return host

    def _follow(self, runtime: Child, injection: Injection, generator: np.random.Generator) -> Any:
        """Listen to the runtime, do to its process what the fault says, until it tells the outcome or is dead."""
        told, pid = Outcome(), 0
        while True:
            line = runtime.answer()
            if line is None:
                return self._bereaved(runtime, told, injection), pid
            if "supervisor" in line:
                pid = line["supervisor"]
                self._begin(injection, generator)
                runtime.ask({"go": True})
            elif "start_s" in line:
                told.start_s = injection.start_s = line["start_s"]
                assert self._thread is not None
                self._thread.worst_turn_s = 0.0
            elif "ready" in line:
                told.ready = True
                self._strike(injection, runtime, pid)
            elif "over" in line:
                self._call(self._end_fault)
            elif "outcome" in line:
                return Outcome(**line["outcome"]), pid

    def _strike(self, injection: Injection, runtime: Child, supervisor_pid: int) -> None:
        """Signals to processes, at the moment of the fault."""
        numbers = {
            "runtime_killed": signal.SIGKILL,
            "runtime_paused": signal.SIGSTOP,
            "supervisor_killed": signal.SIGKILL,
        }
        number = numbers.get(injection.kind.name)
        if number is None:
            return
        pid = supervisor_pid if injection.kind.name == "supervisor_killed" else runtime.process.pid
        time.sleep(max(0.0, injection.start_s - time.monotonic()))
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(0.3)
            os.kill(pid, signal.SIGCONT)

    def _bereaved(self, runtime: Child, told: Outcome, injection: Injection) -> Outcome:
        """The runtime is dead: what there is to see goes on without it."""
        self._runtime_process = None
        words = runtime.words()
        runtime.close()
        if injection.kind.name not in ENDS_RUNTIME or not told.ready:
            raise LinkError(f"the runtime's process died: {words}")
        end_s = (
            injection.start_s
            + allowed_s(injection.kind, self._limits, self.bundle.control_dt_s)
            + AFTER_DAMP_S
        )
        time.sleep(max(0.0, end_s - time.monotonic()))
        told.end_s, told.end_mode = end_s, "gone"
        told.moment = (injection.start_s / self.bundle.control_dt_s) % 1.0
        return told

    def _seen(self, outcome: Outcome, host: HostThread) -> Observed:
        rows = self._tap.record.rows()
        rows = rows[rows[:, 0] <= outcome.end_s]
        exceptions = outcome.exceptions + host.exceptions
        return Observed(
            outcome.start_s, outcome.end_s, rows, list(outcome.causes), outcome.held, outcome.end_mode, outcome.runs,
            host.host.timed_out_s, exceptions, max(host.worst_turn_s, self._stalled_s(outcome.start_s)),
        )  # fmt: skip

    def _stalled_s(self, start_s: float) -> float:
        """Longest lateness of the bare loop since the fault began, or shortly before [s]."""
        stalls = [line for line in self._watch.pending() if "late_s" in line]
        return max((line["late_s"] for line in stalls if line["at_s"] > start_s - 0.05), default=0.0)

    def _hear_supervisor(self, seen: Observed, supervisor: Optional[Child], pid: int, log: Path) -> None:
        """Its verdict: from its answer, or from its own log."""
        if supervisor is not None:
            answer = supervisor.answer()
            if answer is None:
                raise LinkError(f"the supervisor's process died: {supervisor.words()}")
            seen.causes += [answer["fault"]] if answer["fault"] else []
            seen.exceptions += [answer["exception"]] if answer["exception"] else []
            return
        end_s = time.monotonic() + BRIEF.hold_s + 3.0
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < end_s:
            time.sleep(0.01)
        events = (
            [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            if log.exists()
            else []
        )
        seen.causes += [
            f"{event['kind']}: {event['detail']}" for event in events if event["event"] == "fault"
        ]

    # ------------------------------------------------------------------------------------------------ processes

    def _runtime(self) -> Child:
        """The runtime's process, up."""
        if self._runtime_process is None:
            task = {"bundle": str(self.bundle.path), "camera": self._domain is not None}
            self._runtime_process = Child("gaussgym_deploy.faults.live_runtime", task)
            if self._runtime_process.answer() is None:
                raise LinkError(f"the runtime's process does not come up: {self._runtime_process.words()}")
        return self._runtime_process

    def _standing_supervisor(self) -> Child:
        """The supervisor that goes from trial to trial."""
        if self._supervisor is None:
            link, options = self._own_link()
            task = {"bundle": str(self.bundle.path), "robot": link, "options": options}
            self._supervisor = Child("gaussgym_deploy.faults.live_supervisor", task)
            if self._supervisor.answer() is None:
                raise LinkError(f"the supervisor's process does not come up: {self._supervisor.words()}")
        return self._supervisor

    def _own_link(self) -> Any:
        """Name and options of the link for the next supervisor; on shared memory its host begins here."""
        if self._domain is not None:
            return "dds-sim", {"domain": self._domain}
        self._drop_host()
        name = new_name()
        self._thread = HostThread(ShmHost(name, self.bundle, self._tap))
        return f"{ShmHost.__module__}:open_hosted", {"shm": name}

    def _drop_host(self) -> None:
        """Shared memory takes one supervisor: the standing one and its host go."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _call(self, function: Callable[[], None]) -> None:
        assert self._thread is not None
        self._thread.call(function)

    def _end_fault(self) -> None:
        self._tap.injection = None
        assert self._thread is not None
        self._thread.host.begin(None)
