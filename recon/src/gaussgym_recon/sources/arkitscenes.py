"""A video of ARKitScenes (raw or 3dod) → a capture: images, ARKit poses, LiDAR depth and confidence, the mesh's points.

Layout (github.com/apple/ARKitScenes, DATA.md and raw/README.md): `<root>/<raw|3dod>/<Training|Validation>/<video>/`, with
the frames of 3dod in `<video>_frames`. An asset is a folder of `<video>_<time %.3f>.png`; beside `lowres_wide` (256x192),
`vga_wide` (640x480) and `wide` (1920x1440) lie their `_intrinsics` (`.pincam`: w h fx fy cx cy), `lowres_depth` (16-bit
mm) and `confidence` (0 to 2). `lowres_wide.traj`: time, rotation vector, translation, world to camera, OpenCV axes; the
world is metric and +Z up by gravity (issue 81). Not every image has every asset (raw/README.md), nor a pose of its own time.
Images are stored as the sensor reads them, so upright videos lie on their side; they are turned by what the poses say.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import inverse_rigid
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gaussgym_recon.sources.phone_files import (
    image_size,
    kept_of,
    read_cloud,
    read_depth_m,
    read_grey8,
    read_rgb,
    scaled_camera,
    thinned,
)
from gaussgym_recon.sources.selection import image_sharpness
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.trajectory import Trajectory
from gaussgym_recon.sources.writing import Frame, write_capture

ASSETS = ("wide", "vga_wide", "lowres_wide")
"""Images of the one camera that the poses are of, the largest first."""
DEPTHS = ("lowres_depth", "highres_depth")
SAME_TIME_S = 0.005
"""Stamps of one moment differ by up to this between the assets [s]."""
LONGEST_GAP_S = 0.25
"""Longest gap between two poses that is bridged [s]; they come ten a second."""
LICENCE = "ARKitScenes licence (Apple; personal and non-commercial use)"
CLOCKWISE_TURNS = {"Up": 0, "Left": 1, "Down": 2, "Right": 3}
"""Quarter turns that bring an image upright, by where the sky lies in it."""


@dataclass(frozen=True, kw_only=True)
class ArkitScenesCfg(SourceCfg):
    """Settings of ARKitScenes."""

    frames: int | None = 150
    """Most images to keep; the sharpest of equal spans."""
    video: str = ""
    """Which video, where the path is a folder of several."""
    asset: Literal["largest", "wide", "vga_wide", "lowres_wide"] = "largest"
    """Which images."""
    upright: Literal["poses", "metadata", "keep"] = "poses"
    """Turn the images by gravity in the poses, by `sky_direction` of metadata.csv, or keep them as stored."""
    candidates_per_frame: int = 4
    """Images that are looked at for each that is kept."""


@dataclass(frozen=True)
class _Moment:
    """One image and what belongs to it."""

    time_s: float
    image: Path
    pincam: Path
    depth: Path | None
    confidence: Path | None
    c2w: NDArray[np.float64]


def import_arkitscenes(
    path: Path, output: Path, cfg: ArkitScenesCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of one video of ARKitScenes.

    Args:
        path: The video's folder, or one above it; upper and lower case do not matter.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: No such video, assets that do not go together, or files that cannot be read.
    """
    cfg = cfg or ArkitScenesCfg()
    folder = _video_folder(Path(path), cfg.video)
    frames = _frames_folder(folder)
    moments, left_out = _moments(frames, _asset(frames, cfg.asset))
    moments = [moments[index] for index in thinned(len(moments), cfg.frames, cfg.candidates_per_frame)]
    kept = kept_of(len(moments), cfg.frames, lambda index: image_sharpness(moments[index].image))
    moments = [moments[index] for index in kept]
    sky = _sky_direction(folder)
    turns = _turns(moments, sky, cfg.upright, folder)
    metadata = {
        "source": "arkitscenes",
        "source_app": "ARKitScenes",
        "ordered": True,
        "licence": LICENCE if cfg.licence == SourceCfg.licence else cfg.licence,
        "metric": True,
        "scale_source": "sensor",
        "gravity_source": "sensor",
        "up": [0.0, 0.0, 1.0],
        "poses_source": "arkit",
        "sky_direction": sky,
        "clockwise_turns": turns,
        "left_out": left_out,
    }
    mesh = folder / f"{folder.name}_3dod_mesh.ply"
    points, colors = read_cloud(mesh) if mesh.is_file() else (None, None)
    return write_capture(
        output,
        _frames(moments, turns),
        metadata,
        points,
        colors=colors,
        cfg=cfg,
        total=len(moments),
        progress=progress,
    )


def _video_folder(path: Path, video: str) -> Path:
    """The folder that holds the video's assets."""
    found = _any_case(path)
    if found is None:
        raise InputError(f"{path}: not found; expected a video's folder of ARKitScenes, or one above it")
    if found.name.endswith("_frames"):
        found = found.parent
    if _holds_video(found) and video in ("", found.name):
        return found
    videos = [
        place
        for depth in ("*", "*/*", "*/*/*")
        for place in sorted(found.glob(depth))
        if place.is_dir() and not place.name.endswith("_frames") and _holds_video(place)
    ]
    matching = [place for place in videos if video in ("", place.name)]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(sorted({place.name for place in videos})[:5]) or "none"
    if not matching:
        wanted = f"video {video}" if video else "video"
        raise InputError(
            f"{found}: holds no {wanted} of ARKitScenes with images and lowres_wide.traj (found {names}); "
            "unpack its zips, or name another folder"
        )
    raise InputError(f"{found}: holds {len(matching)} videos ({names}, …); choose one (--video)")


def _any_case(path: Path) -> Path | None:
    """The path as it is on disk, where it differs only in upper and lower case."""
    if path.exists():
        return path
    parent = path.parent if path.parent == path else _any_case(path.parent)
    if parent is None or not parent.is_dir():
        return None
    return next((child for child in parent.iterdir() if child.name.lower() == path.name.lower()), None)


def _frames_folder(folder: Path) -> Path:
    inside = folder / f"{folder.name}_frames"
    return inside if inside.is_dir() else folder


def _holds_video(folder: Path) -> bool:
    frames = _frames_folder(folder)
    return any((frames / asset).is_dir() for asset in ASSETS) or (frames / "lowres_wide.traj").is_file()


def _asset(frames: Path, asked: str) -> str:
    there = [asset for asset in ASSETS if (frames / asset).is_dir()]
    for asset in there if asked == "largest" else [asked]:
        if asset in there and (frames / f"{asset}_intrinsics").is_dir():
            return asset
    wanted = "lowres_wide" if asked == "largest" else asked
    raise InputError(
        f"{frames}: lacks `{wanted}` or `{wanted}_intrinsics` (found {', '.join(there) or 'no images'}); "
        "download both assets"
    )


def _moments(frames: Path, asset: str) -> tuple[list[_Moment], dict[str, int]]:
    """Images in order of time that have all they need, and how many others lacked what."""
    images = _by_time(frames / asset, ".png")
    if not images:
        raise InputError(f"{frames / asset}: holds no images <video>_<time>.png; download them again")
    times = np.array([time for time, _ in images])
    pincams = _nearest(times, _by_time(frames / f"{asset}_intrinsics", ".pincam"))
    depth_folder = next((name for name in DEPTHS if (frames / name).is_dir()), None)
    depths = None if depth_folder is None else _nearest(times, _by_time(frames / depth_folder, ".png"))
    levels = None
    if (frames / "confidence").is_dir() and depth_folder == "lowres_depth":
        levels = _nearest(times, _by_time(frames / "confidence", ".png"))
    trajectory = read_traj(frames / "lowres_wide.traj")
    c2w, posed = trajectory.at(times, exact_s=SAME_TIME_S, max_gap_s=LONGEST_GAP_S)
    moments, left_out = [], {"pose": 0, "intrinsics": 0, "depth": 0}
    for index, (time_s, image) in enumerate(images):
        lacks = (
            "pose"
            if not posed[index]
            else "intrinsics"
            if pincams[index] is None
            else "depth"
            if depths is not None and depths[index] is None
            else ""
        )
        if lacks:
            left_out[lacks] += 1
            continue
        moments.append(
            _Moment(
                time_s,
                image,
                pincams[index],  # type: ignore[arg-type]
                depths[index] if depths is not None else None,
                levels[index] if levels is not None else None,
                c2w[index],
            )
        )
    for what, count in left_out.items():
        if count * 2 > len(images):
            raise InputError(
                f"{frames}: {count} of {len(images)} images in `{asset}` have no {what} of their time; "
                "the assets do not go together, download them again"
            )
    return moments, left_out


def _by_time(folder: Path, suffix: str) -> list[tuple[float, Path]]:
    """Files `<video>_<time><suffix>` in order of time [s]."""
    found = []
    for file in folder.iterdir():
        if file.suffix.lower() != suffix or file.name.startswith("."):
            continue
        try:
            found.append((float(file.stem.rsplit("_", 1)[-1]), file))
        except ValueError:
            raise InputError(f"{file}: expected a name <video>_<time>{suffix}; remove the file") from None
    return sorted(found)


def _nearest(times: NDArray[np.float64], files: list[tuple[float, Path]]) -> list[Path | None]:
    """Of each time the file of that moment, None where there is none."""
    if not files:
        return [None] * len(times)
    stamps = np.array([stamp for stamp, _ in files])
    after = np.clip(np.searchsorted(stamps, times), 1, max(len(stamps) - 1, 1))
    before, after = after - 1, np.minimum(after, len(stamps) - 1)
    nearest = np.where(times - stamps[before] <= stamps[after] - times, before, after)
    near = np.abs(stamps[nearest] - times) <= SAME_TIME_S
    return [files[index][1] if good else None for index, good in zip(nearest, near)]


def read_traj(file: Path) -> Trajectory:
    """Camera-to-world poses (OpenCV, world +Z up) of `lowres_wide.traj`.

    Raises:
        InputError: The file is missing, or a line is not seven finite numbers.
    """
    try:
        rows = [line.split() for line in file.read_text().splitlines() if line.strip()]
        numbers = np.array(rows, dtype=np.float64).reshape(-1, 7)
    except FileNotFoundError:
        raise InputError(f"{file}: not found; download the asset `lowres_wide.traj`") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: expected seven numbers a line ({error}); download it again") from None
    w2c = np.tile(np.eye(4), (len(numbers), 1, 1))
    finite = np.asarray(np.isfinite(numbers).all(axis=1))
    w2c[finite, :3, :3] = Rotation.from_rotvec(numbers[finite, 1:4]).as_matrix()
    w2c[:, :3, 3] = np.where(finite[:, None], numbers[:, 4:7], np.nan)
    return Trajectory.sorted(numbers[:, 0], np.asarray(inverse_rigid(w2c), np.float64), what=str(file))


def _sky_direction(folder: Path) -> str | None:
    """Of the data set's metadata.csv beside or above the splits; None where it is not known."""
    for place in (folder, *list(folder.parents)[:3]):
        file = place / "metadata.csv"
        if not file.is_file():
            continue
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                # The table was written by pandas: ids may read 41069021.0.
                if str(row.get("video_id", "")).split(".")[0] == folder.name:
                    sky = str(row.get("sky_direction") or "").strip().capitalize()
                    return sky if sky in CLOCKWISE_TURNS else None
    return None


def _turns(moments: list[_Moment], sky: str | None, upright: str, folder: Path) -> int:
    """Clockwise quarter turns that bring the images upright."""
    if upright == "keep":
        return 0
    if upright == "metadata":
        if sky is None:
            raise InputError(
                f"{folder}: no metadata.csv gives its sky_direction; put the file there, or use --upright poses"
            )
        return CLOCKWISE_TURNS[sky]
    # World +Z in the camera's axes; cameras that look down the vertical hardly vote.
    up_c = np.array([moment.c2w[2, :2] for moment in moments]).sum(axis=0)
    votes = {"Up": -up_c[1], "Left": -up_c[0], "Down": up_c[1], "Right": up_c[0]}
    return CLOCKWISE_TURNS[max(votes, key=lambda name: votes[name])]


def _frames(moments: list[_Moment], turns: int) -> Iterator[Frame]:
    for moment in moments:
        width, height = image_size(moment.image)
        camera = _read_pincam(moment.pincam, width, height, moment.image.name)
        depth = None if moment.depth is None else read_depth_m(moment.depth)
        confidence = None
        if depth is not None and moment.confidence is not None:
            confidence = np.minimum(read_grey8(moment.confidence, depth.shape), 2)
        image: Path | NDArray[np.uint8] = moment.image
        c2w = moment.c2w
        if turns:
            image = np.rot90(read_rgb(moment.image), -turns).copy()
            depth = None if depth is None else np.rot90(depth, -turns).copy()
            confidence = None if confidence is None else np.rot90(confidence, -turns).copy()
            for _ in range(turns):
                camera, c2w = turned_clockwise(camera, c2w)
        yield Frame(
            name=moment.image.name,
            image=image,
            intrinsics=camera,
            c2w=c2w,
            timestamp_s=moment.time_s,
            depth_m=depth,
            confidence=confidence,
        )


def turned_clockwise(camera: Intrinsics, c2w: NDArray[np.float64]) -> tuple[Intrinsics, NDArray[np.float64]]:
    """The camera whose image is this camera's, turned clockwise by a quarter: what was left is up."""
    turned = Intrinsics(
        width=camera.height,
        height=camera.width,
        fx=camera.fy,
        fy=camera.fx,
        cx=camera.height - camera.cy,
        cy=camera.cx,
        focal_source=camera.focal_source,
    )
    # New x is old -y, new y is old x.
    old_from_new = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return turned, c2w @ old_from_new


def _read_pincam(file: Path, width: int, height: int, image: str) -> Intrinsics:
    try:
        w, h, fx, fy, cx, cy = (float(word) for word in file.read_text().split())
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: expected six numbers w h fx fy cx cy ({error}); download it again"
        ) from None
    camera = {"width": w, "height": h, "fx": fx, "fy": fy, "cx": cx, "cy": cy}
    return scaled_camera(camera, width, height, what=str(file), image=image)


SOURCE = Source(
    import_arkitscenes,
    ArkitScenesCfg,
    "a video's folder of ARKitScenes, raw or 3dod, or one above it (--video)",
)
