"""Where episodes begin: drawn along the scenes' paths, or a fixed list that evaluation and sim2sim replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.mdp.commands import CommandCfg, PathNetwork, goal_point
from gaussgym_sim.mdp.start_kernels import draw_starts
from gaussgym_sim.randomize import RandomizeCfg, Uniform

_MIN_LINE_AHEAD_M = 1.5


@dataclass(frozen=True)
class Starts:
    """N episodes that can be replayed in any simulator. Point numbers index the `Paths.points` of the episode's own scene."""

    scene_id: NDArray[np.int64]
    """[N] index into the list of scenes."""
    xy_m: NDArray[np.float32]
    """[N, 2] base position in the scene."""
    yaw_rad: NDArray[np.float32]
    """[N] heading of the base."""
    point: NDArray[np.int64]
    """[N] path point where the robot stands."""
    direction: NDArray[np.int64]
    """[N] +1 along the path, -1 against it."""
    goal_point: NDArray[np.int64]
    """[N] path point to reach."""
    speed_m_s: NDArray[np.float32]
    """[N] commanded speed along the path."""

    def __len__(self) -> int:
        return len(self.scene_id)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {name: array.tolist() for name, array in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Starts:
        """Inverse of `to_dict`.

        Raises:
            InputError: a field is missing or lengths differ.
        """
        integers = ("scene_id", "point", "direction", "goal_point")
        try:
            arrays: dict[str, Any] = {
                name: np.asarray(fields[name], dtype=np.int64 if name in integers else np.float32)
                for name in cls.__dataclass_fields__
            }
        except (KeyError, ValueError) as error:
            raise InputError(
                f"starts: bad or missing field {error}; expected {list(cls.__dataclass_fields__)}"
            ) from None
        count = len(arrays["scene_id"])
        for name, array in arrays.items():
            shape = (count, 2) if name == "xy_m" else (count,)
            if array.shape != shape or not np.isfinite(array).all():
                raise InputError(f"starts: {name} of shape {array.shape}, expected {shape} finite numbers")
        return cls(**arrays)


@dataclass
class StartBatch:
    """R starts as tensors; point numbers are global ones of the `PathNetwork`."""

    index: Tensor
    direction: Tensor
    goal: Tensor
    xy: Tensor
    yaw: Tensor
    speed: Tensor


@dataclass(frozen=True)
class _Drawn:
    """What R starts follow from."""

    numbers: Tensor
    """[4, R] in 0..1: point, direction, lateral offset, speed."""
    turn: Tensor
    """[R] offset of the heading [rad]."""
    to_go: Tensor
    """[R] distance of the goal [m]."""
    need: Tensor
    """[R] how much line is wanted ahead [m]."""
    to_goal: bool
    """Whether starts move back for the goal."""
    lateral: float
    """Half range of the offset, of the line's half width."""
    speeds: tuple[float, float]
    """Range [m/s]."""


class StartSampler:
    """Draws starts on path points of a scene and level."""

    def __init__(self, network: PathNetwork, *, use_levels: bool) -> None:
        """Group path points by (scene, level), so that a draw is one gather; without levels by scene alone."""
        self.network = network
        device, levels = network.points.device, network.num_levels
        scenes = len(network.offset) - 1
        points = torch.arange(len(network.points), device=device)
        scene_of_point = torch.bucketize(points, network.offset[1:], right=True)
        group = scene_of_point * levels + (network.level if use_levels else 0)
        self._points = torch.argsort(group, stable=True)
        self._line_yaw = network.points[:, 3].contiguous()
        self._count = torch.bincount(group, minlength=scenes * levels)
        self._first = torch.cumsum(self._count, 0) - self._count
        # A scene may lack a level: its envs then use the highest level below that it has.
        self._group_of = torch.zeros(scenes, levels, dtype=torch.long, device=device)
        for scene in range(scenes):
            have = [lv for lv in range(levels) if self._count[scene * levels + lv] > 0]
            for level in range(levels):
                below = [lv for lv in have if lv <= level] or have[:1]
                self._group_of[scene, level] = scene * levels + below[-1]

    def draw(
        self, scene_ids: Tensor, levels: Tensor, *, to_goal: bool, commands: CommandCfg, randomize: RandomizeCfg,
        uniform: Uniform, goal_distance_m: Tensor | None = None,
    ) -> StartBatch:  # fmt: skip
        """Draw R starts: a uniform path point, a direction with enough line ahead, small offsets of position and heading.

        Args:
            scene_ids: [R].
            levels: [R]; one above the network's highest counts as that.
            to_goal: want the goal's distance ahead, else a little.
            commands: goal distance and speeds.
            randomize: ranges of the offsets.
            uniform: random numbers.
            goal_distance_m: [R], in place of that of ``commands``.
        """
        count = len(scene_ids)
        picks = uniform(0.0, 1.0, 2, count)
        turn = randomize.spread(uniform, randomize.start_yaw_rad, count)
        numbers = torch.cat((picks, uniform(0.0, 1.0, 2, count)))
        to_go = goal_distance_m
        if to_go is None:
            to_go = torch.full((count,), commands.goal_distance_m, device=scene_ids.device)
        need = to_go if to_goal else torch.full_like(to_go, _MIN_LINE_AHEAD_M)
        drawn = _Drawn(numbers, turn, to_go, need, to_goal, randomize.start_lateral, commands.goal_speed_m_s)
        if scene_ids.device.type == "cpu":
            return self._starts_by_kernel(scene_ids, levels, drawn)
        return self._starts_by_tensors(scene_ids, levels, drawn)

    def _starts_by_kernel(self, scene_ids: Tensor, levels: Tensor, drawn: _Drawn) -> StartBatch:
        net, count = self.network, len(scene_ids)
        index, direction, goal = (torch.empty(count, dtype=torch.long) for _ in range(3))
        xy, yaw, speed = torch.empty(count, 2), torch.empty(count), torch.empty(count)
        starts = StartBatch(index, direction, goal, xy, yaw, speed)
        tables = (scene_ids, levels, self._group_of, self._points, self._first, self._count)
        d, out = drawn, (t.numpy() for t in vars(starts).values())
        numbers = (t.numpy() for t in (self._line_yaw, d.numbers, d.turn, d.to_go, d.need))
        arguments = [
            *(t.numpy() for t in tables),
            *net.arrays,
            *numbers,
            d.to_goal,
            d.lateral,
            d.speeds,
            *out,
        ]
        draw_starts(*arguments)
        return starts

    def _starts_by_tensors(self, scene_ids: Tensor, levels: Tensor, drawn: _Drawn) -> StartBatch:
        net, d = self.network, drawn
        group = self._group_of[scene_ids, levels.clamp(max=net.num_levels - 1)]
        index = self._points[self._first[group] + (d.numbers[0] * self._count[group]).long()]
        direction = torch.where(d.numbers[1] < 0.5, 1, -1)
        ahead, behind = net.distance_to_end_m(index, direction), net.distance_to_end_m(index, -direction)
        direction = torch.where((ahead < d.need) & (behind > ahead), -direction, direction)
        if d.to_goal:
            index = self._with_room(index, direction, d.to_go)
        lateral = d.numbers[2] * (2 * d.lateral) - d.lateral
        lateral = lateral * net.half_width_m[index].clamp(max=0.5)
        line_yaw, (slowest, fastest) = net.points[index, 3], d.speeds
        across = torch.stack((-torch.sin(line_yaw), torch.cos(line_yaw)), dim=1)
        return StartBatch(
            index=index,
            direction=direction,
            goal=goal_point(net, index, direction, d.to_go),
            xy=net.points[index, :2] + lateral[:, None] * across,
            yaw=net.travel_yaw(index, direction) + d.turn,
            speed=d.numbers[3] * (fastest - slowest) + slowest,
        )

    def _with_room(self, index: Tensor, direction: Tensor, need_m: Tensor) -> Tensor:
        """Move starts back along their line until the goal's distance lies ahead, as far as the line reaches."""
        net = self.network
        missing = (need_m - net.distance_to_end_m(index, direction)).clamp(min=0.0)
        return net.along(index, -direction * torch.ceil(missing / net.spacing_m[index] - 1e-4).long())


def hashed_uniform(numbers: Tensor, salt: int, *shape: int) -> Tensor:
    """Numbers in [0, 1) that follow from integers ``numbers`` [R] and a salt alone, [R, *shape] float32.

    The finalizer of SplitMix64 (Steele et al., OOPSLA 2014), once for the number and salt and once for the place.
    """
    count = math.prod(shape)
    seed = _mix(numbers * 1_000_003 + salt + 1)
    mixed = _mix(seed[:, None] + torch.arange(1, count + 1, device=numbers.device) * _GOLDEN)
    return ((mixed >> 40) & 0xFFFFFF).float().div_(1 << 24).view(len(numbers), *shape)


_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number, as the two below


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def scene_of_env(num_scenes: int, num_envs: int) -> NDArray[np.int64]:
    """The scene of each env: consecutive blocks, as even as possible."""
    bounds = np.linspace(0, num_envs, num_scenes + 1).astype(int)
    return np.repeat(np.arange(num_scenes), np.diff(bounds))


def sample_starts(
    scenes: Sequence[Scene],
    count: int,
    *,
    seed: int,
    commands: CommandCfg | None = None,
    randomize: RandomizeCfg | None = None,
) -> Starts:
    """Draw a fixed list of goal episodes, split over the scenes as `make_sim` splits envs.

    Args:
        scenes: with paths.
        count: number of episodes N.
        seed: the list depends on it and on the arguments alone.
        commands: goal distance and speeds.
        randomize: ranges of the start's offsets; None = the defaults of `RandomizeCfg`.
    """
    generator = torch.Generator().manual_seed(seed)
    device = torch.device("cpu")
    network = PathNetwork(scenes, device=device)
    scene_id = scene_of_env(len(scenes), count)
    batch = StartSampler(network, use_levels=False).draw(
        torch.from_numpy(scene_id), torch.zeros(count, dtype=torch.long), to_goal=True,
        commands=commands or CommandCfg(), randomize=randomize or RandomizeCfg(), uniform=Uniform(generator, device),
    )  # fmt: skip
    offset = network.offset[torch.from_numpy(scene_id)]
    return Starts(
        scene_id=scene_id,
        xy_m=batch.xy.numpy(),
        yaw_rad=batch.yaw.numpy(),
        point=(batch.index - offset).numpy(),
        direction=batch.direction.numpy(),
        goal_point=(batch.goal - offset).numpy(),
        speed_m_s=batch.speed.numpy(),
    )


class FixedStarts:
    """Deals a list of starts to envs: each env runs those of its scene that fall to it, again and again."""

    def __init__(self, starts: Starts, network: PathNetwork, scene_of_env: Tensor) -> None:
        """Raises InputError when a scene has envs but no start, or a start names an unknown scene or point."""
        scenes = len(network.offset) - 1
        device = network.points.device
        scene_id = torch.as_tensor(starts.scene_id, device=device)
        if len(starts) == 0 or int(scene_id.min()) < 0 or int(scene_id.max()) >= scenes:
            raise InputError(f"starts: {len(starts)} starts with scene ids that must lie in 0..{scenes - 1}")
        offset = network.offset[scene_id]
        size = network.offset[scene_id + 1] - offset
        for name in ("point", "goal_point"):
            value = torch.as_tensor(getattr(starts, name), device=device)
            if bool(((value < 0) | (value >= size)).any()):
                raise InputError(
                    f"starts: a {name} lies outside its scene's paths; were they drawn for other scenes?"
                )
        self._batch = StartBatch(
            index=torch.as_tensor(starts.point, device=device) + offset,
            direction=torch.as_tensor(starts.direction, device=device),
            goal=torch.as_tensor(starts.goal_point, device=device) + offset,
            xy=torch.as_tensor(starts.xy_m, device=device),
            yaw=torch.as_tensor(starts.yaw_rad, device=device),
            speed=torch.as_tensor(starts.speed_m_s, device=device),
        )
        self._queue, self._length = self._deal(scene_id, scene_of_env)
        self._turn = torch.full_like(scene_of_env, -1)

    @staticmethod
    def _deal(scene_id: Tensor, scene_of_env: Tensor) -> tuple[Tensor, Tensor]:
        queues: list[Tensor] = []
        for scene in range(int(scene_of_env.max()) + 1):
            mine = (scene_id == scene).nonzero().squeeze(1)
            envs = int((scene_of_env == scene).sum())
            if envs and len(mine) == 0:
                raise InputError(f"starts: none for scene {scene}, which has {envs} environments")
            queues += [mine[e::envs] if e < len(mine) else mine[e % len(mine)][None] for e in range(envs)]
        length = torch.tensor([len(q) for q in queues], device=scene_id.device)
        table = torch.nn.utils.rnn.pad_sequence(queues, batch_first=True)
        return table, length

    def state_dict(self) -> dict[str, Tensor]:
        """Whose turn it is."""
        return {"turn": self._turn.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self._turn.copy_(state["turn"])

    def rewind(self) -> None:
        """Deal from the first start on again."""
        self._turn.fill_(-1)

    def next(self, env_ids: Tensor) -> tuple[Tensor, StartBatch]:
        """(start numbers [R], their starts) of the next episode of envs ``env_ids`` [R]."""
        self._turn[env_ids] += 1
        turn = self._turn[env_ids] % self._length[env_ids]
        number = self._queue[env_ids, turn]
        return number, StartBatch(**{k: v[number] for k, v in vars(self._batch).items()})
