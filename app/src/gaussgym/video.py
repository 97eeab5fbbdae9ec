"""Films a policy in a scene: a chase camera and the robot's own, as mp4, with where every robot went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_learn.film.chase import FRAME_EVERY, ChaseCfg, chase_images, enlarged, write_video
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gaussgym_learn.acting import ActingPolicy

MANIFEST = "film.json"
FORMAT = "gaussgym-film"
VERSION = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FilmCfg(ChaseCfg):
    """How to film."""

    episodes: int = 6
    """Robots that walk; one is filmed, all leave their trajectories."""
    seconds: float = 18.0
    """Longest episode [s]."""
    eye_width: int = 384
    """Width of the robot camera's video [px]; its pixels are enlarged, not smoothed."""
    seed: int = 1234
    """Seed of the starts; the evaluation's, so that the film shows its first episodes."""


@dataclass
class Episode:
    """What one robot did, a row for every video frame."""

    root_pos_w: list[Floats] = field(default_factory=list)
    root_quat_wxyz: list[Floats] = field(default_factory=list)
    joint_pos: list[Floats] = field(default_factory=list)
    eye: list[NDArray[np.uint8]] = field(default_factory=list)
    outcome: str = "time ran out"


def film(policy_path: Path, scene_dir: Path, output: Path, cfg: FilmCfg | None = None) -> Path:
    """Let a policy walk and film it.

    Args:
        policy_path: Run folder with a checkpoint, or a policy bundle.
        scene_dir: Where to walk.
        output: Folder of the film: `third.mp4`, `robot.mp4`, their posters, `trajectories.npz`, `film.json`.
        cfg: How to film.

    Returns:
        The path of `film.json`.

    Raises:
        InputError: If policy and scene do not fit, or ffmpeg is missing or fails.
    """
    from gaussgym_learn.acting import load_policy

    cfg = cfg or FilmCfg()
    scene = Scene.load(scene_dir)
    policy = load_policy(policy_path)
    env = _environment(scene, policy, cfg)
    policy.check(env)
    episodes = walk(env, policy, steps=round(cfg.seconds / env.control_dt_s))
    chosen = choose(episodes)
    with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        rate = 1.0 / (env.control_dt_s * FRAME_EVERY)
        images = chase_images(scene, episodes[chosen], env.sim.robot, cfg)
        write_video(writer.path / "third.mp4", images, rate)
        write_poster(writer.path / "third.jpg", images[len(images) // 3])
        if policy.sees:
            eye = [enlarged(image, cfg.eye_width) for image in episodes[chosen].eye]
            write_video(writer.path / "robot.mp4", eye, rate)
            write_poster(writer.path / "robot.jpg", eye[len(eye) // 3])
        _write_trajectories(writer.path / "trajectories.npz", episodes)
        writer.fields.update(
            scene=scene.name,
            policy=policy.name,
            episode=chosen,
            outcomes=[episode.outcome for episode in episodes],
            frames_per_s=rate,
            frames=len(images),
            eye_size_px=list(episodes[chosen].eye[0].shape[1::-1]) if policy.sees else None,
        )
    return output / MANIFEST


def _environment(scene: Scene, policy: ActingPolicy, cfg: FilmCfg) -> Any:
    """The goal task as evaluation has it, from the first of its starts."""
    from gaussgym_learn.env import make_env
    from gaussgym_learn.evaluate import evaluation_cfg, fixed_starts

    return make_env(
        "goal",
        [scene],
        cfg.episodes,
        renderer="auto" if policy.sees else None,
        seed=cfg.seed,
        cfg=evaluation_cfg("goal"),
        starts=fixed_starts([scene], cfg.episodes, seed=cfg.seed),
    )


def walk(env: Any, policy: ActingPolicy, *, steps: int) -> list[Episode]:
    """Run each environment until its first episode ends.

    Args:
        env: The environment; its observations hold `rgb` if the policy sees.
        policy: Acts in all of them.
        steps: Longest episode [control steps].
    """
    policy.reset()
    obs = env.get_observations()
    episodes = [Episode() for _ in range(env.num_envs)]
    running = np.ones(env.num_envs, dtype=bool)
    for step in range(steps):
        if step % FRAME_EVERY == 0:
            _record(episodes, running, env.sim.state, obs["rgb"] if policy.sees else None)
        obs, _, dones, extras = env.step(policy.act(obs))
        policy.reset(dones)
        for index in np.flatnonzero(dones.numpy().astype(bool) & running):
            episodes[index].outcome = _outcome(extras, int(index))
            running[index] = False
        if not running.any():
            break
    return episodes


def _outcome(extras: dict[str, Any], index: int) -> str:
    if bool(extras["success"][index]):
        return "goal reached"
    return "fell" if bool(extras["fell"][index]) else "time ran out"


def _record(episodes: list[Episode], running: NDArray[np.bool_], state: Any, rgb: Any) -> None:
    position, quat = state.root_pos_w.double().numpy(), state.root_quat_wxyz.double().numpy()
    joints = state.joint_pos.double().numpy()
    for index in np.flatnonzero(running):
        episode = episodes[index]
        episode.root_pos_w.append(position[index].copy())
        episode.root_quat_wxyz.append(quat[index].copy())
        episode.joint_pos.append(joints[index].copy())
        if rgb is not None:
            episode.eye.append(rgb[index].numpy().transpose(1, 2, 0).copy())


def choose(episodes: Sequence[Episode]) -> int:
    """The first episode that reached its goal, else the longest."""
    for index, episode in enumerate(episodes):
        if episode.outcome == "goal reached":
            return index
    return int(np.argmax([len(episode.root_pos_w) for episode in episodes]))


def write_poster(path: Path, image: NDArray[np.uint8]) -> Path:
    """Write the still that a browser shows before a video plays."""
    from PIL import Image

    Image.fromarray(image).save(path, quality=85)
    return path


def _write_trajectories(path: Path, episodes: Sequence[Episode]) -> None:
    """Base positions of all episodes, padded with NaN: `position_w` `[E, T, 3]`."""
    longest = max(len(episode.root_pos_w) for episode in episodes)
    padded = np.full((len(episodes), longest, 3), np.nan)
    for index, episode in enumerate(episodes):
        padded[index, : len(episode.root_pos_w)] = episode.root_pos_w
    np.savez_compressed(path, position_w=padded.astype(np.float32))
