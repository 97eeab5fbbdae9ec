"""Where things lie in a run folder: the one place that names them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths of a demo's run folder."""

    root: Path

    @property
    def truth_scene(self) -> Path:
        """The procedural scene that the synthetic capture shows."""
        return self.root / "scenes" / "truth"

    @property
    def stairs_scene(self) -> Path:
        """Stairs of 15 cm."""
        return self.root / "scenes" / "stairs"

    @property
    def flat_scene(self) -> Path:
        """The plane on which the teacher learns to walk."""
        return self.root / "scenes" / "flat"

    @property
    def scene(self) -> Path:
        """The scene built from the photos."""
        return self.root / "scenes" / "place"

    @property
    def capture(self) -> Path:
        """The photos."""
        return self.root / "capture"

    @property
    def truth_poses(self) -> Path:
        """True cameras of the synthetic capture, which `build` never reads."""
        return self.root / "capture.truth"

    @property
    def teacher_flat(self) -> Path:
        """Run that learns to walk from nothing."""
        return self.root / "training" / "teacher_flat"

    @property
    def teacher(self) -> Path:
        """Run that goes on in the built scene."""
        return self.root / "training" / "teacher"

    @property
    def pixels(self) -> Path:
        """Run of PPO straight from pixels."""
        return self.root / "training" / "pixels"

    @property
    def snapshots(self) -> Path:
        """The teacher's networks while it learned to walk."""
        return self.root / "training" / "snapshots"

    @property
    def tuned(self) -> Path:
        """The shipped student after fine-tuning in the built scene."""
        return self.root / "training" / "tuned"

    @property
    def student(self) -> Path:
        """The student that is delivered: the tuned one, unless it does worse than the shipped one."""
        return self.root / "training" / "student"

    @property
    def bundle(self) -> Path:
        """The exported policy."""
        return self.root / "policy"

    @property
    def films(self) -> Path:
        """Folder of films."""
        return self.root / "films"

    @property
    def figures(self) -> Path:
        """Drawings of the report."""
        return self.root / "figures"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def summary(self) -> Path:
        """The numbers."""
        return self.root / "summary.json"

    def result(self, name: str) -> Path:
        """JSON file of a measurement."""
        return self.root / "results" / f"{name}.json"
