"""A training on disk: everything that the next step depends on, so that a killed run goes on to the same bits."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

from gaussgym_recon.training.model import SplatModel

VERSION = 2


@dataclass
class TrainingState:
    """What a checkpoint holds.

    Attributes:
        model: The splats and their moments.
        arrays: Further arrays by name: exposures, poses, statistics, the order of the views that are left.
        values: Plain values: counts, times, histories, the state of the random numbers.
    """

    model: SplatModel
    arrays: dict[str, NDArray]
    values: dict[str, Any]


def save_state(path: Path, state: TrainingState) -> None:
    """Write a checkpoint, to a temporary name first: a kill leaves the old one or the new one."""
    m = state.model
    arrays = {f"model_{name}": getattr(m, name) for name in SplatModel.ROWS}
    partial = path.with_suffix(".partial.npz")
    values = json.dumps({"version": VERSION, **state.values})
    with open(partial, "wb") as file:
        np.savez(file, values=np.array(values), **arrays, **state.arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_state(path: Path) -> TrainingState:
    """Read a checkpoint.

    Raises:
        InputError: It is damaged, or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            values = json.loads(str(data["values"]))
            if values.pop("version") != VERSION:
                raise ValueError(f"not of version {VERSION}")
            arrays = {name: data[name] for name in data.files if name != "values"}
            model = SplatModel(*(arrays.pop(f"model_{name}") for name in SplatModel.ROWS))
    except Exception as error:
        raise InputError(
            f"{path}: not readable as a training checkpoint ({error}); delete it to train anew"
        ) from error
    return TrainingState(model, arrays, values)
