"""``compare``: a robot's log against its simulation. The work is a command of gaussgym-learn, started as a process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Optional, Tuple

from ..bundle import BundleError
from ..flight_files import check_flight, flight_folder
from ..robot_io import LinkError

__all__ = ["compare"]


def compare(
    log: Path,
    /,
    *,
    scene: Path,
    bundle: Optional[Path] = None,
    json: Optional[Path] = None,
    preset: Optional[Path] = None,
    picture: Optional[Path] = None,
    segments: int = 100,
    horizon: int = 3,
    odometry_in_scene: Tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    images: int = 24,
) -> Optional[Path]:
    """Sim-to-real as a number: replay a flight recording in simulation, fit what explains the gap, write a preset.

    Args:
        log: Folder of the flight recording.
        scene: Folder of the scene in which it was recorded.
        bundle: Policy bundle whose camera took the images.
        json: File for the report.
        preset: File for a randomization preset to train with.
        picture: File for a picture of measured and simulated joint angles.
        segments: Pieces of the log that are replayed, at most.
        horizon: Control steps a piece.
        odometry_in_scene: Where the odometry's frame lies in the scene: x, y, z [m], yaw [rad].
        images: Camera images compared with the scene, at most; 0 for none.
    """
    check_flight(log)
    for path in (scene, bundle):
        if path is not None and not path.exists():
            raise BundleError(f"{path}: not found")
    words = [
        str(flight_folder(log)),
        "--scene",
        str(scene),
        "--segments",
        str(segments),
        "--horizon",
        str(horizon),
    ]
    words += ["--images", str(images), "--odometry-in-scene", *(repr(float(x)) for x in odometry_in_scene)]
    given = (("--bundle", bundle), ("--json", json), ("--preset", preset), ("--picture", picture))
    for option, path in given:
        words += [] if path is None else [option, str(path)]
    _run_learn(["compare", *words])
    written = [path for path in (picture, json, preset) if path is not None]
    return written[-1] if written else None


def _run_learn(words: List[str]) -> None:
    """Run a command of gaussgym-learn, its progress and result passed through.

    Raises:
        LinkError: It is not installed, or ended in an error; the text is its last line.
    """
    beside = Path(sys.executable).parent / "gaussgym-learn"
    program = str(beside) if beside.is_file() else shutil.which("gaussgym-learn")
    if program is None:
        raise LinkError(
            "the command gaussgym-learn is not installed here; compare needs it to simulate the robot"
        )
    process = subprocess.Popen(
        [program, *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True
    )
    last = ""
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.strip():
                last = line.strip()
            if not line.startswith("error: "):
                sys.stderr.write(line)
        status = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if status != 0:
        text = (
            last[len("error: ") :]
            if last.startswith("error: ")
            else f"gaussgym-learn ended with {status}: {last}"
        )
        raise LinkError(text)
