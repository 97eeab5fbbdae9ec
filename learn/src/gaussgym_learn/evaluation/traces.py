"""What is kept of episodes for the failure gallery: the last seconds of those that failed, and how far the good ones went.

Everything is recorded for all environments in rings of the last three seconds; only where an episode ends is anything copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from tensordict import TensorDict

from gaussgym_learn.env import GaussgymVecEnv
from gaussgym_learn.evaluation.ablations import images_in
from gaussgym_learn.evaluation.quantities import QUANTITIES, measure_all
from gaussgym_learn.evaluation.terrain_class import classify
from gaussgym_learn.models import NEW_FRAME_GROUP

WINDOW_S = 3.0
"""Of a failure that is kept and shown [s]."""
SETTLING_S = 0.5
"""At the beginning of an episode, where a robot drops onto its feet: not looked at [s]."""
SMOOTHING_S = 0.1
STUCK_M = 0.3
"""A robot that moves less than this in the last three seconds is stuck [m]."""
FAILS_AS = {
    "navigate": "touched an obstacle",
    "corridor": "took the wrong lane",
    "gaps": "stepped into a gap",
    "stepping_stones": "stepped beside the stones",
}
"""What a task's own failure is called."""
KEPT_FILMS = 2
"""Failures of each kind whose motion and images are kept, in each cell."""


@dataclass
class Failure:
    """The end of an episode that failed.

    Attributes:
        start: number of the episode.
        kind: how it failed, and on what ground.
        scene: index.
        times_s: `[W]` before the end, negative [s].
        quantities: `[W, Q]`.
        period_s: time between rows of the motion [s].
        motion: `[M, 7 + J]` the last seconds: base position, quaternion, joints; None where not kept.
        frames: `[F, H, W, C]` uint8 the camera's, None without a camera.
        frame: `[M]` which of them was in view.
    """

    start: int
    kind: str
    scene: int
    times_s: NDArray[np.float32]
    quantities: NDArray[np.float32]
    period_s: float
    motion: NDArray[np.float32] | None = None
    frames: NDArray[np.uint8] | None = None
    frame: NDArray[np.int64] | None = None


class EpisodeTraces:
    """An observer of `gaussgym_learn.evaluate.run_episodes` that keeps how episodes ended.

    Args:
        env: that is run.
        episodes: how many.

    Attributes:
        kinds: how each episode ended: `success`, or a kind of failure.
        failures: ends of all that failed.
        peaks: highest values of each quantity in each episode that succeeded, rows `[Q]`.
    """

    def __init__(self, env: GaussgymVecEnv, episodes: int) -> None:
        self._env, self._sim = env, env.sim
        self._dt, envs, joints = env.control_dt_s, env.num_envs, env.num_actions
        self._window = round(WINDOW_S / self._dt)
        self._settling = round(SETTLING_S / self._dt)
        self.kinds = ["unfinished"] * episodes
        self.failures: list[Failure] = []
        self.peaks: list[NDArray[np.float32]] = []
        count = len(QUANTITIES)
        self._smooth = torch.zeros(envs, count)
        self._peak = torch.full((envs, count), -torch.inf)
        self._age = torch.zeros(envs, dtype=torch.long)
        self._ring = torch.zeros(self._window, envs, count)
        joints = len(env.sim.robot.joint_names)
        self._motion = torch.zeros(self._window, envs, 7 + joints)
        self._course = torch.zeros(int(env.max_episode_length) // self._stride + 2, envs, count)
        self._now = 0
        self._images: torch.Tensor | None = None
        self._newest = torch.zeros(envs, dtype=torch.long)
        self._in_view = torch.zeros(self._window, envs, dtype=torch.long)
        self._point = torch.zeros(envs, dtype=torch.long)
        self._follows = torch.tensor([not q.smoothed for q in QUANTITIES])

    @property
    def _stride(self) -> int:
        """Steps between the rows that are kept of a whole episode."""
        return max(1, round(0.2 / self._dt))

    def add(self, obs: TensorDict, row: torch.Tensor, done: torch.Tensor) -> None:
        """See `EpisodeObserver.add`."""
        values = measure_all(self._env.env)
        fresh = self._age == 0
        late = self._smooth + min(1.0, self._dt / SMOOTHING_S) * (values - self._smooth)
        self._smooth = torch.where(self._follows | fresh[:, None], values, late)
        settled = self._age >= self._settling
        self._peak = torch.where(settled[:, None], torch.maximum(self._peak, self._smooth), self._peak)
        state, slot = self._sim.state, self._now % self._window
        self._ring[slot] = self._smooth
        self._motion[slot] = torch.cat((state.root_pos_w, state.root_quat_wxyz, state.joint_pos), dim=1)
        place = (self._age // self._stride).clamp_max(len(self._course) - 1)
        self._course[place, torch.arange(len(place))] = self._smooth
        self._keep_images(obs)
        self._in_view[slot] = self._newest
        self._point.copy_(self._env.env.follower.index)
        self._now += 1
        self._age += 1

    def _keep_images(self, obs: TensorDict) -> None:
        groups = images_in(obs)
        if not groups:
            return
        images, new = obs[groups[0]], obs[NEW_FRAME_GROUP][:, 0] != 0
        ring = self._images
        if ring is None:
            # One more than fit into the window: the frame in view at its beginning is older.
            every = max(1, round(1.0 / (self._env.camera_hz * self._dt)))
            ring = torch.zeros(self._window // every + 3, *images.shape, dtype=images.dtype)
            self._images = ring
        rows = (new | (self._age == 0)).nonzero().squeeze(1)
        self._newest[rows] += 1
        ring[self._newest[rows] % len(ring), rows] = images[rows]

    def end(self, row: torch.Tensor, dones: torch.Tensor, over: torch.Tensor, extras: dict[str, Any]) -> None:
        """See `EpisodeObserver.end`; also forgets what belongs to environments that begin anew."""
        for env in over.nonzero().squeeze(1).tolist():
            episode = int(row[env])
            if self._went_well(env, extras):
                self.kinds[episode] = "success"
                self.peaks.append(self._peak[env].numpy().copy())
            else:
                self._keep_failure(env, episode, extras)
        anew = dones != 0
        self._age[anew] = 0
        self._peak[anew] = -torch.inf

    def _went_well(self, env: int, extras: dict[str, Any]) -> bool:
        """Reached what the task wants; of a task that wants nothing, lasted to the end."""
        if self._env.env.task.success is not None:
            return bool(extras["success"][env])
        reasons = extras.get("reasons")
        return not (bool(extras["fell"][env]) or (reasons is not None and bool(reasons.outside[env])))

    def _keep_failure(self, env: int, episode: int, extras: dict[str, Any]) -> None:
        steps = min(int(self._age[env]), self._window)
        order = [(self._now - steps + k) % self._window for k in range(steps)]
        motion = self._motion[order, env].numpy().copy()
        scene = int(self._sim.scene_of_env[env])
        kind, whole = self._kind(env, scene, motion, extras)
        if whole:
            first, last = -(-self._settling // self._stride), -(-int(self._age[env]) // self._stride)
            rows = np.arange(min(first, last - 1), min(last, len(self._course)))
            times = (rows * self._stride - int(self._age[env])) * self._dt
            quantities = self._course[rows, env].numpy()
        else:
            times, quantities = (np.arange(steps) - steps) * self._dt, self._ring[order, env].numpy().copy()
        failure = Failure(episode, kind, scene, times.astype(np.float32), quantities, self._dt)
        self.kinds[episode] = kind
        self.failures.append(failure)
        filmed = sorted(
            (f for f in self.failures if f.kind == kind and (f.motion is not None or f is failure)),
            key=lambda f: f.start,
        )
        for dropped in filmed[KEPT_FILMS:]:
            dropped.motion = dropped.frames = dropped.frame = None
        if failure in filmed[:KEPT_FILMS]:
            failure.motion = motion
            self._add_frames(failure, env, order)

    def _add_frames(self, failure: Failure, env: int, order: list[int]) -> None:
        if self._images is None:
            return
        numbers, frame = np.unique(self._in_view[order, env].numpy(), return_inverse=True)
        if len(numbers) > len(self._images):
            raise InputError("found more camera frames in three seconds than the camera's rate allows")
        images = self._images[torch.from_numpy(numbers) % len(self._images), env]
        failure.frames, failure.frame = images.permute(0, 2, 3, 1).numpy().copy(), frame

    def _kind(
        self, env: int, scene: int, motion: NDArray[np.float32], extras: dict[str, Any]
    ) -> tuple[str, bool]:
        """How an episode failed, and whether its whole course matters rather than its last seconds."""
        reasons = extras.get("reasons")
        task = self._env.cfg.task
        if reasons is not None and bool(reasons.failed[env]):
            return FAILS_AS.get(task, f"failed in {task}"), False
        if bool(extras["fell"][env]):
            return f"fell on {self._ground(env, scene)}", False
        if reasons is not None and bool(reasons.outside[env]):
            return "left the ground", False
        if self._off_path(env) > 0.5:
            return "left the path", True
        moved = float(np.linalg.norm(motion[-1, :2] - motion[0, :2]))
        return (f"stuck on {self._ground(env, scene)}" if moved < STUCK_M else "too slow"), True

    def _ground(self, env: int, scene: int) -> str:
        """Class of the path's ground within a metre of where the robot was."""
        net, point = self._env.env.network, self._point[env]
        reach = max(1, round(1.0 / float(net.spacing_m[point])))
        line = net.points[net.along(point, torch.arange(-reach, reach + 1)), :2].double().numpy()
        if np.ptp(line, axis=0).max() == 0:
            return "a point"
        return classify(self._sim.scenes[scene].heightfield, line)

    def _off_path(self, env: int) -> float:
        column = [q.name for q in QUANTITIES].index("off_path")
        return float(self._ring[(self._now - 1) % self._window, env, column])
