"""Stands in for nerfstudio's `train`: the same arguments, files and printed lines, and no training.

The environment variable STAND_IN says how it behaves: 'die' (at step 25), 'silent', 'fail'.
"""

import json
import os
import sys
import time
import zipfile
from pathlib import Path

MODEL_FROM_WORLD = {
    # A rotation without symmetry: 2 rad about (1, 2, 2)/3.
    "transform": [
        [-0.25879718804190, -0.29149898753998, 0.92089758156096, 0.3],
        [0.92089758156096, 0.21325175747381, 0.32629945174573, -2.0],
        [-0.29149898753998, 0.93249773629618, 0.21325175747381, 5.0],
    ],
    "scale": 0.125,
}


def options():
    words = sys.argv[2:]
    words.remove("nerfstudio-data")
    assert len(words) % 2 == 0, words
    return dict(zip(words[::2], words[1::2]))


def save(folder, step):
    with zipfile.ZipFile(folder / f"step-{step:09d}.ckpt", "w") as archive:
        archive.writestr("step", str(step))
    for path in folder.glob("*.ckpt"):
        if path.name != f"step-{step:09d}.ckpt":
            path.unlink()


def entrypoint():
    mode, told = os.environ.get("STAND_IN", ""), options()
    if mode == "fail":
        raise ValueError("the data set is upside down")
    run = Path(told["--output-dir"]) / told["--experiment-name"] / sys.argv[1] / told["--timestamp"]
    checkpoints = run / "nerfstudio_models"
    checkpoints.mkdir(parents=True, exist_ok=True)
    manifest = json.loads((Path(told["--data"]) / "transforms.json").read_text())
    assert manifest["train_filenames"]
    (run / "config.yml").write_text(
        json.dumps({"data": told["--data"], "load_step": told.get("--load-step")})
    )
    (run / "dataparser_transforms.json").write_text(json.dumps(MODEL_FROM_WORLD))
    first = 0
    if "--load-dir" in told:
        names = [path.stem for path in Path(told["--load-dir"]).glob("*.ckpt")]
        first = 1 + (
            int(told["--load-step"]) if "--load-step" in told else max(int(n.split("-")[1]) for n in names)
        )
        assert (checkpoints / f"step-{first - 1:09d}.ckpt").exists()
    print(f"beginning at {first}", flush=True)
    if mode == "silent":
        time.sleep(60)
    every, count = int(told["--steps-per-save"]), int(told["--max-num-iterations"])
    for step in range(first, first + count):
        if step == 25 and mode == "die":
            (checkpoints / "step-000000025.ckpt").write_bytes(b"PK\x03\x04 cut short")
            os._exit(137)
        if step % 10 == 0:
            print(f"{step} ({100 * step / count:.2f}%)   12.3 ms", flush=True)
        if step and step % every == 0:
            save(checkpoints, step)
    save(checkpoints, first + count - 1)
