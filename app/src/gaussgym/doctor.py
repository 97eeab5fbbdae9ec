"""Checks of this machine: what GaussGym needs, what was found, and the one line to type where they differ."""

import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from gaussgym_scene.errors import GaussgymError

from gaussgym.pipeline import usable_cores

OK, WARN, FAIL = "ok", "note", "FAIL"
PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "mujoco",
    "rsl-rl-lib",
    "numba",
    "pycolmap",
    "open3d",
    "opencv-python-headless",
    "pillow",
    "scikit-image",
    "tyro",
    "tqdm",
    "tensorboard",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "jinja2",
    "psutil",
)
OURS = ("scene", "render", "recon", "sim", "learn", "deploy")
# What open3d and OpenCV load at run time: name for the linker, file, Debian package.
LIBRARIES = (
    ("usb-1.0", "libusb-1.0.so.0", "libusb-1.0-0"),
    ("GL", "libGL.so.1", "libgl1"),
    ("EGL", "libEGL.so.1", "libegl1"),
    ("gomp", "libgomp.so.1", "libgomp1"),
    ("X11", "libX11.so.6", "libx11-6"),
)
MEMORY_MB = 8000
DISK_MB = 5000
CORES = 2


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    status: str
    found: str
    fix: str = ""


def diagnose(folder: Path | None = None, captures: Path | None = None) -> list[Check]:
    """Run all checks.

    Args:
        folder: Where runs will be written; its disk is checked.
        captures: Folder that holds captures, `data/captures` by default.

    Returns:
        The rows, in the order in which a person would repair them.
    """
    folder = folder or Path.cwd()
    captures = captures or folder / "data" / "captures"
    checks: list[Callable[[], list[Check]]] = [
        check_python,
        check_packages,
        check_own_packages,
        check_libraries,
        check_ffmpeg,
        check_cores,
        check_memory,
        lambda: check_disk(folder),
        check_gpu,
        lambda: check_captures(captures),
    ]
    return [row for check in checks for row in check()]


def check_python() -> list[Check]:
    """Python 3.11 has the pins; newer ones may work with one's own versions."""
    version = platform.python_version()
    if sys.version_info >= (3, 12):
        return [Check("Python", WARN, f"{version}; the pins are for 3.11", "make setup PYTHON=python3.11")]
    return [Check("Python", OK, version)]


def check_packages() -> list[Check]:
    """Every pinned package is there and none was removed by hand."""
    versions = {}
    missing = []
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return [Check("packages", FAIL, f"missing: {', '.join(missing)}", "make setup")]
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "mujoco", "pycolmap", "rsl-rl-lib"))
    return [Check("packages", OK, f"{len(versions)} found ({shown}, …)")]


def check_own_packages() -> list[Check]:
    """All stages are installed, in the same version as this one."""
    found = {}
    for name in OURS:
        try:
            found[name] = metadata.version(f"gaussgym-{name}")
        except metadata.PackageNotFoundError:
            return [Check("stages", FAIL, f"gaussgym-{name} is not installed", "make setup")]
    if len(set(found.values())) > 1:
        return [Check("stages", FAIL, f"versions differ: {found}", "make setup")]
    return [Check("stages", OK, f"{', '.join(OURS)}, version {found['scene']}")]


def check_libraries() -> list[Check]:
    """The shared libraries that wheels expect of the system."""
    if sys.platform != "linux":
        return [Check("system libraries", OK, f"not checked on {sys.platform}")]
    missing = [(file, package) for name, file, package in LIBRARIES if not _loadable(name, file)]
    if not missing:
        return [Check("system libraries", OK, f"{len(LIBRARIES)} found")]
    files = ", ".join(file for file, _ in missing)
    packages = " ".join(package for _, package in missing)
    return [Check("system libraries", FAIL, f"missing: {files}", f"{_sudo()}apt-get install -y {packages}")]


def check_ffmpeg() -> list[Check]:
    """Ffmpeg reads videos and writes those of the report."""
    program = shutil.which("ffmpeg")
    install = f"{_sudo()}apt-get install -y ffmpeg"
    if program is None:
        return [Check("ffmpeg", FAIL, "not found", install)]
    answer = subprocess.run(
        [program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False
    )
    if "libx264" not in answer.stdout:
        return [Check("ffmpeg", FAIL, f"{program} has no libx264 encoder", install)]
    version = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stdout
    return [Check("ffmpeg", OK, " ".join(version.split()[:3]))]


def check_cores() -> list[Check]:
    """The demo's times are for two cores."""
    cores = usable_cores()
    if cores < CORES:
        return [Check("cores", WARN, f"{cores}; the times are for {CORES}, expect about twice as long")]
    busy = os.getloadavg()[0]
    if busy > cores:
        return [Check("cores", WARN, f"{cores}, but {busy:.1f} processes want to run; expect longer times")]
    return [Check("cores", OK, str(cores))]


def check_memory() -> list[Check]:
    """The demo stays below 8 GB."""
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"
    if memory.available / 1e6 < MEMORY_MB:
        return [
            Check(
                "memory",
                WARN,
                f"{found}; the demo may need {MEMORY_MB / 1000:.0f} GB",
                "close other programs",
            )
        ]
    return [Check("memory", OK, found)]


def check_disk(folder: Path) -> list[Check]:
    """Room for runs, on the disk of `folder`."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_mb = shutil.disk_usage(existing).free / 1e6
    found = f"{free_mb / 1000:.1f} GB free at {existing}"
    if free_mb < DISK_MB:
        return [Check("disk", FAIL, f"{found}, expected {DISK_MB / 1000:.0f} GB", "make clean-runs")]
    return [Check("disk", OK, found)]


def check_gpu() -> list[Check]:
    """A GPU is not needed; say whether one could be used."""
    program = shutil.which("nvidia-smi")
    listed = ""
    if program:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
        listed = (
            answer.stdout.strip().splitlines()[0] if answer.returncode == 0 and answer.stdout.strip() else ""
        )
    if not listed:
        return [Check("GPU", OK, "absent; everything runs on the CPU")]
    import torch

    if not torch.cuda.is_available():
        return [Check("GPU", WARN, f"{listed}; PyTorch here is a CPU build", "make setup TORCH=cuda")]
    return [Check("GPU", OK, listed)]


def check_captures(captures: Path) -> list[Check]:
    """Say which captures can be built into scenes, and which are damaged."""
    from gaussgym_scene.capture import Capture

    folders = sorted(path.parent for path in captures.glob("*/capture.json")) if captures.is_dir() else []
    if not folders:
        return [Check("captures", OK, f"none in {captures}; the demo makes its own")]
    rows = []
    for folder in folders:
        try:
            count = len(Capture.load(folder).images)
        except GaussgymError as error:
            fix = f"gaussgym-recon import images PHOTOS --output {folder}"
            rows.append(Check(f"capture {folder.name}", FAIL, str(error), fix))
        else:
            rows.append(Check(f"capture {folder.name}", OK, f"{count} images"))
    return rows


def table(rows: list[Check]) -> str:
    """Lay the rows out for a terminal, each fix on a line of its own below its problem."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.status:4}  {row.name:{width}}  {row.found}")
        if row.fix:
            lines.append(f"{'':4}  {'':{width}}  → {row.fix}")
    failed = sum(row.status == FAIL for row in rows)
    lines.append(f"{failed} problem(s) to repair" if failed else "ready: make demo")
    return "\n".join(lines)


def _loadable(name: str, file: str) -> bool:
    try:
        ctypes.CDLL(file)
    except OSError:
        return ctypes.util.find_library(name) is not None
    return True


def _sudo() -> str:
    return "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
