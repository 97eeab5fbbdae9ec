"""Put a run among the shipped policies: newest checkpoint, a curve of at most 200 rows, evaluations.

    python experiments/shipped/ship.py runs/student student runs/eval/student/*.json

The recipe beside it (`recipe.md`) is written by hand.
"""

import csv
import json
import sys
from pathlib import Path

from gaussgym_learn.checkpoint import copy_checkpoint
from gaussgym_scene.artifact import write_json

SHIPPED = Path(__file__).parents[2] / "learn" / "src" / "gaussgym_learn" / "policies"
COLUMNS = (
    "minutes", "steps", "Train/mean_reward", "Episode/fell", "Episode/level", "Loss/behaviour", "Loss/aux_recon", "Perf/total_fps",
)  # fmt: skip
ROWS = 200


def write_curve(run: Path, target: Path) -> None:
    """Thin a run's curve.jsonl to a table, each row the mean of the updates it stands for."""
    updates = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    columns = [name for name in COLUMNS if name in updates[-1]]
    size = max(1, -(-len(updates) // ROWS))
    with target.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for first in range(0, len(updates), size):
            part = updates[first : first + size]
            last = ("minutes", "steps")
            row = [
                part[-1][name] if name in last else sum(u.get(name, 0.0) for u in part) / len(part)
                for name in columns
            ]
            table.writerow([f"{value:.6g}" for value in row])


def main() -> None:
    run, name, *evaluations = sys.argv[1:]
    target = SHIPPED / name
    copy_checkpoint(Path(run), target)
    (target / "curve.jsonl").unlink(missing_ok=True)
    listed = json.loads((target / "checkpoint.json").read_text())["files"]
    for model in target.glob("model_*.pt"):
        if model.name not in listed:
            model.unlink()
    write_curve(Path(run), target / "curve.csv")
    results = {}
    for path in map(Path, evaluations):
        result = json.loads(path.read_text())
        result.pop("per_episode", None)
        results[path.stem] = result
    if results:
        write_json(target / "evaluation.json", results)
    print(target)


if __name__ == "__main__":
    main()
