"""When each env's camera takes a frame, and how late the frame arrives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaussgym_sim.sensors.latency import check_shape

if TYPE_CHECKING:
    from gaussgym_sim.randomize import Uniform

_SOON = 1e-3  # of a control step: times are sums of float32


@dataclass(frozen=True)
class CameraClockCfg:
    """Clocks of their own, drawn for each env; by default all run at the camera's rate, without latency.

    Attributes:
        period_s: range of the time between frames; None = that of `gaussgym_sim.sensors.camera.CameraCfg.rate_hz`.
        jitter_s: half range of each frame's error of time, which does not add up.
        latency_s: range of the time between a frame and its arrival, rounded to control steps.
        redraw_s: periods and latencies are drawn anew for each episode, and so often.
    """

    period_s: tuple[float, float] | None = None
    jitter_s: float = 0.0
    latency_s: tuple[float, float] = (0.0, 0.0)
    redraw_s: float = 3.0

    @property
    def free(self) -> bool:
        """Whether clocks differ from the camera's own at all."""
        return self != CameraClockCfg(redraw_s=self.redraw_s)


class CameraClock:
    """E clocks, in control steps.

    Frames need not fall on control steps: one is due in the first step at or after its time, and the error does not add up, so
    that 70 ms are 3, 4, 3, 4 ... steps of 20 ms.

    Attributes:
        period: [E] float.
        latency: [E] long.
        wait: [E] float, time until the next frame.
        max_latency: longest possible latency.
        min_gap: fewest steps between frames that have the same latency to cover (see `gaussgym_sim.sensors.latency.FrameRing`).
    """

    def __init__(
        self, cfg: CameraClockCfg, num_envs: int, *, period_steps: int, control_s: float, device: torch.device
    ) -> None:
        """All envs are due; they keep the period ``period_steps`` unless ``cfg`` has another."""
        self.cfg, self._control_s = cfg, control_s
        self.period = torch.full((num_envs,), float(period_steps), device=device)
        self.latency = torch.zeros(num_envs, dtype=torch.long, device=device)
        self.wait = torch.zeros(num_envs, device=device)
        self._jitter = torch.zeros(num_envs, device=device)
        self._fresh = torch.zeros(num_envs, dtype=torch.bool, device=device)  # no frame yet in this episode
        self._first_gap = torch.zeros(num_envs, device=device)  # between an episode's first and second frame
        self._steps = 0
        self.max_latency = round(cfg.latency_s[1] / control_s)
        shortest = float(period_steps) if cfg.period_s is None else cfg.period_s[0] / control_s
        self.min_gap = max(1, math.floor(shortest - 2 * cfg.jitter_s / control_s + _SOON))

    def restart(self, env_ids: Tensor, uniform: Uniform) -> None:
        """New episodes in envs [R]: a frame at once, later ones at times that have nothing to do with other envs'."""
        self.wait[env_ids], self._jitter[env_ids] = 0.0, 0.0
        if self.cfg.free:
            self._draw(env_ids, uniform)
            self._fresh[env_ids] = True
            self._first_gap[env_ids] = uniform(0.0, 1.0, len(env_ids)) * self.period[env_ids]

    def rewind(self) -> None:
        """Count from 0 until the next redraw, as from the start."""
        self._steps = 0

    def stagger(self, uniform: Uniform) -> None:
        """Spread the envs' frames over their periods: their first, or where clocks are free the second (the first is at once)."""
        count = len(self.wait)
        if not self.cfg.free:
            self.wait[:] = self.period - (uniform(0.0, 1.0, count) * self.period).long()
            return
        # One env in each 1/E of the period, in an order that is drawn: flatter than independent times.
        order = uniform(0.0, 1.0, count).argsort().float()
        self._first_gap[:] = (order + uniform(0.0, 1.0, count)) / count * self.period

    def tick(self, uniform: Uniform) -> Tensor:
        """Which envs are due [E] bool in this control step; time goes on by one."""
        self._steps += 1
        if self.cfg.free and self._steps % max(1, round(self.cfg.redraw_s / self._control_s)) == 0:
            self._draw(slice(None), uniform)
        due = self.wait <= _SOON
        if not self.cfg.free:
            self.wait = torch.where(due, self.wait + self.period, self.wait) - 1.0
            return due
        count, gap = len(self.wait), self.period
        if self.cfg.jitter_s > 0:
            most = self.cfg.jitter_s / self._control_s
            jitter = uniform(-most, most, count)
            gap = gap + jitter - self._jitter
            self._jitter = torch.where(due, jitter, self._jitter)
        gap = torch.where(self._fresh, self._first_gap, gap)
        self._fresh &= ~due
        self.wait = torch.where(due, self.wait + gap, self.wait) - 1.0
        return due

    def _draw(self, env_ids: Tensor | slice, uniform: Uniform) -> None:
        cfg, count = self.cfg, len(self.period[env_ids])
        if cfg.period_s is not None:
            self.period[env_ids] = (uniform(*cfg.period_s, count) / self._control_s).clamp(min=1.0)
        if cfg.latency_s[1] > 0:
            self.latency[env_ids] = torch.round(uniform(*cfg.latency_s, count) / self._control_s).long()

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {name: getattr(self, name).clone() for name in _SAVED} | {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`.

        Raises:
            InputError: of another number of envs.
        """
        check_shape("camera clocks", state["wait"], self.wait)
        for name in _SAVED:
            getattr(self, name)[:] = state[name]
        self._steps = int(state["steps"])


_SAVED = ("period", "latency", "wait", "_jitter", "_fresh", "_first_gap")
