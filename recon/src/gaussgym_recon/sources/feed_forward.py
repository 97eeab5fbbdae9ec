"""Poses and points of feed-forward models (VGGT, MapAnything and their like) → a capture.

Such programs write a COLMAP model (VGGT's `demo_colmap.py`: `images/` and `sparse/`), read like any other, or arrays, for
which there is one neutral layout, an npz of

- `names` `[n]`: the images, relative to the npz or to its folder `images`;
- `intrinsics` `[n, 3, 3]`, and `image_size` `[2]` or `[n, 2]`: the width and height that they refer to [px];
- `w2c` `[n, 3, 4]` or `[n, 4, 4]`, world to camera (what VGGT calls `extrinsic`), or `c2w` `[n, 4, 4]`; OpenCV cameras;
- optional: `points` `[P, 3]`, `colors` uint8 `[P, 3]`; `depth` `[n, h, w]` with the images' field of view, in the poses' unit;
  `confidence` uint8 `[n, h, w]` (0, 1, 2); `metric`: true where the unit is the metre by the model's own claim.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

from gaussgym_recon.sources.colmap import ColmapCfg, write_model
from gaussgym_recon.sources.colmap_files import find_model, read_model
from gaussgym_recon.sources.nerfstudio import rigid
from gaussgym_recon.sources.posed_frames import find_images, fitted
from gaussgym_recon.sources.selection import choose_frames
from gaussgym_recon.sources.source import Progress, Source
from gaussgym_recon.sources.writing import Frame, write_capture

MODEL = "feed-forward"


@dataclass(frozen=True, kw_only=True)
class FeedForwardCfg(ColmapCfg):
    """Settings of feed-forward models."""


def import_feed_forward(
    path: Path, output: Path, cfg: FeedForwardCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of what a feed-forward model says of images.

    Args:
        path: An npz of the layout above, or a folder with a COLMAP model.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: Neither is there, arrays are missing or contradict each other, or images are missing.
    """
    cfg, path = cfg or FeedForwardCfg(), Path(path)
    metadata: dict[str, Any] = {"source": MODEL, "ordered": cfg.ordered, "poses_source": MODEL}
    if path.is_dir():
        place = find_model(path)
        if place is None:
            raise InputError(f"{path}: holds no COLMAP model; expected one in sparse, or the path of an npz")
        return write_model(path, place, read_model(place), output, cfg, metadata, progress)
    arrays = _read(path)
    metadata["metric"] = bool(arrays.get("metric", False))
    folders = [cfg.images] if cfg.images is not None else [path.parent, path.parent / "images"]
    names = [str(name) for name in arrays["names"]]
    files = find_images(names, folders, path, skip_missing=cfg.skip_missing)
    there = [index for index, file in enumerate(files) if file is not None]
    chosen = choose_frames([file for file in files if file is not None], cfg.frames, progress=progress)
    indices = [there[i] for i in chosen]
    frames = _frames(path, arrays, names, files, indices)
    return write_capture(
        output, frames, metadata, arrays.get("points"), colors=arrays.get("colors"), cfg=cfg, total=len(indices),
        progress=progress,
    )  # fmt: skip


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {key: data[key] for key in data.files}
    except FileNotFoundError:
        raise InputError(f"{path}: not found; expected an npz or a folder with a COLMAP model") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not readable as npz ({error}); write it again") from None
    if "w2c" in arrays and "c2w" not in arrays:
        rows = arrays["w2c"].astype(np.float64)
        if rows.ndim == 3 and rows.shape[1:] == (3, 4):
            rows = np.concatenate([rows, np.tile([[[0.0, 0, 0, 1]]], (len(rows), 1, 1))], axis=1)
        if rows.ndim == 3 and rows.shape[1:] == (4, 4) and np.isfinite(rows).all():
            arrays["c2w"] = _inverse(path, rows)
    if missing := [key for key in ("names", "intrinsics", "image_size", "c2w") if key not in arrays]:
        raise InputError(
            f"{path}: lacks {', '.join(missing)}; expected names, intrinsics [n, 3, 3], image_size and w2c [n, 3, 4]"
        )
    n = len(arrays["names"])
    arrays["image_size"] = np.broadcast_to(arrays["image_size"], (n, 2)) if arrays["image_size"].size in (2, 2 * n) else (
        arrays["image_size"]
    )  # fmt: skip
    shapes = {"intrinsics": (n, 3, 3), "c2w": (n, 4, 4), "image_size": (n, 2)}
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise InputError(f"{path}: {key} has the shape {list(arrays[key].shape)}, expected {list(shape)}")
    for key in ("depth", "confidence"):
        if key in arrays and (arrays[key].ndim != 3 or len(arrays[key]) != n):
            raise InputError(f"{path}: {key} has the shape {list(arrays[key].shape)}, expected [{n}, h, w]")
    return arrays


def _inverse(path: Path, w2c: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.tile(np.eye(4), (len(w2c), 1, 1))
    for index, matrix in enumerate(w2c):
        rotation = rigid(matrix[:3, :3], f"{path}: image {index}")
        out[index, :3, :3], out[index, :3, 3] = rotation.T, -rotation.T @ matrix[:3, 3]
    return out


def _frames(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    names: list[str],
    files: list[Path | None],
    indices: list[int],
) -> Iterator[Frame]:
    for index in indices:
        file = files[index]
        assert file is not None
        k, (width, height) = arrays["intrinsics"][index].astype(float), arrays["image_size"][index]
        camera = Intrinsics(
            width=int(width),
            height=int(height),
            fx=float(k[0, 0]),
            fy=float(k[1, 1]),
            cx=float(k[0, 2]),
            cy=float(k[1, 2]),
        )
        fit = fitted(camera, file)
        assert isinstance(fit, Intrinsics)
        c2w = np.array(arrays["c2w"][index], np.float64)
        c2w[:3, :3] = rigid(c2w[:3, :3], f"{path}: {names[index]}")
        yield Frame(
            names[index].removeprefix("images/"), file, fit, c2w,
            depth_m=arrays["depth"][index] if "depth" in arrays else None,
            confidence=arrays["confidence"][index] if "confidence" in arrays else None,
        )  # fmt: skip


SOURCE = Source(
    import_feed_forward, FeedForwardCfg, "poses of VGGT, MapAnything and the like: a COLMAP folder, or an npz"
)
