"""RGB-D in the layout of the TUM benchmark, or as a pair of folders rgb and depth → a capture.

Layout by the benchmark's description (Sturm et al. 2012): `rgb.txt` and `depth.txt` list "timestamp file", `groundtruth.txt`
"timestamp tx ty tz qx qy qz qw", the pose of the colour camera (OpenCV) in the world; depth is 16-bit, 5000 counts a metre,
registered to the colour image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gaussgym_scene.cameras import Intrinsics, pixel_rays_c
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from gaussgym_recon.sources.images import centred_camera, natural_order
from gaussgym_recon.sources.posed_frames import image_size
from gaussgym_recon.sources.selection import choose_frames
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.writing import IMAGE_SUFFIXES, Frame, write_capture
from gaussgym_recon.views import read_grey

log = logging.getLogger(__name__)

TUM_COUNTS_PER_M = 5000.0
PAIR_COUNTS_PER_M = 1000.0
CALIBRATION = ("camera.txt", "calibration.txt", "intrinsics.txt")


@dataclass(frozen=True, kw_only=True)
class TumCfg(SourceCfg):
    """Settings of RGB-D folders."""

    tolerance_s: float = 0.02
    """Colour, depth and pose belong together when their times differ by no more [s]."""
    depth_counts_per_m: float | None = None
    """Counts of the depth images a metre; 5000 with the lists of the benchmark, 1000 for a bare pair of folders [1/m]."""
    camera: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy of the colour camera [px], as the benchmark and OpenCV tell them, pixel centres at integers; else from
    camera.txt, calibration.txt or intrinsics.txt, else guessed."""
    depth_camera: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy of a depth camera that is not registered to the colour camera [px]; the offset between the two, some
    centimetres, is not corrected."""
    use_depth: bool = True
    """Whether to take the depth images."""


@dataclass(frozen=True)
class _Pair:
    color: Path
    depth: Path | None
    timestamp_s: float | None
    c2w: NDArray[np.float64] | None = None


def import_tum(
    path: Path, output: Path, cfg: TumCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of RGB-D images.

    Args:
        path: Folder with rgb.txt (and depth.txt, groundtruth.txt), or with folders rgb and depth.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: The folder is of neither kind, a list is damaged, or nothing belongs together.
    """
    cfg, path = cfg or TumCfg(), Path(path)
    listed = (path / "rgb.txt").is_file()
    pairs = _listed(path, cfg) if listed else _folders(path, cfg)
    pairs = [pairs[i] for i in choose_frames([pair.color for pair in pairs], cfg.frames, progress=progress)]
    if cfg.depth_counts_per_m is None:
        cfg = replace(cfg, depth_counts_per_m=TUM_COUNTS_PER_M if listed else PAIR_COUNTS_PER_M)
    camera = _camera(path, pairs[0].color, cfg)
    posed = all(pair.c2w is not None for pair in pairs)
    metadata = {
        "source": "tum",
        "ordered": True,
        "metric": posed,
        "scale_source": "sensor" if posed or any(pair.depth for pair in pairs) else None,
        "poses_source": "slam" if posed else None,
    }
    return write_capture(
        output, _frames(pairs, camera, cfg), metadata, cfg=cfg, total=len(pairs), progress=progress
    )


def _frames(pairs: list[_Pair], camera: Intrinsics, cfg: TumCfg) -> Iterator[Frame]:
    assert cfg.depth_counts_per_m is not None
    for pair in pairs:
        depth = None
        if pair.depth is not None:
            depth = read_grey(pair.depth).astype(np.float32) / np.float32(cfg.depth_counts_per_m)
            if cfg.depth_camera is not None:
                depth = _seen_from(camera, depth, cfg.depth_camera)
        yield Frame(pair.color.name, pair.color, camera, pair.c2w, None, pair.timestamp_s, depth)


def _seen_from(
    camera: Intrinsics, depth: NDArray[np.float32], own: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """A depth image taken with other intrinsics from the same place, at every second pixel of the colour camera."""
    rays = pixel_rays_c(camera.resized(max(1, camera.width // 2), max(1, camera.height // 2)))
    fx, fy, cx, cy = own
    u, v = np.round(fx * rays[..., 0] + cx).astype(int), np.round(fy * rays[..., 1] + cy).astype(int)
    height, width = depth.shape
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return np.where(inside, depth[np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)], 0).astype(np.float32)


def _listed(path: Path, cfg: TumCfg) -> list[_Pair]:
    color = _list(path / "rgb.txt")
    if len(color) < 2:
        raise InputError(f"{path / 'rgb.txt'}: lists {len(color)} images, expected two or more")
    times = np.array([time for time, _ in color])
    depth: list[Path | None] = [None] * len(color)
    if cfg.use_depth and (path / "depth.txt").is_file():
        entries = _list(path / "depth.txt")
        partner = associate(times, np.array([time for time, _ in entries]), cfg.tolerance_s)
        if (partner < 0).all():
            raise InputError(
                f"{path}: no depth image lies within {cfg.tolerance_s} s of a colour image; check the lists, "
                "or widen --tolerance-s"
            )
        depth = [path / entries[k][1] if k >= 0 else None for k in partner]
    pairs = [_Pair(path / name, d, time) for (time, name), d in zip(color, depth)]
    missing = [
        str(f) for pair in pairs for f in (pair.color, pair.depth) if f is not None and not f.is_file()
    ]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} listed files are missing, such as {missing[0]}; copy them again"
        )
    if any(d is not None for d in depth):
        pairs = _keep(pairs, [pair.depth is not None for pair in pairs], "a depth image")
    if (path / "groundtruth.txt").is_file():
        poses = _poses_at(
            path / "groundtruth.txt", np.array([pair.timestamp_s for pair in pairs]), cfg.tolerance_s
        )
        pairs = [replace(pair, c2w=pose) for pair, pose in zip(pairs, poses)]
        pairs = _keep(pairs, [pose is not None for pose in poses], "a pose")
    if len(pairs) < 2:
        raise InputError(
            f"{path}: {len(pairs)} images have what belongs to them within {cfg.tolerance_s} s, expected two or more"
        )
    return pairs


def _keep(pairs: list[_Pair], good: list[bool], what: str) -> list[_Pair]:
    if not all(good):
        log.warning("%d of %d images lack %s and are left out", good.count(False), len(good), what)
    return [pair for pair, keep in zip(pairs, good) if keep]


def associate(
    times_s: NDArray[np.float64], others_s: NDArray[np.float64], tolerance_s: float
) -> NDArray[np.int64]:
    """For each time the index of the nearest other time, each used once, the nearest pairs first; -1 where none is near.

    Args:
        times_s: `[n]`.
        others_s: `[m]`.
        tolerance_s: Pairs farther apart are none.
    """
    out = np.full(len(times_s), -1)
    gaps = np.abs(times_s[:, None] - others_s[None])
    rows, columns = np.nonzero(gaps <= tolerance_s)
    used = np.zeros(len(others_s), bool)
    for k in np.argsort(gaps[rows, columns], kind="stable"):
        if out[rows[k]] < 0 and not used[columns[k]]:
            out[rows[k]], used[columns[k]] = columns[k], True
    return out


def _poses_at(
    path: Path, times_s: NDArray[np.float64], tolerance_s: float
) -> list[NDArray[np.float64] | None]:
    """Camera to world at times, between the two nearest poses; None where these are farther than the tolerance."""
    rows = _numbers(path, 8)
    rows = rows[np.argsort(rows[:, 0])]
    rows = rows[np.concatenate([[True], np.diff(rows[:, 0]) > 0])]
    norms = np.linalg.norm(rows[:, 4:8], axis=1)
    if len(rows) < 2 or not np.isfinite(rows).all() or norms.min() < 0.5:
        raise InputError(
            f"{path}: has a pose that is none (NaN or a zero quaternion), or fewer than two; export it again"
        )
    turns = Slerp(rows[:, 0], Rotation.from_quat(rows[:, 4:8]))
    out: list[NDArray[np.float64] | None] = []
    for time in times_s:
        k = int(np.clip(np.searchsorted(rows[:, 0], time), 1, len(rows) - 1))
        gap = np.abs(rows[k - 1 : k + 1, 0] - time)
        at = float(np.clip(time, rows[k - 1, 0], rows[k, 0]))
        # Between two near poses it is interpolated; at an end, or beside a gap, one pose must be near by itself.
        if gap.min() > tolerance_s:
            out.append(None)
            continue
        if gap.max() > 5 * tolerance_s:
            at = float(rows[k - 1 + int(gap.argmin()), 0])
        c2w = np.eye(4)
        c2w[:3, :3] = turns(at).as_matrix()
        c2w[:3, 3] = [
            np.interp(at, rows[k - 1 : k + 1, 0], rows[k - 1 : k + 1, 1 + axis]) for axis in range(3)
        ]
        out.append(c2w)
    return out


def _folders(path: Path, cfg: TumCfg) -> list[_Pair]:
    color = _images(path / "rgb") or _images(path / "color")
    if len(color) < 2:
        raise InputError(
            f"{path}: has neither rgb.txt nor a folder rgb with two or more images; expected RGB-D images"
        )
    depth = _images(path / "depth")
    if not depth or not cfg.use_depth:
        return [_Pair(file, None, None) for file in color]
    by_stem = {_stem(file): file for file in depth}
    if all(_stem(file) in by_stem for file in color):
        return [_Pair(file, by_stem[_stem(file)], None) for file in color]
    if len(color) == len(depth):
        return [_Pair(a, b, None) for a, b in zip(color, depth)]
    raise InputError(
        f"{path}: {len(color)} colour and {len(depth)} depth images whose names do not agree; expected one of each"
    )


def _stem(file: Path) -> str:
    """The number in a name, or all of it: rgb_0001.jpg and depth_0001.png belong together."""
    digits = "".join(c for c in file.stem if c.isdigit())
    return digits or file.stem


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    return sorted(files, key=lambda file: natural_order(file.name))


def _list(path: Path) -> list[tuple[float, str]]:
    entries = []
    for line in path.read_text(errors="replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=1)
        try:
            entries.append((float(words[0]), words[1].strip()))
        except (ValueError, IndexError):
            raise InputError(
                f"{path}: line {line[:60]!r} is not understood; expected 'timestamp file'"
            ) from None
    return sorted(entries)


def _numbers(path: Path, columns: int) -> NDArray[np.float64]:
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            rows.append([float(word) for word in line.replace(",", " ").split()])
        except ValueError:
            raise InputError(
                f"{path}: line {line[:60]!r} is not understood; expected {columns} numbers"
            ) from None
        if len(rows[-1]) < columns:
            raise InputError(f"{path}: line {line[:60]!r} has {len(rows[-1])} numbers, expected {columns}")
    return np.array([row[:columns] for row in rows], np.float64).reshape(-1, columns)


def _camera(path: Path, image: Path, cfg: TumCfg) -> Intrinsics:
    width, height = image_size(image)
    values, distortion = cfg.camera, (0.0, 0.0, 0.0, 0.0)
    file = next((path / name for name in CALIBRATION if (path / name).is_file()), None)
    if values is None and file is not None:
        row = _numbers(file, 4)[0]
        words = file.read_text().replace(",", " ").split()
        values = (float(row[0]), float(row[1]), float(row[2]), float(row[3]))
        rest = [float(word) for word in words[4:8]] if len(words) in (8, 9) else []
        distortion = (rest[0], rest[1], rest[2], rest[3]) if len(rest) == 4 else distortion
        if len(words) == 9 and float(words[8]) != 0.0:
            raise InputError(
                f"{file}: has a k3 of {words[8]}, which RGB-D images are not read with; undistort them"
            )
    if values is None:
        return centred_camera(width, height, None)
    # The benchmark's own tools unproject the pixel (0, 0) at its centre; ours is at (0.5, 0.5).
    fx, fy, cx, cy = values[0], values[1], values[2] + 0.5, values[3] + 0.5
    return Intrinsics(width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy, distortion=distortion)


SOURCE = Source(
    import_tum,
    TumCfg,
    "RGB-D images: a folder with rgb.txt, depth.txt, groundtruth.txt, or with rgb/ and depth/",
)
