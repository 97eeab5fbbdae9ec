"""Commands: sampled velocities, or following a scene's path to a goal. Both keep to the scene's paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.frames import wrap_angle
from gaussgym_sim.mdp.path_kernels import at_ends, follow_paths, heading_errors, nearest_points, new_commands
from gaussgym_sim.randomize import Uniform

_WINDOW = torch.arange(-1, 7)
"""Path points searched for the nearest one each step, relative to the last: 0.25 m behind to 1.5 m ahead."""
_KEPT = ("command", "_sampled", "_heading", "_standing")
_CLOSED_GAP_M = 0.6
"""A line whose ends are nearer than this is walked round and round."""


@dataclass(frozen=True)
class CommandCfg:
    """Ranges [m/s, rad/s, s, m]."""

    lin_vel_x_m_s: tuple[float, float] = (0.2, 1.0)
    lin_vel_y_m_s: tuple[float, float] = (-0.2, 0.2)
    ang_vel_rad_s: tuple[float, float] = (-1.0, 1.0)
    resample_s: float = 8.0
    standing_fraction: float = 0.06
    heading_fraction: float = 0.5
    """Velocity task on flat ground: share of commands that follow the path's heading (the others hold a yaw rate while near the
    path). On rough ground all commands follow the path."""
    heading_gain: float = 1.5
    lookahead_m: float = 0.8
    goal_distance_m: float = 10.0
    goal_radius_m: float = 0.5
    goal_speed_m_s: tuple[float, float] = (0.6, 0.9)


class PathNetwork:
    """The paths of all scenes in flat buffers. Global point index = scene's offset + index into its `Paths`."""

    def __init__(self, scenes: Sequence[Scene], *, device: torch.device) -> None:
        """Pack the scenes' paths.

        Raises:
            InputError: a scene without at least one line of two points.
        """
        arrays: dict[str, list[np.ndarray]] = {
            k: [] for k in ("points", "width", "arc", "first", "last", "level")
        }
        offsets, offset = [], 0
        for scene in scenes:
            paths = scene.paths
            if len(paths) < 2:
                raise InputError(
                    f"scene {scene.name!r}: {len(paths)} path points, expected a line of at least 2"
                )
            starts = np.flatnonzero(np.diff(paths.path_id, prepend=paths.path_id[0] - 1))
            ends = np.append(starts[1:], len(paths))
            lengths = ends - starts
            levels = scene.metadata.get("path_level", {})
            line_level = [int(levels.get(str(paths.path_id[s]), 0)) for s in starts]
            arrays["points"].append(paths.points)
            arrays["width"].append(paths.half_width_m)
            arrays["arc"].append(paths.arc_length_m())
            arrays["first"].append(np.repeat(starts, lengths) + offset)
            arrays["last"].append(np.repeat(ends - 1, lengths) + offset)
            arrays["level"].append(np.repeat(line_level, lengths))
            offsets.append(offset)
            offset += len(paths)
        joined = {k: np.concatenate(v) for k, v in arrays.items()}
        self.points = torch.as_tensor(joined["points"], dtype=torch.float32, device=device)
        """[P, 4] x, y, ground z [m], yaw of travel [rad]."""
        self.half_width_m = torch.as_tensor(joined["width"], dtype=torch.float32, device=device)
        self.arc_m = torch.as_tensor(joined["arc"], dtype=torch.float32, device=device)
        self.first = torch.as_tensor(joined["first"], dtype=torch.long, device=device)
        self.last = torch.as_tensor(joined["last"], dtype=torch.long, device=device)
        self.level = torch.as_tensor(joined["level"], dtype=torch.long, device=device)
        self.offset = torch.tensor([*offsets, offset], device=device)
        """[scenes + 1] first global point of each scene."""
        ends_apart = (self.points[self.first, :2] - self.points[self.last, :2]).norm(dim=1)
        self.closed = (ends_apart < _CLOSED_GAP_M) & (self.last - self.first > 8)
        self.any_closed = bool(self.closed.any())
        self.spacing_m = (self.arc_m[self.last] / (self.last - self.first).clamp(min=1)).clamp(min=0.02)
        self.num_levels = int(self.level.max()) + 1
        self.x_m, self.y_m = self.points[:, 0].contiguous(), self.points[:, 1].contiguous()
        yaw = self.points[:, 3]
        columns = (
            self.points[:, 0],
            self.points[:, 1],
            torch.cos(yaw),
            torch.sin(yaw),
            self.arc_m,
            self.spacing_m,
        )
        self.rows = torch.stack((*columns, self.half_width_m), dim=1)
        """[P, 7] x, y, cosine and sine of the yaw, arc length, spacing, half width: one gather for what a step reads."""
        if device.type == "cpu":
            tables = (self.first, self.last, self.closed, self.rows)
            self.arrays: Any = tuple(table.numpy() for table in tables)
            """What `gaussgym_sim.mdp.path_kernels` reads."""

    def along(self, index: Tensor, steps: Tensor) -> Tensor:
        """Point index reached after signed ``steps`` along the own line; open lines clamp at their ends, closed ones go round."""
        first, last, moved = self.first.take(index), self.last.take(index), index + steps
        if not self.any_closed:
            return moved.clamp(first, last)
        wrapped = first + torch.remainder(moved - first, last - first + 1)
        return torch.where(self.closed[index], wrapped, moved.clamp(first, last))

    def travel_yaw(self, index: Tensor, direction: Tensor) -> Tensor:
        """Heading of travel [rad] at points, with direction +1 along the line or -1 against it."""
        return wrap_angle(self.points[index, 3] + torch.where(direction > 0, 0.0, torch.pi))

    def distance_to_end_m(self, index: Tensor, direction: Tensor) -> Tensor:
        """Length of the line ahead [m]; infinite on closed lines."""
        ahead = torch.where(
            direction > 0, self.arc_m[self.last[index]] - self.arc_m[index], self.arc_m[index]
        )
        return torch.where(self.closed[index], torch.inf, ahead)


class PathFollower:
    """Where each env is on its line: nearest point, direction, goal."""

    def __init__(self, network: PathNetwork, num_envs: int, device: torch.device) -> None:
        """All at point 0 until `start`."""
        self.network = network
        self.index = torch.zeros(num_envs, dtype=torch.long, device=device)
        self.direction = torch.ones(num_envs, dtype=torch.long, device=device)
        self.goal = torch.zeros(num_envs, dtype=torch.long, device=device)
        self._window = _WINDOW.to(device)
        self._everyone = np.arange(num_envs)
        self._bind()

    def _bind(self) -> None:
        """Keep views of what `gaussgym_sim.mdp.path_kernels` read and write."""
        if self.index.device.type == "cpu":
            places = (self.index, self.direction, self.goal, self._window)
            self._arrays = (*(t.numpy() for t in places), *self.network.arrays)

    def change_network(self, network: PathNetwork, scene_of_env: Tensor) -> None:
        """Count points as a network does in which some scenes were replaced; envs on these must then `start`."""
        shift = (network.offset - self.network.offset)[scene_of_env]
        self.network, self.index, self.goal = network, self.index + shift, self.goal + shift
        self._bind()

    def start(self, env_ids: Tensor, index: Tensor, direction: Tensor, goal: Tensor) -> None:
        """Put envs at a point, walking in a direction (+1, -1), to a goal point."""
        self.index[env_ids], self.direction[env_ids], self.goal[env_ids] = index, direction, goal

    def advance(self, xy_w: Tensor, env_ids: Tensor | None = None) -> Tensor:
        """Move envs to the nearest of their next points.

        Args:
            xy_w: [R, 2] positions of their bases [m].
            env_ids: [R]; None: all.

        Returns:
            [R] distance from the points' line [m].
        """
        if self.index.device.type == "cpu":
            distance = xy_w.new_empty(len(xy_w))
            arguments = [*self.lines(env_ids), xy_w.numpy(), distance.numpy()]
            nearest_points(*arguments)
            return distance
        return self._advance_by_tensors(xy_w, env_ids)

    def rows(self, env_ids: Tensor | None) -> NDArray[np.int64]:
        """Numbers of envs ``env_ids``, None: of all."""
        return self._everyone if env_ids is None else env_ids.numpy()

    def lines(self, env_ids: Tensor | None) -> tuple[NDArray[Any], ...]:
        """What all of `gaussgym_sim.mdp.path_kernels` want first, for envs ``env_ids``, None: for all."""
        return (self.rows(env_ids), *self._arrays)

    def at_end(self, rough: Tensor) -> Tensor:
        """[E] bool, who is at the end of a line that leads nowhere, of envs ``rough`` [E] bool."""
        if rough.device.type == "cpu":
            arguments = [*self.lines(None), rough.numpy()]
            return torch.from_numpy(at_ends(*arguments))
        return self._at_end_by_tensors(rough)

    def _at_end_by_tensors(self, rough: Tensor) -> Tensor:
        return (self.network.distance_to_end_m(self.index, self.direction) <= 1e-3) & rough

    def _advance_by_tensors(self, xy_w: Tensor, env_ids: Tensor | None) -> Tensor:
        net, (index, direction) = self.network, self._of(env_ids)
        candidates = net.along(index[:, None], direction[:, None] * self._window)
        x, y = net.x_m.take(candidates) - xy_w[:, :1], net.y_m.take(candidates) - xy_w[:, 1:]
        nearest = x.square_().addcmul_(y, y).argmin(dim=1, keepdim=True)
        index = candidates.gather(1, nearest).squeeze(1)
        if env_ids is None:
            self.index.copy_(index)
        else:
            self.index[env_ids] = index
        x, y, cos, sin = net.rows.index_select(0, index)[:, :4].unbind(1)
        return ((xy_w[:, 1] - y) * cos - (xy_w[:, 0] - x) * sin).abs_()

    def _of(self, env_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Point and direction of envs, None: of all."""
        if env_ids is None:
            return self.index, self.direction
        return self.index[env_ids], self.direction[env_ids]

    def heading_error(
        self,
        xy_w: Tensor,
        yaw: Tensor,
        lookahead_m: float,
        *,
        stop_at_goal: bool,
        env_ids: Tensor | None = None,
    ) -> Tensor:
        """Pure pursuit: angle [rad] from the robot's heading to the line point ``lookahead_m`` ahead, [R].

        Beyond an open line's end the line goes on straight; with ``stop_at_goal`` the target never passes the goal.

        Args:
            xy_w: [R, 2] positions of bases [m].
            yaw: [R] their headings [rad].
            lookahead_m: along the line.
            stop_at_goal: see above.
            env_ids: [R]; None: all.
        """
        if self.index.device.type == "cpu":
            error = torch.empty_like(yaw)
            poses = (xy_w.numpy(), yaw.numpy())
            arguments = [*self.lines(env_ids), *poses, lookahead_m, stop_at_goal, error.numpy()]
            heading_errors(*arguments)
            return error
        return self._heading_error_by_tensors(xy_w, yaw, lookahead_m, stop_at_goal, env_ids)

    def _heading_error_by_tensors(
        self, xy_w: Tensor, yaw: Tensor, lookahead_m: float, stop_at_goal: bool, env_ids: Tensor | None
    ) -> Tensor:
        net, (index, direction) = self.network, self._of(env_ids)
        arc, spacing = net.rows.index_select(0, index)[:, 4:6].unbind(1)
        steps = (lookahead_m / spacing).round_().clamp_(min=1.0).long()
        if stop_at_goal:
            to_goal = self.steps_to_goal()
            steps = torch.minimum(steps, to_goal if env_ids is None else to_goal[env_ids])
        ahead = net.along(index, direction * steps)
        row = net.rows.index_select(0, ahead)
        to_target = row[:, :2] - xy_w
        if not stop_at_goal:
            missing = (lookahead_m - (row[:, 4] - arc).abs_()).clamp_(min=0.0)
            if net.any_closed:
                missing = torch.where(net.closed[index], 0.0, missing)
            onward = row[:, 2:4] * direction[:, None]
            # A robot that has walked past the end keeps its lookahead, rather than turn back for a fixed point.
            beyond = (to_target * onward).sum(dim=1).clamp_(max=0.0)
            to_target += torch.where(missing > 0, missing - beyond, missing)[:, None] * onward
        return wrap_angle(torch.atan2(to_target[:, 1], to_target[:, 0]) - yaw)

    def goal_xy(self) -> Tensor:
        """[E, 2] m."""
        return self.network.points[self.goal, :2]

    def state_dict(self) -> dict[str, Tensor]:
        """Where all are."""
        return {name: getattr(self, name).clone() for name in ("index", "direction", "goal")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)

    def steps_to_goal(self) -> Tensor:
        """[E] path points that lie ahead up to the goal."""
        net = self.network
        steps = (self.goal - self.index) * self.direction
        count = net.last[self.index] - net.first[self.index] + 1
        return torch.where(net.closed[self.index], torch.remainder(steps, count), steps.clamp(min=0))


def goal_point(network: PathNetwork, index: Tensor, direction: Tensor, distance_m: Tensor | float) -> Tensor:
    """Point at least ``distance_m`` along the line, or the line's end (closed lines: at most half way round)."""
    steps = torch.ceil(distance_m / network.spacing_m[index] - 1e-4).long()
    half_round = (network.last[index] - network.first[index] + 1) // 2
    steps = torch.where(network.closed[index], torch.minimum(steps, half_round), steps)
    return network.along(index, direction * steps)


class CommandSource(Protocol):
    """Where the velocity commands of all envs come from."""

    command: Tensor
    """[E, 3] v_x, v_y [m/s] in the base's frame, yaw rate [rad/s]."""

    def resample(self, env_ids: Tensor, *, speed: Tensor | None = None) -> None:
        """New commands for envs ``env_ids`` [R], at an episode's start or when their time is over."""
        ...

    def update(self, xy_w: Tensor, yaw: Tensor, env_ids: Tensor | None = None) -> None:
        """Once a control step, from the current poses [E, 2] m and headings [E] rad; once more for envs ``env_ids`` [R] alone,
        with [R] poses, that have started anew.
        """
        ...

    def set_rough(self, rough: Tensor) -> None:
        """Scenes have changed: which envs stand on rough ground, [E] bool."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the coming commands depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        ...


class VelocityCommands:
    """Commands (v_x, v_y, yaw rate) of all envs for both tasks, [E, 3]."""

    def __init__(
        self, cfg: CommandCfg, follower: PathFollower, rough: Tensor, uniform: Uniform, *, task: str
    ) -> None:
        """Keep a follower; ``rough`` [E] tells which envs never leave their path."""
        self.cfg, self._follower, self._rough, self._uniform, self._task = cfg, follower, rough, uniform, task
        num_envs = len(rough)
        self.command = torch.zeros(num_envs, 3, device=rough.device)
        self._sampled = torch.zeros(num_envs, 3, device=rough.device)
        self._heading = torch.ones(num_envs, dtype=torch.bool, device=rough.device)
        self._standing = torch.zeros(num_envs, dtype=torch.bool, device=rough.device)

    def set_rough(self, rough: Tensor) -> None:
        """Change which envs never leave their path, [E]; holds from their next `resample` on."""
        self._rough = rough

    def resample(self, env_ids: Tensor, *, speed: Tensor | None = None) -> None:
        """Draw new commands for envs ``env_ids`` [R]; a given ``speed`` [R] m/s replaces the drawn forward speed."""
        count = len(env_ids)
        if count == 0:
            return
        c, u = self.cfg, self._uniform
        forward = c.lin_vel_x_m_s if self._task == "velocity" else c.goal_speed_m_s
        ranges = (forward, c.lin_vel_y_m_s, c.ang_vel_rad_s)
        numbers = u(0.0, 1.0, 5, count)
        if self.command.device.type == "cpu":
            new_commands(
                env_ids.numpy(), numbers.numpy(), np.array(ranges), c.heading_fraction, c.standing_fraction,
                self._rough.numpy(), self._sampled.numpy(), self._heading.numpy(), self._standing.numpy(),
            )  # fmt: skip
        else:
            self._draw_by_tensors(env_ids, numbers, ranges)
        if speed is not None:
            self._sampled[env_ids, 0] = speed

    def _draw_by_tensors(
        self, env_ids: Tensor, numbers: Tensor, ranges: Sequence[tuple[float, float]]
    ) -> None:
        drawn = [x * (high - low) + low for x, (low, high) in zip(numbers, ranges, strict=False)]
        self._sampled[env_ids] = torch.stack(drawn, dim=1)
        self._heading[env_ids] = (numbers[3] < self.cfg.heading_fraction) | self._rough[env_ids]
        self._standing[env_ids] = numbers[4] < self.cfg.standing_fraction

    def update(self, xy_w: Tensor, yaw: Tensor, env_ids: Tensor | None = None) -> None:
        """Follow the paths from the current poses; call once a control step. See `CommandSource.update`."""
        follower, c = self._follower, self.cfg
        goal = self._task == "goal"
        if self.command.device.type == "cpu":
            kept = (self._sampled, self._heading, self._standing)
            numbers = (c.heading_gain, *c.ang_vel_rad_s, goal, self.command.numpy())
            arrays = (*(t.numpy() for t in (xy_w, yaw)), c.lookahead_m, *(t.numpy() for t in kept), *numbers)
            arguments = [*follower.lines(env_ids), *arrays]
            follow_paths(*arguments)
            return
        off_line = follower.advance(xy_w, env_ids)
        error = follower.heading_error(xy_w, yaw, c.lookahead_m, stop_at_goal=goal, env_ids=env_ids)
        self._follow_by_tensors(off_line, error, goal, env_ids)

    def _follow_by_tensors(self, off_line: Tensor, error: Tensor, goal: bool, env_ids: Tensor | None) -> None:
        follower, c = self._follower, self.cfg
        rows = slice(None) if env_ids is None else env_ids
        turn = (c.heading_gain * error).clamp_(*c.ang_vel_rad_s)
        # Facing away from the path, walking on would leave it: turn first.
        forward = torch.cos(error).clamp_(min=0.0)
        sampled, zero = self._sampled[rows], torch.zeros_like(turn)
        follow = torch.stack((sampled[:, 0] * forward, zero, turn), dim=1)
        if goal:
            self.command[rows] = follow
            return
        far = off_line >= follower.network.half_width_m[follower.index[rows]].clamp_(min=0.5)
        heading = self._heading[rows] | far
        self._heading[rows] = heading
        command = torch.where(heading[:, None], follow, sampled)
        self.command[rows] = command.masked_fill_(self._standing[rows, None], 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """See `CommandSource`."""
        return {name: getattr(self, name).clone() for name in _KEPT}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `CommandSource`."""
        for name in _KEPT:
            getattr(self, name).copy_(state[name])


class GivenCommands:
    """Commands that somebody else gives and that are held until then; zero when an episode starts."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        """All stand."""
        self.command = torch.zeros(num_envs, 3, device=device)

    def give(self, command: Tensor) -> None:
        """Command [E, 3] from now on."""
        self.command.copy_(command)

    def resample(self, env_ids: Tensor, *, speed: Tensor | None = None) -> None:
        """See `CommandSource`: envs ``env_ids`` stand."""
        self.command[env_ids] = 0.0

    def update(self, xy_w: Tensor, yaw: Tensor, env_ids: Tensor | None = None) -> None:
        """See `CommandSource`: commands are held."""

    def set_rough(self, rough: Tensor) -> None:
        """See `CommandSource`: the ground does not matter."""

    def state_dict(self) -> dict[str, Tensor]:
        """See `CommandSource`."""
        return {"command": self.command.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `CommandSource`."""
        self.command.copy_(state["command"])


class SteeredCommands(GivenCommands):
    """Commands along the paths, to which somebody adds: for a policy that only says where to depart from the way.

    Attributes:
        path: the paths' own commands.
        given: [E, 3] what is added, held until the next `give`; zero when an episode starts.
        command: [E, 3] the sum, within `LOW` and `HIGH`.
    """

    LOW = (0.0, -0.2, -0.8)
    HIGH = (0.9, 0.2, 0.8)
    """v_x, v_y [m/s], yaw rate [rad/s] that are commanded at most."""

    def __init__(self, path: CommandSource) -> None:
        """Keep the path's commands; nothing is added."""
        super().__init__(len(path.command), path.command.device)
        self.path = path
        self.given = torch.zeros_like(self.command)
        self._low, self._high = (torch.tensor(v, device=self.command.device) for v in (self.LOW, self.HIGH))

    def give(self, command: Tensor) -> None:
        """Add ``command`` [E, 3] from now on."""
        self.given.copy_(command)
        self._sum()

    def resample(self, env_ids: Tensor, *, speed: Tensor | None = None) -> None:
        """See `CommandSource`: nothing is added for envs ``env_ids``."""
        self.path.resample(env_ids, speed=speed)
        self.given[env_ids] = 0.0

    def update(self, xy_w: Tensor, yaw: Tensor, env_ids: Tensor | None = None) -> None:
        """See `CommandSource`."""
        self.path.update(xy_w, yaw, env_ids)
        self._sum()

    def _sum(self) -> None:
        torch.add(self.path.command, self.given, out=self.command)
        self.command.clamp_(self._low, self._high)

    def set_rough(self, rough: Tensor) -> None:
        """See `CommandSource`."""
        self.path.set_rough(rough)

    def state_dict(self) -> dict[str, Any]:
        """See `CommandSource`."""
        return {"path": self.path.state_dict(), "given": self.given.clone(), "command": self.command.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `CommandSource`."""
        self.path.load_state_dict(state["path"])
        self.given.copy_(state["given"])
        self.command.copy_(state["command"])
