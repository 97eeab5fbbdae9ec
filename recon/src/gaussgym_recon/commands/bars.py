"""Progress of commands on stderr."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class Bars:
    """One progress bar a stage on stderr."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._stage = ""

    def __call__(self, stage: str, fraction: float, status: str = "") -> None:
        """Move the bar of a stage, or begin the next stage's."""
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(
                total=100,
                desc=stage,
                file=sys.stderr,
                bar_format="{desc:10s} {percentage:3.0f}%|{bar:30}| {elapsed}<{remaining} {postfix}",
            )
        if self._bar is not None:
            self._bar.n = round(100 * min(1.0, fraction))
            self._bar.set_postfix_str(status, refresh=False)
            self._bar.refresh()

    def close(self) -> None:
        """End the bar on screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
