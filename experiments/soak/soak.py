"""Ten million environment steps: all robots on rubble, random actions, every randomization at its extremes.

    python experiments/soak/soak.py --output build/soak    # robots that are done already are not done again
    python experiments/soak/soak.py --output build/soak --steps 20000

Each robot runs in a process of its own, so that its memory is its own. Fails (exit status 1) if a number was not finite, memory
grew, or an environment was stuck: its episode did not end in time, or its base lay still although it was acting.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from gaussgym_scene import synthesize
from gaussgym_scene.artifact import write_json
from gaussgym_scene.command import run
from gaussgym_scene.errors import StageError
from gaussgym_sim.env import Env
from gaussgym_sim.env_cfg import EnvCfg
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.robot import robot_names
from gaussgym_sim.views.nan_guard import NanGuard, NanGuardCfg
from gaussgym_sim.views.recorder import SimRecorder
from tqdm import tqdm

STILL_S, STILL_M = 10.0, 1e-3
"""A base that stays within a millimetre for ten seconds under random actions is stuck."""
ACTION_STD = (0.3, 1.0, 3.0, 10.0)
"""Of the actions, one for each quarter of the environments."""
HEIGHTS_M = (0.1, 0.15, 0.2, 0.3)
"""Of the tallest obstacles, one scene each."""
GROWTH_MIB = 24.0
"""What a process may grow by after its first fifth, but 200 steps at least: allocators settle, leaks do not."""


@dataclass
class Soak:
    """Run all robots one after the other and write DIR/soak.json."""

    output: Path
    """Folder for the results, one file a robot, and for replays of what was not finite."""
    steps: int = 10_000_000
    """Environment steps over all robots."""
    robots: tuple[str, ...] = ()
    """Which; by default all that are registered."""
    num_envs: int = 1024
    """At a time."""
    threads: int | None = None
    """Physics threads; by default the CPUs this process may use."""
    only: str | None = None
    """Run this one robot in this process (what the others are started as)."""

    def run(self) -> Path:
        """Return the report's path."""
        self.output.mkdir(parents=True, exist_ok=True)
        names = self.robots or tuple(robot_names())
        if self.only is not None:
            return self._one(self.only, max(1, round(self.steps / len(names) / self.num_envs)))
        reports = [self._report_of(name, names) for name in names]
        passed = all(report["passed"] for report in reports)
        total = {key: sum(r[key] for r in reports) for key in ("steps", "not_finite", "stuck", "seconds")}
        path = self.output / "soak.json"
        write_json(path, {"passed": passed, "total": total, "robots": {r["robot"]: r for r in reports}})
        for r in reports:
            print(
                f"{'ok  ' if r['passed'] else 'FAIL'}  {r['robot']:<10} {r['steps']:>9} steps  {r['steps_per_s']:>7.0f}/s  "
                f"not finite {r['not_finite']}  stuck {r['stuck']}  memory {r['growth_mib']:+.1f} MiB  {r['endings']}"
            )
        if not passed:
            raise StageError(f"soak failed, see {path}")
        return path

    def _settings(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {"steps": self.steps, "robots": list(names), "num_envs": self.num_envs}

    def _report_of(self, name: str, names: tuple[str, ...]) -> dict[str, Any]:
        """A robot's report, from an earlier run with these settings or a new one."""
        path = self.output / f"{name}.json"
        if path.exists() and json.loads(path.read_text())["settings"] == self._settings(names):
            return json.loads(path.read_text())
        command = [sys.executable, __file__, "--output", str(self.output), "--steps", str(self.steps)]
        command += ["--num-envs", str(self.num_envs), "--only", name, "--robots", *names]
        command += [] if self.threads is None else ["--threads", str(self.threads)]
        status = subprocess.run(command, check=False).returncode
        if status != 0 or not path.exists():
            raise StageError(f"the process of robot {name!r} ended with status {status}, see above")
        return json.loads(path.read_text())

    def _one(self, robot: str, steps: int) -> Path:
        torch.set_num_threads(1)
        names = self.robots or tuple(robot_names())
        report = soak(
            robot,
            steps,
            num_envs=self.num_envs,
            threads=self.threads,
            replays=self.output / f"{robot}-replays",
        )
        path = self.output / f"{robot}.json"
        write_json(path, report | {"settings": self._settings(names)})
        return path


class Watch:
    """Counts how episodes end, and environments that are stuck."""

    def __init__(self, env: Env) -> None:
        self._env, device = env, env.device
        self._where = env.sim.state.root_pos_w.clone()
        self._still_s = torch.zeros(env.num_envs, device=device)
        self._counts = torch.zeros(5, dtype=torch.long, device=device)
        self._stuck = torch.zeros(env.num_envs, dtype=torch.bool, device=device)
        self._longest = torch.zeros((), dtype=torch.long, device=device)

    def look(self, age: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]) -> None:
        """After a step; ``age`` [E] is how long the episodes were that it belongs to."""
        fell, cut = extras["fell"], (extras["time_outs"] > 0) & ~extras["success"]
        on_time = age >= self._env.max_episode_length
        causes = (fell, extras["success"], cut & on_time, cut & ~on_time, dones)
        self._counts += torch.stack([cause.sum() for cause in causes])
        position = self._env.sim.state.root_pos_w
        moved = ((position - self._where).norm(dim=1) > STILL_M) | dones
        self._where = torch.where(moved[:, None], position, self._where)
        self._still_s = torch.where(moved, 0.0, self._still_s + self._env.cfg.control_s)
        self._stuck |= (self._still_s > STILL_S) | (age > self._env.max_episode_length)
        self._longest = torch.maximum(self._longest, age.max())

    def report(self) -> dict[str, Any]:
        """Counts."""
        names = ("fell", "success", "time", "border_or_end_of_path", "all")
        return {
            "endings": dict(zip(names, self._counts.tolist(), strict=True)),
            "stuck": int(self._stuck.sum()),
            "stuck_envs": self._stuck.nonzero().squeeze(1).tolist()[:20],
            "longest_episode_steps": int(self._longest),
            "longest_allowed_steps": self._env.max_episode_length,
        }


def soak(robot: str, steps: int, *, num_envs: int, threads: int | None, replays: Path) -> dict[str, Any]:
    """Run one robot for so many control steps of all environments.

    Returns:
        Counts, memory at every tenth [MiB], and whether all is well.
    """
    scenes = [
        synthesize("rubble", seed, max_height_m=height, cell_m=0.1, max_splats=1000)
        for seed, height in enumerate(HEIGHTS_M)
    ]
    sim = SimRecorder.make("mujoco", robot, scenes, num_envs, num_threads=threads)
    extremes, left_out = randomize_preset("extreme").supported_by(sim.capabilities)
    env = Env(sim, replace(EnvCfg(), randomize=extremes), seed=0)
    env.guard = NanGuard(env, NanGuardCfg(replays))
    watch = Watch(env)
    generator = torch.Generator().manual_seed(1)
    std = torch.tensor(ACTION_STD).repeat_interleave(-(-num_envs // len(ACTION_STD)))[:num_envs, None]
    memory_mib, begun = [resident_mib()], time.perf_counter()
    for step in tqdm(range(steps), desc=robot, unit="step", mininterval=2.0):
        age = env.episode_length_buf + 1
        action = std * torch.randn(num_envs, env.num_actions, generator=generator)
        _, _, dones, extras = env.step(action)
        watch.look(age, dones, extras)
        if (step + 1) * 10 // steps > step * 10 // steps:
            memory_mib.append(resident_mib())
    seconds = time.perf_counter() - begun
    counts = watch.report()
    kinds = [asdict(finding) for finding in env.guard.findings]
    # The recorder fills its two stretches in its first 200 steps.
    settled = max(2, -(-10 * 2 * sim.keep_steps // steps))
    growth = memory_mib[-1] - memory_mib[settled] if settled < len(memory_mib) else 0.0
    finite = not kinds and sim.invalid_count == 0
    return {
        "robot": robot, "steps": steps * num_envs, "seconds": seconds, "steps_per_s": steps * num_envs / seconds,
        "not_finite": sum(kind["envs"] for kind in kinds), "findings": kinds[:100], "invalid_count": sim.invalid_count,
        "memory_mib": memory_mib, "growth_mib": growth, "randomizations_left_out": list(left_out), **counts,
        "passed": finite and growth <= GROWTH_MIB and counts["stuck"] == 0,
    }  # fmt: skip


def resident_mib() -> float:
    """Memory that this process holds now; where the system does not tell, the most that it ever held [MiB]."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    sys.exit(min(run(tyro.cli(Soak).run), 1))
