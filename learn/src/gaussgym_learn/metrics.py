"""Where training curves go: TensorBoard, one JSON line an update, and Weights & Biases if asked for."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gaussgym_scene.errors import InputError

from gaussgym_learn.metrics_wandb import lay_out

logger = logging.getLogger(__name__)

CURVE_FILE = "curve.jsonl"


class MetricWriter:
    """Writes scalars of each update to `<run>/curve.jsonl`, to TensorBoard and optionally to wandb.

    Only the curve must be written; should TensorBoard or wandb fail, that is said once and the run goes on without.

    Args:
        run_dir: folder of the run.
        wandb: also log to Weights & Biases; offline unless the environment variable WANDB_MODE says otherwise, so that it
            never needs a network or an account.
        name: of the run in wandb.
        config: shown in wandb.
        group: of runs in wandb, such as the experiment's name.
        run_id: of the run in wandb; the parts of a resumed run share it.
        iteration: update from which the run goes on; what TensorBoard has beyond is dropped.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        wandb: bool = False,
        name: str = "",
        config: dict | None = None,
        group: str | None = None,
        run_id: str | None = None,
        iteration: int = 0,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        self._curve = (run_dir / CURVE_FILE).open("a", encoding="utf-8")
        purge = iteration + 1 if iteration else None
        self._tensorboard: Any = SummaryWriter(log_dir=str(run_dir), flush_secs=20, purge_step=purge)
        self._wandb: Any = None
        if wandb:
            with self._surviving("_wandb"):
                self._wandb = _start_wandb(run_dir, name=name, config=config, group=group, run_id=run_id)

    @contextlib.contextmanager
    def _surviving(self, sink: str) -> Iterator[None]:
        """Around what one of the two optional sinks does."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            logger.warning("%s failed (%s); the run goes on without it", sink.strip("_"), reason)
            setattr(self, sink, None)

    def write(self, scalars: dict[str, float], *, iteration: int, minutes: float, steps: int) -> None:
        """Log the scalars of one update.

        Args:
            scalars: by name.
            iteration: number of the update.
            minutes: of training so far [min].
            steps: control steps so far, all environments together.

        Raises:
            OSError: the curve cannot be written.
        """
        row = {"iteration": iteration, "minutes": round(minutes, 4), "steps": steps}
        row.update({key: float(f"{value:.6g}") for key, value in scalars.items()})
        self._curve.write(json.dumps(row) + "\n")
        self._curve.flush()
        if self._tensorboard is not None:
            with self._surviving("_tensorboard"):
                for key, value in scalars.items():
                    self._tensorboard.add_scalar(key, value, iteration)
        if self._wandb is not None:
            with self._surviving("_wandb"):
                self._wandb.log({**scalars, "minutes": minutes, "steps": steps}, step=iteration)

    def add_film(self, name: str, path: Path, iteration: int) -> None:
        """Show an mp4 file in wandb, and name it in TensorBoard."""
        self._add_file(name, path, iteration, "Video")

    def add_picture(self, name: str, path: Path, iteration: int) -> None:
        """Show a picture's file in wandb, and name it in TensorBoard."""
        self._add_file(name, path, iteration, "Image")

    def _add_file(self, name: str, path: Path, iteration: int, kind: str) -> None:
        if self._tensorboard is not None:
            with self._surviving("_tensorboard"):
                self._tensorboard.add_text(name, str(path), iteration)
        if self._wandb is not None:
            with self._surviving("_wandb"):
                import wandb

                self._wandb.log({name: getattr(wandb, kind)(str(path))}, step=iteration)

    def close(self) -> None:
        """Flush and close everything."""
        with contextlib.suppress(OSError):  # a full disk was said before
            self._curve.close()
        if self._tensorboard is not None:
            with self._surviving("_tensorboard"):
                self._tensorboard.close()
        if self._wandb is not None:
            with self._surviving("_wandb"):
                self._wandb.finish()


def _start_wandb(
    run_dir: Path, *, name: str, config: dict | None, group: str | None, run_id: str | None
) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    run = wandb.init(
        project="gaussgym",
        name=name or run_dir.name,
        group=group,
        id=run_id,
        resume=None if run_id is None else "allow",
        dir=str(run_dir),
        config=config or {},
        mode=os.environ.get("WANDB_MODE", "online" if "WANDB_SWEEP_ID" in os.environ else "offline"),  # type: ignore[arg-type]
    )
    lay_out(run)
    return run


def cut_curve(run_dir: Path, iteration: int) -> None:
    """Remove the rows beyond an update from a run's curve: a run that resumes there writes them again."""
    path = Path(run_dir) / CURVE_FILE
    if not path.exists():
        return
    rows = [row for row in read_curve(run_dir) if row.get("iteration", 0) <= iteration]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)


def merged(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The scalars of several processes as one's: speeds add up, the others are means over the processes that have them."""
    names = dict.fromkeys(name for part in parts for name in part)
    values = {name: [part[name] for part in parts if name in part] for name in names}
    return {
        name: sum(found) if name == "Perf/total_fps" else sum(found) / len(found)
        for name, found in values.items()
    }


def gradient_norms(models: Mapping[str, torch.nn.Module]) -> dict[str, float]:
    """Norms of the gradients that the last minibatch left, by part: ``Gradient/<model>.<child>``.

    Args:
        models: by name.
    """
    norms = {}
    for name, model in models.items():
        for child, module in model.named_children():
            squares = [p.grad.detach().square().sum() for p in module.parameters() if p.grad is not None]
            if squares:
                norms[f"Gradient/{name}.{child}"] = float(torch.stack(squares).sum().sqrt())
    return norms


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


_DONE = ("_done_returns", "_done_lengths", "_done_success")
_CURRICULA = ("level", "goal_distance_m")


def _metric_name(key: str) -> str:
    """The name of a value of the environment's log, such as ``reward/torque`` or ``episode/fell``."""
    group, _, name = key.rpartition("/")
    if name in _CURRICULA:
        return f"Curriculum/{name}"
    return f"{group[:1].upper()}{group[1:]}/{name}" if group else f"Episode/{name}"


class EpisodeStatistics:
    """Means over the newest episodes and over an update's environment log.

    The log's values are means over the episodes that ended in a step; here each episode counts once.

    Args:
        num_envs: environments.
        window: episodes to average over.
    """

    def __init__(self, num_envs: int, window: int = 200) -> None:
        self._returns = torch.zeros(num_envs)
        self._lengths = torch.zeros(num_envs)
        self._done_returns: deque[float] = deque(maxlen=window)
        self._done_lengths: deque[float] = deque(maxlen=window)
        self._done_success: deque[float] = deque(maxlen=window)
        self._bad = torch.zeros(num_envs, dtype=torch.bool)
        self._log: dict[str, list[float]] = {}

    def add(self, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]) -> None:
        """Account for one control step.

        Args:
            rewards: `[E]`.
            dones: `[E]`, non-zero where an episode ended.
            extras: of the environment's step: ``log`` means over the episodes that ended, ``success`` `[E]` where the task knows
                success.
        """
        self._bad |= ~torch.isfinite(rewards)
        self._returns += rewards
        self._lengths += 1
        done = dones > 0
        ended = int(done.sum())
        if ended:
            self._done_returns.extend(self._returns[done].tolist())
            self._done_lengths.extend(self._lengths[done].tolist())
            # Tasks without a success say that there was none.
            if "episode/success" in (extras.get("log") or {}):
                self._done_success.extend(extras["success"][done].float().tolist())
            self._returns[done] = 0
            self._lengths[done] = 0
        for key, value in (extras.get("log") or {}).items():
            number = float(value.float().mean()) if isinstance(value, torch.Tensor) else float(value)
            total = self._log.setdefault(_metric_name(key), [0.0, 0.0])
            total[0] += max(ended, 1) * number
            total[1] += max(ended, 1)

    def check_rewards(self) -> None:
        """Refuse rewards that are no numbers, before anything is learned from them.

        Raises:
            InputError: some were NaN or infinite since the last call; the terms are named where episodes have ended with them.
        """
        count = int(self._bad.sum())
        if not count:
            return
        terms = [name for name, (total, _) in self._log.items() if not math.isfinite(total)]
        named = f" ({', '.join(terms)})" if terms else ""
        first = int(self._bad.nonzero()[0])
        self._bad.zero_()
        raise InputError(
            f"rewards that are not finite{named} in {count} of {len(self._bad)} environments, first in number {first}; expected "
            "numbers: look for a division or a root in the task's reward terms"
        )

    def restart(self) -> None:
        """Forget unfinished episodes (the environment was reset)."""
        self._returns.zero_()
        self._lengths.zero_()

    def summary(self) -> dict[str, float]:
        """Scalars since the last call (environment log) and over the window (episodes)."""
        out = {key: total / weight for key, (total, weight) in self._log.items()}
        self._log.clear()
        if self._done_returns:
            out["Train/mean_reward"] = sum(self._done_returns) / len(self._done_returns)
            out["Train/mean_episode_length"] = sum(self._done_lengths) / len(self._done_lengths)
        if self._done_success:
            out["Train/success"] = sum(self._done_success) / len(self._done_success)
        return out

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        done = [list(getattr(self, name)) for name in _DONE]
        return {"returns": self._returns.clone(), "lengths": self._lengths.clone(), "done": done}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._returns.copy_(state["returns"])
        self._lengths.copy_(state["lengths"])
        for name, values in zip(_DONE, state["done"], strict=True):
            getattr(self, name).clear()
            getattr(self, name).extend(values)


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


class RolloutTimes:
    """How the time of one rollout splits into physics, rendering and the policy.

    Args:
        env: tells physics and rendering apart (`gaussgym_learn.env.LearnEnv.spent_s`).
    """

    def __init__(self, env: Any) -> None:
        self._env, self._before, self._stepping_s = env, env.spent_s(), 0.0

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Around the environment's step."""
        started = time.perf_counter()
        yield
        self._stepping_s += time.perf_counter() - started

    def summary(self, rollout_s: float) -> dict[str, float]:
        """Scalars `Perf/*_time` [s]; what is left of the rollout is rewards, observations and episode starts.

        Args:
            rollout_s: the whole rollout's time.
        """
        physics, render = (now - then for now, then in zip(self._env.spent_s(), self._before, strict=True))
        return {
            "Perf/physics_time": physics,
            "Perf/render_time": render,
            "Perf/policy_time": rollout_s - self._stepping_s,
            "Perf/collection_time": rollout_s,
        }
