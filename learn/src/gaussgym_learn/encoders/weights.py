"""Published weights of image backbones: where they are, that they are what they should be, and that they fit."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import pickle
import struct
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from gaussgym_scene.errors import InputError
from torch import nn

_SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8,
}  # fmt: skip
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class PublishedWeights:
    """One file of weights that its authors publish.

    Attributes:
        url: of the file.
        sha256: of its bytes.
        size_bytes: its length.
        licence: SPDX name of the licence under which its authors publish it; the training images may have terms of their own.
    """

    url: str
    sha256: str
    size_bytes: int
    licence: str

    @property
    def filename(self) -> str:
        """Last part of the address."""
        return self.url.rpartition("/")[2]


def weights_cache() -> Path:
    """Folder of downloaded weights: `$XDG_CACHE_HOME/gaussgym/weights`, else below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "gaussgym" / "weights"


def fetch_published(published: PublishedWeights, folder: Path | None = None) -> Path:
    """The file of published weights, downloaded once into the cache; the only place that uses the network.

    Args:
        published: which.
        folder: the cache, default `weights_cache()`.

    Returns:
        The path of the file, whose hash was checked.

    Raises:
        InputError: no network, or a file that is not the published one.
    """
    folder = weights_cache() if folder is None else folder
    path = folder / published.filename
    if path.is_file() and _sha256(path) == published.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{published.filename}.{os.getpid()}.partial"
    try:
        _download(published.url, partial)
        found = _sha256(partial)
        if found != published.sha256:
            raise InputError(
                f"{published.url}: sha256 {found[:12]} of {partial.stat().st_size} bytes, expected {published.sha256[:12]} of "
                f"{published.size_bytes}; not used, try again or give the path of a copy"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """Tensors by name from a `.pt` or `.pth` (plain tensors only) or `.safetensors` file.

    Raises:
        InputError: no such file, another kind of file, or one that holds anything but tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; give weights as none, hub or the path of a .pt, .pth or .safetensors"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in (".pt", ".pth"):
        raise InputError(
            f"{path}: weights in a {path.suffix or 'nameless'} file, expected .pt, .pth or .safetensors"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise InputError(f"{path}: not a plain tensor file ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(
            f"{path}: expected tensors by name at the top level (a state_dict), found something else"
        )
    return dict(state)


def load_weights(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    source: object,
    unused: Sequence[str] = (),
) -> None:
    """Load weights whose names and shapes must be the module's.

    Args:
        module: takes them.
        state: tensors by name.
        source: named in errors.
        unused: names that a file may have beyond the module's (a classifier's last layer).

    Raises:
        InputError: names that lack or are too many, or other shapes; the line names the first few.
    """
    own = module.state_dict()
    # Old files lack the counters of batch normalization, which nothing reads.
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    problems = []
    if missing := sorted(own.keys() - state.keys() - optional):
        problems.append(f"lacks {_some(missing)}")
    if extra := sorted(state.keys() - own.keys() - set(unused)):
        problems.append(f"has unknown {_some(extra)}")
    other = [
        f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    if other:
        problems.append(f"has shapes {_some(sorted(other))}")
    if problems:
        raise InputError(f"{source}: {'; '.join(problems)}; expected the weights of {type(module).__name__}")
    module.load_state_dict({key: state.get(key, own[key]) for key in own})


def _some(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, target.open("wb") as file:
            while block := response.read(1 << 20):
                file.write(block)
    except (OSError, http.client.HTTPException) as error:  # no network, a connection that breaks, a full disk
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(
            f"{url}: cannot be downloaded ({reason}); download it elsewhere and give the path of the file as weights"
        ) from None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The format: u64 length of a JSON header (name → dtype, shape, byte range), then the bytes; little endian."""
    data = path.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            dtype = _SAFETENSORS_DTYPES[entry["dtype"]]
            values = torch.frombuffer(bytearray(data[8 + length + first : 8 + length + last]), dtype=dtype)
            tensors[name] = values.reshape(entry["shape"])
    except (struct.error, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({' '.join(str(error).split())[:100]})"
        ) from None
    return tensors
