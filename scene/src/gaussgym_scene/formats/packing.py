"""What the packed formats share: unit intervals in a few bits, rotations by their three smallest components, safe files."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.errors import GaussgymError, InputError
from gaussgym_scene.splats import Splats

C0 = np.float32(0.28209479177387814)
"""The constant basis function: colour = 0.5 + C0 · first coefficient."""
COEFFICIENTS = {0: 0, 1: 3, 2: 8, 3: 15}
"""Coefficients per channel beyond the first, by degree of the spherical harmonics."""


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a damaged file provokes into one line that names the file."""
    try:
        with np.errstate(all="ignore"):  # absurd numbers are found by the check of the splats
            yield
    except GaussgymError:
        raise
    except (
        ArithmeticError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        TypeError,
        ValueError,
        zlib.error,
    ) as error:
        raise InputError(
            f"{path}: not readable as {kind} ({error or type(error).__name__}); copy or export the file again"
        ) from None


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a splat file") from None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it."""
    partial = path.with_name(path.name + ".tmp")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_splats(
    path: Path,
    means: NDArray,
    quats_wxyz: NDArray,
    log_scales: NDArray,
    opacities: NDArray,
    sh0: NDArray,
    rest: NDArray | None = None,
) -> Splats:
    """Splats from decoded columns; `rest` is `[N, K, 3]`.

    Raises:
        InputError: If a value is not finite, or a scale or rotation is none.
    """
    splats = Splats.__new__(Splats)  # the columns are checked once, under the file's name
    norm = np.linalg.norm(quats_wxyz, axis=1, keepdims=True)
    splats.means = np.ascontiguousarray(means, np.float32)
    splats.quats_wxyz = np.ascontiguousarray(quats_wxyz / norm, np.float32)
    splats.scales = np.ascontiguousarray(np.exp(log_scales), np.float32)
    splats.opacities = np.ascontiguousarray(opacities, np.float32)
    if rest is None or not rest.shape[1]:
        splats.sh = np.ascontiguousarray(sh0[:, None], np.float32)
    else:
        splats.sh = np.empty((len(means), 1 + rest.shape[1], 3), np.float32)
        splats.sh[:, 0], splats.sh[:, 1:] = sh0, rest
    splats.labels = None
    splats.validate(str(path))
    return splats


def to_unit(values: NDArray, low: NDArray, high: NDArray) -> NDArray[np.float32]:
    """Where values lie between two bounds, 0 to 1; 0 where the bounds are equal."""
    spread = np.where(high > low, high - low, 1)
    return np.clip((values - low) / spread, 0, 1).astype(np.float32)


def quantize(unit: NDArray, bits: int) -> NDArray[np.uint32]:
    """Values in 0..1 as integers of some bits, to the nearest."""
    return np.floor(np.clip(unit, 0, 1) * (2**bits - 1) + 0.5).astype(np.uint32)


def dequantize(values: NDArray, bits: int) -> NDArray[np.float32]:
    """The low bits of integers as values in 0..1."""
    mask = np.uint32(2**bits - 1)
    return (values.astype(np.uint32) & mask).astype(np.float32) / np.float32(mask)


def smallest_three(quats: NDArray) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Leave the largest component of unit quaternions out, made positive.

    Returns:
        Its place `[N]`, and the other three in their order `[N, 3]`, each within ±1/√2.
    """
    q = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(q).argmax(1)
    q = np.where(np.take_along_axis(q, largest[:, None], 1) < 0, -q, q)
    return largest.astype(np.uint32), q[np.arange(4) != largest[:, None]].reshape(-1, 3).astype(np.float32)


def from_smallest_three(largest: NDArray, others: NDArray) -> NDArray[np.float32]:
    """The inverse: quaternions in the order that `smallest_three` saw."""
    q = np.empty((len(others), 4), np.float32)
    q[np.arange(4) != largest.astype(np.int64)[:, None]] = others.reshape(-1)
    rest = np.sqrt(np.maximum(0, 1 - (others * others).sum(1)))
    np.put_along_axis(q, largest.astype(np.int64)[:, None], rest[:, None].astype(np.float32), 1)
    return q
