"""What the renderer's kernels ask of a GPU: registers, spills, shared memory, and how many threads fit at once.

    python experiments/gpu/kernels.py --output experiments/results/ptxas/kernels.json --table

Needs no GPU, but `ptxas` of CUDA 13.4 or newer on the path or as ``--ptxas`` (the wheel `nvidia-cuda-nvcc` brings one): Warp
compiles every kernel of `gaussgym_render.cuda` to PTX, ptxas to machine code for each architecture. Occupancy is computed from
the limits of a multiprocessor that the CUDA C++ Programming Guide lists by compute capability.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gaussgym_render.cuda
import warp as wp
from gaussgym_render.cuda.frame import BLOCK
from gaussgym_scene.artifact import write_json
from gaussgym_scene.command import run
from gaussgym_scene.errors import InputError


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of a multiprocessor: threads, blocks, shared memory [bytes]; all have 65536 registers."""

    threads: int
    blocks: int
    shared_bytes: int


ARCHITECTURES = {
    80: Multiprocessor(2048, 32, 164 * 1024),
    86: Multiprocessor(1536, 16, 100 * 1024),
    89: Multiprocessor(1536, 24, 100 * 1024),
    90: Multiprocessor(2048, 32, 228 * 1024),
    120: Multiprocessor(1536, 24, 100 * 1024),
}
REGISTERS = 65536
RESERVED_SHARED = 1024
"""Shared memory that the system takes of each block [bytes]."""


def resident_threads(limits: Multiprocessor, threads: int, registers: int, shared_bytes: int) -> int:
    """Threads of a kernel that fit on a multiprocessor; registers are given to warps by 256, warps by four."""
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // 256) * 256
    by_registers = REGISTERS // per_warp // 4 * 4 // warps
    by_shared = limits.shared_bytes // (shared_bytes + RESERVED_SHARED)
    return threads * min(limits.threads // (32 * warps), limits.blocks, by_registers, by_shared)


def renderer_modules() -> Iterator[tuple[Any, str, dict[str, int]]]:
    """Warp modules of the renderer: what to compile, a name, and the threads of the kernels that launch in blocks of their own."""
    for info in pkgutil.iter_modules(gaussgym_render.cuda.__path__):
        module = importlib.import_module(f"gaussgym_render.cuda.{info.name}")
        for kernel, threads in getattr(module, "BLOCK_KERNELS", {}).items():
            kernel.module.options["block_dim"] = threads
            yield kernel.module, info.name, {kernel.key: threads}
        if wp.get_module(module.__name__).kernels:
            yield module.__name__, info.name, {}


def assemble(ptx: Path, arch: int, ptxas: str) -> str:
    """What ptxas reports about a file of PTX."""
    clean = ptx.with_suffix(".clean.ptx")
    clean.write_bytes(ptx.read_bytes().rstrip(b"\0"))  # Warp writes the string's end too
    command = [ptxas, f"-arch=sm_{arch}", "-v", "-o", str(ptx.with_suffix(".cubin")), str(clean)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(
            f"ptxas refused {ptx.name}: {done.stderr.strip().splitlines()[0]}; take ptxas of CUDA 13.4 or newer."
        )
    return done.stderr


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+?)_[0-9a-f]{8}_cuda_kernel_forward'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def kernel_rows(report: str, arch: int, module: str, threads: dict[str, int]) -> list[dict[str, Any]]:
    """A row for each kernel in a report of ptxas."""
    rows = []
    for match in _ENTRY.finditer(report):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        row = {
            "kernel": match["name"],
            "module": module,
            "arch": f"sm_{arch}",
            "threads": threads.get(match["name"], BLOCK),
            "registers": int(match["registers"]),
            "spill_bytes": int(match["stores"]) + int(match["loads"]),
            "shared_bytes": int(shared[1]) if shared else 0,
        }
        limits = ARCHITECTURES[arch]
        fitting = resident_threads(limits, row["threads"], row["registers"], row["shared_bytes"])
        rows.append({**row, "resident_threads": fitting, "occupancy": round(fitting / limits.threads, 3)})
    return rows


def survey(architectures: list[int], ptxas: str) -> list[dict[str, Any]]:
    """Rows of all kernels on all architectures."""
    rows = []
    for module, name, threads in renderer_modules():
        for arch in architectures:
            with tempfile.TemporaryDirectory() as folder:
                wp.compile_aot_module(module, arch=arch, module_dir=folder, use_ptx=True)
                (ptx,) = Path(folder).glob("*.ptx")
                rows += kernel_rows(assemble(ptx, arch, ptxas), arch, name, threads)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown: a line for each kernel, registers / spilled bytes / occupancy for each architecture."""
    architectures = list(dict.fromkeys(row["arch"] for row in rows))
    lines = [
        f"| kernel | threads | shared memory | {' | '.join(architectures)} |",
        "|---|---|---|" + "---|" * len(architectures),
    ]
    for key in dict.fromkeys((row["module"], row["kernel"]) for row in rows):
        of_kernel = {row["arch"]: row for row in rows if (row["module"], row["kernel"]) == key}
        first = next(iter(of_kernel.values()))
        cells = [
            f"{row['registers']} / {row['spill_bytes']} / {row['occupancy']:.0%}" if row else "–"
            for row in map(of_kernel.get, architectures)
        ]
        lines.append(
            f"| `{key[0]}.{key[1]}` | {first['threads']} | {first['shared_bytes'] / 1024:.1f} KiB | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compile, report, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="JSON to write")
    parser.add_argument("--table", action="store_true", help="print a table in Markdown")
    parser.add_argument("--ptxas", default=shutil.which("ptxas"), help="the program; default: on the path")
    parser.add_argument(
        "--arch", type=int, nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES), metavar="SM"
    )
    args = parser.parse_args()
    if not args.ptxas or not shutil.which(args.ptxas):
        raise InputError(
            f"no ptxas at '{args.ptxas or 'PATH'}'; install one of CUDA 13.4 or newer (pip install nvidia-cuda-nvcc, "
            "nvidia/cu13/bin/ptxas in site-packages) and name it with --ptxas."
        )
    wp.config.quiet = True
    rows = survey(args.arch, args.ptxas)
    if args.table:
        print(table(rows))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        version = subprocess.run([args.ptxas, "--version"], capture_output=True, text=True, check=True).stdout
        write_json(
            args.output,
            {
                "warp": wp.config.version,
                "ptxas": re.search(r"V[\d.]+", version)[0],  # type: ignore[index]
                "kernels": rows,
            },
        )
        print(args.output)


if __name__ == "__main__":
    raise SystemExit(run(main))
