"""Record3D's `.r3d` → a capture: images, ARKit poses, LiDAR depth and its confidence.

Layout (the author's answers, github.com/marek-simonik/record3d issues 7, 27, 33, 36, 83, 93): a zip of `metadata`, a JSON
object, and `rgbd/<i>.jpg`, `<i>.depth`, `<i>.conf`. `K` is a 3x3 matrix column by column, `perFrameIntrinsicCoeffs` fx
fy cx cy of each image where the app stored them; `poses` are qx qy qz qw x y z, camera to world, metres, OpenGL axes.
Depth is float32 [m], confidence uint8 0 to 2, both compressed by LZFSE.

Gravity: poses are ARKit's with +Y up, unless the recording starts at the identity. Then they count from the first camera,
and gravity is known only where `initPose` holds that camera's pose.
"""

from __future__ import annotations

import importlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import OPENCV_FROM_OPENGL, matrix_from_quat_wxyz, rigid
from numpy.typing import NDArray

from gaussgym_recon.sources.phone_files import image_size, kept_of, same_aspect, scaled_camera, thinned
from gaussgym_recon.sources.selection import image_sharpness
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.writing import Frame, write_capture

LIDAR_SIZES = ((256, 192), (192, 256))
"""Height and width of LiDAR depth where old recordings do not say: portrait, landscape."""
IDENTITY_TOLERANCE = 0.02
"""A first rotation nearer to the identity than this (about a degree, any element) starts a relative recording: nobody holds
a phone so level by chance, and a level one that is taken for it only loses what a ground plane tells as well."""
CENTRED_FRACTION = 0.15
"""Principal points lie this near to the middle, of the image's size."""
HOW = "share the recording again as `.r3d`"


@dataclass(frozen=True, kw_only=True)
class Record3dCfg(SourceCfg):
    """Settings of Record3D's recordings."""

    frames: int | None = 150
    """Most images to keep; the sharpest of equal spans."""
    depth: bool = True
    """Read the depth; needs the package `pyliblzfse`."""
    candidates_per_frame: int = 4
    """Images that are looked at for each that is kept."""


@dataclass(frozen=True)
class _Recording:
    name: str
    read: Callable[[str], bytes]
    scratch: Path
    files: frozenset[str]
    fields: dict[str, Any]
    poses: NDArray[np.float64]
    times_s: NDArray[np.float64]

    def file(self, index: int, suffix: str) -> str:
        return f"rgbd/{index}.{suffix}"

    def image(self, index: int) -> Path:
        """The image as a file of its own; InputError where it is damaged."""
        file = self.scratch / f"{index:06d}.jpg"
        if not file.exists():
            file.write_bytes(self.read(self.file(index, "jpg")))
            try:
                image_size(file)
            except InputError:
                raise InputError(f"{self.name}: image {index} is damaged; {HOW}") from None
        return file


def import_record3d(
    path: Path, output: Path, cfg: Record3dCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of a recording of Record3D.

    Args:
        path: The `.r3d` file, or the folder that it was unpacked to.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: No such recording, counts that do not match, poses or depth that cannot be read, or pyliblzfse is
            missing.
    """
    cfg = cfg or Record3dCfg()
    with _opened(Path(path)) as recording:
        poses, gravity = _world_poses(recording)
        candidates = thinned(len(poses), cfg.frames, cfg.candidates_per_frame)
        kept = kept_of(
            len(candidates), cfg.frames, lambda index: image_sharpness(recording.image(candidates[index]))
        )
        metadata = {
            "source": "record3d",
            "source_app": "Record3D",
            "ordered": True,
            "metric": True,
            "scale_source": "sensor",
            "gravity_source": "sensor" if gravity else None,
            "up": [0.0, 1.0, 0.0] if gravity else None,
            "poses_source": "arkit",
        }
        frames = _frames(recording, poses, [candidates[index] for index in kept], cfg)
        return write_capture(output, frames, metadata, cfg=cfg, total=len(kept), progress=progress)


@contextmanager
def _opened(path: Path) -> Iterator[_Recording]:
    with tempfile.TemporaryDirectory(prefix="gaussgym-record3d-") as scratch, _files(path) as (files, read):
        yield _recording(path, files, read, Path(scratch))


@contextmanager
def _files(path: Path) -> Iterator[tuple[frozenset[str], Callable[[str], bytes]]]:
    """Names of the recording's files, and how to read one."""
    if path.is_dir():
        files = frozenset(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        yield files, lambda name: (path / name).read_bytes()
    elif not path.is_file():
        raise InputError(f"{path}: not found; expected a recording of Record3D (.r3d)")
    elif not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is no zip, so it is cut short or no .r3d; {HOW}")
    else:
        with zipfile.ZipFile(path) as archive:

            def read(name: str) -> bytes:
                try:
                    return archive.read(name)
                except (zipfile.BadZipFile, OSError, EOFError) as error:
                    raise InputError(f"{path}: {name} is damaged ({error}); {HOW}") from None

            yield frozenset(archive.namelist()), read


def _recording(path: Path, files: frozenset[str], read: Callable[[str], bytes], scratch: Path) -> _Recording:
    """Check that images, depths, poses and times go together."""
    if "metadata" not in files:
        hint = "; this is the EXR export" if any(name.endswith(".exr") for name in files) else ""
        raise InputError(f"{path}: has no file `metadata`{hint}; {HOW}")
    try:
        fields = json.loads(read("metadata"))
        poses = np.array(fields["poses"], dtype=np.float64).reshape(-1, 7)
        rate_hz = float(fields.get("fps") or 0)
        times = fields.get("frameTimestamps")
        times_s = np.arange(len(poses)) / (rate_hz or 1.0) if times is None else np.array(times, np.float64)
        sizes = {key: int(fields[key]) for key in ("w", "h")}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: metadata lacks or misuses {error}; {HOW}") from None
    images = sum(name.startswith("rgbd/") and name.endswith(".jpg") for name in files)
    depths = sum(name.startswith("rgbd/") and name.endswith(".depth") for name in files)
    if images != len(poses) or len(times_s) != len(poses):
        raise InputError(
            f"{path}: {images} images, {len(poses)} poses, {len(times_s)} times; expected as many of each, {HOW}"
        )
    if images == 0:
        raise InputError(f"{path}: holds no images `rgbd/<i>.jpg`; {HOW}")
    if depths not in (0, images):
        raise InputError(
            f"{path}: {depths} depth images for {images} images; expected as many or none, {HOW}"
        )
    for index in range(images):
        if f"rgbd/{index}.jpg" not in files or (depths and f"rgbd/{index}.depth" not in files):
            raise InputError(f"{path}: frame {index} of {images} lacks its image or its depth; {HOW}")
    if not np.isfinite(times_s).all():
        raise InputError(f"{path}: frameTimestamps are not finite; {HOW}")
    return _Recording(str(path), read, scratch, files, {**fields, **sizes}, poses, times_s)


def _world_poses(recording: _Recording) -> tuple[NDArray[np.float64], bool]:
    """OpenCV poses `[n, 4, 4]`, and whether +Y of their world is up by gravity."""
    seven = recording.poses
    bad = ~np.isfinite(seven).all(axis=1) | (np.abs(np.linalg.norm(seven[:, :4], axis=1) - 1) > 1e-2)
    if bad.any():
        raise InputError(
            f"{recording.name}: pose {int(np.argmax(bad))} of {len(seven)} is no finite unit quaternion and position; {HOW}"
        )
    poses = np.stack([_matrix(row) for row in seven])
    relative = bool(np.abs(poses[0, :3, :3] - np.eye(3)).max() < IDENTITY_TOLERANCE)
    gravity = not relative
    if relative and recording.fields.get("initPose") is not None:
        try:
            first = _matrix(np.array(recording.fields["initPose"], dtype=np.float64).reshape(7))
        except ValueError as error:
            raise InputError(f"{recording.name}: initPose is no pose ({error}); {HOW}") from None
        if not np.isfinite(first).all():
            raise InputError(f"{recording.name}: initPose is no finite pose; {HOW}")
        if np.abs(first[:3, :3] - np.eye(3)).max() > IDENTITY_TOLERANCE:
            poses, gravity = first @ poses, True
    return poses @ OPENCV_FROM_OPENGL, gravity


def _matrix(seven: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pose of qx qy qz qw x y z."""
    return np.asarray(rigid(matrix_from_quat_wxyz(seven[[3, 0, 1, 2]]), seven[4:]), np.float64)


def _frames(
    recording: _Recording, poses: NDArray[np.float64], indices: list[int], cfg: Record3dCfg
) -> Iterator[Frame]:
    has_depth = cfg.depth and recording.file(0, "depth") in recording.files
    for index in indices:
        image = recording.image(index)
        width, height = image_size(image)
        depth = _depth_m(recording, index, width, height) if has_depth else None
        yield Frame(
            name=image.name,
            image=image,
            intrinsics=_intrinsics(recording, index, width, height),
            c2w=poses[index],
            timestamp_s=float(recording.times_s[index]),
            depth_m=depth,
            confidence=None if depth is None else _confidence(recording, index, depth.shape),
        )


def _intrinsics(recording: _Recording, index: int, width: int, height: int) -> Intrinsics:
    """Of one image; the metadata's are for `w` x `h`, the images of some versions are larger."""
    fields = recording.fields
    try:
        per_frame = fields.get("perFrameIntrinsicCoeffs")
        if per_frame:
            fx, fy, cx, cy = (float(value) for value in per_frame[index][:4])
        else:
            k = np.array(fields["K"], dtype=np.float64).reshape(3, 3).T
            fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(
            f"{recording.name}: metadata lacks or misuses the intrinsics of image {index} ({error}); {HOW}"
        ) from None
    if _turned(cx, cy, fields["w"], fields["h"]):
        fx, fy, cx, cy = fy, fx, cy, cx
    camera = {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "width": fields["w"], "height": fields["h"]}
    return scaled_camera(camera, width, height, what=f"{recording.name}: metadata", image=f"image {index}")


def _turned(cx: float, cy: float, width: int, height: int) -> bool:
    """Whether intrinsics are of the sensor's other orientation: their principal point fits the swapped size only.

    Then swapping is off by twice the principal point's distance to the middle at most, a few pixels.
    """
    as_told = max(abs(cx / width - 0.5), abs(cy / height - 0.5))
    swapped = max(abs(cy / width - 0.5), abs(cx / height - 0.5))
    return as_told > CENTRED_FRACTION >= swapped


def _depth_m(recording: _Recording, index: int, width: int, height: int) -> NDArray[np.float32]:
    """Depth `[dh, dw]` [m]; what the sensor did not see (NaN) becomes 0."""
    name = recording.file(index, "depth")
    values = np.frombuffer(_decompress(recording, name), dtype="<f4")
    shape = _depth_shape(recording, values.size, width, height)
    depth = np.where(np.isfinite(values), values, 0.0).astype(np.float32).reshape(shape)
    return np.maximum(depth, 0.0)


def _depth_shape(recording: _Recording, count: int, width: int, height: int) -> tuple[int, int]:
    fields = recording.fields
    sizes = [(int(fields["dh"]), int(fields["dw"]))] if "dh" in fields and "dw" in fields else []
    sizes = sizes or [(fields["h"], fields["w"]), *LIDAR_SIZES]
    for h, w in sizes:
        if h * w == count and same_aspect(w, h, width, height):
            return h, w
    raise InputError(
        f"{recording.name}: a depth image has {count} values, expected {' or '.join(f'{h}x{w}' for h, w in sizes)} "
        f"in the shape of the {width}x{height} images; {HOW}"
    )


def _confidence(recording: _Recording, index: int, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Levels 0, 1, 2; the front camera records none."""
    name = recording.file(index, "conf")
    if name not in recording.files:
        return None
    values = np.frombuffer(_decompress(recording, name), dtype=np.uint8)
    if values.size == 0:
        return None
    if values.size != shape[0] * shape[1] or values.max() > 2:
        raise InputError(
            f"{recording.name}: {name} has {values.size} values up to {values.max()}, "
            f"expected {shape[0]}x{shape[1]} of 0, 1 and 2; {HOW}"
        )
    return values.reshape(shape)


def _decompress(recording: _Recording, name: str) -> bytes:
    try:
        lzfse = importlib.import_module("liblzfse")
    except ImportError:
        raise InputError(
            f"{recording.name}: its depth is compressed by LZFSE; install the decoder with "
            "`pip install pyliblzfse` (extra `record3d`), or import without depth (--no-depth)"
        ) from None
    try:
        return lzfse.decompress(recording.read(name))
    except (lzfse.error, ValueError, MemoryError) as error:
        raise InputError(f"{recording.name}: {name} does not decompress ({error}); {HOW}") from None


SOURCE = Source(
    import_record3d, Record3dCfg, "a recording of Record3D (.r3d), or the folder it was unpacked to"
)
