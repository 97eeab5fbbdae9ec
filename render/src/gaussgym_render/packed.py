"""Packed scenes on disk: what `atlas.pack_scene` gives, one file a scene, so that reading one is a copy into an atlas's arrays.

Files lie in a cache folder under the hash of what they were made from (the splats' content, the SH degree, the layout): one that
is missing, damaged or of another layout is made anew from its source, and none is ever wrong for its name. A file is

    magic (8 bytes) · length and CRC-32 of the header (2 x uint32) · header (JSON) · the arrays of `CHUNK_ARRAYS`, then `rest`

and `labels` if there are any, with the arrays C-contiguous, in this machine's byte order, and their CRC-32 in the header.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import struct
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene import InputError, Splats
from gaussgym_scene.artifact import read_artifact, sha256_of
from gaussgym_scene.formats import load_splats
from gaussgym_scene.scene import FORMAT as SCENE_FORMAT
from gaussgym_scene.scene import MANIFEST as SCENE_MANIFEST
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray

from gaussgym_render import lod
from gaussgym_render.atlas import CHUNK, CHUNK_ARRAYS, PACKING_VERSION, ScenePart, pack_scene
from gaussgym_render.lod import LodSplats

logger = logging.getLogger(__name__)

AnySplats = Splats | LodSplats
"""A scene as given, or with levels of detail."""
SceneSource = AnySplats | Scene | Path | str
"""A scene, or where it lies: a scene folder, a `LodSplats` folder, a splat file."""
CACHE_LIMIT_BYTES = 20 << 30
"""Files that no scene at hand needs are deleted, those unused for longest first, until the folder is below this."""
SUFFIX = ".packed"
_MAGIC = b"GGPACK1\n"
_HEAD = struct.Struct("<II")
_MAX_HEADER = 1 << 16
_STALE_S = 24 * 3600.0


class DamagedError(Exception):
    """A packed file is not what its header says."""


def rest_shape(num_rest: int) -> tuple[int, int, int]:
    """Shape of a chunk in `Atlas.rest`."""
    return (num_rest, 3, CHUNK)


def chunk_bytes(num_rest: int, *, labels: bool = False) -> int:
    """Bytes of one chunk in all arrays of an atlas, and its splats' labels."""
    sizes = [
        np.dtype(dtype).itemsize * int(np.prod(shape, initial=1)) for dtype, shape in CHUNK_ARRAYS.values()
    ]
    return sum(sizes) + 2 * int(np.prod(rest_shape(num_rest))) + 4 * CHUNK * labels


@dataclass(frozen=True, kw_only=True)
class PackedScene:
    """A packed file and what its header says.

    Attributes:
        path: The file.
        key: Hash of what it was made from.
        num_chunks: Chunks.
        num_rest: Coefficients per channel beyond band 0.
        num_splats: Splats without padding.
        threshold_px: As in `Atlas.thresholds_px`.
        levels: Whether it has levels of detail.
        labels: Whether its splats have labels.
        crc32: Of the arrays.
        first_byte: Where the arrays begin.
        sh_degree: What it was packed with.
        source: What to make it from again; None if that was in memory only.
    """

    path: Path
    key: str
    num_chunks: int
    num_rest: int
    num_splats: int
    threshold_px: float
    levels: bool
    labels: bool
    crc32: int
    first_byte: int
    sh_degree: int | None
    source: Path | None

    @property
    def num_bytes(self) -> int:
        """Bytes of its arrays."""
        return self.num_chunks * chunk_bytes(self.num_rest, labels=self.labels)

    def read_into(
        self,
        arrays: dict[str, NDArray[Any]],
        rest: NDArray[np.float16],
        labels: NDArray[np.int32] | None = None,
    ) -> None:
        """Fill arrays straight from the file.

        Args:
            arrays: `CHUNK_ARRAYS` of `num_chunks` chunks, C-contiguous.
            rest: As `ScenePart.rest`.
            labels: As `ScenePart.labels`, flat; filled with -1 if the scene has none. None: only for a scene without.

        Raises:
            OSError: The file is gone or cannot be read.
            DamagedError: It is too short or its content differs from what was written.
        """
        crc = 0
        parts = [*arrays.items(), ("rest", rest)]
        if self.labels and labels is not None:
            parts.append(("labels", labels))
        elif labels is not None:
            labels[:] = -1
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.first_byte)
            for name, array in parts:
                view = array.reshape(-1).view(np.uint8).data
                while len(view):
                    count = file.readinto(view)
                    if not count:
                        raise DamagedError(f"{self.path}: ends within {name}")
                    crc, view = zlib.crc32(view[:count], crc), view[count:]
        if crc != self.crc32:
            raise DamagedError(f"{self.path}: CRC-32 is {crc:08x}, expected {self.crc32:08x}")


def default_cache_dir() -> Path:
    """Where packed scenes go if nobody says: the user's cache folder."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "gaussgym" / "scenes"


def read_splats(source: SceneSource) -> AnySplats:
    """Read a scene's splats from wherever they lie.

    Raises:
        InputError: There are none, or they are damaged.
    """
    if isinstance(source, AnySplats):
        return source
    if isinstance(source, Scene):
        return source.splats
    path = Path(source)
    folder = path.parent if path.name in (SCENE_MANIFEST, lod.MANIFEST) else path
    if (folder / SCENE_MANIFEST).exists():
        return Scene.load(folder).splats
    if (folder / lod.MANIFEST).exists():
        return LodSplats.load(folder)
    return load_splats(path)


class PackedCache:
    """A folder of packed scenes.

    Args:
        directory: The folder, made if missing; None: `default_cache_dir()`.
        limit_bytes: See `CACHE_LIMIT_BYTES`.
    """

    def __init__(self, directory: Path | str | None = None, *, limit_bytes: int = CACHE_LIMIT_BYTES) -> None:
        self.directory = default_cache_dir() if directory is None else Path(directory)
        self.limit_bytes = limit_bytes

    def pack_all(self, sources: Sequence[SceneSource], sh_degree: int | None) -> list[PackedScene]:
        """Pack scenes that the folder lacks, one after the other, then delete what is over the limit.

        Raises:
            InputError: A scene cannot be read.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        packed, begin, made = [], time.monotonic(), 0
        for i, source in enumerate(sources):
            scene, new = self._find_or_pack(source, sh_degree)
            packed.append(scene)
            made += new
            if new and time.monotonic() - begin > 10.0:
                logger.info("packed %d scenes, %d of %d seen", made, i + 1, len(sources))
                begin = time.monotonic()
        self.prune(packed)
        return packed

    def pack(self, source: SceneSource, sh_degree: int | None = None) -> PackedScene:
        """The packed file of a scene, made if it is missing or damaged at its head.

        Raises:
            InputError: The scene cannot be read.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        return self._find_or_pack(source, sh_degree)[0]

    def repack(self, scene: PackedScene) -> PackedScene:
        """Make a damaged or missing file again.

        Raises:
            InputError: Its source was in memory, is gone, or is not what it was.
        """
        if scene.source is None:
            raise InputError(
                f"{scene.path}: missing or damaged, and its splats were given in memory; make the renderer again"
            )
        scene.path.unlink(missing_ok=True)
        again = self.pack(scene.source, scene.sh_degree)
        if again.key != scene.key:
            raise InputError(
                f"{scene.source}: has changed since the renderer was made; make the renderer again"
            )
        return again

    def prune(self, keep: Sequence[PackedScene] = ()) -> None:
        """Delete files unused for longest, but none of `keep`, until the folder is within its limit."""
        kept, files = {scene.path for scene in keep}, []
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process prunes too
                stat = path.stat()
                if path.suffix == ".tmp" and SUFFIX in path.name and time.time() - stat.st_mtime > _STALE_S:
                    path.unlink()
                elif path.suffix == SUFFIX:
                    files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit_bytes:
                return
            if path not in kept:
                path.unlink(missing_ok=True)
                total -= size
        if total > self.limit_bytes:
            logger.warning(
                "%s holds %.1f GB of packed scenes, all in use; the limit is %.1f GB",
                self.directory, total / 1e9, self.limit_bytes / 1e9,
            )  # fmt: skip

    def _find_or_pack(self, source: SceneSource, sh_degree: int | None) -> tuple[PackedScene, bool]:
        """The scene, and whether it had to be packed."""
        origin = _origin(source)
        key = _key(_content_hash(source if origin is None else origin), sh_degree)
        path = self.directory / f"{key}{SUFFIX}"
        try:
            found = _read_head(path, key, sh_degree, origin)
            os.utime(path)
            return found, False
        except (OSError, DamagedError):
            splats = read_splats(source if origin is None else origin)
            _write(path, pack_scene(splats, sh_degree), key, levels=isinstance(splats, LodSplats))
            return _read_head(path, key, sh_degree, origin), True


def _origin(source: SceneSource) -> Path | None:
    """The path that a scene can be read from again."""
    if isinstance(source, Scene):
        return source.directory
    return Path(source) if isinstance(source, str | Path) else None


def _content_hash(source: SceneSource) -> str:
    """Hash of a scene's splats: of their arrays, or of the file that holds them (a manifest says its files' hashes)."""
    if isinstance(source, Scene):
        source = source.splats
    if isinstance(source, AnySplats):
        names = ("means", "quats_wxyz", "scales", "opacities", "sh")
        names += ("source", "node_sizes", "skip", "errors_m") if isinstance(source, LodSplats) else ()
        digest = hashlib.sha256(repr(getattr(source, "threshold_px", None)).encode())
        for name in names:
            array = np.ascontiguousarray(getattr(source, name))
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        if isinstance(source, Splats) and source.labels is not None:
            digest.update(b"labels" + np.ascontiguousarray(source.labels, np.int32).tobytes())
        return digest.hexdigest()
    path = Path(source)
    folder = path.parent if path.name in (SCENE_MANIFEST, lod.MANIFEST) else path
    if (folder / SCENE_MANIFEST).exists():
        fields = read_artifact(folder, manifest=SCENE_MANIFEST, format=SCENE_FORMAT, verify=False)
        return str(fields["files"].get("splats.ply", {}).get("sha256"))
    if (folder / lod.MANIFEST).exists():
        fields = read_artifact(folder, manifest=lod.MANIFEST, format=lod.FORMAT, verify=False)
        return f"{fields['files'].get(lod.ARRAYS_FILE, {}).get('sha256')} {fields.get('threshold_px')}"
    if path.name == "meta.json":
        path = path.parent
    if path.is_dir():
        return " ".join(f"{p.name} {sha256_of(p)}" for p in sorted(path.iterdir()) if p.is_file())
    if not path.exists():
        raise InputError(f"{path}: not found, expected a scene folder or a splat file")
    return f"{path.suffix} {sha256_of(path)}"


def _key(content: str, sh_degree: int | None) -> str:
    """Name of the packed file of some content."""
    layout = [(name, np.dtype(dtype).str, shape) for name, (dtype, shape) in CHUNK_ARRAYS.items()]
    text = repr((content, sh_degree, PACKING_VERSION, layout, rest_shape(1), "labels", sys.byteorder))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write(path: Path, part: ScenePart, key: str, *, levels: bool) -> None:
    """Write a packed scene through a temporary file and a rename; its CRC guards against a machine that stops in between."""
    arrays = [*(part.arrays[name] for name in CHUNK_ARRAYS), np.ascontiguousarray(part.rest)]
    arrays += [] if part.labels is None else [part.labels]
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    fields = {
        "key": key, "num_chunks": part.num_chunks, "num_rest": part.num_rest, "num_splats": part.num_splats,
        "threshold_px": part.threshold_px, "levels": levels,
        "labels": part.labels is not None, "crc32": crc,
    }  # fmt: skip
    header = json.dumps(fields).encode()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_MAGIC + _HEAD.pack(len(header), zlib.crc32(header)) + header)
            for array in arrays:
                file.write(array.reshape(-1).view(np.uint8).data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_head(path: Path, key: str, sh_degree: int | None, source: Path | None) -> PackedScene:
    """Read a packed file's header.

    Raises:
        OSError: There is no such file.
        DamagedError: It is not a packed scene of that key, or its size is wrong.
    """
    with path.open("rb", buffering=0) as file:
        head = file.read(len(_MAGIC) + _HEAD.size)
        if len(head) < len(_MAGIC) + _HEAD.size or not head.startswith(_MAGIC):
            raise DamagedError(f"{path}: not a packed scene")
        length, crc = _HEAD.unpack(head[len(_MAGIC) :])
        header = file.read(min(length, _MAX_HEADER))
        if zlib.crc32(header) != crc or len(header) != length:
            raise DamagedError(f"{path}: its header is damaged")
        size = os.fstat(file.fileno()).st_size
    fields = json.loads(header)
    if fields["key"] != key:
        raise DamagedError(f"{path}: holds {fields['key']}")
    scene = PackedScene(
        path=path, first_byte=len(head) + length, sh_degree=sh_degree, source=source, **fields
    )  # fmt: skip
    if size != scene.first_byte + scene.num_bytes:
        raise DamagedError(f"{path}: {size} bytes, expected {scene.first_byte + scene.num_bytes}")
    return scene
