"""Synthetic films with known truth: a walk with a shaking hand, each frame blurred by the motion of its exposure.

The film is an mp4 as a phone writes it; the capture is what :func:`gaussgym_recon.sources.video.import_video` makes of it.
Truth beside the capture: the true cameras of the frames that were kept, sharp renders of the same frames, and the film.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.artifact import replace_directory
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import InputError
from PIL import Image
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from gaussgym_recon.meshcast import MeshCaster
from gaussgym_recon.sources.video import VideoCfg, import_video, program
from gaussgym_recon.synthetic import (
    SynthesizeCfg,
    check_photographable,
    expose,
    true_camera,
    truth_path,
    write_truth,
)
from gaussgym_recon.walks import walk

if TYPE_CHECKING:
    from gaussgym_scene.scene import Scene
    from numpy.typing import NDArray

SHARP = "sharp"
"""Folder of the sharp renders beside the truth."""


@dataclass(frozen=True, kw_only=True)
class FilmCfg:
    """Of :func:`synthesize_video`."""

    photos: SynthesizeCfg = field(default_factory=SynthesizeCfg)
    """The camera and the walk; `images` is how many frames of the film are kept."""
    frames_per_image: int = 4
    """Frames of the film for each that is kept."""
    speed_m_s: float = 1.2
    """Of the walk [m/s]; with the number of frames it gives the film's rate."""
    exposure_s: float = 1 / 50
    """[s]."""
    readout_s: float = 0.0
    """Between the first row and the last of a rolling shutter [s]."""
    shake_rad: float = np.radians(0.25)
    """Root mean square of the hand's shake about each axis [rad]."""
    shake_hz: tuple[float, float] = (1.0, 5.0)
    """Range of its frequencies [Hz]."""
    shots: int = 5
    """Renders that are averaged into one blurred frame."""
    quality_crf: int = 18
    """Of x264; smaller is better."""


def synthesize_video(
    scene: Scene,
    output: Path,
    *,
    seed: int = 0,
    cfg: FilmCfg | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Path:
    """Film a procedural scene and make a capture of the film.

    Args:
        scene: A scene with a textured mesh.
        output: Folder of the capture; `<output>.truth/` gets `truth.npz`, `film.mp4` and `sharp/<name>.png`.
        seed: Of the walk, the shake and the noise.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: ffmpeg is not installed, or the scene has no textures or no path.
    """
    cfg, output = cfg or FilmCfg(), Path(output)
    check_photographable(scene, cfg.photos)
    rng = np.random.default_rng([seed, 20251])
    nodes = walk(scene, cfg.photos, rng)
    way = float(np.linalg.norm(np.diff(nodes[:, :3, 3], axis=0), axis=1).sum())
    # A frame fewer than candidates, so that the import takes every frame of the film and none twice.
    count = cfg.frames_per_image * cfg.photos.images - 1
    seconds = way / cfg.speed_m_s
    rate_hz = round(count / seconds, 3)
    trajectory = Trajectory(nodes, seconds, cfg, np.random.default_rng([seed, 20255]))
    with TemporaryDirectory(prefix="gaussgym-film-") as folder:
        film = Path(folder) / "film.mp4"
        _encode(film, _blurred(scene, trajectory, cfg, count, rate_hz, seed, progress), rate_hz, cfg)
        import_video(
            film, output,
            VideoCfg(frames=cfg.photos.images, candidates_per_frame=cfg.frames_per_image, licence="Apache-2.0"),
            progress=progress,
        )  # fmt: skip
        _write_film_truth(scene, output, film, trajectory, cfg)
    return output


class Trajectory:
    """Where the camera is at any time: splines through the poses of a walk, and a shaking hand."""

    def __init__(
        self, nodes: NDArray[np.float64], seconds: float, cfg: FilmCfg, rng: np.random.Generator
    ) -> None:
        """Lay splines through `nodes` `[n, 4, 4]`, evenly spread over a duration."""
        self.seconds = seconds
        times = np.linspace(0.0, seconds, len(nodes))
        self._places = CubicSpline(times, nodes[:, :3, 3])
        self._turns = RotationSpline(times, Rotation.from_matrix(nodes[:, :3, :3]))
        waves = 6
        self._hz = rng.uniform(*cfg.shake_hz, (waves, 3))
        self._phase = rng.uniform(0, 2 * np.pi, (waves, 3))
        self._amplitude = cfg.shake_rad * np.sqrt(2.0 / waves)

    def at(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Camera to world `[n, 4, 4]` at times `[n]`; before and after the walk the camera rests."""
        t = np.clip(time_s, 0.0, self.seconds)
        shake = self._amplitude * np.sin(2 * np.pi * self._hz * t[:, None, None] + self._phase).sum(axis=1)
        out = np.tile(np.eye(4), (len(t), 1, 1))
        out[:, :3, :3] = (self._turns(t) * Rotation.from_rotvec(shake)).as_matrix()
        out[:, :3, 3] = self._places(t)
        return out


def _blurred(
    scene: Scene,
    trajectory: Trajectory,
    cfg: FilmCfg,
    count: int,
    rate_hz: float,
    seed: int,
    progress: Callable[[str, float], None] | None,
) -> Iterator[NDArray[np.uint8]]:
    """Frames of the film: the mean of sharp renders over the exposure, then sensor noise."""
    photos = cfg.photos
    caster = MeshCaster(scene, true_camera(photos), supersample=1)
    opening = (np.arange(cfg.shots) + 0.5) / cfg.shots * cfg.exposure_s
    rows_s = (np.arange(photos.height) + 0.5) / photos.height * cfg.readout_s
    for index in range(count):
        total = np.zeros((photos.height, photos.width, 3), np.float32)
        for shot_s in index / rate_hz + opening:
            rows = (
                trajectory.at(shot_s + rows_s) if cfg.readout_s > 0 else trajectory.at(np.array([shot_s]))[0]
            )
            total += caster.render(rows)
        yield expose(total / np.float32(cfg.shots), photos, np.random.default_rng([seed, 20252, index]))
        if progress is not None:
            progress("film", (index + 1) / count)


def _encode(film: Path, frames: Iterator[NDArray[np.uint8]], rate_hz: float, cfg: FilmCfg) -> None:
    size = f"{cfg.photos.width}x{cfg.photos.height}"
    command = [program("ffmpeg"), "-nostdin", "-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{rate_hz:.3f}", "-i", "pipe:0"]
    command += ["-c:v", "libx264", "-crf", str(cfg.quality_crf), "-pix_fmt", "yuv420p", str(film)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            for frame in frames:
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass  # ffmpeg has said why
        message = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise InputError(
            f"{film.name}: ffmpeg cannot encode it ({message.splitlines()[-1:] or 'no reason given'})"
        )


def _write_film_truth(scene: Scene, output: Path, film: Path, trajectory: Trajectory, cfg: FilmCfg) -> None:
    """True cameras in the middle of each kept frame's exposure, and sharp renders from there."""
    capture = Capture.load(output, verify=False)
    middle_s = 0.5 * (cfg.exposure_s + cfg.readout_s)
    times = np.array([image.timestamp_s for image in capture.images], np.float64)
    c2w = trajectory.at(times + middle_s)
    camera = true_camera(cfg.photos)
    names = [image.file for image in capture.images]
    write_truth(output, names, c2w, camera)
    truth = truth_path(output).parent
    partial = truth.with_name(truth.name + ".partial")
    (partial / SHARP).mkdir(parents=True, exist_ok=True)
    caster = MeshCaster(scene, camera, supersample=cfg.photos.supersample)
    for name, pose in zip(names, c2w):
        pixels = np.clip(np.rint(caster.render(pose)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(partial / SHARP / f"{Path(name).stem}.png", compress_level=3)
    (partial / film.name).write_bytes(film.read_bytes())
    truth_path(output).rename(partial / truth_path(output).name)
    replace_directory(partial, truth)
