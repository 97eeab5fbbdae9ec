"""The rollout: what T control steps of E environments leave behind for an update, every camera frame once.

Memory is allocated once and follows a formula, `rollout_bytes`. Images stay uint8, are stored when the camera takes a new
one, and are never padded or copied: minibatches refer to them by number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
from gaussgym_scene.errors import StageError
from torch import Tensor

from gaussgym_learn.distributed import World
from gaussgym_learn.recurrence import State, map_state, select_state

NEW_FRAME_GROUP = "rgb_new"


@dataclass(frozen=True)
class RolloutLayout:
    """What a rollout stores of each step.

    Attributes:
        groups: width of each 1-D observation group, in the order in which they lie side by side.
        images: `(C, H, W)` of each image group; all of one size, stacked along C in this order.
        num_actions: A.
        frame_period: control steps between two camera frames of an environment.
        teacher: a teacher's actions are stored too.
        teacher_latent: width of the teacher's latent, 0 for none.
    """

    groups: Mapping[str, int]
    images: Mapping[str, tuple[int, int, int]]
    num_actions: int
    frame_period: int = 1
    teacher: bool = False
    teacher_latent: int = 0

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]], num_actions: int, **options: object) -> RolloutLayout:
        """From the shape of each group without the batch axis; the flag of new frames is not stored.

        Args:
            shapes: in the order wanted.
            num_actions: A.
            **options: the other attributes.
        """
        kept = {name: tuple(shape) for name, shape in shapes.items() if name != NEW_FRAME_GROUP}
        groups = {name: int(shape[0]) for name, shape in kept.items() if len(shape) == 1}
        images = {name: (shape[0], shape[1], shape[2]) for name, shape in kept.items() if len(shape) == 3}
        if len({shape[1:] for shape in images.values()}) > 1:
            raise ValueError(f"images of one size expected, found {images}")
        return cls(groups, images, num_actions, **options)  # type: ignore[arg-type]

    @property
    def width(self) -> int:
        """Values a step in all 1-D groups."""
        return sum(self.groups.values())

    @property
    def frame_shape(self) -> tuple[int, int, int] | None:
        """`(C, H, W)` of all image groups together."""
        if not self.images:
            return None
        shapes = list(self.images.values())
        return sum(s[0] for s in shapes), shapes[0][1], shapes[0][2]

    def frames_per_env(self, steps: int) -> int:
        """Frames of an environment in so many steps: one a period, and the one that is in view at first."""
        return min(steps, math.ceil(steps / self.frame_period) + 1)


def rollout_bytes(num_envs: int, steps: int, layout: RolloutLayout) -> int:
    """Memory of a `RolloutBuffer` [bytes].

    A step of an environment takes 4 bytes for each observation value, for each action and its mean and deviation (3 A), for the
    teacher's actions and latent where they are kept, for reward, value, log-probability, return and advantage, and 2 for its
    flags; where it sees, 4 more for the number of its frame. Frames take C x H x W bytes each, `RolloutLayout.frames_per_env`
    for each environment: episodes that end let the camera start anew, and where these are more than the formula has room for, the
    store of frames grows by a quarter.

    Args:
        num_envs: E.
        steps: T.
        layout: what is stored.
    """
    floats = layout.width + 3 * layout.num_actions + 5 + layout.teacher_latent
    floats += layout.num_actions if layout.teacher else 0
    step = 4 * floats + 2
    shape = layout.frame_shape
    if shape is None:
        return num_envs * steps * step
    return num_envs * (steps * (step + 4) + layout.frames_per_env(steps) * math.prod(shape))


@dataclass
class Minibatch:
    """Part of a rollout; `[...]` is `[T, B]` for recurrent actors and `[N]` for others.

    Attributes:
        flat: 1-D observation groups side by side, `[..., D]`.
        columns: first and last column of each group in `flat`.
        starts: bool, an episode starts with this step.
        actions: `[..., A]`.
        log_prob: of the actions when they were taken.
        values: what the critic said then.
        returns: what it should have said.
        advantages: normalized.
        old_params: parameters of the action distribution then, `[..., A]` each.
        on_policy: bool, the actor itself acted (not the teacher).
        teacher_actions: `[..., A]`, or None.
        teacher_latent: `[..., L]`, or None.
        frames: all frames of the rollout, uint8 `[F, C, H, W]`, or None.
        frame_index: which of them is in view, or None.
        hidden: the actor's memory before the first step, or None.
        mirrored: frames are to be flipped when they are encoded.
    """

    flat: Tensor
    columns: Mapping[str, tuple[int, int]]
    starts: Tensor
    actions: Tensor
    log_prob: Tensor
    values: Tensor
    returns: Tensor
    advantages: Tensor
    old_params: tuple[Tensor, ...]
    on_policy: Tensor
    teacher_actions: Tensor | None = None
    teacher_latent: Tensor | None = None
    frames: Tensor | None = None
    frame_index: Tensor | None = None
    hidden: State | None = None
    mirrored: bool = False

    def group(self, name: str) -> Tensor:
        """An observation group `[..., D]`, without a copy."""
        first, last = self.columns[name]
        return self.flat[..., first:last]

    def groups(self, names: Sequence[str]) -> Tensor:
        """Groups side by side; without a copy where they are neighbours in `flat`."""
        spans = [self.columns[name] for name in names]
        if all(a[1] == b[0] for a, b in pairwise(spans)):
            return self.flat[..., spans[0][0] : spans[-1][1]]
        return torch.cat([self.group(name) for name in names], dim=-1)

    def observations(self) -> dict[str, Tensor]:
        """All 1-D groups by name, without a copy."""
        return {name: self.group(name) for name in self.columns}


class RolloutBuffer:
    """Storage of one rollout, made once and written over by the next.

    A step is `observe` (before the environment steps), any number of `record`, and `advance`.

    Args:
        num_envs: E.
        steps: T.
        layout: what to store.
        device: of the tensors.
    """

    def __init__(
        self, num_envs: int, steps: int, layout: RolloutLayout, *, device: torch.device | str = "cpu"
    ) -> None:
        self.num_envs, self.steps, self.layout, self.device = num_envs, steps, layout, torch.device(device)
        ends = torch.tensor([0, *layout.groups.values()]).cumsum(0).tolist()
        self.columns = dict(zip(layout.groups, pairwise(ends), strict=True))
        self.flat = self._rows(layout.width)
        self.starts, self.on_policy = self._rows(dtype=torch.bool), self._rows(dtype=torch.bool)
        self.actions = self._rows(layout.num_actions)
        self.old_params: tuple[Tensor, ...] = ()
        self.rewards, self.values, self.log_prob = self._rows(), self._rows(), self._rows()
        self.returns, self.advantages = self._rows(), self._rows()
        self.teacher_actions = self._rows(layout.num_actions) if layout.teacher else None
        self.teacher_latent = self._rows(layout.teacher_latent) if layout.teacher_latent else None
        self.dones = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self.hidden: State | None = None
        self.cursor = 0
        self._frames: Tensor | None = None
        if layout.frame_shape is not None:
            self.frame_index = self._rows(dtype=torch.int32)
            self._frames = self._pool(layout.frames_per_env(steps) * num_envs)
        self._view = torch.zeros(num_envs, dtype=torch.long, device=self.device)
        self._count = torch.zeros((), dtype=torch.long, device=self.device)
        self._most = 0

    def _rows(self, *width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(self.steps, self.num_envs, *width, dtype=dtype, device=self.device)

    def _pool(self, frames: int) -> Tensor:
        """Room for frames, and one row that takes what is not new."""
        shape = self.layout.frame_shape
        assert shape is not None
        return torch.zeros(frames + 1, *shape, dtype=torch.uint8, device=self.device)

    @property
    def frames(self) -> Tensor:
        """The rollout's distinct frames so far, uint8 `[F, C, H, W]`."""
        if self._frames is None:
            raise ValueError("this rollout stores no images")
        return self._frames[: int(self._count)]

    def begin(self, hidden: State | None = None) -> None:
        """Start a rollout.

        Args:
            hidden: the actor's memory before the first step, copied.
        """
        self.cursor = self._most = 0
        self._count.zero_()
        if hidden is None:
            self.hidden = None
        elif self.hidden is None:
            self.hidden = map_state(lambda s: s.detach().clone(), hidden)
        else:
            kept = self.hidden if isinstance(self.hidden, tuple) else (self.hidden,)
            for own, new in zip(kept, hidden if isinstance(hidden, tuple) else (hidden,), strict=True):
                own.copy_(new)

    def observe(self, obs: Mapping[str, Tensor], starts: Tensor) -> None:
        """Store a step's observations.

        Args:
            obs: groups `[E, ...]`; without the flag of new frames, every image is new.
            starts: bool `[E]`, an episode starts with this step.
        """
        if self.cursor >= self.steps:
            raise ValueError(f"a rollout of {self.steps} steps is full; begin the next one")
        row = self.flat[self.cursor]
        for name, (first, last) in self.columns.items():
            row[:, first:last] = obs[name]
        self.starts[self.cursor] = starts
        if self._frames is not None:
            self._observe_frames(obs)

    def _observe_frames(self, obs: Mapping[str, Tensor]) -> None:
        """Append the images that are new; at first, all that are in view."""
        flag = obs.get(NEW_FRAME_GROUP, None)
        if flag is None or self.cursor == 0:
            new = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        else:
            new = flag[:, 0] != 0
        self._make_room(new)
        assert self._frames is not None
        number = self._count + new.cumsum(0) - 1
        place = torch.where(new, number, len(self._frames) - 1)
        on_cpu = self.device.type == "cpu"
        rows, first = (new.nonzero().squeeze(1), int(self._count)) if on_cpu else (None, 0)
        channel = 0
        for name, shape in self.layout.images.items():
            part = self._frames[:, channel : channel + shape[0]]
            if (
                rows is None
            ):  # all images, the held ones to the spare row: to ask a GPU which are new would wait for it
                part.index_copy_(0, place, obs[name])
            elif len(rows):
                torch.index_select(obs[name], 0, rows, out=part[first : first + len(rows)])
            channel += shape[0]
        self._view = torch.where(new, number, self._view)
        self._count += new.sum()
        self.frame_index[self.cursor] = self._view

    def _make_room(self, new: Tensor) -> None:
        """Grow the store of frames if it is full. How many there are is asked only when it might be: that waits for a GPU."""
        assert self._frames is not None
        room = len(self._frames) - 1
        self._most += self.num_envs
        if self._most <= room:
            return
        self._most = int(self._count + new.sum())
        if self._most > room:
            grown = self._pool(max(self._most, room + room // 4))
            grown[:room] = self._frames[:room]
            self._frames = grown

    def record(self, **values: Tensor) -> None:
        """Store values of the current step by the name of their tensor: `actions`, `values`, `log_prob`, `rewards` ..."""
        for name, value in values.items():
            getattr(self, name)[self.cursor] = value

    def record_params(self, params: Sequence[Tensor]) -> None:
        """Store the parameters of the action distribution, `[E, A]` each."""
        if not self.old_params:
            self.old_params = tuple(self._rows(*p.shape[1:]) for p in params)
        for own, new in zip(self.old_params, params, strict=True):
            own[self.cursor] = new

    def advance(self, dones: Tensor) -> None:
        """End a step.

        Args:
            dones: `[E]`, non-zero where an episode ended with it.
        """
        self.dones = dones > 0
        self.cursor += 1

    def ends(self) -> Tensor:
        """Whether an episode ended with a step, bool `[T, E]`."""
        return torch.cat([self.starts[1:], self.dones[None]])

    def compute_returns(self, last_values: Tensor, gamma: float, lam: float) -> None:
        """Generalized advantage estimation (Schulman et al., arXiv 1506.02438); advantages are left as they are.

        Rewards of steps that a time limit cut must hold the discounted value of what would have followed.

        Args:
            last_values: `[E]` of the state after the last step.
            gamma: discount a step.
            lam: of the estimator.
        """
        goes_on = (~self.ends()).float()
        advantage = torch.zeros_like(last_values)
        following = last_values
        for t in reversed(range(self.steps)):
            delta = self.rewards[t] + gamma * goes_on[t] * following - self.values[t]
            advantage = delta + gamma * lam * goes_on[t] * advantage
            self.advantages[t] = advantage
            following = self.values[t]
        torch.add(self.advantages, self.values, out=self.returns)

    def whole(self) -> Minibatch:
        """The whole rollout `[T, E]`, without a copy."""
        return Minibatch(
            **{name: getattr(self, name) for name in _STORED},
            columns=self.columns,
            old_params=self.old_params,
            frames=None if self._frames is None else self._frames,
            frame_index=None if self._frames is None else self.frame_index,
            hidden=self.hidden,
        )

    def of_envs(self, envs: Tensor) -> Minibatch:
        """The steps `[T, B]` of some environments, long `[B]`."""
        part = _taken(self.whole(), lambda x: x.index_select(1, envs))
        hidden = None if self.hidden is None else select_state(self.hidden, envs)
        return replace(part, hidden=hidden)

    def of_steps(self, steps: Tensor) -> Minibatch:
        """Steps `[N]` by number t * E + e, long `[N]`."""
        return replace(_taken(self.whole(), lambda x: x.flatten(0, 1).index_select(0, steps)), hidden=None)

    def orders(self, count: int, *, recurrent: bool, shards: int, seed: int) -> Iterator[Tensor]:
        """Which environments (recurrent) or steps belong to each of `count` minibatches, in a random order.

        Args:
            count: minibatches.
            recurrent: split environments, not steps.
            shards: the environments are that many equal parts, each of which is split alike. A process with E environments that
                splits them as W shards then has the minibatches that W processes with E / W each have together.
            seed: of the order.
        """
        generator = torch.Generator().manual_seed(seed)
        share = self.num_envs // shards
        offsets = torch.arange(shards)[:, None] * share
        total = share if recurrent else share * self.steps
        for part in torch.randperm(total, generator=generator).tensor_split(count):
            if recurrent:
                number = offsets + part
            else:
                number = (
                    torch.div(part, share, rounding_mode="floor") * self.num_envs + offsets + part % share
                )
            yield number.flatten().to(self.device)


_STORED = (
    "flat",
    "starts",
    "actions",
    "log_prob",
    "values",
    "returns",
    "advantages",
    "on_policy",
    "teacher_actions",
    "teacher_latent",
)
_KEPT = {"frames", "hidden", "old_params"}


def _taken(batch: Minibatch, take: Callable[[Tensor], Tensor]) -> Minibatch:
    """A minibatch with `take` applied to everything that has one entry a step."""
    changes = {
        f.name: take(value)
        for f in fields(batch)
        if f.name not in _KEPT and isinstance(value := getattr(batch, f.name), Tensor)
    }
    return replace(batch, **changes, old_params=tuple(take(p) for p in batch.old_params))


def normalize(advantages: Tensor, world: World, where: Tensor | None = None) -> None:
    """Make advantages zero-mean and of deviation 1 over all processes, in place.

    Args:
        advantages: `[T, E]`.
        world: the processes.
        where: bool, entries that count; None for all.
    """
    counted = torch.ones_like(advantages) if where is None else where.to(advantages.dtype)
    count = world.sum(counted.sum())
    mean = world.sum((advantages * counted).sum()) / count
    square = world.sum(((advantages - mean) * counted).square().sum())
    advantages.sub_(mean).div_((square / (count - 1)).sqrt() + 1e-8)


def check_finite(buffer: RolloutBuffer) -> None:
    """Raise where a rollout holds what is not a number.

    Raises:
        StageError: names what was first: an observation group, what the networks made of it, or the reward.
    """
    if bool(torch.isfinite(buffer.rewards.sum() + buffer.flat.sum() + buffer.actions.sum())):
        return
    values = {f"observation {name!r}": buffer.whole().group(name) for name in buffer.columns}
    values |= {
        "training diverged: action": buffer.actions,
        "training diverged: value": buffer.values[..., None],
        "reward": buffer.rewards[..., None],
    }
    found = []
    for order, (name, value) in enumerate(values.items()):
        bad = (~torch.isfinite(value)).any(dim=-1).nonzero()
        if len(bad):
            step, env = bad[0].tolist()
            found.append(
                (step, order, f"{name} of environment {env} is not finite at step {step} of the rollout")
            )
    if found:
        raise StageError(f"{min(found)[2]}; resume with another seed, or look for a division by zero")
