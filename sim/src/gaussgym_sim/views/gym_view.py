"""`Env` as a `gymnasium.vector.VectorEnv`, registered as ``gaussgym/<task>-v0``; needs the extra ``gymnasium``.

``gymnasium.make_vec("gaussgym_sim.views.gym_view:gaussgym/velocity-v0", num_envs=256, robot="go1", scenes=["stairs"])``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.sensors.camera import CameraRenderer
from gaussgym_sim.task import task_names
from gaussgym_sim.vecsim import make_sim

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space
except ImportError as missing:
    raise ImportError("gymnasium is not installed; pip install 'gaussgym-sim[gymnasium]'") from missing

Arrays = dict[str, NDArray[Any]]


class GymVectorEnv(gymnasium.vector.VectorEnv[Arrays, NDArray[np.float32], NDArray[Any]]):
    """E robots behind gymnasium's interface; numpy in, numpy out.

    Episodes restart in the step in which they end (`AutoresetMode.SAME_STEP`): the observations are then those of the new
    episode; ``infos["final_obs"][e]`` holds the last ones of the old, ``infos["final_info"]`` how it ended (``fell``,
    ``success``, ``start_id``), each with gymnasium's mask ``_<key>``. A fall terminates; what cuts an episode short (time, border
    of the ground, end of the path, goal reached) truncates, since the return goes on beyond it.

    Attributes:
        env: what is viewed.
        log: means over the episodes that ended last, such as ``reward/torque``.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012 - gymnasium's name and type

    def __init__(self, env: Env) -> None:
        """Spaces out of the env's groups; closing the view closes the env's sim."""
        self.env, self.num_envs, self.log = env, env.num_envs, {}
        env.keep_final_observations = True
        groups = env.get_observations()
        self.single_observation_space = spaces.Dict({name: _box(value) for name, value in groups.items()})
        limit = np.float32(env.cfg.action_clip)
        self.single_action_space = spaces.Box(-limit, limit, (env.num_actions,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """New episodes everywhere; with a seed, the same ones each time.

        Raises:
            InputError: ``options`` (there are none), or a seed that is not one integer.
        """
        if options:
            raise InputError(f"reset options {sorted(options)}: this environment has none; leave them out")
        if seed is not None and not isinstance(seed, int | np.integer):
            raise InputError(f"seed {seed!r}: expected one integer for all environments")
        super().reset(seed=None if seed is None else int(seed))
        return _to_numpy(self.env.reset(None if seed is None else int(seed))), {}

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Arrays, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One control step.

        Args:
            actions: [E, J].

        Returns:
            (observation groups [E, ...], rewards [E], terminations [E], truncations [E], infos), see the class.

        Raises:
            InputError: actions of another shape.
        """
        given = np.asarray(actions, np.float32)
        if given.shape != self.action_space.shape:
            raise InputError(f"actions of shape {given.shape}, expected {self.action_space.shape}")
        obs, reward, dones, extras = self.env.step(torch.tensor(given, device=self.env.device))
        truncated = extras["time_outs"] > 0
        infos = self._infos(extras) if "final_ids" in extras else {}
        terminated = (dones & ~truncated).cpu().numpy()
        rewards = reward.cpu().numpy().astype(np.float64)
        return _to_numpy(obs), rewards, terminated, truncated.cpu().numpy(), infos

    def _infos(self, extras: dict[str, Any]) -> dict[str, Any]:
        ids = extras["final_ids"].cpu().numpy()
        ended = np.zeros(self.num_envs, bool)
        ended[ids] = True
        final = np.full(self.num_envs, None, dtype=object)
        groups = _to_numpy(extras["final_observations"])
        for row, env in enumerate(ids):  # gymnasium wants an object a finished env
            final[env] = {name: value[row] for name, value in groups.items()}
        how: dict[str, Any] = {}
        for name in ("fell", "success", "start_id"):
            how[name] = np.where(ended, extras[name].cpu().numpy(), 0).astype(
                extras[name].cpu().numpy().dtype
            )
            how[f"_{name}"] = ended.copy()
        self.log = {name: float(value) for name, value in extras["log"].items()}
        return {"final_obs": final, "_final_obs": ended, "final_info": how, "_final_info": ended.copy()}

    def close_extras(self, **kwargs: Any) -> None:
        """Close the sim (called once by gymnasium's `close`)."""
        self.env.sim.close()


def make_vec(
    num_envs: int = 1,
    *,
    task: str = "velocity",
    robot: str | RobotCfg = "go1",
    scenes: Sequence[Scene | Path | str] = ("flat",),
    backend: str = "mujoco",
    cfg: EnvCfg | None = None,
    renderer: CameraRenderer | None = None,
    seed: int = 0,
    device: str = "cpu",
    num_threads: int | None = None,
    terrain: str = "boxes",
) -> GymVectorEnv:
    """Make sim, environment and view in one call.

    Args:
        num_envs: E.
        task: name of the task; goes before the one in ``cfg``.
        robot: registered name or a cfg.
        scenes: scenes, scene folders, or kinds of procedural scenes (`gaussgym_scene.synth.kind_names`).
        backend: of physics.
        cfg: everything else about the task.
        renderer: for the camera observation, see `Env`.
        seed: of the env's draws until `GymVectorEnv.reset` is given one.
        device: where physics is computed.
        num_threads: of physics.
        terrain: see `make_sim`.

    Raises:
        InputError: see `make_sim` and `Env`.
    """
    loaded = [scene if isinstance(scene, Scene) else _scene(scene) for scene in scenes]
    sim = make_sim(
        backend, robot, loaded, num_envs, device=device, seed=seed, num_threads=num_threads, terrain=terrain
    )
    return GymVectorEnv(Env(sim, replace(cfg or EnvCfg(), task=task), seed=seed, renderer=renderer))


def _scene(place: Path | str) -> Scene:
    return Scene.load(Path(place)) if Path(place).exists() else synthesize(str(place))


def _box(group: Tensor) -> spaces.Box:
    """The space of one env's row of a group."""
    shape = tuple(group.shape[1:])
    if group.dtype == torch.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def _to_numpy(groups: dict[str, Tensor]) -> Arrays:
    """The groups' own memory where they lie on the CPU: `Env` gives new tensors at every step."""
    return {name: value.cpu().numpy() for name, value in groups.items()}


for _task in task_names():
    gymnasium.register(
        f"gaussgym/{_task}-v0",
        vector_entry_point="gaussgym_sim.views.gym_view:make_vec",
        kwargs={"task": _task},
    )
