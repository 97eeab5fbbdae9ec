"""Films a policy in a scene: a chase camera and the robot's own, as mp4, with where every robot went."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray

from gaussgym.robot_drawing import ThirdPerson

if TYPE_CHECKING:
    from gaussgym_learn.acting import ActingPolicy

MANIFEST = "film.json"
FORMAT = "gaussgym-film"
VERSION = 1
FRAME_EVERY = 2
"""Control steps a video frame: 25 frames/s at 50 Hz."""
SKY = (0.78, 0.85, 0.92)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FilmCfg:
    """How to film."""

    episodes: int = 6
    """Robots that walk; one is filmed, all leave their trajectories."""
    seconds: float = 18.0
    """Longest episode [s]."""
    width: int = 640
    """Width of the chase camera's image [px]."""
    height: int = 360
    """Height of the chase camera's image [px]."""
    field_of_view_deg: float = 62.0
    """Horizontal field of view of the chase camera [deg]."""
    behind_m: float = 1.5
    """Distance of the chase camera behind the robot [m]."""
    beside_m: float = 0.55
    """Distance of the chase camera to the right of the robot [m]."""
    above_m: float = 0.65
    """Height of the chase camera over the robot's base [m]."""
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


def chase_images(scene: Scene, episode: Episode, robot: Any, cfg: FilmCfg) -> list[NDArray[np.uint8]]:
    """Render the place, with the robot in it, from a camera that follows it.

    Args:
        scene: The place; its heightfield keeps the camera above ground.
        episode: What the robot did.
        robot: `gaussgym_sim.robot.RobotCfg`.
        cfg: How to film.
    """
    positions, quats = np.array(episode.root_pos_w), np.array(episode.root_quat_wxyz)
    poses = chase_poses(positions, quats, scene.heightfield, cfg)
    focal = cfg.width / 2 / np.tan(np.radians(cfg.field_of_view_deg) / 2)
    intrinsics = np.array([[focal, 0, cfg.width / 2], [0, focal, cfg.height / 2], [0, 0, 1.0]])
    chase = ThirdPerson(scene.splats, robot, cfg.width, cfg.height, background=SKY)
    ground = scene.heightfield.sample(positions[:, :2])
    return [
        chase.picture(pose, intrinsics, *state, ground_z_m=float(z))
        for pose, z, *state in zip(poses, ground, positions, quats, episode.joint_pos)
    ]


def chase_poses(positions: Floats, quats_wxyz: Floats, ground: Heightfield, cfg: FilmCfg) -> Floats:
    """Camera poses `[T, 4, 4]` that follow a robot smoothly from behind, never below 0.3 m over the ground.

    Args:
        positions: Base [m], `[T, 3]`.
        quats_wxyz: Base orientation, `[T, 4]`.
        ground: Keeps the camera above it.
        cfg: Distances.
    """
    w, x, y, z = quats_wxyz.T
    yaw = np.unwrap(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
    yaw, centre = slow(yaw[:, None], 0.04)[:, 0], slow(positions, 0.15)
    ahead = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=1)
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=1)
    eyes = centre - cfg.behind_m * ahead + cfg.beside_m * right + [0, 0, cfg.above_m]
    eyes[:, 2] = np.maximum(eyes[:, 2], slow(ground.sample(eyes[:, :2])[:, None], 0.1)[:, 0] + 0.3)
    return np.stack([look_at(eye, target) for eye, target in zip(eyes, centre + 0.35 * ahead)])


def slow(values: Floats, rate: float) -> Floats:
    """Follow `values` `[T, D]` with an exponential filter, forwards and backwards so that nothing lags."""
    for direction in (1, -1):
        filtered = values[::direction].copy()
        for index in range(1, len(filtered)):
            filtered[index] = filtered[index - 1] + rate * (filtered[index] - filtered[index - 1])
        values = filtered[::direction]
    return values


def look_at(eye: Floats, target: Floats) -> Floats:
    """Camera-to-world pose `[4, 4]` (OpenCV) at `eye` towards `target`, horizon level."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def enlarged(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Repeat pixels so that the image is about `width` wide, with even sides as video wants them."""
    factor = max(2, round(width / image.shape[1] / 2) * 2)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def write_video(path: Path, images: Sequence[NDArray[np.uint8]], frames_per_s: float) -> Path:
    """Encode images `[H, W, 3]` as H.264, playable in browsers while it loads.

    Raises:
        InputError: If ffmpeg is not there or fails; the text holds its last line.
    """
    height, width = images[0].shape[:2]
    words = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    words += [
        "-s",
        f"{width}x{height}",
        "-r",
        f"{frames_per_s:g}",
        "-i",
        "-",
        "-c:v",
        "libx264",
        "-crf",
        "24",
    ]
    words += ["-preset", "veryfast", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
    try:
        encoder = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise InputError(
            "ffmpeg was not found, it writes the videos; install it (gaussgym doctor says how)"
        ) from None
    assert encoder.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it gave up; its message follows
        for image in images:
            encoder.stdin.write(np.ascontiguousarray(image).tobytes())
    lines = encoder.communicate()[1].decode(errors="replace").strip().splitlines()
    if encoder.returncode != 0:
        raise InputError(f"{path}: ffmpeg could not write the video ({lines[-1] if lines else 'no message'})")
    return path


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
