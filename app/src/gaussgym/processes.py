"""A stage's process: started in a group of its own, watched for output and memory, stopped whole."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import psutil

from gaussgym.stages import Stage

logger = logging.getLogger(__name__)

MARK = "GAUSSGYM_RUN_DIR"
"""Environment variable that says which run folder a process works for."""
LOWEST_PRIORITY = 19
"""The nice value of a stage in the background."""
PERCENT = re.compile(r"(\d{1,3})(?:\.\d+)?\s?%")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class StageProcess:
    """One running stage.

    Its output goes through a pipe to `<run_dir>/logs/<name>.log`; the last lines stay in memory, so that the reason of a
    failure is known even when the disk is full.

    Attributes:
        stage: What runs.
        started_s: Unix time [s].
        peak_rss_mb: Peak memory of the process tree so far [MB].
        cpu_seconds: User and system time [s]; known when it ended.
        percent: What its own progress bar says, or None.
        doing: The words before that bar.
        in_background: Whether it only takes what the others leave idle.
    """

    def __init__(
        self, stage: Stage, command: Sequence[str], run_dir: Path, *, cores: int, in_background: bool = False
    ) -> None:
        self.stage = stage
        self.in_background = in_background
        self.started_s = time.time()
        self.ended_s = 0.0
        self.peak_rss_mb = 0.0
        self.cpu_seconds = 0.0
        self.percent: int | None = None
        self.doing = ""
        self._lines: deque[str] = deque(maxlen=200)
        self._rest = ""
        self.log_path = run_dir / "logs" / f"{stage.name}.log"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self.log_path.open("wb", buffering=0)
        environment = {**os.environ, MARK: str(run_dir), "PYTHONUNBUFFERED": "1"}
        environment.update({name: str(stage.threads) for name in THREAD_VARIABLES})
        environment["NUMBA_NUM_THREADS"] = str(cores)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        if in_background:
            psutil.Process(self.pid).nice(LOWEST_PRIORITY)
            _weigh_session(self.pid, LOWEST_PRIORITY)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    def bring_forward(self) -> None:
        """Let a stage of the background have a share of the cores like any other."""
        self.in_background = False
        _weigh_session(
            self.pid, 0
        )  # its own nice value stays, and counts among the threads of its session only

    def output_fd(self) -> int:
        """File descriptor to wait on for output."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def read_output(self) -> bool:
        """Take what the stage printed; returns False at the end of its output."""
        try:
            block = os.read(self.output_fd(), 1 << 16)
        except BlockingIOError:
            return True
        try:
            self._log.write(block)
        except OSError as error:  # a full disk must not hide the stage's own message
            logger.debug("%s: %s", self.log_path, error)
        *lines, self._rest = re.split(r"[\r\n]+", self._rest + block.decode(errors="replace"))
        self._lines.extend(line for line in lines if line.strip())
        self._read_bar(self._rest or (lines[-1] if lines else ""))
        return bool(block)

    def poll(self) -> int | None:
        """Exit status once the process ended (negative: the signal), else None."""
        if self._process.returncode is not None:
            return self._process.returncode
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.ended_s = time.time()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024
        self.peak_rss_mb = max(self.peak_rss_mb, usage.ru_maxrss * unit / 1e6)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        os.set_blocking(self.output_fd(), False)
        while self.read_output() and self._has_output():
            pass
        self._lines.append(self._rest)
        self._log.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.returncode

    def sample_rss_mb(self) -> float:
        """Add up the resident memory of the process tree now [MB]."""
        total = 0.0
        try:
            root = psutil.Process(self.pid)
            for process in (root, *root.children(recursive=True)):
                total += process.memory_info().rss / 1e6
        except psutil.Error:
            return total
        self.peak_rss_mb = max(self.peak_rss_mb, total)
        return total

    def interrupt(self) -> None:
        """Ask the whole group to save its work and stop, as Ctrl-C would."""
        kill_group(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Stop the whole group at once and wait for its end."""
        kill_group(self.pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.01)

    def last_words(self) -> str:
        """The line that says why it failed: its last `error:` line, else its last line."""
        lines = [line.strip() for line in self._lines if line.strip()]
        for line in reversed(lines):
            before, mark, words = line.partition("error: ")
            if mark and (not before or "%|" in before):  # an unfinished bar may stand before it
                return words.strip()
        return lines[-1] if lines else "it printed nothing"

    def _has_output(self) -> bool:
        import select

        return bool(select.select([self.output_fd()], [], [], 0)[0])

    def _read_bar(self, line: str) -> None:
        found = PERCENT.search(line)
        if found:
            self.percent = min(100, int(found.group(1)))
            self.doing = line[: found.start()].strip(" :|")[:40]


def kill_group(group: int, number: int) -> None:
    """Send a signal to a process group that may be gone already."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def leftovers(run_dir: Path) -> list[psutil.Process]:
    """Find processes that an earlier, killed run left at work in `run_dir`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(run_dir):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _weigh_session(pid: int, nice: int) -> None:
    """Set the nice value of a process's whole session, which is what Linux weighs where it groups tasks by session."""
    with contextlib.suppress(
        OSError
    ):  # a kernel that does not group them, or another system: the process's own value counts
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def _die_with_parent() -> None:
    """Ask Linux to stop this process when the pipeline dies, so that `kill -9` leaves no training behind."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
