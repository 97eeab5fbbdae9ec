"""`gaussgym-learn collection`, and how the other commands read what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from gaussgym_scene.collection import Collection, Split, collect
from gaussgym_scene.errors import InputError


@dataclass
class MakeCollection:
    """List scenes in one file that says which are for training and which are held out, whole captures at a time."""

    scenes: tyro.conf.Positional[list[Path]]
    """Scene folders."""
    output: Path
    """File to write, such as data/scenes/collection.json; beside its scenes it also guards those held out without being named."""
    held_out: float = 0.2
    """Share of the captures to hold out, 0 to 1."""
    seed: int = 0
    """Of that choice, which otherwise follows from the scenes alone."""
    hold_out: list[Path] = field(default_factory=list)
    """Scenes to hold out, instead of a share; those of the same captures go with them."""
    synthetic_weight: float = 1.0
    """How often each procedural scene is used."""
    real_weight: float = 1.0
    """How often each reconstructed scene is used."""

    def run(self) -> Path:
        """Write the file, say what is in it, and return its path."""
        weights = {"synthetic": self.synthetic_weight, "real": self.real_weight}
        made = collect(
            self.scenes, held_out=self.held_out, seed=self.seed, named=self.hold_out, weights=weights
        )
        for entry in made.scenes:
            print(f"{entry.split:<9}{entry.kind:<10}{entry.weight:<6g}{entry.folder}")
        return made.save(self.output)


def scenes_of(
    folders: Sequence[Path], file: Path | None, split: Split
) -> tuple[list[Path], tuple[float, ...] | None]:
    """Scene folders of a split: all of a collection, or those named of it; without one, those named. And their weights.

    Weights are None where all are alike: scenes then take turns, or have as many robots each.

    Raises:
        InputError: a folder of the other split, or no scene in this one.
    """
    if file is None:
        return list(folders), None
    entries = Collection.load(file).chosen(folders, split)
    weights = tuple(entry.weight for entry in entries)
    return [entry.folder for entry in entries], weights if len(set(weights)) > 1 else None


def required(folders: Sequence[Path]) -> Sequence[Path]:
    """Scene folders, of which there must be one.

    Raises:
        InputError: there is none.
    """
    if not folders:
        raise InputError("no scene given; add --scenes DIR [DIR ...] or --collection FILE")
    return folders
