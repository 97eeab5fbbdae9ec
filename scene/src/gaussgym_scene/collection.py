"""Collections: many scenes in one file, each for training or held out, with a weight.

`collection.json` stands beside the scenes, or anywhere: folders in it are relative to it. What is held out is decided once, here,
and whole captures at a time: two scenes that were built from the same photographs never lie on both sides.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from gaussgym_scene.artifact import provenance, read_artifact, write_json
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import FORMAT as SCENE_FORMAT
from gaussgym_scene.scene import MANIFEST as SCENE_MANIFEST

MANIFEST = "collection.json"
FORMAT = "gaussgym-collection"
VERSION = 1

Split = Literal["train", "held_out"]
Kind = Literal["synthetic", "real"]
_MEMBERS = ("splats.ply", "mesh.ply", "heightfield.npz", "paths.npz", "appearance.npz")


@dataclass(frozen=True)
class Entry:
    """A scene of a collection.

    Attributes:
        folder: of the scene.
        hash: of its members, 16 hex digits; see `scene_entry`.
        kind: whether it was generated or built from a capture.
        split: what it is for.
        weight: how often it is used, relative to others of its split.
        capture: what it was built from: scenes with the same one stay together.
    """

    folder: Path
    hash: str
    kind: Kind
    split: Split = "train"
    weight: float = 1.0
    capture: str = ""


@dataclass(frozen=True)
class Collection:
    """Scenes, and what each is for.

    Attributes:
        scenes: in the file's order.
        source: the file, None for one that was never written.
        held_out: share that was asked to be held out, None where scenes were named.
        seed: of that choice.
    """

    scenes: tuple[Entry, ...]
    source: Path | None = None
    held_out: float | None = None
    seed: int = 0

    def of(self, split: Split) -> list[Entry]:
        """Scenes of a split.

        Raises:
            InputError: it has none.
        """
        found = [entry for entry in self.scenes if entry.split == split]
        if not found:
            other = "held out: nothing to train on" if split == "train" else "for training: none is held out"
            raise InputError(
                f"{self.source or 'collection'}: all {len(self.scenes)} scenes are {other}; change 'split' there"
            )
        return found

    def chosen(self, folders: Sequence[Path | str], split: Split) -> list[Entry]:
        """Scenes of a split that lie in some folders, in their order; without any, the whole split.

        Raises:
            InputError: a folder that is of the other split, or not listed.
        """
        if not folders:
            return self.of(split)
        by_folder = {entry.folder.resolve(): entry for entry in self.scenes}
        where = self.source or "the collection"
        found = []
        for folder in folders:
            entry = by_folder.get(_scene_folder(folder).resolve())
            if entry is None:
                raise InputError(f"{folder}: not listed in {where}; list it, or leave the collection out")
            if entry.split != split:
                raise InputError(f"{folder}: {where} lists it as {entry.split}, expected a scene of {split}")
            found.append(entry)
        return found

    def save(self, file: Path | str) -> Path:
        """Write it, atomically, with folders relative to the file's; returns the file."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        base = file.parent.resolve()
        scenes = [
            {**vars(entry), "folder": Path(os.path.relpath(entry.folder.resolve(), base)).as_posix()}
            for entry in self.scenes
        ]
        head = {"format": FORMAT, "version": VERSION, "held_out": self.held_out, "seed": self.seed}
        write_json(file, {**head, "provenance": provenance(), "scenes": scenes})
        return file

    @classmethod
    def load(cls, file: Path | str) -> Collection:
        """Read a collection and look after all its scenes (sizes and recorded hashes of their files, not the bytes).

        Raises:
            InputError: the file, a field or a scene does not fit; the text names it.
        """
        file = Path(file)
        file = file / MANIFEST if file.is_dir() else file
        fields = _read(file)
        rows = fields.get("scenes")
        if not isinstance(rows, list) or not rows:
            raise InputError(
                f"{file}: lists no scenes, expected 'scenes': [...] with at least one; make it again"
            )
        entries = tuple(_entry(file, number, row) for number, row in enumerate(rows))
        check_distinct(entries, where=str(file))
        for entry in entries:
            found = scene_entry(entry.folder).hash
            if found != entry.hash:
                raise InputError(
                    f"{file}: {entry.folder} is another scene (hash {found}) than the one listed ({entry.hash}); make it again"
                )
        held_out = fields.get("held_out")
        return cls(entries, file, None if held_out is None else float(held_out), int(fields.get("seed", 0)))


def scene_entry(folder: Path | str) -> Entry:
    """What a scene's manifest says about it: its hash is that of its members' hashes, so no array is read.

    Raises:
        InputError: no whole scene.
    """
    folder = _scene_folder(folder)
    fields = read_artifact(folder, manifest=SCENE_MANIFEST, format=SCENE_FORMAT, verify=False)
    files = fields["files"]
    digest = hashlib.sha256()
    for name in _MEMBERS:
        if name in files:
            digest.update(f"{name} {files[name]['sha256']}\n".encode())
    identity = digest.hexdigest()[:16]
    made_from = fields.get("provenance", {}).get("capture_sha256")
    kind: Kind = "synthetic" if made_from is None and "kind" in fields.get("metadata", {}) else "real"
    return Entry(folder, identity, kind, capture=str(made_from)[:16] if made_from else identity)


def collect(
    folders: Sequence[Path | str],
    *,
    held_out: float = 0.2,
    seed: int = 0,
    named: Sequence[Path | str] = (),
    weights: Mapping[str, float] | None = None,
) -> Collection:
    """Make a collection of scene folders.

    Which captures are held out: each draws a number in 0..1 from its hash and the seed, and is held out below `held_out`. So
    neither order nor other scenes matter, and a scene that is added later moves none. Where that leaves one side without any
    capture of a kind that has at least two, the nearest to the threshold crosses over.

    Args:
        folders: of the scenes.
        held_out: share of captures to hold out, 0..1.
        seed: of the draw.
        named: scenes to hold out instead (and all others built from their captures).
        weights: weight of each scene by kind, 1 where it is not given.

    Raises:
        InputError: no scene, one twice, a share or a weight out of range, or a named one that is not among them.
    """
    if not folders:
        raise InputError("found no scene, expected at least one folder for a collection")
    if not 0.0 <= held_out <= 1.0:
        raise InputError(f"held_out is {held_out}, expected a share of 0 to 1")
    entries = [scene_entry(folder) for folder in folders]
    check_distinct(entries, where="collection")
    captures = _named(entries, named) if named else _drawn(entries, held_out, seed)
    weights = {} if weights is None else weights
    for kind, weight in weights.items():
        if kind not in get_args(Kind) or not (math.isfinite(weight) and weight > 0):
            raise InputError(
                f"weight {kind}={weight}, expected a positive one of: {', '.join(get_args(Kind))}"
            )
    scenes = tuple(
        replace(
            e, split="held_out" if e.capture in captures else "train", weight=float(weights.get(e.kind, 1.0))
        )
        for e in entries
    )
    return Collection(scenes, held_out=None if named else held_out, seed=seed)


def refuse_held_out(folders: Iterable[Path | str]) -> None:
    """Look whether a `collection.json` beside scenes holds one of them out.

    Raises:
        InputError: it does.
    """
    beside: dict[Path, Collection] = {}
    for folder in folders:
        folder = _scene_folder(folder).resolve()
        file = folder.parent / MANIFEST
        if file.is_file():
            collection = (
                beside.setdefault(file, Collection.load(file)) if file not in beside else beside[file]
            )
            for entry in collection.scenes:
                if entry.folder.resolve() == folder and entry.split == "held_out":
                    raise InputError(
                        f"{folder}: {file} lists it as held_out; nothing is trained on it, choose another scene"
                    )


def check_distinct(entries: Sequence[Entry], *, where: str) -> None:
    """Refuse a scene that is there twice, under one folder or two.

    Raises:
        InputError: names both.
    """
    seen: dict[Any, Entry] = {}
    for entry in entries:
        for key in (entry.folder.resolve(), entry.hash):
            other = seen.setdefault(key, entry)
            if other is not entry:
                raise InputError(
                    f"{where}: {entry.folder} is the same scene as {other.folder}; list it once, with a weight"
                )


def _scene_folder(folder: Path | str) -> Path:
    folder = Path(folder)
    return folder.parent if folder.name == SCENE_MANIFEST else folder


def _draw(capture: str, seed: int) -> float:
    """A number in 0..1 that follows from a capture and the seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{capture}".encode()).digest()[:8], "big") / 2.0**64


def _drawn(entries: Sequence[Entry], held_out: float, seed: int) -> set[str]:
    """Captures to hold out."""
    chosen: set[str] = set()
    for kind in get_args(Kind):
        captures = sorted({e.capture for e in entries if e.kind == kind}, key=lambda c: _draw(c, seed))
        count = sum(_draw(capture, seed) < held_out for capture in captures)
        if len(captures) >= 2 and 0.0 < held_out < 1.0:
            count = min(max(count, 1), len(captures) - 1)
        chosen.update(captures[:count])
    return chosen


def _named(entries: Sequence[Entry], named: Sequence[Path | str]) -> set[str]:
    by_folder = {entry.folder.resolve(): entry for entry in entries}
    missing = [str(folder) for folder in named if _scene_folder(folder).resolve() not in by_folder]
    if missing:
        raise InputError(f"scenes to hold out are not among those given: {', '.join(missing)}")
    return {by_folder[_scene_folder(folder).resolve()].capture for folder in named}


def _read(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{file}: not found, expected a {FORMAT} file (gaussgym-learn collection makes one)"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid JSON ({error}); make it again") from None
    found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
    if found != FORMAT:
        raise InputError(f"{file}: format is {found!r}, expected {FORMAT!r}")
    if fields.get("version") != VERSION:
        raise InputError(
            f"{file}: version {fields.get('version')!r} is unknown, this gaussgym reads {VERSION}; make it again"
        )
    return fields


def _entry(file: Path, number: int, row: Any) -> Entry:
    """A row of the file, checked."""
    where = f"{file}: scenes[{number}]"
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("folder"), str)
        or not isinstance(row.get("hash"), str)
    ):
        raise InputError(f"{where} is {row!r}, expected an object with 'folder' and 'hash'")
    where = f"{where} ({row['folder']})"
    if Path(row["folder"]).is_absolute():
        raise InputError(f"{where}: an absolute folder, expected one relative to the file")
    for key, choices in (("split", get_args(Split)), ("kind", get_args(Kind))):
        if row.get(key) not in choices:
            raise InputError(f"{where}: {key!r} is {row.get(key)!r}, expected one of: {', '.join(choices)}")
    weight = row.get("weight", 1.0)
    if (
        isinstance(weight, bool)
        or not isinstance(weight, int | float)
        or not (math.isfinite(weight) and weight > 0)
    ):
        raise InputError(f"{where}: 'weight' is {weight!r}, expected a positive number")
    folder = file.parent / row["folder"]
    return Entry(
        folder, row["hash"], row["kind"], row["split"], float(weight), str(row.get("capture") or row["hash"])
    )
