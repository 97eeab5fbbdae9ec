"""`gaussgym-learn evaluate`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from gaussgym_learn.cli.collection import required, scenes_of


@dataclass
class Evaluate:
    """Run one episode from each of a fixed set of starts and report success, falls and errors as JSON."""

    policy: tyro.conf.Positional[Path]
    """Run folder or policy bundle."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders."""
    collection: Path | None = None
    """File of `gaussgym-learn collection`: evaluate on its scenes of a split, or on those named."""
    split: Literal["held_out", "train"] = "held_out"
    """Which of a collection."""
    task: str = "goal"
    """`goal`: reach a goal 10 m along the path; `velocity`: follow velocity commands; or another registered task."""
    episodes: int = 256
    """Number of starts."""
    ablate: Literal["none", "blank", "shuffled"] = "none"
    """What to do to the camera images."""
    seed: int = 1234
    """Of the starts."""
    renderer: str = "auto"
    """Backend of the camera."""
    camera_model: str = "ideal"
    """Lens, shutter and sensor of the camera (ideal, robot, varied)."""
    show_robot: bool = False
    """Draw the robot's own body into its images."""
    show_others: int = 0
    """Draw up to so many other robots of the same scene, the nearest; they do not touch."""
    lod: list[Path] | None = None
    """Folders of gaussgym-render optimize, one a scene in the same order, to render instead of the scenes' full splats."""
    record: Path | None = None
    """Write the trajectory and camera frames of one episode to this npz."""
    json: Path | None = None
    """Write the result here; without it, on stdout."""

    def run(self) -> Path | None:
        """Evaluate and write the JSON."""
        from gaussgym_learn.checkpoint import write_bytes
        from gaussgym_learn.evaluate import evaluate
        from gaussgym_learn.run import torch_threads

        folders, _ = scenes_of(self.scenes, self.collection, self.split)
        with torch_threads(1):
            result = evaluate(
                self.policy,
                required(folders),
                task=self.task,
                episodes=self.episodes,
                ablate=self.ablate,
                seed=self.seed,
                renderer=self.renderer,
                camera_model=self.camera_model,
                show_robot=self.show_robot,
                show_others=self.show_others,
                lod=self.lod,
                record=self.record,
                progress=True,
            )
        text = json.dumps(result, indent=1)
        if self.json is None:
            print(text)
            return None
        self.json.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.json, f"{text}\n".encode())
        return self.json
