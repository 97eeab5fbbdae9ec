"""COLMAP models (binary or text, every camera model), also as written by feed-forward models → a capture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaussgym_scene.errors import InputError

from gaussgym_recon.sources.colmap_files import ColmapModel, find_model, read_model
from gaussgym_recon.sources.images import natural_order
from gaussgym_recon.sources.lenses import colmap_lens, describe
from gaussgym_recon.sources.posed_frames import PosedImage, as_frames, find_images, fitted
from gaussgym_recon.sources.selection import choose_frames
from gaussgym_recon.sources.source import Progress, Source, SourceCfg
from gaussgym_recon.sources.writing import write_capture


@dataclass(frozen=True, kw_only=True)
class ColmapCfg(SourceCfg):
    """Settings of COLMAP models."""

    images: Path | None = None
    """Folder of the images; beside the model, in a folder images or input, where not given."""
    skip_missing: bool = False
    """Go on without images that are missing."""
    ordered: bool = False
    """Whether the images, by name, are in the order in which they were taken."""


def import_colmap(
    path: Path, output: Path, cfg: ColmapCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Make a capture of a COLMAP model and its images.

    Cameras of models with more than k1, k2, p1, p2 become pinhole cameras, and their images are resampled. The scale of such a
    model is unknown, and so is gravity.

    Args:
        path: Folder of the model, or of a project that has it in `sparse/0`.
        output: Folder of the capture.
        cfg: Settings.
        progress: Told the fraction that is done.

    Returns:
        `output`.

    Raises:
        InputError: There is no model, it is damaged, or images are missing.
    """
    cfg, path = cfg or ColmapCfg(), Path(path)
    place = find_model(path)
    if place is None:
        raise InputError(
            f"{path}: holds no COLMAP model; expected cameras and images, .bin or .txt, here or in sparse/0"
        )
    model = read_model(place)
    if len(model.images) < 2:
        raise InputError(f"{place}: registers {len(model.images)} images, expected two or more")
    metadata = {"source": "colmap", "ordered": cfg.ordered, "poses_source": "sfm"}
    return write_model(path, place, model, output, cfg, metadata, progress)


def write_model(
    path: Path,
    place: Path,
    model: ColmapModel,
    output: Path,
    cfg: ColmapCfg,
    metadata: dict[str, Any],
    progress: Progress | None,
) -> Path:
    """Write a model and its images as a capture; see :func:`import_colmap`."""
    folders = [cfg.images] if cfg.images is not None else image_folders(path, place)
    names = [image.name for image in model.images]
    files = find_images(names, folders, place, skip_missing=cfg.skip_missing)
    cameras = {
        number: colmap_lens(camera.model, camera.width, camera.height, camera.params)
        for number, camera in model.cameras.items()
    }
    images = [
        PosedImage(image.name, file, fitted(cameras[image.camera_id], file), image.c2w)
        for image, file in zip(model.images, files)
        if file is not None
    ]
    images.sort(key=lambda image: natural_order(image.name))
    images = [
        images[i] for i in choose_frames([image.file for image in images], cfg.frames, progress=progress)
    ]
    undistorted = describe([image.camera for image in images])
    known = {**metadata, "undistorted_from": undistorted} if undistorted else metadata
    return write_capture(
        output, as_frames(images), known, model.points, colors=model.colors, cfg=cfg, total=len(images), progress=progress
    )  # fmt: skip


def image_folders(path: Path, place: Path) -> list[Path]:
    """Where the images of a model may lie."""
    roots = [path, place, place.parent, place.parent.parent, path.parent]
    return [root / name for root in roots for name in ("images", "input", ".")]


SOURCE = Source(
    import_colmap, ColmapCfg, "a COLMAP model (bin or txt), or a project with sparse/0 and images"
)
