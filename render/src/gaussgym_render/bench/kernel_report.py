"""Registers, shared memory, stack and occupancy of compiled kernels, read from their binaries: takes no GPU and no CUDA toolkit.

A `.cubin` is an ELF file: `.nv.info` says the registers and the stack frame of each kernel, `.nv.shared.<kernel>` is as long as
its static shared memory, and Warp writes down beside it how much dynamic shared memory a kernel's tiles take. Source: NVIDIA,
"CUDA Binary Utilities" (attribute names as `cuobjdump -elf` prints them); occupancy after the CUDA C++ Programming Guide,
"Compute Capabilities".

    python -m gaussgym_render.bench.kernel_report [--arch 90] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gaussgym_scene import InputError

_FRAME_SIZE, _MIN_STACK_SIZE, _REGISTER_COUNT = 0x11, 0x12, 0x2F
_SECTION = struct.Struct(
    "<IIQQQQIIQQ"
)  # name, type, flags, address, offset, size, link, info, align, entry size
_SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
_KERNEL_END = "_cuda_kernel_forward"
_RESERVED_BYTES = 1024
"""Shared memory that a block takes beside its own; binaries for compute capability 9.0 and up count it in."""


@dataclass(frozen=True, kw_only=True)
class Multiprocessor:
    """What one multiprocessor of a compute capability holds at a time."""

    warps: int
    blocks: int
    shared_bytes: int
    registers: int = 65536


MULTIPROCESSORS = {
    80: Multiprocessor(warps=64, blocks=32, shared_bytes=164 * 1024),
    86: Multiprocessor(warps=48, blocks=16, shared_bytes=100 * 1024),
    89: Multiprocessor(warps=48, blocks=24, shared_bytes=100 * 1024),
    90: Multiprocessor(warps=64, blocks=32, shared_bytes=228 * 1024),
    120: Multiprocessor(warps=48, blocks=24, shared_bytes=100 * 1024),
}
"""By architecture. Source: CUDA C++ Programming Guide, technical specifications per compute capability."""


@dataclass(frozen=True, kw_only=True)
class KernelReport:
    """One kernel on one architecture.

    Attributes:
        module: Python module that it is in.
        kernel: Its name.
        arch: Compute capability times ten.
        threads: Of a block, as its module sets it; a launch may ask for others.
        registers: A thread.
        shared_bytes: Of a block, static and dynamic.
        stack_bytes: A thread, in local memory: spilled registers, arrays indexed at run time.
        occupancy: Share of a multiprocessor's warps that can be there at a time.
        limited_by: What keeps more out: 'registers', 'shared', 'blocks', or 'warps' where it is full.
    """

    module: str
    kernel: str
    arch: int
    threads: int
    registers: int
    shared_bytes: int
    stack_bytes: int
    occupancy: float
    limited_by: str


def occupancy(arch: int, threads: int, registers: int, shared_bytes: int) -> tuple[float, str]:
    """Share of a multiprocessor's warps that blocks of one kernel fill, and what limits it.

    Registers are given out to warps in units of 256, to four warps at a time; a block takes 1 KiB of shared memory for itself.
    """
    most = MULTIPROCESSORS[arch]
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // 256) * 256
    limits = {
        "warps": most.warps // warps,
        "blocks": most.blocks,
        "registers": (most.registers // per_warp // 4 * 4) // warps if registers else most.blocks,
        "shared": most.shared_bytes // (shared_bytes + _RESERVED_BYTES),
    }
    blocks = min(limits.values())
    return blocks * warps / most.warps, next(name for name, limit in limits.items() if limit == blocks)


def read_cubin(path: Path) -> dict[str, dict[str, int]]:
    """`registers`, `stack_bytes` and static `shared_bytes` of each of Warp's (forward) kernels in a binary.

    Raises:
        InputError: It is no 64-bit ELF file.
    """
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        raise InputError(f"{path}: not a 64-bit ELF file, expected a cubin")
    sections = dict(_sections(data))
    kernels: dict[str, dict[str, int]] = {}
    for name in sections:
        if name.startswith(".text.") and name.endswith(_KERNEL_END):
            kernel = name.removeprefix(".text.")
            shared = sections.get(f".nv.shared.{kernel}", (0, 0, 0))[1]
            kernels[kernel] = {"registers": 0, "stack_bytes": 0, "shared_bytes": shared}
    symbols = _symbol_names(data, sections)
    offset, size, _ = sections[".nv.info"]
    for attribute, (symbol, value) in _attributes(data[offset : offset + size]):
        row = kernels.get(symbols[symbol])
        if row is None:  # a function that the compiler brought along
            continue
        if attribute == _REGISTER_COUNT:
            row["registers"] = value
        elif attribute in (_FRAME_SIZE, _MIN_STACK_SIZE):
            row["stack_bytes"] = max(row["stack_bytes"], value)
    return kernels


def _sections(data: bytes) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Name, and offset, size and link of each section."""
    (start,) = struct.unpack_from("<Q", data, 0x28)
    each, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [_SECTION.unpack_from(data, start + i * each) for i in range(count)]
    for header in headers:
        yield _text(data, headers[names][4] + header[0]), (header[4], header[5], header[6])


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


def _symbol_names(data: bytes, sections: dict[str, tuple[int, int, int]]) -> list[str]:
    offset, size, _ = sections[".symtab"]
    strings = sections[".strtab"][0]
    return [
        _text(data, strings + _SYMBOL.unpack_from(data, offset + i)[0]) for i in range(0, size, _SYMBOL.size)
    ]


def _attributes(block: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
    """Attribute, symbol and value of the entries of `.nv.info` that hold two words."""
    at = 0
    while at < len(block):
        form, attribute, size = struct.unpack_from("<BBH", block, at)
        at += 4
        if form != 4:  # the value stands in the place of the size
            continue
        if size == 8:
            yield attribute, struct.unpack_from("<II", block, at)
        at += size


def report_folder(folder: Path, module: str, arch: int) -> list[KernelReport]:
    """Reports of all kernels in a folder that `warp.compile_aot_module` wrote for one module and architecture."""
    reports = []
    for cubin in sorted(folder.glob("*.cubin")):
        sources = list(folder.glob(f"{cubin.name.split('.sm')[0]}*.cu"))
        block_dim = re.search(r"#define WP_TILE_BLOCK_DIM (\d+)", sources[0].read_text()) if sources else None
        threads = int(block_dim.group(1)) if block_dim else 256
        meta = json.loads(next(folder.glob(f"{cubin.name.split('.sm')[0]}*.meta")).read_text())
        for name, row in read_cubin(cubin).items():
            static = max(row["shared_bytes"] - (_RESERVED_BYTES if arch >= 90 else 0), 0)
            shared = static + int(meta.get(f"{name}_smem_bytes", 0))
            share, limit = occupancy(arch, threads, row["registers"], shared)
            reports.append(
                KernelReport(
                    module=module,
                    kernel=re.sub(r"_[0-9a-f]{8}$", "", name.removesuffix(_KERNEL_END)),
                    arch=arch,
                    threads=threads,
                    registers=row["registers"],
                    shared_bytes=shared,
                    stack_bytes=row["stack_bytes"],
                    occupancy=share,
                    limited_by=limit,
                )
            )
    return reports


def compile_and_report(modules: Iterable[Any], arch: int, folder: Path) -> list[KernelReport]:
    """Compile modules of Warp kernels for an architecture, and report on them.

    Args:
        modules: Names of Python modules.
        arch: Of `MULTIPROCESSORS`.
        folder: For the binaries.
    """
    import warp as wp

    reports = []
    for module in modules:
        place = folder / f"{module}.sm{arch}"
        wp.compile_aot_module(module, arch=arch, module_dir=place, use_ptx=False)
        reports += report_folder(place, module, arch)
    return reports


def modules_with_kernels(package: str = "gaussgym_render.cuda") -> list[str]:
    """Names of a package's modules that hold Warp kernels."""
    import warp as wp

    folder = import_module(package)
    names = [f"{package}.{module.name}" for module in pkgutil.iter_modules(folder.__path__)]
    for name in names:
        import_module(name)
    return [name for name in names if wp.get_module(name).kernels]


def print_reports(reports: Sequence[KernelReport]) -> None:
    """A table."""
    print(f"{'kernel':<40} {'arch':<5} threads  registers  shared [B]  stack [B]  occupancy")
    for r in reports:
        name = f"{r.module.rsplit('.', 1)[-1]}.{r.kernel}"
        print(
            f"{name:<40} {r.arch:<5} {r.threads:<8} {r.registers:<10} {r.shared_bytes:<11} {r.stack_bytes:<10} "
            f"{100 * r.occupancy:.0f} % ({r.limited_by})"
        )


def main() -> None:
    """Compile all kernels of the renderer for all architectures and print, and write, what they take."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--arch", type=int, nargs="+", choices=list(MULTIPROCESSORS), default=list(MULTIPROCESSORS)
    )
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    args = parser.parse_args()
    modules = modules_with_kernels()
    reports = []
    with TemporaryDirectory() as folder:
        for arch in args.arch:
            reports += compile_and_report(modules, arch, Path(folder))
    print_reports(reports)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")
        print(args.json)


if __name__ == "__main__":
    main()
