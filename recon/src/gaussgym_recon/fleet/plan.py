"""What a fleet has to build: captures below a folder, each under a name of its own, and which of their scenes are there."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import read_artifact, sha256_of
from gaussgym_scene.capture import MANIFEST as CAPTURE_MANIFEST
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import FORMAT as SCENE_FORMAT
from gaussgym_scene.scene import MANIFEST as SCENE_MANIFEST

LOGS = "logs"
_DEPTH = 5


@dataclass(frozen=True)
class Job:
    """A scene to build.

    Attributes:
        name: Of the scene, unique in the fleet.
        capture: Folder of the capture.
        output: Folder of the scene.
        log: File that says what happened.
        settings: Of the build, as its manifest will say them.
        capture_sha256: Of the capture's manifest.
    """

    name: str
    capture: Path
    output: Path
    log: Path
    settings: dict[str, Any]
    capture_sha256: str

    def is_built(self) -> bool:
        """Whether the whole scene is there, made of this capture with these settings (sizes of files are checked, not bytes)."""
        if not (self.output / SCENE_MANIFEST).is_file():
            return False
        try:
            fields = read_artifact(self.output, manifest=SCENE_MANIFEST, format=SCENE_FORMAT, verify=False)
        except InputError:
            return False
        made = fields.get("provenance", {})
        return made.get("capture_sha256") == self.capture_sha256 and made.get("settings") == self.settings


@dataclass(frozen=True)
class Plan:
    """Jobs in the order of their names, and captures that are left out because another one is the same."""

    jobs: list[Job]
    duplicates: dict[str, str]
    """Name of a capture that is left out → name of the same one."""


def plan(captures: Path, output: Path, settings: dict[str, Any]) -> Plan:
    """List what has to be built.

    Args:
        captures: Folder below which captures lie, or a capture itself.
        output: Folder for the scenes.
        settings: Of every build, plain values.

    Raises:
        InputError: No capture is there, or the output lies among the captures' own files.
    """
    folders = find_captures(captures)
    names = _names(captures, folders)
    jobs, duplicates, seen = [], {}, {}
    settings = json.loads(json.dumps(settings))
    for folder, name in zip(folders, names, strict=True):
        if output.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{output}: lies inside the capture {folder}; choose another --output")
        digest = sha256_of(folder / CAPTURE_MANIFEST)
        if digest in seen:
            duplicates[name] = seen[digest]
            continue
        seen[digest] = name
        log = output / LOGS / f"{name}.log"
        jobs.append(Job(name, folder.resolve(), (output / name).resolve(), log.resolve(), settings, digest))
    return Plan(jobs, duplicates)


def find_captures(root: Path) -> list[Path]:
    """Folders with a `capture.json` at or below a folder, sorted.

    Raises:
        InputError: There is none.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: not a folder; expected one that holds captures (folders with {CAPTURE_MANIFEST})"
        )
    found = []
    for folder, below, files in os.walk(root):
        if CAPTURE_MANIFEST in files:
            found.append(Path(folder))
            below.clear()
        elif len(Path(folder).relative_to(root).parts) >= _DEPTH:
            below.clear()
        # Half-written folders of an import are no captures.
        below[:] = [name for name in below if not name.endswith((".partial", ".old", ".work"))]
    if not found:
        raise InputError(
            f"{root}: holds no capture (no folder in it has a {CAPTURE_MANIFEST}); make some with gaussgym-recon import"
        )
    return sorted(found)


def _names(root: Path, folders: list[Path]) -> list[str]:
    """A name each: the folder's path below the root, in one word."""
    names = ["_".join(folder.relative_to(root).parts) or root.resolve().name for folder in folders]
    taken: set[str] = {LOGS}
    unique = []
    for name in names:
        own, n = name, 1
        while own in taken:
            n += 1
            own = f"{name}_{n}"
        taken.add(own)
        unique.append(own)
    return unique
