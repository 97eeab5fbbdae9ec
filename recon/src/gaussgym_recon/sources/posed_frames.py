"""Images of posed captures on their way into a capture: found by name, undistorted where their lens needs it, chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from PIL import Image

from gaussgym_recon.sources.lenses import Lens, Undistorter, undistorters
from gaussgym_recon.sources.writing import Frame, read_pixels

NAMED_IN_MESSAGE = 3


@dataclass
class PosedImage:
    """An image file, its camera and its pose, before anything is decoded."""

    name: str
    """What to call it in the capture."""
    file: Path
    camera: Intrinsics | Lens
    c2w: NDArray[np.float64] | None
    timestamp_s: float | None = None
    depth_m: NDArray[np.floating] | None = None
    mask: NDArray[np.bool_] | None = None


def as_frames(images: list[PosedImage]) -> Iterator[Frame]:
    """Frames to write, one after the other; pixels are touched only where a lens needs it.

    Raises:
        InputError: An image does not decode, or has another size than its lens.
    """
    kept: dict[int, list[Undistorter]] = {}
    for image in images:
        camera = image.camera
        if isinstance(camera, Intrinsics):
            yield Frame(
                image.name, image.file, camera, image.c2w, None, image.timestamp_s, image.depth_m, None, image.mask
            )  # fmt: skip
            continue
        if id(camera) not in kept:
            kept[id(camera)] = undistorters(camera)
        yield from _undistorted(image, camera, kept[id(camera)])


def _undistorted(image: PosedImage, lens: Lens, views: list[Undistorter]) -> Iterator[Frame]:
    pixels = read_pixels(image.file)
    if pixels.shape[:2] != (lens.height, lens.width):
        raise InputError(
            f"{image.file}: is {pixels.shape[1]}x{pixels.shape[0]}, its camera {lens.width}x{lens.height}; "
            "expected the images that the cameras were made for"
        )
    if lens.panorama and image.depth_m is not None:
        raise InputError(f"{image.file}: a panorama with a depth image, which is not read; remove its depths")
    for number, view in enumerate(views):
        stem = image.name.rpartition(".")[0] or image.name
        name = image.name if len(views) == 1 else f"{stem}_{number}.jpg"
        yield Frame(
            name,
            view.image(pixels),
            view.pinhole,
            None if image.c2w is None else image.c2w @ view.lens_from_pinhole,
            None,
            image.timestamp_s,
            None if image.depth_m is None else view.nearest(image.depth_m),
            None,
            None if image.mask is None else view.nearest(image.mask),
        )


def find_images(
    names: list[str], folders: list[Path], what: Path, *, skip_missing: bool = False
) -> list[Path | None]:
    """Files of images known by name, relative to one of several folders; the first folder that has one wins.

    Names are looked for as they are, then, where these are unique, by their last part, in upper or lower case.

    Args:
        names: As the model has them.
        folders: Where to look.
        what: The model, for the message.
        skip_missing: Give None for those that are missing; at least two must be there.

    Raises:
        InputError: Any is missing; the text names some of them and where they were looked for.
    """
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    by_last: dict[str, Path] = {}
    if len({Path(name).name.lower() for name in names}) == len(names):
        for folder in reversed(folders):
            by_last.update({file.name.lower(): file for file in folder.iterdir() if file.is_file()})
    found: list[Path | None] = []
    for name in names:
        exact = next((folder / name for folder in folders if (folder / name).is_file()), None)
        found.append(exact or by_last.get(Path(name).name.lower()))
    missing = [name for name, file in zip(names, found) if file is None]
    if missing and not skip_missing:
        some = ", ".join(missing[:NAMED_IN_MESSAGE]) + (", ..." if len(missing) > NAMED_IN_MESSAGE else "")
        places = ", ".join(str(folder) for folder in folders) or "no folder of images was found"
        raise InputError(
            f"{what}: {len(missing)} of its {len(names)} images are missing ({some}), looked for in {places}; "
            "give the folder by --images, or --skip-missing to go on without them"
        )
    if len(names) - len(missing) < 2:
        raise InputError(
            f"{what}: {len(names) - len(missing)} of its images exist, expected two or more that overlap"
        )
    return found


def image_size(file: Path) -> tuple[int, int]:
    """Width and height of an image file [px].

    Raises:
        InputError: It is no image.
    """
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{file}: not an image that can be read ({error}); export it again") from None


def fitted(camera: Intrinsics | Lens, file: Path) -> Intrinsics | Lens:
    """The camera for an image that was scaled down since (same shape to 1 %); lenses must fit exactly.

    Raises:
        InputError: The image has another shape.
    """
    width, height = image_size(file)
    if (width, height) == (camera.width, camera.height):
        return camera
    same_shape = abs(width / height / (camera.width / camera.height) - 1) < 0.01
    if isinstance(camera, Lens) or not same_shape:
        raise InputError(
            f"{file}: is {width}x{height}, its camera {camera.width}x{camera.height}; "
            "expected the images that the cameras were made for"
        )
    return camera.resized(width, height)
