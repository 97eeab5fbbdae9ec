"""Synthetic captures with known truth: a phone is carried through a procedural scene.

Images are ray-cast from the scene's textured mesh, so that they are independent of its splats and of any splat
renderer. Lens distortion, exposure, sensor noise, JPEG and a GPS with correlated noise make them look like a phone's; a depth
sensor and the poses of visual-inertial odometry can be added, each with its own noise (:mod:`gaussgym_recon.sensors`). The
true poses and intrinsics go into a folder beside the capture that reconstruction never reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.artifact import replace_directory
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from PIL import Image

from gaussgym_recon.exif import FILM_DIAGONAL_MM, exif_block
from gaussgym_recon.georegister import gps_from_enu
from gaussgym_recon.meshcast import SKY_RGB, MeshCaster
from gaussgym_recon.sensors import SOURCE_UP, DepthSensorCfg, OdometryCfg, odometry_poses, sense_depth
from gaussgym_recon.sources.source import SourceCfg
from gaussgym_recon.sources.writing import Frame, write_capture
from gaussgym_recon.walks import camera_rotation, walk

if TYPE_CHECKING:
    from gaussgym_scene.scene import Scene
    from numpy.typing import NDArray

__all__ = [
    "SKY_RGB", "MeshCaster", "SynthesizeCfg", "Truth", "camera_rotation", "expose", "noisy_gps", "read_truth",
    "synthesize_capture", "true_camera", "truth_path", "walk", "write_truth",
]  # fmt: skip

START_S = 1_750_000_000.0
"""Time of the first picture, seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class SynthesizeCfg:
    """Of :func:`synthesize_capture`."""

    images: int = 84
    """Photographs, on the way there and on the way back."""
    width: int = 640
    """[px]."""
    height: int = 480
    """[px]."""
    focal_35mm: float = 26.0
    """35 mm equivalent focal length that the EXIF states [mm]."""
    focal_error_fraction: float = 0.002
    """True focal length over the stated one, less 1."""
    distortion_k1: float = -0.03
    """Radial distortion of the lens (OpenCV's k1)."""
    camera_height_m: float = 1.5
    """Mean height of the phone above the ground [m]."""
    lateral_m: float = 0.4
    """How far to the sides of the path the walker wanders [m]."""
    yaw_rad: float = np.radians(20.0)
    """Amplitude of looking left and right [rad]."""
    pitch_down_rad: float = np.radians(12.0)
    """Mean angle by which the phone looks down [rad]."""
    roll_std_rad: float = np.radians(1.5)
    """Of how level the phone is held [rad]."""
    end_margin_m: float = 1.5
    """How far before the ends of the path the walker turns [m]."""
    turn_images: int = 12
    """How many of the images are taken while turning round at the far end."""
    supersample: int = 2
    """Rays per pixel along each axis."""
    exposure_std: float = 0.02
    """Of the logarithm of each image's exposure."""
    noise_std: float = 1.5
    """Sensor noise at mid grey, of 255."""
    gps_std_m: float = 1.5
    """Standard deviation of a GPS fix along each horizontal axis [m]; three times that vertically."""
    gps_correlation_images: float = 8.0
    """After how many images the slowly varying part of the GPS error is forgotten."""
    origin_lat_lon_alt: tuple[float, float, float] = (47.3769, 8.5417, 408.0)
    """Where on Earth the scene's origin is put; +X is east."""
    jpeg_quality: int = 95
    gps: bool = True
    """Whether the photographs hold GPS fixes."""
    depth: DepthSensorCfg | None = None
    """A depth sensor beside the camera; with it the camera's calibration is known."""
    odometry: OdometryCfg | None = None
    """Poses by visual-inertial odometry, in metres and with gravity; with them the calibration is known too."""


@dataclass(frozen=True)
class Truth:
    """What :func:`read_truth` returns."""

    names: list[str]
    c2w: NDArray[np.float64]
    intrinsics: Intrinsics


def synthesize_capture(
    scene: Scene,
    output: Path,
    *,
    seed: int = 0,
    cfg: SynthesizeCfg | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Path:
    """Photograph a procedural scene along its longest path, there and back.

    The same scene, seed and settings give the same images.

    Args:
        scene: A scene with a textured mesh (`appearance`).
        output: Folder of the capture; the truth goes to `<output>.truth/truth.npz`.
        seed: Of the walk and the noise.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: The scene has no textures, or no path long enough.
    """
    cfg = cfg or SynthesizeCfg()
    check_photographable(scene, cfg)
    output = Path(output)
    rng = np.random.default_rng([seed, 20251])
    c2w = walk(scene, cfg, rng)
    gps = gps_from_enu(noisy_gps(c2w[:, :3, 3], cfg, rng), cfg.origin_lat_lon_alt)
    true = true_camera(cfg)
    known = true if cfg.depth is not None or cfg.odometry is not None else stated_camera(cfg)
    poses = None
    if cfg.odometry is not None:
        poses = odometry_poses(c2w, cfg.odometry, np.random.default_rng([seed, 20253]))
    caster = MeshCaster(scene, true, supersample=cfg.supersample)
    names = [f"images/{index + 1:04d}.jpg" for index in range(cfg.images)]

    def frames(folder: Path) -> Iterator[Frame]:
        for index, name in enumerate(names):
            pixels = expose(caster.render(c2w[index]), cfg, np.random.default_rng([seed, 20252, index]))
            place = (float(gps[index, 0]), float(gps[index, 1]), float(gps[index, 2])) if cfg.gps else None
            time_s = START_S + 1.2 * index
            exif = exif_block(focal_35mm=cfg.focal_35mm, gps_lat_lon_alt=place, timestamp_s=time_s)
            file = folder / Path(name).name
            Image.fromarray(pixels).save(file, quality=cfg.jpeg_quality, subsampling=0, exif=exif)
            frame = Frame(file.name, file, known, None if poses is None else poses[index], place, time_s)
            if cfg.depth is not None:
                depth_rng = np.random.default_rng([seed, 20254, index])
                frame.depth_m, frame.confidence = sense_depth(caster, c2w[index], cfg.depth, depth_rng)
            yield frame
            file.unlink()
            if progress is not None:
                progress("photographs", (index + 1) / cfg.images)

    with TemporaryDirectory(prefix="gaussgym-synth-") as folder:
        metadata = _metadata(scene, seed, cfg)
        write_capture(output, frames(Path(folder)), metadata, cfg=SourceCfg(licence="Apache-2.0"))
    write_truth(output, names, c2w, true)
    return output


def check_photographable(scene: Scene, cfg: SynthesizeCfg) -> None:
    """Check that a walk can be made and shows something.

    Raises:
        InputError: The scene has no textures, or there are too few images.
    """
    if scene.appearance is None:
        raise InputError(
            f"scene {scene.name}: has no textured mesh; expected a procedural scene, made with gaussgym-scene synth"
        )
    if cfg.images < 8 or cfg.turn_images > cfg.images // 2:
        raise InputError(f"{cfg.images} images with {cfg.turn_images} for turning round; expected 8 or more")


def stated_camera(cfg: SynthesizeCfg) -> Intrinsics:
    """What the EXIF says of the camera."""
    focal = cfg.focal_35mm / FILM_DIAGONAL_MM * float(np.hypot(cfg.width, cfg.height))
    return Intrinsics(
        width=cfg.width, height=cfg.height, fx=focal, fy=focal, cx=cfg.width / 2, cy=cfg.height / 2,
        focal_source="exif",
    )  # fmt: skip


def true_camera(cfg: SynthesizeCfg) -> Intrinsics:
    """The camera that takes the pictures."""
    stated = stated_camera(cfg)
    focal = stated.fx * (1 + cfg.focal_error_fraction)
    return replace(
        stated, fx=focal, fy=focal, distortion=(cfg.distortion_k1, 0.0, 0.0, 0.0), focal_source="calibrated"
    )


def _metadata(scene: Scene, seed: int, cfg: SynthesizeCfg) -> dict[str, Any]:
    sensed = cfg.depth is not None or cfg.odometry is not None
    known: dict[str, Any] = {"source": "synthetic", "ordered": True, "scene": scene.name, "seed": seed}
    known["scale_source"] = "sensor" if sensed else None
    if cfg.odometry is not None:
        known.update(metric=True, gravity_source="sensor", up=list(SOURCE_UP), poses_source="slam")
    return known


def truth_path(capture: Path) -> Path:
    """Where the truth of a synthetic capture lies."""
    capture = Path(capture)
    return capture.with_name(capture.name + ".truth") / "truth.npz"


def read_truth(capture: Path) -> Truth:
    """Read the true cameras of a synthetic capture; for judging results, never for making them.

    Raises:
        InputError: There is no truth beside the capture.
    """
    path = truth_path(capture)
    if not path.exists():
        raise InputError(f"{path}: not found; only synthetic captures come with the truth")
    with np.load(path, allow_pickle=False) as data:
        width, height, fx, fy, cx, cy, *distortion = data["intrinsics"].tolist()
        camera = Intrinsics(
            width=int(width), height=int(height), fx=fx, fy=fy, cx=cx, cy=cy, distortion=tuple(distortion)
        )
        return Truth([str(name) for name in data["names"]], data["c2w"], camera)


def write_truth(capture: Path, names: list[str], c2w: NDArray[np.float64], camera: Intrinsics) -> None:
    """Write the true cameras beside a capture; replaces what is there."""
    path = truth_path(capture)
    partial = path.parent.with_name(path.parent.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    numbers = [camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion]
    np.savez(partial / path.name, names=np.array(names), c2w=c2w, intrinsics=np.array(numbers))
    replace_directory(partial, path.parent)


def noisy_gps(
    positions: NDArray[np.float64], cfg: SynthesizeCfg, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Fixes with a slowly drifting and a white error: most of a phone's GPS error is shared by its neighbours.

    Args:
        positions: True places, east, north, up [m] `[n, 3]`.
        cfg: Noise.
        rng: Random numbers.

    Returns:
        East, north, up [m] `[n, 3]`.
    """
    std = cfg.gps_std_m * np.array([1.0, 1.0, 3.0])
    keep = np.exp(-1.0 / cfg.gps_correlation_images)
    drift = np.empty_like(positions)
    drift[0] = rng.normal(size=3)
    for index in range(1, len(positions)):
        drift[index] = keep * drift[index - 1] + np.sqrt(1 - keep**2) * rng.normal(size=3)
    white = rng.normal(size=positions.shape)
    return positions + std * (np.sqrt(0.8) * drift + np.sqrt(0.2) * white)


def expose(rgb: NDArray[np.float32], cfg: SynthesizeCfg, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply an exposure and sensor noise whose variance grows with the signal; `[h, w, 3]` of 255."""
    signal = rgb * np.float32(np.exp(rng.normal(0, cfg.exposure_std)))
    spread = cfg.noise_std * np.sqrt(0.3 + 0.7 * np.maximum(signal, 0) / 128.0)
    noise = rng.standard_normal(signal.shape, dtype=np.float32) * spread.astype(np.float32)
    return np.clip(np.rint(signal + noise), 0, 255).astype(np.uint8)
