"""`gaussgym-learn export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from gaussgym_scene.errors import InputError


@dataclass
class Export:
    """Write a policy bundle: ONNX networks, manifest and a golden trace recorded in a scene.

    Only what a robot can run: a policy of joint targets that reads proprioception and, if it sees, one camera. `gaussgym-deploy
    check` says whether it runs here, `gaussgym-deploy schema` what stands in it.
    """

    checkpoint: tyro.conf.Positional[Path]
    """Run folder of a student, or of any policy that reads no more than proprioception."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folder; the trace of 250 control steps is recorded in the first."""
    output: Path = Path("runs/policy")
    """Bundle folder; replaced as a whole."""
    renderer: str = "auto"
    """Backend of the camera."""

    def run(self) -> Path:
        """Export and return the manifest's path."""
        from gaussgym_learn.export import export_policy
        from gaussgym_learn.run import torch_threads

        if not self.scenes:
            raise InputError("no scene given; add --scenes DIR")
        with torch_threads(1):
            return export_policy(self.checkpoint, self.output, self.scenes[0], renderer=self.renderer)
