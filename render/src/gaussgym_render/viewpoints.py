"""Sets of cameras for rendering a scene from the command line: read from JSON, taken from the scene, or placed on its paths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene import InputError, Intrinsics, Scene
from gaussgym_scene.frames import look_at
from numpy.typing import NDArray

FORMAT = "gaussgym-cameras"
VERSION = 1


@dataclass
class Viewpoints:
    """C pinhole cameras of one image size.

    Attributes:
        names: One per camera, used as file names.
        c2w: Camera to world `[C, 4, 4]`, OpenCV axes.
        K: Calibration matrices `[C, 3, 3]` [px].
        width: Image width [px].
        height: Image height [px].
    """

    names: list[str]
    c2w: NDArray[np.float64]
    K: NDArray[np.float64]
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.names)

    def resized(self, width: int, height: int) -> Viewpoints:
        """The same cameras read out at another size [px]."""
        scale = np.array([[width / self.width], [height / self.height], [1.0]])
        return Viewpoints(self.names, self.c2w, self.K * scale, width, height)

    def to_json(self) -> dict[str, Any]:
        """What `load_viewpoints` reads."""
        cameras = [
            {"name": name, "c2w": pose.tolist(), "K": k.tolist()}
            for name, pose, k in zip(self.names, self.c2w, self.K)
        ]
        return {
            "format": FORMAT,
            "version": VERSION,
            "width_px": self.width,
            "height_px": self.height,
            "cameras": cameras,
        }


def load_viewpoints(path: Path) -> Viewpoints:
    """Read a camera file.

    The file is JSON: `{"format": "gaussgym-cameras", "version": 1, "width_px": W, "height_px": H, "cameras": [{"name": "a",
    "c2w": 4x4 nested lists, OpenCV axes, "K": 3x3 nested lists [px]}, …]}`.

    Args:
        path: The file.

    Raises:
        InputError: If it is not such a file.
    """
    try:
        fields = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not a JSON file ({error}); expected a camera file (--help shows one)"
        ) from None
    head = (fields.get("format"), fields.get("version")) if isinstance(fields, dict) else None
    if head != (FORMAT, VERSION):
        raise InputError(f"{path}: format and version are {head}, expected {(FORMAT, VERSION)}")
    try:
        entries = fields["cameras"]
        names = [str(entry.get("name", f"{i:06d}")) for i, entry in enumerate(entries)]
        c2w = np.array([entry["c2w"] for entry in entries], np.float64)
        k = np.array([entry["K"] for entry in entries], np.float64)
        width, height = int(fields["width_px"]), int(fields["height_px"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: a camera lacks or misuses {error}; expected c2w 4x4 and K 3x3 for each"
        ) from None
    if not names or c2w.shape[1:] != (4, 4) or k.shape[1:] != (3, 3):
        raise InputError(
            f"{path}: holds {len(names)} cameras with c2w {c2w.shape[1:]} and K {k.shape[1:]}, "
            "expected at least one with (4, 4) and (3, 3)"
        )
    if width < 1 or height < 1:
        raise InputError(f"{path}: image size {width}x{height} px, expected at least 1x1")
    check_names(path, names)
    return Viewpoints(names, c2w, k, width, height)


def check_names(where: object, names: list[str]) -> None:
    """Raise an `InputError` if camera names are not distinct plain file names."""
    for name in names:
        if not name or name in (".", "..") or any(c in name for c in "/\\\0"):
            raise InputError(f"{where}: camera name {name!r} is no plain file name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: camera name {twice!r} occurs twice, expected distinct names")


def scene_viewpoints(scene: Scene) -> Viewpoints:
    """The cameras a scene brings: those it was reconstructed from, else ones on its paths."""
    recorded = scene.metadata.get("cameras")
    return path_viewpoints(scene) if not recorded else _recorded_viewpoints(scene.name, recorded)


def _recorded_viewpoints(where: str, recorded: dict[str, Any]) -> Viewpoints:
    """Cameras of the photographs, without their lens distortion."""
    try:
        intrinsics = Intrinsics.from_dict(recorded["intrinsics"])
        c2w = np.array(recorded["c2w"], np.float64).reshape(-1, 4, 4)
        names = [Path(name).stem for name in recorded["names"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"scene {where}: its recorded cameras lack or misuse {error}; build it again"
        ) from None
    check_names(f"scene {where}", names)
    k = np.tile(intrinsics.K, (len(names), 1, 1))
    return Viewpoints(names, c2w, k, intrinsics.width, intrinsics.height)


def path_viewpoints(
    scene: Scene,
    *,
    width: int = 640,
    height: int = 480,
    horizontal_fov_rad: float = np.pi / 2,
    camera_height_m: float = 0.4,
    pitch_rad: float = 0.35,
    step_m: float = 1.0,
) -> Viewpoints:
    """Cameras along a scene's paths, as a quadruped carries them.

    Args:
        scene: A scene with paths.
        width: Image width [px].
        height: Image height [px].
        horizontal_fov_rad: Horizontal field of view.
        camera_height_m: Above the ground.
        pitch_rad: How far the camera looks down.
        step_m: Distance between neighbours on a path.

    Raises:
        InputError: If the scene has no paths.
    """
    paths = scene.paths
    if not len(paths):
        raise InputError(f"scene {scene.name}: has no paths to place cameras on; give a camera file")
    tick = np.floor(paths.arc_length_m() / step_m)
    first = np.diff(paths.path_id, prepend=paths.path_id[:1] - 1) != 0
    chosen = np.flatnonzero(first | (np.diff(tick, prepend=-1) != 0))
    x, y, z, yaw = paths.points[chosen].astype(np.float64).T
    eyes = np.stack([x, y, z + camera_height_m], -1)
    ahead = np.stack([np.cos(yaw), np.sin(yaw), np.full_like(yaw, -np.tan(pitch_rad))], -1)
    c2w = np.stack([look_at(eye, eye + step) for eye, step in zip(eyes, ahead)]).astype(np.float64)
    intrinsics = Intrinsics.from_fov(width, height, horizontal_fov_rad)
    names = [f"{i:06d}" for i in range(len(c2w))]
    return Viewpoints(names, c2w, np.tile(intrinsics.K, (len(c2w), 1, 1)), width, height)
