"""Where training curves go: TensorBoard, one JSON line an update, and Weights & Biases if asked for."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

CURVE_FILE = "curve.jsonl"


class MetricWriter:
    """Writes scalars of each update to `<run>/curve.jsonl`, to TensorBoard and optionally to wandb.

    Args:
        run_dir: folder of the run.
        wandb: also log to Weights & Biases; offline unless the environment variable WANDB_MODE says otherwise, so that it
            never needs a network or an account.
        name: of the run in wandb.
        config: shown in wandb.
    """

    def __init__(
        self, run_dir: Path, *, wandb: bool = False, name: str = "", config: dict | None = None
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        self._tensorboard = SummaryWriter(log_dir=str(run_dir), flush_secs=20)
        self._curve = (run_dir / CURVE_FILE).open("a", encoding="utf-8")
        self._wandb: Any = None
        if wandb:
            os.environ.setdefault("WANDB_SILENT", "true")
            import wandb as wandb_module

            self._wandb = wandb_module.init(
                project="gaussgym",
                name=name or run_dir.name,
                dir=str(run_dir),
                config=config or {},
                mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            )

    def write(self, scalars: dict[str, float], *, iteration: int, minutes: float, steps: int) -> None:
        """Log the scalars of one update.

        Args:
            scalars: by name.
            iteration: number of the update.
            minutes: of training so far [min].
            steps: control steps so far, all environments together.
        """
        for key, value in scalars.items():
            self._tensorboard.add_scalar(key, value, iteration)
        row = {"iteration": iteration, "minutes": round(minutes, 4), "steps": steps}
        row.update({key: float(f"{value:.6g}") for key, value in scalars.items()})
        self._curve.write(json.dumps(row) + "\n")
        self._curve.flush()
        if self._wandb is not None:
            self._wandb.log({**scalars, "minutes": minutes, "steps": steps}, step=iteration)

    def close(self) -> None:
        """Flush and close everything."""
        self._tensorboard.close()
        self._curve.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_curve(run_dir: Path) -> list[dict[str, float]]:
    """The rows of a run's `curve.jsonl`, in order; a last line cut by a kill is left out."""
    rows = []
    path = Path(run_dir) / CURVE_FILE
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class EpisodeStatistics:
    """Means over the newest episodes and over an update's environment log.

    Args:
        num_envs: environments.
        window: episodes to average over.
    """

    def __init__(self, num_envs: int, window: int = 200) -> None:
        self._returns = torch.zeros(num_envs)
        self._lengths = torch.zeros(num_envs)
        self._done_returns: deque[float] = deque(maxlen=window)
        self._done_lengths: deque[float] = deque(maxlen=window)
        self._log: dict[str, list[float]] = {}

    def add(self, rewards: torch.Tensor, dones: torch.Tensor, log: dict[str, Any] | None) -> None:
        """Account for one control step.

        Args:
            rewards: `[E]`.
            dones: `[E]`, non-zero where an episode ended.
            log: the environment's `extras["log"]`.
        """
        self._returns += rewards
        self._lengths += 1
        done = dones > 0
        if bool(done.any()):
            self._done_returns.extend(self._returns[done].tolist())
            self._done_lengths.extend(self._lengths[done].tolist())
            self._returns[done] = 0
            self._lengths[done] = 0
        for key, value in (log or {}).items():
            number = float(value.float().mean()) if isinstance(value, torch.Tensor) else float(value)
            self._log.setdefault(key if "/" in key else f"Episode/{key}", []).append(number)

    def restart(self) -> None:
        """Forget unfinished episodes (the environment was reset)."""
        self._returns.zero_()
        self._lengths.zero_()

    def summary(self) -> dict[str, float]:
        """Scalars since the last call (environment log) and over the window (episodes)."""
        out = {key: sum(values) / len(values) for key, values in self._log.items()}
        self._log.clear()
        if self._done_returns:
            out["Train/mean_reward"] = sum(self._done_returns) / len(self._done_returns)
            out["Train/mean_episode_length"] = sum(self._done_lengths) / len(self._done_lengths)
        return out


class Stopwatch:
    """Training time that survives a resume.

    Args:
        elapsed_s: already spent [s].
    """

    def __init__(self, elapsed_s: float = 0.0) -> None:
        self._before = elapsed_s
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time so far [s]."""
        return self._before + time.monotonic() - self._start
