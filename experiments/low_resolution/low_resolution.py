"""How far small images are from the truth: this renderer, classic mode, and the published GaussGym's settings.

    python experiments/low_resolution/low_resolution.py [SCENE_FOLDER ...] [--output FILE]

Two procedural scenes, and any scene folders given. Prints a line a scene and writes JSON.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from gaussgym_render.bench.machine import describe_machine
from gaussgym_render.low_resolution import FACTOR, RADIUS_CLIP_PX, compare_settings
from gaussgym_render.viewpoints import Viewpoints, path_viewpoints
from gaussgym_scene import Scene, synthesize

KINDS = ("street", "corridor")
WIDTH, HEIGHT = 84, 48  # GaussGym's released configuration: 424x240, a fifth
RESULTS = Path(__file__).resolve().parents[1] / "results" / "cpu-2core" / "low_resolution.json"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", nargs="*", type=Path)
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for scene in [*(synthesize(kind, 0) for kind in KINDS), *(Scene.load(path) for path in arguments.scenes)]:
        path = path_viewpoints(scene, width=WIDTH, height=HEIGHT)
        some = np.unique(np.linspace(0, len(path) - 1, arguments.cameras).round().astype(int))
        cameras = Viewpoints([path.names[i] for i in some], path.c2w[some], path.K[some], WIDTH, HEIGHT)
        result = compare_settings(scene.splats, cameras)
        rows.append({"scene": scene.name, "splats": len(scene.splats), **asdict(result)})
        print(
            f"{scene.name}: antialiased {result.antialiased_db:.2f} dB, classic {result.classic_db:.2f}, released "
            f"{result.released_db:.2f} ({100 * result.drawn_share:.0f} % of the visible splats drawn); "
            f"gain {result.antialiased_db - result.released_db:.2f} dB, least of {result.cameras} cameras {result.gain_db:.2f}",
            flush=True,
        )
    report = {
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "factor": FACTOR,
        "radius_clip_px": RADIUS_CLIP_PX,
        "machine": describe_machine(),
        "scenes": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(arguments.output)


if __name__ == "__main__":
    main()
