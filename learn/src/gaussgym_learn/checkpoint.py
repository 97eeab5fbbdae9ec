"""The run artifact: `runs/<name>/checkpoint.json` beside `model_<iteration>.pt`.

A run folder lives while its training goes on, so unlike other artifacts it is not written whole and renamed; instead the
model file is written first (temporary file, rename) and the manifest, which names it with size and hash, replaces the old
manifest last. A kill at any moment leaves the previous checkpoint readable.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gaussgym_scene.artifact import provenance, read_artifact, sha256_of, write_json
from gaussgym_scene.errors import InputError

MANIFEST = "checkpoint.json"
FORMAT = "gaussgym-checkpoint"
VERSION = 1
_KEPT_MODELS = 2


@dataclass
class Checkpoint:
    """A checkpoint read back.

    Attributes:
        directory: the run folder.
        fields: the manifest.
        state: what `save_checkpoint` was given, tensors and plain values.
    """

    directory: Path
    fields: dict[str, Any]
    state: dict[str, Any]

    @property
    def robot(self) -> str:
        """Registry name of the robot it drives."""
        return str(self.fields["robot"])

    @property
    def layout(self) -> dict[str, list[int]]:
        """Shape of every observation group without the batch axis."""
        return {name: list(shape) for name, shape in self.fields["observations"].items()}


def save_checkpoint(run_dir: Path, state: dict[str, Any], fields: dict[str, Any], *, iteration: int) -> Path:
    """Write a checkpoint so that a kill at any moment leaves this one or the previous one.

    Args:
        run_dir: folder of the run, made if missing.
        state: tensors and plain values only: it must load with `weights_only=True`.
        fields: of the manifest; `robot`, `observations` (shape per group), `recipe`, `scenes` (name → hash) at least.
        iteration: updates done so far; names the model file.

    Returns:
        The manifest's path.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    model = run_dir / f"model_{iteration}.pt"
    write_bytes(model, _serialized(state))
    record = {"bytes": model.stat().st_size, "sha256": sha256_of(model)}
    manifest = run_dir / MANIFEST
    head = {"format": FORMAT, "version": VERSION, "iteration": iteration, "model": model.name}
    write_json(manifest, {**head, **fields, "provenance": provenance(), "files": {model.name: record}})
    _remove_old_models(run_dir, keep=model)
    return manifest


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read and check a checkpoint.

    Args:
        path: the run folder or its `checkpoint.json`.

    Raises:
        InputError: no checkpoint there, damaged, of an unknown version, or holding anything but tensors and plain values.
    """
    path = Path(path)
    directory = path.parent if path.name == MANIFEST else path
    if path.suffix in {".pt", ".onnx"}:
        raise InputError(f"{path}: a model file alone is not a checkpoint; give its folder {path.parent}")
    fields = read_artifact(directory, manifest=MANIFEST, format=FORMAT, versions=(VERSION,))
    missing = [key for key in ("robot", "observations", "recipe", "model", "iteration") if key not in fields]
    if missing:
        raise InputError(f"{directory / MANIFEST}: lacks {', '.join(missing)}; train it again")
    model = directory / str(fields["model"])
    if model.name not in fields["files"]:
        raise InputError(
            f"{directory / MANIFEST}: names {model.name} but does not list its hash; train it again"
        )
    try:
        state = torch.load(model, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{model}: not a plain tensor file ({reason}); train it again") from None
    if not isinstance(state, dict):
        raise InputError(f"{model}: holds a {type(state).__name__}, expected a dictionary; train it again")
    return Checkpoint(directory, fields, state)


def has_checkpoint(run_dir: Path | str) -> bool:
    """Whether a run folder holds a finished checkpoint."""
    return (Path(run_dir) / MANIFEST).is_file()


def check_compatible(
    checkpoint: Checkpoint, *, robot: str, layout: dict[str, list[int]], groups: tuple[str, ...]
) -> None:
    """Refuse a checkpoint of another robot or of other observations.

    Args:
        checkpoint: to check.
        robot: registry name of the robot at hand.
        layout: shape per observation group at hand.
        groups: the groups that its networks read.

    Raises:
        InputError: what does not fit, found and expected.
    """
    where = checkpoint.directory / MANIFEST
    if checkpoint.robot != robot:
        raise InputError(
            f"{where}: made for robot {checkpoint.robot!r}, expected {robot!r}; give a checkpoint of this robot"
        )
    for group in groups:
        found, expected = checkpoint.layout.get(group), list(layout.get(group, []))
        if found != expected:
            raise InputError(
                f"{where}: observation {group!r} has shape {found}, this environment gives {expected or None}; "
                "use the same robot, camera and height scan as in its training"
            )


def load_or_explain(checkpoint: Checkpoint, load: Callable[[], Any]) -> None:
    """Run `load`; what torch says about names and shapes that do not fit becomes one clear line.

    Raises:
        InputError: the networks do not fit.
    """
    try:
        load()
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{checkpoint.directory}: networks do not fit the recipe ({reason}); "
            f"it was trained with {checkpoint.fields['recipe'].get('name')!r}"
        ) from None


def copy_checkpoint(source: Path | str, target: Path | str) -> Path:
    """Copy a run's newest checkpoint (manifest, model, curve) to another run folder; returns the new manifest's path."""
    source, target = Path(source), Path(target)
    fields = read_artifact(source, manifest=MANIFEST, format=FORMAT, versions=(VERSION,))
    target.mkdir(parents=True, exist_ok=True)
    for name in fields["files"]:
        write_bytes(target / name, (source / name).read_bytes())
    if (source / "curve.jsonl").is_file():
        write_bytes(target / "curve.jsonl", (source / "curve.jsonl").read_bytes())
    write_json(target / MANIFEST, fields)
    _remove_old_models(target, keep=target / str(fields["model"]))
    return target / MANIFEST


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a temporary one and a rename, flushed to the disk."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _serialized(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _remove_old_models(run_dir: Path, *, keep: Path) -> None:
    models = sorted(run_dir.glob("model_*.pt"), key=lambda p: p.stat().st_mtime)
    for old in [m for m in models if m != keep][: -(_KEPT_MODELS - 1) or None]:
        old.unlink(missing_ok=True)
