"""One build of a fleet, in a process of Ray: its log, its outcome, and nothing done twice."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from gaussgym_scene.command import one_line
from gaussgym_scene.errors import GaussgymError

from gaussgym_recon.fleet.plan import Job

Build = Callable[..., Any]
"""`build(capture, output, cfg, progress=…)` writes a scene; as `gaussgym_recon.build.build`."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        name: Of the job.
        state: `built`, `there` (it was built already), `failed` (it would fail again) or `crashed` (it may not).
        reason: Why it failed, one line.
        seconds: It took [s].
        host: Process that ran it.
    """

    name: str
    state: Literal["built", "there", "failed", "crashed"]
    reason: str = ""
    seconds: float = 0.0
    host: str = ""


def run_job(job: Job, cfg: Any, build: Build, threads: int, attempt: int) -> Outcome:
    """Build one scene; errors become outcomes.

    Args:
        job: What.
        cfg: Settings of the build.
        build: Builds it.
        threads: For numba and torch.
        attempt: 1 for the first.
    """
    began = time.monotonic()
    host = f"{os.uname().nodename if hasattr(os, 'uname') else ''}:{os.getpid()}"
    if job.is_built():  # the process before this one may have died after its last word was written
        return Outcome(job.name, "there", host=host)
    with _logged(job.log, f"attempt {attempt}, process {host}") as log:
        try:
            _limit_threads(threads)
            build(job.capture, job.output, cfg, progress=_stages(log))
            state, reason = "built", ""
        except GaussgymError as error:
            state, reason = "failed", one_line(error)
        except OSError as error:
            state, reason = "crashed", one_line(error)
        except Exception as error:
            log.write(traceback.format_exc())
            state, reason = "crashed", f"{type(error).__name__}: {one_line(error)}"
        seconds = time.monotonic() - began
        log.write(f"{_now()} {state} after {seconds:.0f} s{': ' if reason else ''}{reason}\n")
    return Outcome(job.name, state, reason, seconds, host)


@contextlib.contextmanager
def _logged(path: Path, title: str) -> Iterator[TextIO]:
    """What is printed and logged goes to a file, after what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as log:
        log.write(f"{_now()} {title}\n")
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield log
        finally:
            logging.getLogger().removeHandler(handler)


def _stages(log: TextIO) -> Callable[[str, float, str], None]:
    """Progress of a build as lines of its log: one a stage, then at each tenth of it."""
    last = ("", -1)

    def tell(stage: str, fraction: float, status: str = "") -> None:
        nonlocal last
        now = (stage, int(10 * fraction))
        if now != last:
            last = now
            log.write(f"{_now()} {stage} {fraction:.0%} {status}\n")

    return tell


def _limit_threads(threads: int) -> None:
    # The build's own modules came with it; what it does not use need not be loaded.
    if numba := sys.modules.get("numba"):
        numba.config.THREADING_LAYER = "workqueue"
        with contextlib.suppress(ValueError):  # fewer cores than that
            numba.set_num_threads(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
