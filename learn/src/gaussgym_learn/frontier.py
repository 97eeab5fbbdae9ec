"""Which scenes to learn in next: those that are neither mastered nor out of reach, by the running success in each.

The rule. A scene has a weight w (1, or that of its collection) and an estimate p of the share of its episodes that succeed; a
draw takes it with probability proportional to

    w · (floor + (1 - floor) · 4 p (1 - p)),

which is w at p = 1/2, where an episode says most (the variance of success; "learnability" of Rutherford et al., arXiv
2408.15099), and w · floor where all succeed or all fail. p counts episodes, each `window` of a scene forgetting 1 - 1/e of
what came before, and starts from a guess that is worth `prior` episodes: `easiest` in the scene with the gentlest paths, falling
linearly with the steps on them to `hardest` in the one with the highest. So training begins in easy scenes, and no scene is ever
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor


@dataclass(frozen=True)
class FrontierCfg:
    """The rule's numbers, see the module.

    Attributes:
        floor: least share of a scene's weight, 0..1.
        window: episodes of a scene after which old ones count little.
        prior: episodes that the first guess is worth.
        easiest: guess of the success in the easiest scene.
        hardest: and in the hardest.
    """

    floor: float = 0.1
    window: float = 50.0
    prior: float = 4.0
    easiest: float = 0.5
    hardest: float = 0.05


def path_steps_m(scene: Scene) -> float:
    """How hard a scene's paths are: the 95th percentile of the step in height from path point to path point, 0.25 m apart [m]."""
    points, ids = scene.paths.points, scene.paths.path_id
    steps = np.abs(np.diff(points[:, 2]))[ids[1:] == ids[:-1]]
    return float(np.quantile(steps, 0.95)) if len(steps) else 0.0


class Frontier:
    """Success in each scene, and how often each is to be drawn.

    Args:
        weights: `[N]` of the scenes, positive; None: all 1.
        cfg: the rule's numbers; None: draws by the weights alone.
        difficulty: `[N]` any measure that grows with it, such as `path_steps_m`; None: all alike.
        count: N.

    Raises:
        InputError: another number of weights than of scenes, or one that is not positive.
    """

    def __init__(
        self,
        count: int,
        *,
        weights: Sequence[float] | None = None,
        cfg: FrontierCfg | None = None,
        difficulty: Sequence[float] | None = None,
    ) -> None:
        given = torch.tensor([1.0] * count if weights is None else list(weights), dtype=torch.float64)
        if len(given) != count or not bool((given > 0).all()) or not bool(given.isfinite().all()):
            raise InputError(
                f"found weights {given.tolist()} for {count} scenes, expected one positive number a scene"
            )
        self.weights, self.cfg = given, cfg
        self._first = self._guess(count, difficulty)
        self._ended, self._reached = torch.zeros_like(given), torch.zeros_like(given)

    def _guess(self, count: int, difficulty: Sequence[float] | None) -> Tensor:
        """`[N]` success before any episode."""
        cfg = self.cfg or FrontierCfg()
        hard = torch.zeros(count, dtype=torch.float64)
        if difficulty is not None:
            hard = torch.tensor(list(difficulty), dtype=torch.float64)
            hard = (hard - hard.min()) / (hard.max() - hard.min()).clamp_min(1e-12)
        return cfg.easiest + hard * (cfg.hardest - cfg.easiest)

    def count(self, scenes: Tensor, success: Tensor) -> None:
        """Count episodes that ended in scenes `[R]` (int64), with their success `[R]` (bool)."""
        if self.cfg is None:
            return
        scenes = scenes.cpu()
        ended = torch.bincount(scenes, minlength=len(self.weights)).double()
        reached = torch.bincount(scenes, weights=success.cpu().double(), minlength=len(self.weights))
        kept = torch.exp(-ended / self.cfg.window)
        self._ended, self._reached = self._ended * kept + ended, self._reached * kept + reached

    @property
    def success(self) -> Tensor:
        """`[N]` estimate p of each scene."""
        prior = 0.0 if self.cfg is None else self.cfg.prior
        return (self._reached + prior * self._first) / (self._ended + prior).clamp_min(1e-12)

    def shares(self, excluded: Sequence[int] = ()) -> Tensor:
        """`[N]` probability of each scene at a draw from those that are not excluded."""
        shares = self.weights.clone()
        if self.cfg is not None:
            p, floor = self.success, self.cfg.floor
            shares *= floor + (1.0 - floor) * 4.0 * p * (1.0 - p)
        shares[list(excluded)] = 0.0
        return shares / shares.sum()

    def draw(self, numbers: Tensor, excluded: Sequence[int] = ()) -> Tensor:
        """Scenes `[R]`, one for each uniform number `[R]` in 0..1."""
        ends = self.shares(excluded).cumsum(0)
        last = int((ends < ends[-1]).sum())  # where the sum is complete: what follows has no share
        return torch.searchsorted(ends, numbers.cpu().double(), right=True).clamp_max(last)

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """What is logged: how many scenes the draws are spread over, and for up to 16 scenes the success in each."""
        shares = self.shares()
        out = {"Curriculum/effective_scenes": float(torch.exp(torch.special.entr(shares).sum()))}
        if self.cfg is not None:
            out["Curriculum/success"] = float((self.weights * self.success).sum() / self.weights.sum())
            if len(names) <= 16:
                out |= {
                    f"Curriculum/success/{name}": float(p)
                    for name, p in zip(names, self.success, strict=True)
                }
        return out

    def state(self) -> Tensor:
        """What a checkpoint keeps, float64 `[2, N]`."""
        return torch.stack((self._ended, self._reached))

    def load_state(self, state: Tensor) -> None:
        """Inverse of `state`.

        Raises:
            InputError: it is of another number of scenes.
        """
        if state.shape != (2, len(self.weights)):
            raise InputError(
                f"the checkpoint counts successes in {state.shape[-1]} scenes, this run has {len(self.weights)}; give the same"
            )
        self._ended, self._reached = state[0].clone(), state[1].clone()
