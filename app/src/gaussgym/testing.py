"""A tiny stage for tests: `python -m gaussgym.testing OUTPUT [INPUT …]` copies its inputs' text into its output."""

import argparse
import os
import sys
import time
from pathlib import Path

from gaussgym_scene import command

from gaussgym.stages import Stage


def tiny_stage(
    name: str,
    run_dir: Path,
    *options: str,
    inputs: tuple[Path, ...] = (),
    cores: int = 1,
    sleep_s: float = 0.0,
) -> Stage:
    """Make a stage that writes `<run_dir>/<name>.txt` from its inputs."""
    output = run_dir / f"{name}.txt"
    words = [str(output), *map(str, inputs), "--sleep-s", str(sleep_s), *options]
    return Stage(
        name=name,
        title=f"tiny {name}",
        command=("gaussgym.testing", *words),
        inputs=inputs,
        outputs=(output,),
        estimate_s=1.0,
        cores=cores,
        memory_mb=10,
        disk_mb=1,
        stop_grace_s=2.0,
    )


def work(options: argparse.Namespace) -> Path:
    """Write the output through a partial file, as real stages do."""
    for tick in range(10):
        print(f"\rworking {tick * 10:3d}%|", end="", file=sys.stderr, flush=True)
        time.sleep(options.sleep_s / 10)
    if options.fail:
        raise command.GaussgymError(options.fail)
    if options.crash:
        raise RuntimeError(options.crash)
    partial = options.output.with_suffix(".partial")
    with partial.open("w") as file:
        file.write(f"{options.text} " + "".join(path.read_text() for path in options.inputs))
        file.write("x" * options.fill_bytes)
    with (options.output.parent / "starts.log").open("a") as file:
        file.write(f"{options.output.stem} {os.getpid()}\n")
    partial.replace(options.output)
    return options.output


def main() -> int:
    """Run the tiny stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("inputs", type=Path, nargs="*")
    parser.add_argument("--text", default="text")
    parser.add_argument("--sleep-s", type=float, default=0.0)
    parser.add_argument("--fail", default="")
    parser.add_argument("--crash", default="")
    parser.add_argument("--fill-bytes", type=int, default=0)
    options = parser.parse_intermixed_args()
    return command.run(lambda: work(options))


if __name__ == "__main__":
    sys.exit(main())
