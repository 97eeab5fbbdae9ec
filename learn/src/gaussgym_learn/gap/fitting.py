"""Which physics explains a recording: least squares over replayed segments, with an honest uncertainty for each parameter.

The unknowns are the parameters of `PARAMETERS`, common to all segments, and for each segment an error of the base's velocity and
height at its beginning, which no robot measures well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gaussgym_learn.gap.least_squares import (
    Unknowns,
    minimize,
    robust_cost,
    row_costs,
    slopes,
    standard_errors,
    with_prior,
)
from gaussgym_learn.gap.recording import Array, Recording
from gaussgym_learn.gap.replay import Physics, Replay, Segments, Starts, Traces, estimate_starts

FEW_SEGMENTS = 60
TRIMMED = 0.25
"""Share of the segments that the last fit leaves out."""
RESOLUTION = 0.25
"""The cost is rough below this share of a difference quotient's step: no standard error is smaller."""
QUIET_RAD = 2e-3
"""Joint angles that fit this well come from quiet sensors: single control steps then say more than longer pieces, in which
feet land and slopes lead astray; with noisy ones only longer pieces tell physics from a wrong start."""
MIN_SLIDING = 0.005
"""Ground friction shows only in feet that slide: at least in this share of all contacts."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of `Physics` that can be fitted.

    Attributes:
        name: field of `Physics`.
        unit: for reports.
        low, high: bounds.
        step: of difference quotients.
        scale: a typical change.
        scan: values to try first; least squares only finds the minimum next to where it starts.
        tolerance: half the width of a 95 % interval above which the log is said not to show the parameter: absolute,
            or relative to the value, whichever is larger.
    """

    name: str
    unit: str
    low: float
    high: float
    step: float
    scale: float
    scan: tuple[float, ...]
    tolerance: tuple[float, float]


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("delay_s", "s", 0.0, 0.1, 2.5e-3, 0.005, tuple(0.005 * i for i in range(17)), (0.005, 0.2)),
    Parameter("strength", "1", 0.2, 2.0, 0.03, 0.1, (), (0.1, 0.1)),
    Parameter("joint_friction_nm", "N·m", 0.0, 5.0, 0.03, 0.1, (), (0.1, 0.25)),
    Parameter("joint_damping_nms", "N·m·s/rad", 0.0, 5.0, 0.03, 0.1, (), (0.1, 0.25)),
    Parameter(
        "ground_friction", "1", 0.02, 3.0, 0.03, 0.1, (0.2, 0.3, 0.4, 0.55, 0.75, 1.0, 1.4), (0.15, 0.25)
    ),
)
_OWN_STEP = np.array([0.02, 0.02, 0.02, 5e-4])
_OWN_STD = np.array([0.1, 0.1, 0.1, 0.005])
"""Of each segment's own unknowns, errors of its start: velocity along three axes [m/s], height [m]."""


@dataclass(frozen=True)
class Weights:
    """Standard deviations by which residuals are divided.

    Attributes:
        joint_pos_rad: [rad].
        joint_vel_rad_s: [rad/s].
        ang_vel_rad_s: [rad/s].
    """

    joint_pos_rad: float = 0.02
    joint_vel_rad_s: float = 0.5
    ang_vel_rad_s: float = 0.3


@dataclass(frozen=True)
class Estimate:
    """What the log says about one parameter.

    Attributes:
        name: of the parameter.
        unit: of its values.
        value: best value, or None where the log does not show it.
        std_error: standard error, or None.
        reason: why there is no value, or "".
        at_least: a lower bound that the log does show, or None.
        nominal: the simulator's own value.
    """

    name: str
    unit: str
    value: float | None
    std_error: float | None
    reason: str = ""
    at_least: float | None = None
    nominal: float = 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval, or None."""
        if self.value is None or self.std_error is None:
            return None
        return self.value - 1.96 * self.std_error, self.value + 1.96 * self.std_error


@dataclass(frozen=True)
class Fit:
    """Result of `fit_physics`.

    Attributes:
        physics: the best values; those that the log does not show stay at their nominal ones.
        estimates: by name.
        starts: the base at the beginning of each segment, corrected.
        cost_nominal, cost: weighted mean square of the residuals before and after.
        sliding_share: share of the feet's contacts that slide in the fitted replay.
    """

    physics: Physics
    estimates: dict[str, Estimate]
    starts: Starts
    cost_nominal: float
    cost: float
    sliding_share: float


def residuals(recording: Recording, rows: NDArray[np.int64], traces: Traces, weights: Weights) -> Array:
    """Simulated less measured, divided by `Weights`: `[N, M]`, M = H (J + J + 3)."""
    parts = (
        (traces.joint_pos - recording.joint_pos[rows]) / weights.joint_pos_rad,
        (traces.joint_vel - recording.joint_vel[rows]) / weights.joint_vel_rad_s,
        (traces.ang_vel_b - recording.ang_vel_b[rows]) / weights.ang_vel_rad_s,
    )
    flat = np.concatenate([p.reshape(len(rows), -1) for p in parts], axis=1)
    return np.nan_to_num(np.clip(flat, -1e3, 1e3), nan=1e3)


@dataclass(frozen=True)
class _Problem:
    """Residuals of a replay as a function of some parameters and of errors of the segments' starts."""

    replay: Replay
    starts: Starts
    base: Physics
    parameters: tuple[Parameter, ...]
    weights: Weights

    @property
    def unknowns(self) -> Unknowns:
        low, high, step, scale = (
            np.array([[p.low, p.high, p.step, p.scale] for p in self.parameters]).reshape(-1, 4).T
        )
        return Unknowns(low, high, step, scale, _OWN_STEP, _OWN_STD)

    @property
    def begin(self) -> tuple[Array, Array]:
        shared = [np.clip(getattr(self.base, p.name), p.low, p.high) for p in self.parameters]
        return np.array(shared, dtype=np.float64), np.zeros((len(self.replay.segments), 4))

    def physics(self, shared: Array) -> Physics:
        return replace(self.base, **{p.name: float(x) for p, x in zip(self.parameters, shared, strict=True)})

    def moved(self, own: Array) -> Starts:
        position = self.starts.position_w.copy()
        position[:, 2] += own[:, 3]
        return Starts(position, self.starts.velocity_w + own[:, :3])

    def __call__(self, shared: Array, own: Array) -> Array:
        traces = self.replay.run(self.physics(shared), self.moved(own))
        return residuals(self.replay.recording, self.replay.segments.rows, traces, self.weights)

    def solve(self, *, rounds: int) -> tuple[Array, Array]:
        return minimize(self, self.unknowns, *self.begin, rounds=rounds)


def fit_physics(
    replay_of: Callable[[Segments], Replay],
    segments: Segments,
    *,
    names: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Fit:
    """Fit a robot's physics to a recording.

    Trial values first and a fit to few segments, then a fit to all but those that fit worst: where a foot just lands or leaves, a
    replay is chaotic, and its slopes say nothing (least trimmed squares, Rousseeuw 1984). Where sensors are quiet (`QUIET_RAD`),
    a fit to single control steps is the last.

    Args:
        replay_of: makes the replay of some segments.
        segments: all that are to be used.
        names: parameters to fit; None: all.
        progress: told in a few words what is going on.
    """
    chosen = tuple(p for p in PARAMETERS if names is None or p.name in names)
    few = replay_of(segments.some(FEW_SEGMENTS))
    starts = estimate_starts(few)
    physics, weights = few.nominal, Weights()
    for name in ("delay_s", "ground_friction"):
        progress(f"scan of {name}")
        physics = _scan(_Problem(few, starts, physics, chosen, weights), name)
        progress("first fit")
        problem = _Problem(few, starts, physics, chosen, weights)
        physics = problem.physics(problem.solve(rounds=6)[0])
        weights = _reweighted(few, starts, physics)
    everything = replay_of(segments)
    problem = _Problem(everything, estimate_starts(everything), physics, chosen, weights)
    cost = np.sum(np.sqrt(1.0 + problem(*problem.begin) ** 2), axis=1)
    kept = np.sort(np.argsort(cost)[: max(1, round((1.0 - TRIMMED) * len(cost)))])
    best = replay_of(replace(segments, first=segments.first[kept]))
    progress(f"fit to {len(kept)} of {len(segments)} segments")
    problem = _Problem(best, estimate_starts(best), physics, chosen, weights)
    shared, own = problem.solve(rounds=15)
    if segments.horizon > 1 and weights.joint_pos_rad <= QUIET_RAD:
        progress("fit to single control steps")
        problem = _single_steps(problem, shared, replay_of)
        shared, own = problem.solve(rounds=15)
    progress("fits to each half")
    halves = [
        _solve_part(problem, shared, own, part, replay_of) for part in (slice(0, None, 2), slice(1, None, 2))
    ]
    return _conclude(problem, shared, own, 0.5 * np.abs(halves[0] - halves[1]))


def _single_steps(problem: _Problem, shared: Array, replay_of: Callable[[Segments], Replay]) -> _Problem:
    """The same segments cut into single control steps, from a solution on; those that fit worst are left out again."""
    whole, physics = problem.replay.segments, problem.physics(shared)
    singles = Segments((whole.first[:, None] + np.arange(whole.horizon)).ravel(), 1)
    replay = replay_of(singles)
    starts = estimate_starts(replay)
    cut = replace(
        problem, replay=replay, starts=starts, base=physics, weights=_reweighted(replay, starts, physics)
    )
    cost = row_costs(cut(*cut.begin))
    kept = np.sort(np.argsort(cost)[: max(1, round((1.0 - TRIMMED) * len(cost)))])
    best = replay_of(replace(singles, first=singles.first[kept]))
    return replace(cut, replay=best, starts=Starts(starts.position_w[kept], starts.velocity_w[kept]))


def _solve_part(
    problem: _Problem, shared: Array, own: Array, part: slice, replay_of: Callable[[Segments], Replay]
) -> Array:
    """The shared unknowns that some of the segments prefer, from the solution of all on."""
    whole, starts = problem.replay.segments, problem.starts
    some = replace(
        problem,
        replay=replay_of(replace(whole, first=whole.first[part])),
        starts=Starts(starts.position_w[part], starts.velocity_w[part]),
    )
    return minimize(some, some.unknowns, shared, own[part], rounds=4)[0]


def _conclude(problem: _Problem, shared: Array, own: Array, halves: Array) -> Fit:
    """Judge each parameter of a solution; half the difference between two halves of the log is an error it has at least."""
    replay, nominal = problem.replay, problem.replay.nominal
    at = slopes(problem, problem.unknowns, shared, own)
    errors = np.maximum(standard_errors(at, problem.unknowns.scale), halves)
    errors = np.hypot(errors, RESOLUTION * problem.unknowns.step)
    physics, moved = problem.physics(shared), problem.moved(own)
    traces = replay.run(physics, moved, contacts=True)
    sliding = float(traces.sliding.sum() / max(1, (traces.used_friction > 0).sum()))
    estimates = {
        p.name: _judge(p, getattr(physics, p.name), float(error), getattr(nominal, p.name))
        for p, error in zip(problem.parameters, errors, strict=True)
    }
    if "ground_friction" in estimates:
        estimates["ground_friction"] = _judge_ground(estimates["ground_friction"], traces, sliding)
    unseen = {name: e.nominal for name, e in estimates.items() if e.value is None}
    before = replace(problem, base=nominal, parameters=())
    off = with_prior(before, before.unknowns, *before.begin)
    cost_nominal, cost = float(np.mean(off**2)), float(np.mean(at.value**2))
    return Fit(replace(physics, **unseen), estimates, moved, cost_nominal, cost, sliding)


def _scan(problem: _Problem, name: str) -> Physics:
    """The best of a parameter's trial values, all else as it is."""
    best, least = problem.base, np.inf
    for parameter in problem.parameters:
        for value in parameter.scan if parameter.name == name else ():
            tried = replace(problem, base=replace(problem.base, **{name: value}), parameters=())
            cost = robust_cost(tried(*tried.begin))
            if cost < least:
                best, least = tried.base, cost
    return best


def _reweighted(replay: Replay, starts: Starts, physics: Physics) -> Weights:
    """Weights from what is left over (median absolute deviation), so that no kind of measurement drowns the others."""
    traces, rows, recording = replay.run(physics, starts), replay.segments.rows, replay.recording

    def spread(simulated: Array, measured: Array, least: float) -> float:
        return max(least, 1.4826 * float(np.nanmedian(np.abs(simulated - measured[rows]))))

    return Weights(
        spread(traces.joint_pos, recording.joint_pos, 1e-3),
        spread(traces.joint_vel, recording.joint_vel, 2e-2),
        spread(traces.ang_vel_b, recording.ang_vel_b, 1e-2),
    )


def _judge(parameter: Parameter, value: float, error: float, nominal: float) -> Estimate:
    absolute, relative = parameter.tolerance
    if not 1.96 * error <= max(absolute, relative * abs(value)):
        width = (
            "everything fits as well"
            if not np.isfinite(error)
            else f"{value:.3g} ± {1.96 * error:.2g} {parameter.unit}"
        )
        reason = f"not observable in this log ({width})"
        return Estimate(parameter.name, parameter.unit, None, None, reason, nominal=nominal)
    return Estimate(parameter.name, parameter.unit, float(value), float(error), nominal=nominal)


def _judge_ground(estimate: Estimate, traces: Traces, sliding: float) -> Estimate:
    """Ground friction shows in sliding feet alone; otherwise only that it held."""
    if sliding >= MIN_SLIDING:
        return estimate
    used = traces.used_friction[traces.used_friction > 0]
    held = float(np.quantile(used, 0.95)) if len(used) else 0.0
    reason = f"not observable in this log (feet slide in {100 * sliding:.1f} % of their contacts); it held a ratio of {held:.2f}"
    return replace(estimate, value=None, std_error=None, reason=reason, at_least=held)
