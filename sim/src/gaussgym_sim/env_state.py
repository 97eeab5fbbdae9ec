"""An environment's whole state as tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gaussgym_scene.errors import InputError

if TYPE_CHECKING:
    from gaussgym_sim.env import Env

_KEPT = ("episode_length_buf", "level", "start_id", "action")


def _parts(env: Env) -> dict[str, Any]:
    """Everything with a memory of its own."""
    parts = {
        "sim": env.sim, "follower": env.follower, "commands": env.commands, "feet": env.feet, "gait": env.gait,
        "episodes": env.episodes, "goal_distance": env.goal_distance, "starts": env.fixed_starts,
        "camera": env.camera, "task": env.task_state, "sensing": env.sensing, "disturbances": env.disturbances,
    }  # fmt: skip
    return {name: part for name, part in parts.items() if part is not None}


def env_state(env: Env) -> dict[str, Any]:
    """See `Env.state_dict`."""
    own = {name: getattr(env, name).clone() for name in _KEPT}
    parts = {name: part.state_dict() for name, part in _parts(env).items()}
    return {"own": own, "generator": env.uniform.generator.get_state(), **parts}


def load_env_state(env: Env, state: dict[str, Any]) -> None:
    """Everything but what follows from it; see `Env.load_state_dict`.

    Raises:
        InputError: a state with other parts than the env.
    """
    parts = _parts(env)
    missing = {*parts, "own", "generator"} ^ set(state)
    if missing:
        raise InputError(
            f"environment state differs in {', '.join(sorted(missing))}; expected one of the same settings"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    for name in _KEPT:
        getattr(env, name).copy_(state["own"][name])
    env.uniform.generator.set_state(state["generator"])
