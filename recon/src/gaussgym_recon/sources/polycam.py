"""Polycam's raw export → a capture: images, ARKit poses after the app's optimisation, LiDAR depth, mesh points.

Layout (Polycam's own notes, github.com/PolyCam/polyform): `keyframes/` with `images`, `cameras`, `depth`, `confidence`
and, where the app could optimise the poses, `corrected_images` (without distortion) and `corrected_cameras`; one file
each a keyframe, named by its time in µs. Poses are camera-to-world in ARKit's frame: metres, +Y up by gravity, OpenGL
camera axes.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import OPENCV_FROM_OPENGL, inverse_rigid, transform_points
from numpy.typing import NDArray

from gaussgym_recon.sources.phone_files import camera_of, kept_of, levels, read_depth_m, read_grey8
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.trajectory import orthonormal
from gaussgym_recon.sources.writing import Frame, write_capture

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
HOW = "export it again with Polycam's developer mode on (raw data)"


@dataclass(frozen=True, kw_only=True)
class PolycamCfg(SourceCfg):
    """Settings of Polycam's exports."""

    frames: int | None = 150
    """Most images to keep; the sharpest of equal spans, by the app's own blur score."""
    optimised: bool = True
    """Take the poses and undistorted images that the app optimised, where the export has them."""
    border_fraction: float = 0.015
    """Masked rim of the undistorted images, of the long side: their undistortion leaves black there."""


@dataclass(frozen=True)
class _Keyframe:
    stem: str
    image: Path
    camera: dict[str, Any]
    camera_file: Path
    depth: Path | None
    confidence: Path | None


def import_polycam(
    path: Path, output: Path, cfg: PolycamCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of a raw export of Polycam.

    Args:
        path: The export's folder, or the zip that the app shares.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: No keyframes, counts that do not match, a camera or depth that cannot be read.
    """
    cfg = cfg or PolycamCfg()
    with _unpacked(Path(path)) as root:
        keyframes, optimised = _keyframes(root, cfg)
        kept = kept_of(len(keyframes), cfg.frames, lambda index: _blur_score(keyframes[index]))
        metadata = {
            "source": "polycam",
            "source_app": "Polycam",
            "ordered": True,
            "metric": True,
            "scale_source": "sensor",
            "gravity_source": "sensor",
            "up": [0.0, 1.0, 0.0],
            "poses_source": "arkit",
            "poses_optimised": optimised,
        }
        frames = _frames([keyframes[index] for index in kept], cfg.border_fraction if optimised else 0.0)
        points = _mesh_points(root)
        return write_capture(output, frames, metadata, points, cfg=cfg, total=len(kept), progress=progress)


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The folder that holds `keyframes`, unpacked where the export is still a zip."""
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path}: is no zip; expected Polycam's raw export, a folder or a zip")
        with tempfile.TemporaryDirectory(prefix="gaussgym-polycam-") as temporary:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(temporary)
            yield _root(Path(temporary), path)
    elif path.is_dir():
        yield _root(path, path)
    else:
        raise InputError(f"{path}: not found; expected Polycam's raw export, a folder or a zip")


def _root(folder: Path, named: Path) -> Path:
    for place in (folder, *sorted(child for child in folder.iterdir() if child.is_dir())):
        if (place / "keyframes").is_dir():
            return place
    raise InputError(f"{named}: has no folder `keyframes`; {HOW}")


def _keyframes(root: Path, cfg: PolycamCfg) -> tuple[list[_Keyframe], bool]:
    """All keyframes in order of time, and whether they are the optimised ones."""
    folder = root / "keyframes"
    optimised = cfg.optimised and (folder / "corrected_cameras").is_dir()
    if optimised and not (folder / "corrected_images").is_dir():
        raise InputError(f"{folder}: has `corrected_cameras` but no `corrected_images`; {HOW}")
    prefix = "corrected_" if optimised else ""
    images = _by_stem(folder / f"{prefix}images", IMAGE_SUFFIXES)
    cameras = _by_stem(folder / f"{prefix}cameras", (".json",))
    if not images:
        raise InputError(f"{folder / (prefix + 'images')}: holds no images; {HOW}")
    _same_stems(folder, images, f"{prefix}images", cameras, f"{prefix}cameras")
    maps: dict[str, dict[str, Path]] = {}
    for kind in ("depth", "confidence"):
        maps[kind] = _by_stem(folder / kind, (".png",))
        if maps[kind]:
            _same_stems(folder, images, f"{prefix}images", maps[kind], kind)
    if maps["confidence"] and not maps["depth"]:
        raise InputError(f"{folder}: has `confidence` but no `depth`; {HOW}")
    stems = sorted(images, key=lambda stem: (len(stem), stem))
    found = [
        _Keyframe(
            stem,
            images[stem],
            _read_camera(cameras[stem]),
            cameras[stem],
            maps["depth"].get(stem),
            maps["confidence"].get(stem),
        )
        for stem in stems
    ]
    return found, optimised


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    files = [file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.name[0] != "."]
    return {file.stem: file for file in files}


def _same_stems(folder: Path, a: dict[str, Path], a_name: str, b: dict[str, Path], b_name: str) -> None:
    """Refuse keyframes that one folder has and the other lacks."""
    for here, here_name, there, there_name in ((a, a_name, b, b_name), (b, b_name, a, a_name)):
        missing = sorted(set(here) - set(there))
        if missing:
            raise InputError(
                f"{folder}: {len(missing)} of {len(here)} keyframes in `{here_name}` are not in `{there_name}`, "
                f"such as {missing[0]}; {HOW}"
            )


def _read_camera(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text())
        keys = ("fx", "fy", "cx", "cy", "width", "height", *(f"t_{r}{c}" for r in range(3) for c in range(4)))
        return {**fields, **{key: float(fields[key]) for key in keys}}
    except KeyError as error:
        raise InputError(f"{file}: lacks {error}; {HOW}") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: is no camera ({error}); {HOW}") from None


def _blur_score(keyframe: _Keyframe) -> float:
    """Polycam's score: lower is more blurred."""
    return float(keyframe.camera.get("blur_score", 0.0))


def _frames(keyframes: list[_Keyframe], border_fraction: float) -> Iterator[Frame]:
    for keyframe in keyframes:
        fields, file = keyframe.camera, keyframe.camera_file
        intrinsics = camera_of(keyframe.image, fields, what=file)
        rows = [[fields[f"t_{r}{c}"] for c in range(4)] for r in range(3)]
        c2w = orthonormal(np.array([*rows, [0, 0, 0, 1]]), str(file)) @ OPENCV_FROM_OPENGL
        depth = None if keyframe.depth is None else read_depth_m(keyframe.depth)
        confidence = None
        if keyframe.confidence is not None and depth is not None:
            confidence = levels(read_grey8(keyframe.confidence, depth.shape), low=0, high=255)
        yield Frame(
            name=keyframe.image.name,
            image=keyframe.image,
            intrinsics=intrinsics,
            c2w=c2w,
            timestamp_s=_time_s(keyframe),
            depth_m=depth,
            confidence=confidence,
            mask=_rim(intrinsics, border_fraction),
        )


def _time_s(keyframe: _Keyframe) -> float | None:
    """Files are named by the time in µs."""
    return int(keyframe.stem) * 1e-6 if keyframe.stem.isdigit() else None


def _rim(intrinsics: Intrinsics, fraction: float) -> NDArray[np.bool_] | None:
    width = round(fraction * max(intrinsics.width, intrinsics.height))
    if width < 1:
        return None
    mask = np.zeros((intrinsics.height, intrinsics.width), np.bool_)
    mask[width:-width, width:-width] = True
    return mask


def _mesh_points(root: Path) -> NDArray[np.float64] | None:
    """Vertices of the app's mesh in the cameras' frame: the file holds them after `alignmentTransform`."""
    mesh_file, info_file = root / "raw.glb", root / "mesh_info.json"
    if not mesh_file.is_file():
        return None
    try:
        numbers = json.loads(info_file.read_text())["alignmentTransform"]
        alignment = np.array(numbers, dtype=np.float64).reshape(4, 4).T
    except FileNotFoundError:
        raise InputError(f"{info_file}: not found, but {mesh_file.name} needs its transform; {HOW}") from None
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{info_file}: lacks 16 numbers `alignmentTransform` ({error}); {HOW}") from None
    import open3d as o3d

    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        vertices = np.asarray(o3d.io.read_triangle_mesh(mesh_file).vertices)
    if len(vertices) == 0 or not np.isfinite(vertices).all():
        raise InputError(f"{mesh_file}: holds no finite vertices; {HOW}, or delete the file")
    arkit_from_mesh = inverse_rigid(orthonormal(alignment, str(info_file)))
    return np.asarray(transform_points(arkit_from_mesh, vertices), np.float64)


SOURCE = Source(import_polycam, PolycamCfg, "a raw export of Polycam, its folder or zip")
