"""Which student to deliver: the one tuned in the new place, unless it does worse there than the one it started from."""

from __future__ import annotations

import shutil
from pathlib import Path

from gaussgym_scene.artifact import write_json
from gaussgym_scene.errors import InputError

from gaussgym.summary import read_result


def deliver_better(
    before: Path, tuned: Path, before_result: Path, tuned_result: Path, output: Path, result: Path
) -> Path:
    """Copy the better of two checkpoints, and its evaluation.

    Both were evaluated from the same starts; the tuned one is delivered unless its success is lower.

    Args:
        before: Run folder of the student as shipped.
        tuned: Run folder after fine-tuning.
        before_result: Evaluation of the first.
        tuned_result: Evaluation of the second.
        output: Run folder to deliver.
        result: Where the delivered one's evaluation goes, with `delivered` and both successes.

    Raises:
        InputError: If the two evaluations are not of the same starts.
    """
    first, second = read_result(before_result), read_result(tuned_result)
    same = all(first.get(key) == second.get(key) for key in ("episodes", "seed", "task"))
    if not same or "success" not in first or "success" not in second:
        raise InputError(
            f"{before_result} and {tuned_result}: not evaluations of the same starts; evaluate both again"
        )
    better = second["success"] >= first["success"]
    source, numbers = (tuned, second) if better else (before, first)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("checkpoint.json", *read_result(source / "checkpoint.json")["files"]):
        shutil.copy2(source / name, partial / name)
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    chosen = {
        "delivered": "tuned" if better else "before",
        "success_before": first["success"],
        "success_tuned": second["success"],
    }
    write_json(result, {**numbers, **chosen})
    return output / "checkpoint.json"
