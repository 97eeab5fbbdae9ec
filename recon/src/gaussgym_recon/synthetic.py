"""Synthetic captures with known truth: a phone is carried through a procedural scene.

Images are ray-cast from the scene's textured mesh, so that they are independent of its splats and of any splat
renderer. Lens distortion, exposure, sensor noise, JPEG and a GPS with correlated noise make them look like a phone's;
the true poses and intrinsics go into a folder beside the capture that reconstruction never reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.artifact import ArtifactWriter, replace_directory
from gaussgym_scene.cameras import Intrinsics, pixel_rays_c
from gaussgym_scene.capture import FORMAT, MANIFEST, VERSION, Capture, CaptureImage
from gaussgym_scene.errors import InputError
from numba import njit, prange
from PIL import Image

from gaussgym_recon.exif import FILM_DIAGONAL_MM, exif_block
from gaussgym_recon.georegister import gps_from_enu

if TYPE_CHECKING:
    from gaussgym_scene.scene import Scene
    from numpy.typing import NDArray

SKY_RGB = (196, 212, 230)
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
    if scene.appearance is None:
        raise InputError(
            f"scene {scene.name}: has no textured mesh; expected a procedural scene, made with gaussgym-scene synth"
        )
    if cfg.images < 8 or cfg.turn_images > cfg.images // 2:
        raise InputError(f"{cfg.images} images with {cfg.turn_images} for turning round; expected 8 or more")
    output = Path(output)
    rng = np.random.default_rng([seed, 20251])
    c2w = walk(scene, cfg, rng)
    stated = cfg.focal_35mm / FILM_DIAGONAL_MM * float(np.hypot(cfg.width, cfg.height))
    true_camera = Intrinsics(
        width=cfg.width,
        height=cfg.height,
        fx=stated * (1 + cfg.focal_error_fraction),
        fy=stated * (1 + cfg.focal_error_fraction),
        cx=cfg.width / 2,
        cy=cfg.height / 2,
        distortion=(cfg.distortion_k1, 0.0, 0.0, 0.0),
    )
    gps = gps_from_enu(noisy_gps(c2w[:, :3, 3], cfg, rng), cfg.origin_lat_lon_alt)
    known = Intrinsics(
        width=cfg.width,
        height=cfg.height,
        fx=stated,
        fy=stated,
        cx=cfg.width / 2,
        cy=cfg.height / 2,
        focal_source="exif",
    )
    caster = MeshCaster(scene, true_camera, supersample=cfg.supersample)
    names = [f"images/{index + 1:04d}.jpg" for index in range(cfg.images)]
    with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        (writer.path / "images").mkdir()
        entries = []
        for index, name in enumerate(names):
            image_rng = np.random.default_rng([seed, 20252, index])
            pixels = expose(caster.render(c2w[index]), cfg, image_rng)
            place = (float(gps[index, 0]), float(gps[index, 1]), float(gps[index, 2]))
            time_s = START_S + 1.2 * index
            exif = exif_block(focal_35mm=cfg.focal_35mm, gps_lat_lon_alt=place, timestamp_s=time_s)
            Image.fromarray(pixels).save(
                writer.path / name, quality=cfg.jpeg_quality, subsampling=0, exif=exif
            )
            entries.append(CaptureImage(name, known, place, None, time_s))
            if progress is not None:
                progress("photographs", (index + 1) / cfg.images)
        metadata = {
            "source": "synthetic",
            "ordered": True,
            "scene": scene.name,
            "seed": seed,
            "licence": "Apache-2.0",
        }
        writer.fields.update(Capture(writer.path, entries, metadata).manifest_fields())
        _write_truth(output, names, c2w, true_camera)
    return output


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


def _write_truth(capture: Path, names: list[str], c2w: NDArray[np.float64], camera: Intrinsics) -> None:
    path = truth_path(capture)
    partial = path.parent.with_name(path.parent.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    numbers = [camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion]
    np.savez(partial / path.name, names=np.array(names), c2w=c2w, intrinsics=np.array(numbers))
    replace_directory(partial, path.parent)


def walk(scene: Scene, cfg: SynthesizeCfg, rng: np.random.Generator) -> NDArray[np.float64]:
    """Poses of a phone that is carried along the scene's longest path and back.

    The walker looks where they go, a little down, left and right by turns, and turns round at the far end.

    Returns:
        Camera-to-world `[images, 4, 4]`.
    """
    line, half_width = _longest_path(scene)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    margin = min(cfg.end_margin_m, 0.1 * float(arc[-1]))
    start, end = margin, float(arc[-1]) - margin
    if end - start < 1.0:
        raise InputError(f"scene {scene.name}: longest path is {arc[-1]:.1f} m, expected 1.3 m or more")
    there = (cfg.images - cfg.turn_images + 1) // 2
    back = cfg.images - cfg.turn_images - there
    turn = np.full(cfg.turn_images, end)
    s = np.concatenate([np.linspace(start, end, there), turn, np.linspace(end, start, back)])
    s = np.clip(s + rng.normal(0, 0.04, cfg.images), 0, arc[-1])
    xy = np.stack([np.interp(s, arc, line[:, axis]) for axis in range(2)], axis=1)
    tangent = np.stack([np.interp(s, arc, np.gradient(line[:, axis], arc)) for axis in range(2)], axis=1)
    heading = np.arctan2(tangent[:, 1], tangent[:, 0])
    left = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    turned = np.concatenate([np.zeros(there), np.linspace(0, 1, cfg.turn_images + 2)[1:-1], np.ones(back)])
    phase = rng.uniform(0, 2 * np.pi, 3)
    swing = np.arange(cfg.images)
    lateral = min(cfg.lateral_m, max(half_width - 0.2, 0.0))
    side = lateral * (0.4 * np.sin(swing / 5.3 + phase[0]) + 0.6 * np.cos(np.pi * turned))
    xy += side[:, None] * left
    yaw = heading + np.pi * turned
    yaw += cfg.yaw_rad * np.sin(swing / 2.1 + phase[1]) + rng.normal(0, np.radians(3.0), cfg.images)
    pitch = -cfg.pitch_down_rad + np.radians(6.0) * np.sin(swing / 3.7 + phase[2])
    pitch += rng.normal(0, np.radians(1.5), cfg.images)
    roll = rng.normal(0, cfg.roll_std_rad, cfg.images)
    z = scene.heightfield.sample(xy) + cfg.camera_height_m + rng.normal(0, 0.025, cfg.images)
    c2w = np.tile(np.eye(4), (cfg.images, 1, 1))
    c2w[:, :3, :3] = camera_rotation(yaw, pitch, roll)
    c2w[:, :2, 3], c2w[:, 2, 3] = xy, z
    return c2w


def _longest_path(scene: Scene) -> tuple[NDArray[np.float64], float]:
    """Centre line `[n, 2]` and smallest half width of the longest path."""
    best: tuple[float, NDArray[np.float64], float] | None = None
    for number in np.unique(scene.paths.path_id):
        chosen = scene.paths.path_id == number
        line = np.asarray(scene.paths.points[chosen, :2], dtype=np.float64)
        if len(line) < 2:
            continue
        length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
        if best is None or length > best[0]:
            best = (length, line, float(scene.paths.half_width_m[chosen].min()))
    if best is None:
        raise InputError(f"scene {scene.name}: has no path to walk along")
    return best[1], best[2]


def camera_rotation(
    yaw: NDArray[np.float64], pitch: NDArray[np.float64], roll: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Camera-to-world rotations of OpenCV cameras from heading, elevation and roll [rad].

    Args:
        yaw: Heading of the view axis, counter-clockwise from +X `[n]`.
        pitch: Elevation of the view axis above the horizon `[n]`.
        roll: Turn about the view axis, positive tilts the right side of the image down `[n]`.

    Returns:
        `[n, 3, 3]`.
    """
    yaw, pitch, roll = np.broadcast_arrays(yaw, pitch, roll)
    forward = np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], axis=-1)
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=-1)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll)[..., None], np.sin(roll)[..., None]
    return np.stack([cos * right + sin * down, cos * down - sin * right, forward], axis=-1)


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


class MeshCaster:
    """Renders a scene's textured mesh by ray-casting, with lens distortion and mip-mapped textures."""

    def __init__(self, scene: Scene, intrinsics: Intrinsics, *, supersample: int = 2) -> None:
        """Build the ray-casting structure.

        Args:
            scene: With `appearance`.
            intrinsics: The camera, its distortion is applied.
            supersample: Rays per pixel along each axis.
        """
        import open3d as o3d

        if scene.appearance is None:
            raise InputError(f"scene {scene.name}: has no textured mesh")
        mesh, look = scene.mesh, scene.appearance
        self._o3d: Any = o3d
        self._casting = o3d.t.geometry.RaycastingScene(nthreads=os.cpu_count() or 1)
        self._casting.add_triangles(
            o3d.core.Tensor(np.ascontiguousarray(mesh.vertices, np.float32)),
            o3d.core.Tensor(np.ascontiguousarray(mesh.faces, np.uint32)),
        )
        self._size = intrinsics.height, intrinsics.width, supersample
        fine = intrinsics.resized(intrinsics.width * supersample, intrinsics.height * supersample)
        self._rays_c = pixel_rays_c(fine).reshape(-1, 3)
        self._ray_width = 1.0 / fine.fx
        self._corners = mesh.vertices[mesh.faces].astype(np.float64)
        self._uv = np.ascontiguousarray(look.uv, np.float32)
        self._texture_id = np.ascontiguousarray(look.texture_id, np.int32)
        self._texels, self._levels, self._level_of = _mip_maps(look.textures)
        self._normals, self._texels_per_m = _face_scales(self._corners, look)

    def render(self, c2w: NDArray[np.float64]) -> NDArray[np.float32]:
        """Colours of 255, `[height, width, 3]`."""
        height, width, supersample = self._size
        rays = np.empty((len(self._rays_c), 6), np.float32)
        rays[:, :3] = c2w[:3, 3]
        rays[:, 3:] = self._rays_c @ c2w[:3, :3].T
        hit = self._casting.cast_rays(self._o3d.core.Tensor(rays))
        out = np.empty((height, width, 3), np.float32)
        _shade(
            rays[:, 3:],
            hit["t_hit"].numpy(),
            hit["primitive_ids"].numpy(),
            hit["primitive_uvs"].numpy(),
            self._uv,
            self._texture_id,
            self._normals,
            self._texels_per_m,
            self._ray_width,
            self._texels,
            self._levels,
            self._level_of,
            supersample,
            np.array(SKY_RGB, np.float32),
            out,
        )
        return out


def _face_scales(corners: NDArray[np.float64], look: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit normals `[F, 3]` and texels per metre `[F]` of faces."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double_area = np.linalg.norm(cross, axis=1)
    normals = cross / np.maximum(double_area, 1e-12)[:, None]
    sizes = np.array([[t.shape[1], t.shape[0]] for t in look.textures], np.float64)[look.texture_id]
    a, b = (look.uv[:, k].astype(np.float64) - look.uv[:, 0] for k in (1, 2))
    texel_area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) * sizes.prod(axis=1)
    density = np.sqrt(texel_area / np.maximum(double_area, 1e-12))
    return normals.astype(np.float32), density.astype(np.float32)


def _mip_maps(
    textures: list[NDArray[np.uint8]],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
    """All levels of all textures in one array of texels; rows (start, height, width) and (first row, count)."""
    texels, levels, level_of, start = [], [], [], 0
    for texture in textures:
        first, level = len(levels), texture.astype(np.float32)
        while True:
            height, width = level.shape[:2]
            texels.append(np.clip(np.rint(level), 0, 255).astype(np.uint8).reshape(-1, 3))
            levels.append((start, height, width))
            start += height * width
            if min(height, width) < 2:
                break
            level = level[: height // 2 * 2, : width // 2 * 2]
            level = level.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
        level_of.append((first, len(levels) - first))
    return np.concatenate(texels), np.array(levels, np.int64), np.array(level_of, np.int32)


@njit(cache=True)
def _bilinear(texels, start, height, width, u, v, weight, color):  # noqa: ANN001, ANN202
    """Add `weight` times the texture at (u, v) to `color`; textures repeat, texel centres lie at halves."""
    x, y = u * width - 0.5, v * height - 0.5
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - x0, y - y0
    for dy in range(2):
        row = (y0 + dy) % height
        for dx in range(2):
            column = (x0 + dx) % width
            share = weight * (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
            texel = texels[start + row * width + column]
            for channel in range(3):
                color[channel] += share * texel[channel]


@njit(parallel=True, cache=True)
def _shade(  # noqa: ANN202
    directions, distance, face_of, corner_uv, uv, texture_id, normals, texels_per_m, ray_width,  # noqa: ANN001
    texels, levels, level_of, supersample, sky, out,  # noqa: ANN001
):  # fmt: skip
    """Trilinear texture lookup of each ray, averaged over the rays of a pixel (Williams 1983)."""
    height, width = out.shape[:2]
    share = 1.0 / (supersample * supersample)
    for row in prange(height):
        color = np.zeros(3)
        for column in range(width):
            color[:] = 0.0
            for sub in range(supersample * supersample):
                ray_row = row * supersample + sub // supersample
                ray = ray_row * width * supersample + column * supersample + sub % supersample
                if not np.isfinite(distance[ray]):
                    color += share * sky
                    continue
                face = face_of[ray]
                b, c = corner_uv[ray, 0], corner_uv[ray, 1]
                a = 1.0 - b - c
                u = a * uv[face, 0, 0] + b * uv[face, 1, 0] + c * uv[face, 2, 0]
                v = a * uv[face, 0, 1] + b * uv[face, 1, 1] + c * uv[face, 2, 1]
                d = directions[ray]
                length = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
                n = normals[face]
                facing = abs(d[0] * n[0] + d[1] * n[1] + d[2] * n[2]) / length
                spread = distance[ray] * ray_width * texels_per_m[face] / np.sqrt(max(facing, 0.02))
                first, count = level_of[texture_id[face]]
                level = min(max(np.log2(max(spread, 1e-6)), 0.0), count - 1.0)
                low = int(level)
                blend = level - low
                start, rows, columns = levels[first + low]
                _bilinear(texels, start, rows, columns, u, v, share * (1 - blend), color)
                if blend > 0:
                    start, rows, columns = levels[first + min(low + 1, count - 1)]
                    _bilinear(texels, start, rows, columns, u, v, share * blend, color)
            for channel in range(3):
                out[row, column, channel] = color[channel]
