"""Folders with one manifest: written whole or not at all, checked before they are read.

A writer fills `<dir>.partial/`; on success every file is hashed, the manifest is written last, and the folder is
renamed into place. The manifest is the make target. A killed writer leaves only the `.partial` folder behind.
"""

import hashlib
import json
import math
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from gaussgym_scene.errors import InputError


def sha256_of(path: Path) -> str:
    """Hash a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class ArtifactWriter:
    """Context manager that writes an artifact folder atomically.

    Attributes:
        path: The folder to write files into, `<dir>.partial/`.
        fields: What the manifest says beside the files; filled by the caller before the block ends.
    """

    def __init__(self, directory: Path | str, *, manifest: str, format: str, version: int) -> None:
        self.directory = Path(directory)
        self.path = self.directory.with_name(self.directory.name + ".partial")
        self.fields: dict[str, Any] = {}
        self._manifest = manifest
        self._head = {"format": format, "version": version}

    def __enter__(self) -> "ArtifactWriter":
        check_replaceable(self.directory, self._manifest)
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        write_manifest(self.path, self._manifest, {**self._head, **self.fields})
        replace_directory(self.path, self.directory)


def check_replaceable(directory: Path | str, manifest: str) -> None:
    """See that writing an artifact replaces nothing but an older one (or an empty folder).

    Raises:
        InputError: A file, or a folder of other things, is in its place.
    """
    directory = Path(directory)
    if directory.is_file():
        raise InputError(f"{directory}: is a file, expected a folder to write; choose another name")
    if (
        directory.is_dir()
        and not (directory / manifest).is_file()
        and (found := sorted(os.listdir(directory)))
    ):
        raise InputError(
            f"{directory}: holds {found[0]!r} and no {manifest}, so it would be lost; choose another folder, or empty this one"
        )


def write_manifest(directory: Path, name: str, fields: dict[str, Any]) -> None:
    """Hash all files below `directory` and write the manifest beside them, atomically, as the last file."""
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / name
    }
    write_json(
        directory / name, {**fields, "provenance": fields.get("provenance", provenance()), "files": files}
    )


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (non-finite numbers become null) through a temporary file and a rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(_strict(value), file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def replace_directory(source: Path, target: Path) -> None:
    """Put the folder `source` in the place of `target`; at no time is half a folder under the name `target`."""
    old = target.with_name(target.name + ".old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def read_artifact(
    directory: Path | str,
    *,
    manifest: str,
    format: str,
    versions: tuple[int, ...] = (1,),
    verify: bool = True,
) -> dict[str, Any]:
    """Read and check a manifest, and with `verify` every file's hash.

    Args:
        directory: The artifact's folder, or the path of its manifest.
        manifest: File name of the manifest, such as `scene.json`.
        format: The expected value of `"format"`.
        versions: The versions that this reader understands.
        verify: Whether to hash the files; sizes are checked in any case.

    Returns:
        The manifest.

    Raises:
        InputError: If anything does not fit; the text names the file, what was found and what was expected.
    """
    directory = Path(directory)
    if directory.name == manifest:
        directory = directory.parent
    path = directory / manifest
    fields = _read_json(path, format)
    if fields.get("format") != format:
        raise InputError(f"{path}: format is {fields.get('format')!r}, expected {format!r}")
    if fields.get("version") not in versions:
        readable = ", ".join(map(str, versions))
        raise InputError(
            f"{path}: version {fields.get('version')!r} is unknown, this gaussgym reads {readable}; rebuild it or upgrade"
        )
    for name, record in _file_records(path, fields).items():
        _check_file(directory, name, record, verify=verify)
    return fields


def provenance(**extra: Any) -> dict[str, Any]:
    """Say what made an artifact: tool versions and the command line's own words (no paths of this machine)."""
    tools = {}
    for name in ("gaussgym-scene", "numpy", "torch", "mujoco", "pycolmap", "rsl-rl-lib"):
        try:
            tools[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "tools": tools, "command": Path(sys.argv[0]).name, **extra}


def _read_json(path: Path, format: str) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected the manifest of a {format} folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); build it again") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: holds a {type(fields).__name__}, expected an object")
    return fields


def _file_records(path: Path, fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    records = fields.get("files")
    well_formed = isinstance(records, dict) and all(
        isinstance(record, dict)
        and isinstance(record.get("bytes"), int)
        and isinstance(record.get("sha256"), str)
        for record in records.values()
    )
    if not well_formed:
        raise InputError(f"{path}: 'files' must give bytes and sha256 of each file; build it again")
    return records  # pyright: ignore[reportReturnType]


def _check_file(directory: Path, name: str, record: dict[str, Any], *, verify: bool) -> None:
    path = directory / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(
            f"{directory}: file name {name!r} leaves the folder; expected a relative path inside it"
        )
    if not path.is_file():
        raise InputError(f"{path}: missing, though the manifest lists it; build it again")
    size = path.stat().st_size
    if size != record["bytes"]:
        raise InputError(
            f"{path}: {size} bytes, the manifest says {record['bytes']}; the file is damaged, build it again"
        )
    if verify and (found := sha256_of(path)) != record["sha256"]:
        raise InputError(
            f"{path}: sha256 {found[:12]}… differs from the manifest's {record['sha256'][:12]}…; "
            "the file was changed, build it again"
        )


def _strict(value: Any) -> Any:
    """Turn numpy values into JSON's and NaN or infinity into null."""
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if hasattr(value, "tolist"):
        return _strict(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return value.as_posix()
    return value
