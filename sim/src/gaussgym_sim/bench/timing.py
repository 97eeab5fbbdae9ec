"""Contestants take turns: each repeats a small piece of work, in an order that rotates, and says what it measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

Contestant = Callable[[], dict[str, float]]
"""Does one piece of work; returns named numbers, the same names each time."""
Results = dict[str, dict[str, list[float]]]
"""Contestant → number → its value in each round."""


@dataclass(frozen=True)
class Spread:
    """Of one number over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Median, least and largest."""
        return cls(float(np.median(values)), float(min(values)), float(max(values)))


def _no_clock() -> float:
    return 0.0


class Stopwatch:
    """Adds up wall seconds, and if asked this process's CPU seconds, of the blocks that it is entered for.

    Reading the CPU time is a system call, which can take a millisecond in a container: not for what happens many times a step.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        self._clock = time.process_time if cpu else _no_clock
        self.wall_s = self.cpu_s = 0.0

    def __enter__(self) -> Stopwatch:
        self._cpu, self._wall = self._clock(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall_s += time.perf_counter() - self._wall
        self.cpu_s += self._clock() - self._cpu

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return timed

    def reset(self) -> None:
        """Back to zero."""
        self.wall_s = self.cpu_s = 0.0


def take_turns(
    contestants: Mapping[str, Contestant], *, rounds: int, done: Callable[[], object] | None = None
) -> Results:
    """Run all contestants once to warm up, then so many times in turn, each round beginning with the next one.

    Args:
        contestants: by name.
        rounds: counted ones.
        done: called after each piece of work, for progress: ``(rounds + 1) len(contestants)`` times.
    """
    names = list(contestants)
    results: Results = {name: {} for name in names}
    for turn in range(rounds + 1):
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            measured = contestants[name]()
            for key, value in measured.items() if turn else ():
                results[name].setdefault(key, []).append(value)
            if done is not None:
                done()
    return results


def ratio(results: Results, name: str, other: str, key: str) -> Spread:
    """``name``'s number over ``other``'s, round by round."""
    pairs = zip(results[name][key], results[other][key], strict=True)
    return Spread.of([a / b for a, b in pairs])


def summary(results: Results) -> dict[str, dict[str, Spread]]:
    """Spread of every number."""
    return {
        name: {key: Spread.of(values) for key, values in measured.items()}
        for name, measured in results.items()
    }
