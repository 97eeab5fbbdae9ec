"""What the package may need: numpy and onnxruntime, a Python as old as robots carry, and no stage of ours."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import gaussgym_deploy
import pytest
from gaussgym_deploy.testing import make_bundle

PACKAGE = Path(gaussgym_deploy.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


BLOCKER = """
import importlib.abc, importlib.metadata, sys
ALLOWED = {{"numpy", "onnxruntime", "gaussgym_deploy", {extra}}} | set(sys.stdlib_module_names)
class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError("blocked by the test: " + name, name=name)
        return None
sys.meta_path.insert(0, Wall())
"""


def run_walled(code, extra=""):
    program = BLOCKER.format(extra=extra) + code
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False
    )


def test_the_wall_blocks():
    assert "blocked by the test: torch" in run_walled("import torch").stderr


def test_everything_but_the_command_runs_with_numpy_and_onnxruntime_alone(tmp_path):
    directory = make_bundle(tmp_path / "policy", steps=10)
    done = run_walled(
        "import gaussgym_deploy, gaussgym_deploy.sim2sim, gaussgym_deploy.testing, gaussgym_deploy.__main__\n"
        "from gaussgym_deploy import PolicyBundle, Runtime\n"
        "from gaussgym_deploy.testing import FakeClock, FaultyRobot\n"
        "clock = FakeClock()\n"
        f"bundle = PolicyBundle.load({str(directory)!r})\n"
        "report = Runtime(bundle, FaultyRobot(clock), clock=clock, sleep=clock.sleep).run(4.0)\n"
        "assert report.fault is None and report.ticks_by_mode['run'] > 50\n"
        "print('ran')\n"
    )
    assert done.stdout == "ran\n", done.stderr


def test_importing_the_package_does_not_load_onnxruntime_or_tyro():
    code = "import sys, gaussgym_deploy; print({'onnxruntime', 'tyro', 'onnx'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_parses_as_python_3_8(path):
    text = path.read_text()
    ast.parse(text, feature_version=(3, 8))
    assert "from __future__ import annotations" in text
    # What the parser accepts and Python 3.8 does not run: subscripted builtins and unions outside annotations, new keywords.
    assert not re.search(r"(kw_only|slots)=True|strict=|removeprefix|removesuffix", text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign | ast.Call):
            for part in ast.walk(node):
                subscripted = isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name)
                assert not (subscripted and part.value.id in {"list", "dict", "tuple", "set", "type"}), (
                    ast.unparse(node)
                )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_no_stage_of_ours(path):
    stages = re.findall(r"(?:from|import)\s+(gaussgym_(?!deploy)\w+|gaussgym\b)", path.read_text())
    assert stages == []
