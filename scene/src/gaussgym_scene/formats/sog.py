"""PlayCanvas' SOG, version 2: quantized columns as lossless WebP images beside a `meta.json`, in a ZIP bundle or a folder.

Pixel i of every image belongs to splat i, row by row. Positions have 16 bits in two images, after `sign(x)·log(1 + |x|)`; log
scales and colours are places in codebooks of 256 values; the rotation is its three smallest components and, as 252 to 255, the
place of the largest; higher coefficients are rows of a palette whose entries are places in a third codebook.
"""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gaussgym_scene.errors import InputError
from gaussgym_scene.formats.packing import (
    COEFFICIENTS,
    from_smallest_three,
    make_splats,
    quantize,
    read_bytes,
    reading,
    smallest_three,
    to_unit,
    write_whole,
)
from gaussgym_scene.morton import morton_order
from gaussgym_scene.splats import Splats

_META = "meta.json"
_META_BYTES = 1 << 20
_ROOT2 = np.float32(np.sqrt(2))
_MODES = 252  # plus the place of the largest component
_PALETTE_COLUMNS = 64
_PALETTE = 1 << 14
_MOST_PER_BYTE = 1000
"""Splats that a byte of WebP can stand for at the very most; more are a damaged count."""

Load = Callable[[str], bytes]


def read(path: Path) -> Splats:
    """Read a SOG bundle or folder.

    Raises:
        InputError: If a part is missing or damaged, parts do not fit together, or values cannot be drawn.
    """
    with reading(path, "SOG"):
        try:
            if path.is_dir():
                return _decode(path, lambda name: read_bytes(path / Path(name).name))
            with zipfile.ZipFile(path) as bundle:
                return _decode(path, lambda name: _member(path, bundle, name))
        except (
            zipfile.BadZipFile,
            Image.DecompressionBombError,
            json.JSONDecodeError,
            NotImplementedError,
        ) as error:
            raise InputError(f"{path}: not readable as SOG ({error}); export it again") from None


def _member(path: Path, bundle: zipfile.ZipFile, name: str) -> bytes:
    """One file of a bundle. WebP does not shrink further: what claims to unpack to much more is damaged."""
    try:
        info = bundle.getinfo(name)
    except KeyError:
        raise InputError(f"{path}: holds no {name}, expected a bundled SOG") from None
    if info.compress_size > path.stat().st_size:
        raise InputError(
            f"{path}: {name} claims {info.compress_size} bytes of a smaller file; export it again"
        )
    most = max(_META_BYTES, 4 * info.compress_size)
    with bundle.open(info) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path}: {name} unpacks to more than {most} bytes; export it again")
    return data


def _decode(path: Path, load: Load) -> Splats:
    text = load(_META)
    if len(text) > _META_BYTES:
        raise InputError(f"{path}: {_META} has {len(text)} bytes, expected at most {_META_BYTES}")
    meta = json.loads(text)
    if not isinstance(meta, dict) or meta.get("version") != 2:
        found = meta.get("version") if isinstance(meta, dict) else type(meta).__name__
        raise InputError(f"{path}: SOG version {found}, expected 2; export it again with a current tool")
    count = meta.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InputError(f"{path}: count is {count!r}, expected a number of splats")

    def pixels(group: str, index: int, channels: int = 3) -> NDArray[np.uint8]:
        name = meta[group]["files"][index]
        return _image(path, name, load(name), count)[:count, :channels]

    low, high = (np.array(meta["means"][key], np.float64).reshape(3) for key in ("mins", "maxs"))
    word = pixels("means", 0).astype(np.uint32) | pixels("means", 1).astype(np.uint32) << 8
    logs = (low + (high - low) * (word / 65535)).astype(np.float32)
    means = np.sign(logs) * np.expm1(np.abs(logs))
    turn = pixels("quats", 0, 4)
    if (turn[:, 3] < _MODES).any():
        raise InputError(f"{path}: a rotation names no largest component; the images must be lossless")
    others = (turn[:, :3].astype(np.float32) / np.float32(255) - np.float32(0.5)) * _ROOT2
    quats = from_smallest_three(turn[:, 3] - np.uint8(_MODES), others)
    log_scales = _codebook(path, meta, "scales")[pixels("scales", 0)]
    rgba = pixels("sh0", 0, 4)
    sh0 = _codebook(path, meta, "sh0")[rgba[:, :3]]
    rest = _rest(path, meta, load, pixels, count) if "shN" in meta else None
    return make_splats(
        path, means, quats, log_scales, rgba[:, 3].astype(np.float32) / np.float32(255), sh0, rest
    )


def _image(path: Path, name: str, data: bytes, count: int) -> NDArray[np.uint8]:
    """An image as `[pixels, 4]`, opened only if it is about as large as `count` asks for."""
    if count > _MOST_PER_BYTE * max(len(data), 1):
        raise InputError(f"{path}: {name} has {len(data)} bytes for {count} splats; export it again")
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if not count <= width * height <= 2 * count + 16 * (width + height) + 4096:
            raise InputError(
                f"{path}: {name} has {width}x{height} pixels for {count} splats; export it again"
            )
        return np.asarray(image.convert("RGBA")).reshape(-1, 4)


def _codebook(path: Path, meta: dict[str, Any], group: str) -> NDArray[np.float32]:
    values = np.array(meta[group]["codebook"], np.float32)
    if values.shape != (256,):
        raise InputError(f"{path}: codebook of {group} has shape {values.shape}, expected (256,)")
    return values


def _rest(
    path: Path, meta: dict[str, Any], load: Load, pixels: Callable[..., NDArray[np.uint8]], count: int
) -> NDArray[np.float32]:
    """Higher coefficients `[N, K, 3]` from the palette."""
    entries, degree = meta["shN"]["count"], meta["shN"]["bands"]
    if degree not in (1, 2, 3) or not isinstance(entries, int) or not 0 < entries <= 1 << 16:
        raise InputError(
            f"{path}: palette of {entries!r} entries of degree {degree!r}, expected 1 to 65536 of 1 to 3"
        )
    k = COEFFICIENTS[degree]
    labels = pixels("shN", 1, 2).astype(np.int64)
    labels = labels[:, 0] | labels[:, 1] << 8
    if count and labels.max() >= entries:
        raise InputError(
            f"{path}: a splat takes entry {labels.max()} of a palette of {entries}; export it again"
        )
    name = meta["shN"]["files"][0]
    rows = -(-entries // _PALETTE_COLUMNS)
    with Image.open(io.BytesIO(load(name))) as image:
        if image.size[0] != _PALETTE_COLUMNS * k or not rows <= image.size[1] <= rows + 8:
            raise InputError(
                f"{path}: {name} has {image.size} pixels, expected ({_PALETTE_COLUMNS * k}, {rows})"
            )
        texels = np.asarray(image.convert("RGB"))
    palette = texels.reshape(-1, k, 3)  # 64 entries a row, one after the other
    return _codebook(path, meta, "shN")[palette[labels]]


# ------------------------------------------------------------------------------------------------------------ writing


def write(splats: Splats, path: Path) -> None:
    """Write a SOG bundle; splats are put in Morton order, which WebP packs better.

    More than 16,384 different sets of higher coefficients become a palette by k-means.
    """
    splats = splats.subset(morton_order(splats.means))
    n = len(splats)
    width = max(4, 4 * int(np.ceil(np.sqrt(n) / 4)))
    height = max(1, -(-n // width))
    files: dict[str, bytes] = {}

    def add(name: str, columns: NDArray) -> str:
        pixels = np.zeros((width * height, 4), np.uint8)
        pixels[:, 3] = 255
        pixels[:n, : columns.shape[1]] = columns
        files[name] = _webp(pixels.reshape(height, width, 4))
        return name

    logs = np.sign(splats.means) * np.log1p(np.abs(splats.means))
    low = logs.min(0) if n else np.zeros(3)
    high = logs.max(0) if n else np.zeros(3)
    word = quantize(to_unit(logs, low, high).astype(np.float64), 16)
    largest, others = smallest_three(splats.quats_wxyz)
    turn = np.concatenate([quantize(others / _ROOT2 + np.float32(0.5), 8), (largest + _MODES)[:, None]], 1)
    scale_codebook, scale_labels = _cluster(np.log(splats.scales))
    color_codebook, color_labels = _cluster(splats.sh[:, 0])
    rgba = np.concatenate([color_labels, quantize(splats.opacities, 8)[:, None]], 1)
    meta: dict[str, Any] = {
        "version": 2,
        "count": n,
        "antialias": True,
        "means": {
            "mins": low.tolist(),
            "maxs": high.tolist(),
            "files": [add("means_l.webp", word & 255), add("means_u.webp", word >> 8)],
        },
        "scales": {"codebook": scale_codebook, "files": [add("scales.webp", scale_labels)]},
        "quats": {"files": [add("quats.webp", turn)]},
        "sh0": {"codebook": color_codebook, "files": [add("sh0.webp", rgba)]},
    }
    if splats.sh_degree and n:
        entries, labels = _palette(splats.sh[:, 1:].reshape(n, -1))
        codebook, places = _cluster(entries)
        texels = np.zeros(
            (-(-len(entries) // _PALETTE_COLUMNS), _PALETTE_COLUMNS * places.shape[1] // 3, 4), np.uint8
        )
        texels[..., 3] = 255
        flat = np.zeros((texels.shape[0] * _PALETTE_COLUMNS, places.shape[1]), np.uint8)
        flat[: len(entries)] = places
        texels[..., :3] = flat.reshape(texels.shape[0], texels.shape[1], 3)
        files["shN_centroids.webp"] = _webp(texels)
        columns = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], 1)
        meta["shN"] = {
            "count": len(entries),
            "bands": splats.sh_degree,
            "codebook": codebook,
            "files": ["shN_centroids.webp", add("shN_labels.webp", columns)],
        }

    def fill(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as bundle:
            for name, data in (*files.items(), (_META, json.dumps(meta).encode())):
                bundle.writestr(zipfile.ZipInfo(name), data)

    write_whole(path, fill)


def _webp(pixels: NDArray[np.uint8]) -> bytes:
    """A lossless WebP that keeps the colours of transparent pixels too."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "WEBP", lossless=True, exact=True, quality=50, method=3)
    return buffer.getvalue()


def _cluster(values: NDArray, rounds: int = 12) -> tuple[list[float], NDArray[np.uint8]]:
    """Codebook of 256 numbers for an array, and each element's place in it (Lloyd's algorithm on sorted numbers)."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    if not len(ordered):
        return [0.0] * 256, values.astype(np.uint8)
    centers = np.quantile(ordered, (np.arange(256) + 0.5) / 256)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(rounds):
        edges = np.searchsorted(ordered, (centers[1:] + centers[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(ordered)]])
        members = np.diff(bounds)
        centers = np.where(members > 0, np.diff(sums[bounds]) / np.maximum(members, 1), centers)
    centers = np.sort(centers).astype(np.float32)
    labels = np.searchsorted((centers[1:] + centers[:-1]) / 2, values)
    return centers.tolist(), labels.astype(np.uint8)


def _palette(rows: NDArray[np.float32], rounds: int = 2) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """At most `_PALETTE` rows that stand for all, and which one stands for each."""
    different, labels = np.unique(rows, axis=0, return_inverse=True)
    if len(different) <= _PALETTE:
        return different, labels.reshape(-1)
    centers = different[np.random.default_rng(0).choice(len(different), _PALETTE, replace=False)]
    labels = _nearest(rows, centers)
    for _ in range(rounds):
        members = np.bincount(labels, minlength=len(centers))
        sums = np.stack([np.bincount(labels, column, len(centers)) for column in rows.T], 1)
        centers = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], centers).astype(
            np.float32
        )
        labels = _nearest(rows, centers)
    return centers, labels


def _nearest(rows: NDArray[np.float32], centers: NDArray[np.float32], block: int = 4096) -> NDArray[np.int64]:
    """Index of the nearest centre to each row."""
    half = 0.5 * (centers * centers).sum(1)
    parts = [
        (rows[start : start + block] @ centers.T - half).argmax(1) for start in range(0, len(rows), block)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
