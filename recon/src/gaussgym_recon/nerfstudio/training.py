"""Training by nerfstudio: data set out, `ns-train` and `ns-export` as programs, splats back in the metric world."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gaussgym_scene.artifact import sha256_of, write_json
from gaussgym_scene.errors import GaussgymError, InputError
from gaussgym_scene.splats import Splats

from gaussgym_recon.nerfstudio import child
from gaussgym_recon.nerfstudio.dataset import MANIFEST, SEED_SHAPES, SEEDS, write_dataset
from gaussgym_recon.nerfstudio.environment import METHOD, Environment, find_environment
from gaussgym_recon.nerfstudio.export import TRANSFORMS, read_export
from gaussgym_recon.nerfstudio.process import run_program
from gaussgym_recon.views import Views

_STEP = re.compile(r"^\s*(\d+) \(\d+\.\d+%\)")
_FULL_STEPS = 30_000
"""Steps that splatfacto's settings are written for."""


@dataclass(frozen=True)
class NerfstudioCfg:
    """Settings of training by nerfstudio.

    Attributes:
        method: ``'gaussgym-splatfacto'`` runs with and without a GPU, ``'splatfacto'`` is nerfstudio's own (GPU only).
        steps: Training steps; None: 30 000 on a GPU, 3 000 without.
        python: Interpreter that has nerfstudio; None: see :func:`find_environment`.
        normalize: Let nerfstudio centre the cameras and scale them into its unit box, which splatfacto's step sizes and
            thresholds are made for; the export is brought back all the same. Orientation is never touched.
        densify: Let splatfacto add and remove splats.
        scale_regularization: Penalize splats more than ten times as long as wide.
        bilateral_grid: One colour grid a photograph.
        camera_optimizer: ``'SO3xR3'`` refines the cameras of training, ``'off'`` keeps them.
        sh_degree: Of the splats, 0 to 3.
        seed: Of the random numbers.
        silence_s: nerfstudio is taken to hang when it prints nothing for so long [s].
        timeout_s: Longest training [s]; None: no limit. A training that was ended goes on from its last checkpoint.
        extra: Further arguments of `ns-train`, before its data parser.
    """

    method: Literal["gaussgym-splatfacto", "splatfacto"] = METHOD
    steps: int | None = None
    python: str | None = None
    normalize: bool = True
    densify: bool = True
    scale_regularization: bool = True
    bilateral_grid: bool = True
    camera_optimizer: Literal["SO3xR3", "off"] = "SO3xR3"
    sh_degree: int = 3
    seed: int = 0
    silence_s: float = 1800.0
    timeout_s: float | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class NerfstudioTraining:
    """What a training gave.

    Attributes:
        splats: In the metric world.
        steps: Trained.
        seconds: Wall clock of `ns-train` in the process that finished it [s].
        environment: What trained it.
    """

    splats: Splats
    steps: int
    seconds: float
    environment: Environment


def train_by_nerfstudio(
    views: Views,
    seeds: Splats,
    work: Path,
    cfg: NerfstudioCfg | None = None,
    *,
    on_progress: Callable[[float, str], None] | None = None,
) -> NerfstudioTraining:
    """Train splats with nerfstudio.

    A killed training goes on from its last checkpoint when called again with the same views, seeds and settings; others start
    over. A finished one is not trained again.

    Args:
        views: Photographs and cameras in the metric world.
        seeds: Where splats start.
        work: Folder of this training's files.
        cfg: Settings.
        on_progress: Told the fraction that is done and a short status.

    Raises:
        InputError: nerfstudio is not there, or the method cannot run.
        GaussgymError: nerfstudio failed, hung or took too long.
    """
    cfg = cfg or NerfstudioCfg()
    tell = on_progress or (lambda fraction, status: None)
    environment = find_environment(cfg.python)
    environment.check(cfg.method)
    steps = cfg.steps or (_FULL_STEPS if environment.cuda else _FULL_STEPS // 10)
    if steps < 1:
        raise InputError(f"{steps} training steps, expected at least 1")
    tell(0.0, "writing nerfstudio's data set")
    work.mkdir(parents=True, exist_ok=True)
    data = write_dataset(views, seeds, work / "data")
    _drop_stale(work, data, cfg, steps)
    run = work / "runs" / "data" / cfg.method / "run"
    started = time.monotonic()
    _train(environment, data, run, work, cfg, steps, tell)
    seconds = time.monotonic() - started
    tell(1.0, "exporting")
    ply = _export(environment, run, work, cfg)
    splats = read_export(ply, run / TRANSFORMS)
    tell(1.0, f"{len(splats)} splats")
    return NerfstudioTraining(splats, steps, seconds, environment)


def _drop_stale(work: Path, data: Path, cfg: NerfstudioCfg, steps: int) -> None:
    """Remove what a training on other photographs, seeds or settings left behind."""
    settings = {**asdict(cfg), "steps": steps}
    for name in ("silence_s", "timeout_s", "python"):
        del settings[name]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in [data / MANIFEST, data / SEEDS, data / SEED_SHAPES, *sorted(data.glob("*/*.png"))]:
        digest.update(sha256_of(path).encode())
    marker, key = work / "nerfstudio.json", digest.hexdigest()
    kept = json.loads(marker.read_text()).get("key") if marker.exists() else None
    if kept != key:
        shutil.rmtree(work / "runs", ignore_errors=True)
        (work / "splat.ply").unlink(missing_ok=True)
    write_json(marker, {"key": key, "settings": settings})


def _train(
    environment: Environment, data: Path, run: Path, work: Path, cfg: NerfstudioCfg, steps: int,
    tell: Callable[[float, str], None],
) -> None:  # fmt: skip
    done = last_checkpoint(run / "nerfstudio_models")
    if done is not None and done >= steps - 1:
        return
    first = 0 if done is None else done + 1
    tell(first / steps, "starting nerfstudio" if done is None else f"going on from step {first}")

    def on_line(line: str) -> None:
        match = _STEP.match(line)
        if match:
            step = int(match.group(1))
            tell(min(1.0, (step + 1) / steps), f"step {step + 1} of {steps}")

    command = [
        environment.python,
        child.__file__,
        "train",
        *training_arguments(data, work, cfg, steps, first),
    ]
    run_program(
        command, env=environment.variables(), log=work / "train.log", on_line=on_line, silence_s=cfg.silence_s,
        timeout_s=cfg.timeout_s,
    )  # fmt: skip
    done = last_checkpoint(run / "nerfstudio_models")
    if done is None or done < steps - 1:
        raise GaussgymError(f"nerfstudio's train stopped at step {done} of {steps}; see {work / 'train.log'}")


def _export(environment: Environment, run: Path, work: Path, cfg: NerfstudioCfg) -> Path:
    ply = work / "splat.ply"
    if ply.exists():
        return ply
    partial = work / "export.partial"
    shutil.rmtree(partial, ignore_errors=True)
    arguments = ["gaussian-splat", "--load-config", str(run / "config.yml"), "--output-dir", str(partial)]
    run_program(
        [environment.python, child.__file__, "exporter", *arguments], env=environment.variables(),
        log=work / "export.log", on_line=lambda line: None, silence_s=cfg.silence_s,
    )  # fmt: skip
    if not (partial / "splat.ply").exists():
        raise GaussgymError(f"nerfstudio's exporter wrote no splat.ply; see {work / 'export.log'}")
    (partial / "splat.ply").replace(ply)
    shutil.rmtree(partial)
    return ply


def last_checkpoint(folder: Path) -> int | None:
    """Step of the newest whole checkpoint in a folder; files cut short by a kill are removed.

    Args:
        folder: With `step-NNNNNNNNN.ckpt`; need not exist.
    """
    for path in sorted(folder.glob("step-*.ckpt"), reverse=True):
        if zipfile.is_zipfile(path):  # the directory of a zip file is at its end
            return int(path.stem.split("-")[1])
        path.unlink()
    return None


def training_arguments(data: Path, work: Path, cfg: NerfstudioCfg, steps: int, first: int = 0) -> list[str]:
    """Arguments of `ns-train`.

    Args:
        data: The data set.
        work: `<work>/runs/data/<method>/run` becomes nerfstudio's folder.
        cfg: Settings.
        steps: Of the whole training.
        first: Step to begin with; above 0 the checkpoint before it is loaded.
    """
    model: dict[str, Any] = {
        **schedule(steps, densify=cfg.densify),
        "use-scale-regularization": cfg.scale_regularization,
        "rasterize-mode": "antialiased",
        "use-bilateral-grid": cfg.bilateral_grid,
        "camera-optimizer.mode": cfg.camera_optimizer,
        "sh-degree": cfg.sh_degree,
    }
    if cfg.method == METHOD:
        model["seed-shapes"] = data / SEED_SHAPES
    optimizers: dict[str, Any] = {"means.scheduler.max-steps": steps, **learning_rates(steps)}
    for group in ("camera-opt", "bilateral-grid"):
        optimizers[f"{group}.scheduler.max-steps"] = steps
        optimizers[f"{group}.scheduler.warmup-steps"] = steps // 30
    options: dict[str, Any] = {
        "output-dir": work / "runs", "experiment-name": "data", "timestamp": "run", "vis": "tensorboard",
        "machine.seed": cfg.seed, "max-num-iterations": steps - first, "steps-per-save": max(1, min(2000, steps // 10)),
        # Photographs are scored afterwards, by the renderer that will draw the scene.
        "steps-per-eval-image": 0, "steps-per-eval-batch": 0, "steps-per-eval-all-images": 0,
        "logging.local-writer.max-log-size": 0,
        **{f"pipeline.model.{k}": v for k, v in model.items()}, **{f"optimizers.{k}": v for k, v in optimizers.items()},
    }  # fmt: skip
    if first:
        # Without a step nerfstudio takes the newest, now and at export. One given here would stay in the run's settings, from
        # which the export reads it, when its checkpoint has long been replaced.
        options["load-dir"] = work / "runs" / "data" / cfg.method / "run" / "nerfstudio_models"
    parser = {
        "data": data, "downscale-factor": 1, "load-3D-points": True, "orientation-method": "none",
        "center-method": "poses" if cfg.normalize else "none", "auto-scale-poses": cfg.normalize,
    }  # fmt: skip
    return [cfg.method, *_flags(options), *cfg.extra, "nerfstudio-data", *_flags(parser)]


def learning_rates(steps: int) -> dict[str, float]:
    """Splatfacto's step sizes, written for 30 000 steps, for a shorter training: larger by the root of the ratio.

    Each is limited to about the step that the built-in trainer takes, beyond which splats jump.

    Args:
        steps: Of the training.
    """
    faster = max(1.0, (_FULL_STEPS / steps) ** 0.5)
    base = {"means": (1.6e-4, 10.0), "features-dc": (2.5e-3, 4.0), "features-rest": (1.25e-4, 4.0),
            "scales": (5e-3, 2.0), "quats": (1e-3, 3.0)}  # fmt: skip
    rates = {f"{name}.optimizer.lr": rate * min(faster, limit) for name, (rate, limit) in base.items()}
    rates["means.scheduler.lr-final"] = 1.6e-6 * min(faster, 10.0)
    return rates


def _flags(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def schedule(steps: int, *, densify: bool = True) -> dict[str, int]:
    """Splatfacto's timetable, written for 30 000 steps, for a training of another length.

    What belongs to a share of the training (resolution, SH degree, end of splitting) is scaled. Rounds of densification come no
    closer than 20 steps, and opacities are reset every 3000 steps at most, since splats need about as long to recover.

    Args:
        steps: Of the training.
        densify: False: splats are neither added nor removed.
    """
    share = steps / _FULL_STEPS
    refine_every = min(100, max(20, steps // 100))
    return {
        "resolution-schedule": max(1, round(3000 * share)),
        "sh-degree-interval": max(1, round(1000 * share)),
        "warmup-length": min(500, max(2 * refine_every, round(500 * share))),
        "refine-every": refine_every,
        "reset-alpha-every": max(1, 3000 // refine_every),
        "stop-split-at": steps // 2 if densify else 0,
        "stop-screen-size-at": round(4000 * share),
    }
