"""A program run to its end: its output kept in a file and read line by line, its silence and its running time limited."""

from __future__ import annotations

import contextlib
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gaussgym_scene.errors import GaussgymError

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def run_program(
    command: list[str], *, env: dict[str, str], log: Path, on_line: Callable[[str], None], silence_s: float,
    timeout_s: float | None = None,
) -> None:  # fmt: skip
    """Run a program whose stdin stays open while this process lives.

    Args:
        command: Program and arguments.
        env: All of its variables.
        log: File that its output goes to, appended.
        on_line: Told every line that it prints.
        silence_s: It is ended when it prints nothing for so long.
        timeout_s: It is ended after so long; None: never.

    Raises:
        GaussgymError: It failed, hung or took too long; the text holds its last words and names the log.
    """
    started = heard = time.monotonic()
    with log.open("a") as out:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        )  # fmt: skip
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        tail: list[str] = []
        over = False
        try:
            while not over:
                now = time.monotonic()
                if now - heard > silence_s:
                    raise GaussgymError(
                        f"{_name(command)} said nothing for {silence_s:.0f} s and was ended; see {log}"
                    )
                if timeout_s is not None and now - started > timeout_s:
                    raise GaussgymError(
                        f"{_name(command)} took longer than {timeout_s:.0f} s and was ended; see {log}"
                    )
                with contextlib.suppress(queue.Empty):
                    line = lines.get(timeout=0.5)
                    over, heard = line is None, time.monotonic()
                    if line is not None:
                        out.write(line)
                        out.flush()
                        tail = [*tail[-200:], _ANSI.sub("", line).rstrip()]
                        on_line(tail[-1])
        finally:
            _end(process, patience_s=10.0 if over else 0.0)
    if process.returncode:
        raise GaussgymError(f"{_name(command)} failed: {_last_words(tail)}; see {log}")


def _name(command: list[str]) -> str:
    """`nerfstudio's train` of `python child.py train ...`."""
    return f"nerfstudio's {command[2]}" if len(command) > 2 else command[0]


def _read(process: subprocess.Popen, lines: queue.Queue) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen, *, patience_s: float) -> None:
    """Wait for a program that closed its output; end one that did not: politely, then not."""
    try:
        process.wait(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _last_words(lines: list[str]) -> str:
    """The line that says what went wrong: the last one of the last traceback, else the last one printed."""
    said = [line.strip(" │╭╰─╮╯") for line in lines]
    errors = [line for line in said if re.match(r"[A-Za-z_.]*(Error|Exception|Interrupt|Exit)\b", line)]
    named = errors or [line for line in said if line]
    return (named[-1] if named else "it printed nothing")[:300]
