"""Searching a recipe's settings with Ray Tune: many short trainings, the poor ones stopped early.

Every trial is a run of its own, with checkpoints in `<out>/trials/<name>`; a sweep that was interrupted goes on, and its
unfinished trials with it. The wandb alternative is a file for `wandb sweep` (`wandb_sweep`), which needs an account.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import provenance, write_json
from gaussgym_scene.errors import InputError, StageError

from gaussgym_learn.parameters import Search, with_settings, worded
from gaussgym_learn.recipes import Recipe

RESULTS_FILE = "results.json"
_TUNER = "ray"
_ATTEMPTS = 3


@dataclass(frozen=True)
class SweepCfg:
    """How to search.

    Attributes:
        trials: how many.
        metric: name of a training curve's value, such as `Train/mean_reward`.
        mode: `max` or `min`.
        scheduler: `asha` stops trials early that do worse than others did (Li et al., arXiv 1810.05934), `none` none.
        grace: updates that each trial has at least.
        reduction: of so many trials, one goes on at each of ASHA's rungs.
        at_once: trials at a time.
        cpus: of each trial.
        gpus: of each trial; a part of one is possible.
        address: of a Ray cluster, None for this machine alone.
        seed: of the values that are drawn.
    """

    trials: int = 8
    metric: str = "Train/mean_reward"
    mode: str = "max"
    scheduler: str = "asha"
    grace: int = 1
    reduction: int = 3
    at_once: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None
    seed: int = 0

    def check(self, iterations: int | None) -> None:
        """See that the numbers can be.

        Raises:
            InputError: one cannot.
        """
        for name, least in (("trials", 1), ("grace", 1), ("reduction", 2), ("at_once", 1)):
            if getattr(self, name) < least:
                raise InputError(f"sweep: {name} is {getattr(self, name)}, expected at least {least}")
        if self.scheduler == "asha" and (iterations is None or iterations < self.grace):
            raise InputError(
                f"sweep: scheduler 'asha' compares trials by updates: found {iterations} updates a trial, "
                f"expected --iterations of at least {self.grace}, or --scheduler none"
            )


Train = Callable[[Recipe, Path, Callable[[Any, dict[str, float]], None]], Any]
"""Trains a recipe into a run folder, going on where that has a checkpoint, and calls back after every update."""


def sweep(
    recipe: Recipe,
    searches: Sequence[Search],
    out: Path | str,
    cfg: SweepCfg,
    train: Train,
    *,
    iterations: int | None,
    resume: bool = False,
) -> dict[str, Any]:
    """Search.

    Args:
        recipe: whose settings are tried.
        searches: which, and what.
        out: folder; `results.json`, the trials' runs and Ray's own files go there. On a cluster it must be shared.
        cfg: how.
        train: see `Train`; is sent to other processes.
        iterations: updates of a whole trial, None where something else ends them.
        resume: go on with the sweep that is in `out`.

    Returns:
        What `results.json` says: `trials`, the best first, and `best`, None if no trial has the metric.

    Raises:
        InputError: Ray is missing, numbers that cannot be, or no sweep to resume.
        StageError: no trial came as far as one value of the metric.
    """
    cfg.check(iterations)
    out = Path(out).resolve()
    ray, tune = _import_ray()
    if resume and not tune.Tuner.can_restore(str(out / _TUNER)):
        raise InputError(f"{out}: found no sweep to resume; leave out --resume")
    out.mkdir(parents=True, exist_ok=True)
    trainable = tune.with_resources(
        _trainable(tune, recipe, out, cfg, train), {"cpu": cfg.cpus, "gpu": cfg.gpus}
    )
    started = not ray.is_initialized()
    if started:
        _start_ray(ray, cfg)
    try:
        results = _tuner(tune, trainable, searches, out, cfg, iterations, resume).fit()
    finally:
        if started:
            ray.shutdown()
    return _report(results, recipe, searches, out, cfg)


def _import_ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths of the command stay what they are
    os.environ.setdefault(
        "TUNE_DISABLE_STRICT_METRIC_CHECKING", "1"
    )  # returns come with the first episodes that end
    try:
        import ray
        from ray import tune
    except ImportError:
        raise InputError(
            "sweeps need Ray Tune, which is not installed; pip install 'gaussgym-learn[sweep]'"
        ) from None
    return ray, tune


def _start_ray(ray: Any, cfg: SweepCfg) -> None:
    """Connect to a cluster, or start one of this machine.

    Raises:
        StageError: it did not start.
    """
    options: dict[str, Any] = {"address": cfg.address, "log_to_driver": False, "logging_level": "ERROR"}
    if cfg.address is None:
        options |= {"num_cpus": max(1, math.ceil(cfg.cpus * cfg.at_once)), "include_dashboard": False}
    for attempt in range(
        1, _ATTEMPTS + 1
    ):  # Ray gives its processes 30 s, too little on a machine that is busy
        try:
            ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == _ATTEMPTS:
                reason = " ".join(str(error).split())[:200]
                raise StageError(
                    f"Ray did not start ({reason}); see its logs, or give --address of one that runs"
                ) from None


def _trainable(
    tune: Any, recipe: Recipe, out: Path, cfg: SweepCfg, train: Train
) -> Callable[[dict[str, Any]], None]:
    def trial(values: dict[str, Any]) -> None:
        folder = out / "trials" / tune.get_context().get_trial_id()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "settings.json", values)

        def report(trainer: Any, scalars: dict[str, float]) -> None:
            if math.isfinite(scalars.get(cfg.metric, math.nan)):
                tune.report(
                    {cfg.metric: scalars[cfg.metric], "iteration": trainer.iteration, "steps": trainer.steps}
                )

        train(with_settings(recipe, _tuples(values)), folder, report)

    return trial


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Values as Ray hands them on, as settings are."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _tuner(
    tune: Any,
    trainable: Any,
    searches: Sequence[Search],
    out: Path,
    cfg: SweepCfg,
    iterations: int | None,
    resume: bool,
) -> Any:
    if resume:
        return tune.Tuner.restore(str(out / _TUNER), trainable, resume_unfinished=True, resume_errored=True)
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    scheduler: Any = FIFOScheduler()
    if cfg.scheduler == "asha":
        beyond = (iterations or 0) + 1  # at its last update Ray would end a trial before that is saved
        scheduler = ASHAScheduler(
            time_attr="iteration", max_t=beyond, grace_period=cfg.grace, reduction_factor=cfg.reduction
        )
    tune_config = tune.TuneConfig(
        metric=cfg.metric, mode=cfg.mode, num_samples=cfg.trials, max_concurrent_trials=None, scheduler=scheduler,
        search_alg=BasicVariantGenerator(max_concurrent=cfg.at_once, random_state=cfg.seed),
    )  # fmt: skip
    run_config = tune.RunConfig(name=_TUNER, storage_path=str(out), verbose=0)
    space = {search.name: _space(tune, search) for search in searches}
    return tune.Tuner(trainable, param_space=space, tune_config=tune_config, run_config=run_config)


def _space(tune: Any, search: Search) -> Any:
    if search.choices is not None:
        return tune.choice(list(search.choices))
    if search.whole:
        draw = tune.lograndint if search.log else tune.randint
        return draw(int(search.low), int(search.high) + 1)
    return (tune.loguniform if search.log else tune.uniform)(search.low, search.high)


def _report(
    results: Any, recipe: Recipe, searches: Sequence[Search], out: Path, cfg: SweepCfg
) -> dict[str, Any]:
    """Write `results.json`."""
    rows = [_row(result, cfg) for result in results]
    sign = -1.0 if cfg.mode == "max" else 1.0
    rows.sort(key=lambda row: (row["value"] is None, sign * (row["value"] or 0.0)))
    best = rows[0] if rows and rows[0]["value"] is not None else None
    report = {
        "format": "gaussgym-sweep", "version": 1, "recipe": recipe.name, "search": [asdict(search) for search in searches],
        "settings": asdict(cfg), "best": best, "trials": rows, "provenance": provenance(),
    }  # fmt: skip
    write_json(out / RESULTS_FILE, report)
    if best is None:
        errors = [row["error"] for row in rows if row["error"]]
        reason = (
            errors[0] if errors else f"none logged {cfg.metric!r}; see the names in a trial's curve.jsonl"
        )
        raise StageError(f"sweep: no trial of {len(rows)} has a value: {reason}")
    return json.loads((out / RESULTS_FILE).read_text())


def _row(result: Any, cfg: SweepCfg) -> dict[str, Any]:
    """One trial: what was tried, what came of it, and where its run is."""
    metrics = result.metrics or {}
    error = None if result.error is None else str(result.error).strip().splitlines()[-1][:200]
    value = metrics.get(cfg.metric)
    return {
        "value": None if value is None or not math.isfinite(value) else float(value),
        "parameters": {name: worded(value) for name, value in result.config.items()},
        "iterations": int(metrics.get("iteration", 0)),
        "seconds": round(float(metrics.get("time_total_s", 0.0)), 1),
        "run": f"trials/{metrics['trial_id']}" if "trial_id" in metrics else None,
        "error": error,
    }


def table(report: dict[str, Any]) -> str:
    """The trials of a report, the best first."""
    names = [search["name"] for search in report["search"]]
    head = [report["settings"]["metric"], "updates", *names, "run"]
    rows = [
        [
            "failed" if row["value"] is None else f"{row['value']:.4g}", str(row["iterations"]),
            *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in (row["parameters"][n] for n in names)),
            row["run"] or "",
        ]
        for row in report["trials"]
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [head, *rows]
    )


def wandb_sweep(searches: Sequence[Search], file: Path | str, cfg: SweepCfg, command: Sequence[str]) -> Path:
    """Write a file for `wandb sweep`, whose agents then run trainings on any machine; needs an account.

    Args:
        searches: what to try.
        file: to write; JSON, which is YAML.
        cfg: trials, metric and scheduler (ASHA becomes wandb's hyperband).
        command: words of the training's command, which end in ``--set`` and settings that all trials have, if any.
    """
    parameters: dict[str, Any] = {}
    for search in searches:
        if search.choices is not None:
            parameters[search.name] = {"values": [worded(choice) for choice in search.choices]}
        else:
            whole = {True: "q_log_uniform_values", False: "int_uniform"}
            kind = (
                whole[search.log]
                if search.whole
                else {True: "log_uniform_values", False: "uniform"}[search.log]
            )
            parameters[search.name] = {"distribution": kind, "min": search.low, "max": search.high}
    fields: dict[str, Any] = {
        "method": "random", "run_cap": cfg.trials, "parameters": parameters,
        "metric": {"name": cfg.metric, "goal": {"max": "maximize", "min": "minimize"}[cfg.mode]},
        "command": ["${env}", *command, "${args_no_hyphens}"],
    }  # fmt: skip
    if cfg.scheduler == "asha":
        fields["early_terminate"] = {"type": "hyperband", "min_iter": cfg.grace, "eta": cfg.reduction}
    write_json(Path(file), fields)
    return Path(file)
