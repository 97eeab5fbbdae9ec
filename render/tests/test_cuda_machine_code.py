"""`experiments/gpu/kernels.py`: what the kernels ask of a GPU."""

import json
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytest.importorskip("warp")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "gpu" / "kernels.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="experiments are not installed with the package")
REPORT = """ptxas info    : Compiling entry function 'blend_half_0123abcd_cuda_kernel_forward' for 'sm_80'
ptxas info    : Function properties for blend_half_0123abcd_cuda_kernel_forward
    16 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 16 bytes cumulative stack size, 26176 bytes smem, 2052 bytes cmem[0]
ptxas info    : Compile time = 140.831 ms
ptxas info    : Compiling entry function 'keep_ties_89abcdef_cuda_kernel_forward' for 'sm_80'
ptxas info    : Function properties for keep_ties_89abcdef_cuda_kernel_forward
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers, 500 bytes cmem[0]
"""


@pytest.fixture(scope="module")
def kernels():
    """The script as a module."""
    spec = spec_from_file_location("gpu_kernels", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "wanted"),
    [
        (80, 256, 32, 0, 2048),  # 65536 / (32 · 32) = 64 warps: all of them
        (80, 256, 80, 26176, 768),  # 65536 / 2560 = 25.6, 24 warps: three blocks
        (80, 256, 64, 26176, 1024),  # 32 warps
        (86, 256, 64, 26176, 768),  # three blocks of 27200 B in 102400
        (90, 1024, 64, 38020, 1024),  # one block of 32 warps, since two would need 64 warps of 2048 registers
        (86, 32, 16, 0, 512),  # sixteen blocks at most
    ],
)
def test_resident_threads_by_hand(kernels, arch, threads, registers, shared, wanted):
    limits = kernels.ARCHITECTURES[arch]
    assert kernels.resident_threads(limits, threads, registers, shared) == wanted


def test_a_report_of_ptxas(kernels):
    half, ties = kernels.kernel_rows(REPORT, 80, "blend_fast", {"blend_half": 256})
    assert half == {
        "kernel": "blend_half",
        "module": "blend_fast",
        "arch": "sm_80",
        "threads": 256,
        "registers": 80,
        "spill_bytes": 36,
        "shared_bytes": 26176,
        "resident_threads": 768,
        "occupancy": 0.375,
    }
    assert (ties["kernel"], ties["registers"], ties["spill_bytes"], ties["shared_bytes"]) == (
        "keep_ties",
        18,
        0,
        0,
    )
    assert "| `blend_fast.blend_half` | 256 | 25.6 KiB | 80 / 36 / 38% |" in kernels.table([half, ties])


def test_recorded_figures_cover_the_block_kernels():
    """What the README shows was recorded for all architectures, and no kernel asks for more than a block may have."""
    rows = json.loads((ROOT / "experiments" / "results" / "ptxas" / "kernels.json").read_text())["kernels"]
    archs = {row["arch"] for row in rows}
    assert archs == {"sm_80", "sm_86", "sm_89", "sm_90", "sm_120"}
    for name in (
        "sort_1024",
        "sort_2048",
        "sort_4096",
        "sort_8192",
        "sort_long",
        "blend_single",
        "blend_half",
    ):
        assert {row["arch"] for row in rows if row["kernel"] == name} == archs
    assert all(row["shared_bytes"] <= 48 * 1024 and row["resident_threads"] >= row["threads"] for row in rows)


def test_without_ptxas_one_clear_line(tmp_path):
    command = [sys.executable, str(SCRIPT), "--ptxas", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no ptxas at" in done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ptxas") is None, reason="no ptxas on the path")
def test_one_architecture_for_real(kernels):
    try:
        rows = kernels.survey([90], "ptxas")
    except kernels.InputError as error:  # one too old for Warp's PTX
        pytest.skip(str(error))
    assert {row["kernel"] for row in rows} >= {"sort_long", "blend_half", "project"}
