"""Splat files of every common kind. What is in a file decides how it is read, its name how it is written.

| kind | name | what is lost |
|---|---|---|
| 3DGS PLY (Inria, nerfstudio, gsplat) | `.ply` | nothing |
| compressed PLY (PlayCanvas, SuperSplat) | `.compressed.ply` | 16 bytes a splat and one per higher coefficient |
| SPZ (Niantic) versions 1 to 4, written as 3 | `.spz` | about 20 to 64 bytes a splat, gzipped |
| splat (antimatter15) | `.splat` | 32 bytes a splat, no view dependence |
| SOG (PlayCanvas) version 2, bundle or folder | `.sog` | about 15 times smaller than PLY |

Coordinates are taken and written as they are: none of these files says which way is up.

gsply reads most of them too; it comes with a compiled extension, expects well-formed files and does not write SOG, so that the
few lines of each format are here, and gsply is the second opinion in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gaussgym_scene.errors import InputError
from gaussgym_scene.formats import compressed_ply, sog, splat, spz
from gaussgym_scene.formats.packing import reading
from gaussgym_scene.splats import Splats

_WRITERS: dict[str, Callable[[Splats, Path], None]] = {
    ".compressed.ply": compressed_ply.write,
    ".ply": lambda splats, path: splats.save_ply(path),
    ".spz": spz.write,
    ".splat": splat.write,
    ".sog": sog.write,
}
SUFFIXES = tuple(_WRITERS)
"""Names that `save_splats` understands."""
_HEAD_BYTES = 1 << 16


def load_splats(path: Path | str) -> Splats:
    """Read a splat file, or a folder with an unbundled SOG.

    Args:
        path: The file.

    Returns:
        The splats, all values finite and in range.

    Raises:
        InputError: If it is none of the kinds above, is cut short or damaged, or holds values that cannot be drawn.
    """
    path = Path(path)
    if path.name == "meta.json":
        path = path.parent
    if path.is_dir():
        if not (path / "meta.json").exists():
            raise InputError(f"{path}: a folder without meta.json, expected an unbundled SOG or a splat file")
        return sog.read(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a splat file") from None
    if head.startswith(b"ply"):
        packed = b"packed_position" in head.partition(b"end_header")[0]
        with reading(path, "a PLY"):
            return compressed_ply.read(path) if packed else Splats.load_ply(path)
    if head.startswith((spz.GZIP_MAGIC, spz.MAGIC)):
        return spz.read(path)
    if head.startswith(b"PK\x03\x04"):
        return sog.read(path)
    if path.suffix.lower() == ".splat":
        return splat.read(path)
    raise InputError(f"{path}: not a splat file; expected one of: {', '.join(SUFFIXES)}")


def save_splats(splats: Splats, path: Path | str) -> None:
    """Write splats in the format that the file's name asks for, through a temporary file and a rename.

    Args:
        splats: What to write.
        path: Ends in one of `SUFFIXES`.

    Raises:
        InputError: If it ends in something else, or the format cannot hold the scene.
    """
    path = Path(path)
    for suffix, write in _WRITERS.items():
        if path.name.lower().endswith(suffix):
            write(splats, path)
            return
    raise InputError(f"{path}: ends in none of: {', '.join(SUFFIXES)}")
