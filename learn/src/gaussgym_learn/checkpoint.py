"""The run artifact: `runs/<name>/checkpoint.json` beside `model_<iteration>.pt`.

A run folder lives while its training goes on, so unlike other artifacts it is not written whole and renamed; instead the
model file is written first (temporary file, rename), then a manifest of its own, `model_<iteration>.json`, which names it with
size and hash, and last the same manifest as `checkpoint.json`. A kill at any moment leaves the previous checkpoint readable, and
should the newest file be damaged, `newest_whole` finds the one before. `best.json` and `model_best.pt` are a checkpoint like any
other: of the update at which the run's score was best.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gaussgym_scene.artifact import provenance, read_artifact, sha256_of, write_json
from gaussgym_scene.errors import InputError

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
BEST_MANIFEST = "best.json"
BEST_MODEL = "model_best.pt"
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
    manifest = _manifest(model, fields, iteration)
    for name in (f"{model.stem}.json", MANIFEST):
        _write_manifest(run_dir / name, manifest)
    _remove_old_models(run_dir, keep=model)
    return run_dir / MANIFEST


def keep_as_best(run_dir: Path, fields: dict[str, Any], *, iteration: int) -> Path:
    """Keep the checkpoint of an iteration that was just saved as the run's best; returns its manifest's path.

    Args:
        run_dir: folder of the run.
        fields: as of `save_checkpoint`.
        iteration: of the checkpoint.
    """
    best = run_dir / BEST_MODEL
    temporary = best.with_name(best.name + ".tmp")
    temporary.unlink(missing_ok=True)
    source = run_dir / f"model_{iteration}.pt"
    try:
        os.link(source, temporary)  # costs no second copy on the disk
        temporary.replace(best)
    except OSError:
        temporary.unlink(missing_ok=True)
        write_bytes(best, source.read_bytes())
    _write_manifest(run_dir / BEST_MANIFEST, _manifest(best, fields, iteration))
    return run_dir / BEST_MANIFEST


def best_of(run_dir: Path) -> dict[str, Any] | None:
    """What `best.json` says about the best checkpoint of a run: its ``best`` entry; None where there is none."""
    try:
        return json.loads((run_dir / BEST_MANIFEST).read_text(encoding="utf-8")).get("best")
    except (OSError, ValueError):
        return None


def _manifest(model: Path, fields: dict[str, Any], iteration: int) -> dict[str, Any]:
    record = {"bytes": model.stat().st_size, "sha256": sha256_of(model)}
    head = {"format": FORMAT, "version": VERSION, "iteration": iteration, "model": model.name}
    return {**head, **fields, "provenance": provenance(), "files": {model.name: record}}


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    try:
        write_json(path, manifest)
    except BaseException:
        path.with_name(path.name + ".tmp").unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read and check a checkpoint.

    Args:
        path: the run folder, its `checkpoint.json`, or another manifest in it such as `best.json`.

    Raises:
        InputError: no checkpoint there, damaged, of an unknown version, or holding anything but tensors and plain values.
    """
    path = Path(path)
    directory, name = (path.parent, path.name) if path.suffix == ".json" else (path, MANIFEST)
    if path.suffix in {".pt", ".onnx"}:
        raise InputError(f"{path}: a model file alone is not a checkpoint; give its folder {path.parent}")
    fields = read_artifact(directory, manifest=name, format=FORMAT, versions=(VERSION,))
    missing = [key for key in ("robot", "observations", "recipe", "model", "iteration") if key not in fields]
    if missing:
        raise InputError(f"{directory / name}: lacks {', '.join(missing)}; train it again")
    model = directory / str(fields["model"])
    if model.name not in fields["files"]:
        raise InputError(f"{directory / name}: names {model.name} but does not list its hash; train it again")
    try:
        state = torch.load(model, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{model}: not a plain tensor file ({reason}); train it again") from None
    if not isinstance(state, dict):
        raise InputError(f"{model}: holds a {type(state).__name__}, expected a dictionary; train it again")
    return Checkpoint(directory, fields, state)


def newest_whole(run_dir: Path | str) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole; None where the run has none yet.

    Raises:
        InputError: there are checkpoints, and all of them are damaged.
    """
    run_dir = Path(run_dir)
    manifests = [*run_dir.glob("model_*.json"), *run_dir.glob(MANIFEST)]
    damage = []
    for path in sorted(manifests, key=lambda p: (_iteration_of(p), p.name != MANIFEST), reverse=True):
        try:
            checkpoint = load_checkpoint(path)
        except InputError as error:
            damage.append(str(error))
            continue
        if damage:
            logger.warning("%s; going on from update %s instead", damage[0], checkpoint.fields["iteration"])
        return checkpoint
    if damage:
        raise InputError(f"{damage[0]}; no older checkpoint is whole: train without --resume, or elsewhere")
    return None


def make_newest(checkpoint: Checkpoint) -> None:
    """Have `checkpoint.json` name this checkpoint, should it be damaged or name another."""
    path = checkpoint.directory / MANIFEST
    try:
        named = json.loads(path.read_text(encoding="utf-8")) == checkpoint.fields
    except (OSError, ValueError):
        named = False
    if not named:
        _write_manifest(path, checkpoint.fields)


def _iteration_of(manifest: Path) -> float:
    """The update that a manifest is of; of a `checkpoint.json` that cannot be read infinity, as it is the newest."""
    if manifest.name != MANIFEST:
        number = manifest.stem.removeprefix("model_")
        return int(number) if number.isdecimal() else -1
    try:
        return int(json.loads(manifest.read_text(encoding="utf-8"))["iteration"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def check_same_run(checkpoint: Checkpoint, recipe: dict[str, Any]) -> None:
    """Refuse to resume the checkpoint of another recipe or task.

    Raises:
        InputError: which it is of, and which was asked for.
    """
    saved = checkpoint.fields["recipe"]
    for key in ("task", "name"):
        if saved.get(key) != recipe[key]:
            raise InputError(
                f"{checkpoint.directory}: a run of {'recipe' if key == 'name' else key} {saved.get(key)!r}, expected "
                f"{recipe[key]!r}; resume it with its own, or start from its networks with --init-from in another folder"
            )


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
    """Remove all but the newest models and their manifests."""
    models = [m for m in run_dir.glob("model_*.pt") if m.name != BEST_MODEL and m != keep]
    models.sort(key=lambda p: p.stat().st_mtime)
    for old in models[: -(_KEPT_MODELS - 1) or None]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
