"""Where nerfstudio is installed, and what that environment can do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gaussgym_scene.errors import InputError

PYTHON_VARIABLE = "GAUSSGYM_NERFSTUDIO_PYTHON"
MADE_PYTHON = Path(__file__).parents[4] / ".nerfstudio" / "bin" / "python"
"""What `make setup-nerfstudio` makes, in a checkout."""
VERSION = "1.1.5"
METHOD = "gaussgym-splatfacto"
STOCK = "splatfacto"
PROBE_TIMEOUT_S = 300.0

_PROBE = """
import importlib.metadata as m, json
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
import torch
print(json.dumps({"nerfstudio": version("nerfstudio"), "torch": torch.__version__, "cuda": torch.cuda.is_available(),
                  "method": "gaussgym-splatfacto" in m.entry_points(group="nerfstudio.method_configs").names}))
"""


@dataclass(frozen=True)
class Environment:
    """An interpreter that has nerfstudio.

    Attributes:
        python: Its path.
        nerfstudio: nerfstudio's version.
        torch: torch's version.
        cuda: Whether torch sees a GPU.
        has_method: Whether `gaussgym-splatfacto` is installed there.
    """

    python: str
    nerfstudio: str
    torch: str
    cuda: bool
    has_method: bool

    def check(self, method: str) -> None:
        """Check that a method can train here.

        Raises:
            InputError: It is not installed, or wants a GPU that is not there.
        """
        if method == METHOD and not self.has_method:
            raise InputError(
                f"{self.python}: has nerfstudio but not the method {METHOD}; run `make setup-nerfstudio`, or install "
                "recon/nerfstudio_method there"
            )
        if method == STOCK and not self.cuda:
            raise InputError(
                f"method {STOCK} draws on an NVIDIA GPU only and torch finds none; take {METHOD}, which does without"
            )

    def variables(self) -> dict[str, str]:
        """Variables of its programs: ours, less what would lead its Python to our packages."""
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        env.update(PYTHONUNBUFFERED="1", COLUMNS="160", NO_COLOR="1", PYTHONWARNINGS="ignore")
        if not self.has_method:  # else its repairs let torch read nerfstudio's checkpoints
            env["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        return env


def find_environment(python: str | None = None) -> Environment:
    """Look at an interpreter with nerfstudio.

    Args:
        python: Its path; None takes ``GAUSSGYM_NERFSTUDIO_PYTHON``, then what ``make setup-nerfstudio`` made.

    Raises:
        InputError: There is none, or it lacks nerfstudio 1.1.5 or torch.
    """
    given = python or os.environ.get(PYTHON_VARIABLE) or (str(MADE_PYTHON) if MADE_PYTHON.exists() else None)
    if given is None:
        raise InputError(
            f"no Python with nerfstudio: run `make setup-nerfstudio`, or set {PYTHON_VARIABLE} to an interpreter that imports it"
        )
    found = shutil.which(given)
    if found is None:
        raise InputError(
            f"{given}: no such program, expected a Python that imports nerfstudio ({PYTHON_VARIABLE})"
        )
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    try:
        result = subprocess.run(
            [found, "-c", _PROBE], env=clean, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        told = json.loads(result.stdout.strip().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        raise InputError(
            f"{found}: is no Python with torch and nerfstudio; run `make setup-nerfstudio`"
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{found}: did not import torch within {PROBE_TIMEOUT_S:.0f} s") from None
    if told["nerfstudio"] != VERSION:
        raise InputError(
            f"{found}: has nerfstudio {told['nerfstudio'] or 'not at all'}, expected {VERSION}; run `make setup-nerfstudio`"
        )
    return Environment(found, told["nerfstudio"], told["torch"], bool(told["cuda"]), bool(told["method"]))
