"""What a file, an artifact or a package's source was, as one hash: how the pipeline knows what changed."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import sha256_of

CODE_SUFFIXES = {".py", ".xml", ".j2"}
# Imports of the workspace (ARCHITECTURE.md): what else a package's result depends on.
PACKAGE_IMPORTS = {
    "gaussgym_scene": (),
    "gaussgym_render": ("gaussgym_scene",),
    "gaussgym_recon": ("gaussgym_scene", "gaussgym_render"),
    "gaussgym_sim": ("gaussgym_scene",),
    "gaussgym_learn": ("gaussgym_scene", "gaussgym_render", "gaussgym_sim"),
    "gaussgym_deploy": (),
    "gaussgym": (),
}
TOOLS = ("numpy", "torch", "mujoco", "pycolmap", "rsl-rl-lib", "open3d", "numba", "onnxruntime")


def digest(*parts: Any) -> str:
    """Hash JSON-able values, independent of the order of dictionary keys."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_path(path: Path) -> str | None:
    """Fingerprint what lies at `path`.

    Args:
        path: A file, an artifact folder (one JSON manifest that lists its files), or any other folder.

    Returns:
        None if nothing is there or an artifact is damaged: a file that its manifest lists is missing or has another hash.
        An artifact's fingerprint leaves out `provenance`, so that a rebuild with the same result counts as unchanged.
    """
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        return None
    manifest = find_manifest(path)
    if manifest is None:
        return _of_folder(path)
    fields = json.loads(manifest.read_text())
    whole = all(_matches(path / name, record) for name, record in fields["files"].items())
    fields.pop("provenance", None)
    return digest(fields) if whole else None


def find_manifest(folder: Path) -> Path | None:
    """Find the JSON file in `folder` that makes it an artifact."""
    for candidate in sorted(folder.glob("*.json")):
        try:
            fields = json.loads(candidate.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        if isinstance(fields, dict) and "format" in fields and isinstance(fields.get("files"), dict):
            return candidate
    return None


@cache
def of_code(packages: tuple[str, ...]) -> str:
    """Hash source files, with the versions of the tools below them.

    Args:
        packages: Packages of the workspace, which stand for their files and those of the packages that they import, and
            single modules such as `gaussgym.walking`.
    """
    wanted: set[str] = set()
    pending = list(packages)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending.extend(PACKAGE_IMPORTS.get(name, ()))
    sources = {name: _of_sources(name) for name in sorted(wanted)}
    return digest(sources, {tool: _version(tool) for tool in TOOLS})


def _of_sources(package: str) -> list[tuple[str, str]]:
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin and not spec.submodule_search_locations:
        return [(package, sha256_of(Path(spec.origin)))]
    folders: Iterable[str] = (spec.submodule_search_locations or ()) if spec else ()
    return [
        (path.relative_to(folder).as_posix(), sha256_of(path))
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix in CODE_SUFFIXES
    ]


def _of_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest([(path.relative_to(folder).as_posix(), sha256_of(path)) for path in files])


def _matches(path: Path, record: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == record["bytes"] and sha256_of(path) == record["sha256"]


def _version(tool: str) -> str | None:
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        return None
