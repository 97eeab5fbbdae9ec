"""What a scene's ground costs and how true it is: heightfield, with boxes, exact triangles.

    python experiments/terrain/terrain.py [SCENE_FOLDER ...] [--output FILE]

On procedural scenes, and any scene folders given: how far from the mesh a ball of a foot's size comes to rest; how far level rays
at a robot's height end from the mesh; steps of 256 Go1 a second, in turn in one process (exact triangles with 16 where there are
many). Prints a line a ground and writes JSON.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import mujoco
import numpy as np
import torch
from gaussgym_render.bench.machine import describe_machine
from gaussgym_scene import Scene, synthesize
from gaussgym_sim.bench.timing import Spread, ratio, take_turns
from gaussgym_sim.ground.boxes import Boxes
from gaussgym_sim.ground.terrain import TERRAIN_MODES, Ground, TerrainLookup, add_ground, ground_of
from gaussgym_sim.grounds import place
from gaussgym_sim.vecsim import make_sim

KINDS = {"street": {}, "corridor": {}, "stairs": {}, "rubble": {}, "stones": {}}
FOOT_RADIUS_M = 0.023
RAY_HEIGHT_M = 0.3
MANY_TRIANGLES = 5000
RESULTS = Path(__file__).resolve().parents[1] / "results" / "cpu-2core" / "terrain.json"


def points_beside_paths(scene, count, rng):
    """[N, 2] within the half width of the paths, and half a metre more where the ground is known there."""
    paths = scene.paths
    at = rng.integers(0, len(paths), 4 * count)
    x, y, _, yaw = paths.points[at].astype(float).T
    aside = rng.uniform(-1, 1, len(at)) * (paths.half_width_m[at] + 0.5)
    xy = np.stack([x - np.sin(yaw) * aside, y + np.cos(yaw) * aside], axis=1) + rng.uniform(
        -0.1, 0.1, (len(at), 2)
    )
    return xy[scene.heightfield.is_known(xy)][:count]


def resting_height(ground, xy, z):
    """Height of the centres of balls that fall from ``z`` [N] at points [N, 2], each by itself."""
    spec = mujoco.MjSpec()
    spec.option.timestep = 0.005
    add_ground(spec, ground)
    for (x, y), top in zip(xy, z):
        body = spec.worldbody.add_body(pos=[x, y, top])
        body.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, 1], damping=0.5)
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[FOOT_RADIUS_M, 0, 0], contype=1, conaffinity=0, mass=0.1
        )
    model = spec.compile()
    data = mujoco.MjData(model)
    for _ in range(240):
        mujoco.mj_step(model, data)
    return z + data.qpos


def true_height(exact, xy, z):
    """Height of a ball's centre that touches the mesh from above: the highest over rays down all over its disc."""
    rings = [(r, t) for r in np.linspace(0, FOOT_RADIUS_M, 9) for t in np.linspace(0, 2 * np.pi, 17)[:-1]]
    offset = np.array([(r * np.cos(t), r * np.sin(t)) for r, t in rings])
    above = np.sqrt(np.maximum(FOOT_RADIUS_M**2 - (offset**2).sum(axis=1), 0))
    origin = np.concatenate(
        [xy[:, None] + offset, np.broadcast_to(z[:, None, None], (len(xy), len(offset), 1))], axis=-1
    )
    down = np.broadcast_to([0.0, 0.0, -1.0], origin.shape)
    distance = cast(exact, origin, down)
    return (z[:, None] - distance + above).max(axis=1)


def cast(ground, origin, direction):
    lookup = TerrainLookup([ground], device=torch.device("cpu"))
    tensors = (torch.tensor(np.asarray(a), dtype=torch.float32) for a in (origin, direction))
    return lookup.raycast(*tensors, torch.zeros(len(origin), dtype=torch.long)).numpy()


def quantiles(error_m):
    size = np.abs(error_m)
    return {
        "median_mm": 1e3 * float(np.median(size)), "p95_mm": 1e3 * float(np.quantile(size, 0.95)),
        "max_mm": 1e3 * float(size.max()), "mean_mm": 1e3 * float(error_m.mean()), "points": len(size),
    }  # fmt: skip


def accuracy(scene, grounds, exact, count):
    """Errors of each mode against the mesh, at the same points and rays."""
    rng = np.random.default_rng(0)
    xy = points_beside_paths(scene, count, rng)
    z = scene.heightfield.sample(xy) + 1.1
    want = true_height(exact, xy, z)
    xy, z, want = (a[np.isfinite(want) & (want > -1e3)] for a in (xy, z, want))
    eye = points_beside_paths(scene, 2000, rng)
    turn = rng.uniform(-np.pi, np.pi, len(eye))
    origin = np.column_stack([eye, scene.heightfield.sample(eye) + RAY_HEIGHT_M])[:, None]
    level = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)[:, None]
    seen = cast(exact, origin, level)[:, 0]
    near = seen < 5.0
    out = {}
    for mode, ground in grounds.items():
        contact = resting_height(ground, xy, z) - want
        # Beyond 10 m there is nothing in reach: a wall that is missing counts as 5 m too far.
        rays = np.minimum(cast(ground, origin, level)[:, 0], 10.0)[near] - seen[near]
        out[mode] = {"contact": quantiles(contact), "rays": quantiles(rays)}
    return out


class Steps:
    """Random targets of robots on paths: control steps a second."""

    def __init__(self, scene, mode, num_envs, steps):
        self.sim, self.steps = make_sim("mujoco", "go1", [scene], num_envs, terrain=mode), steps
        rng = np.random.default_rng(0)
        start = scene.paths.points[rng.integers(0, len(scene.paths), num_envs), :3].astype(np.float32)
        self.start = torch.from_numpy(start + np.float32([0, 0, 0.35]))
        self.joints = torch.tensor(self.sim.robot.default_joint_pos)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self):
        place(self.sim, pos_w=self.start)
        targets = 0.2 * torch.randn(self.steps, self.sim.num_envs, 12, generator=self.generator) + self.joints
        wall, cpu = time.perf_counter(), time.process_time()
        for target in targets:
            self.sim.step(target)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        done = self.steps * self.sim.num_envs
        return {"steps_per_s": done / wall, "steps_per_cpu_s": done / cpu}


def speed(scene, grounds, args):
    few = "mesh" in grounds and len(grounds["mesh"].mesh.faces) > MANY_TRIANGLES
    runs = {mode: Steps(scene, mode, 16 if few and mode == "mesh" else args.envs, 8 if few and mode == "mesh" else args.steps)
            for mode in grounds}  # fmt: skip
    results = take_turns(runs, rounds=args.rounds)
    out = {
        mode: {key: asdict(Spread.of(values)) for key, values in numbers.items()}
        for mode, numbers in results.items()
    }
    for mode in grounds:
        out[mode]["of_heightfield"] = asdict(ratio(results, mode, "heightfield", "steps_per_cpu_s"))
        out[mode]["num_envs"] = runs[mode].sim.num_envs
    return out


def measure(scene, args):
    start = time.perf_counter()
    grounds = {mode: ground_of(scene, mode) for mode in TERRAIN_MODES}
    exact = Ground(grounds["mesh"].heightfield, Boxes.none(), grounds["mesh"].mesh)
    made_s = time.perf_counter() - start
    errors, rates = accuracy(scene, grounds, exact, args.points), speed(scene, grounds, args)
    rows = {}
    for mode, ground in grounds.items():
        rows[mode] = {"ground": ground.note, **errors[mode], "speed": rates[mode]}
        contact, rays, rate = errors[mode]["contact"], errors[mode]["rays"], rates[mode]
        print(
            f"{scene.name:<12} {mode:<12} contact {contact['median_mm']:5.1f} mm, 95 % {contact['p95_mm']:6.1f}, "
            f"rays {rays['median_mm']:5.1f} mm, 95 % {rays['p95_mm']:7.1f}, {rate['steps_per_cpu_s']['median']:6.0f} steps/CPU s, "
            f"{rate['of_heightfield']['median']:.2f} of the heightfield's; {ground.note}",
            flush=True,
        )
    return {"scene": scene.name, "cell_m": exact.heightfield.cell_m, "made_s": made_s, "modes": rows}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", nargs="*", type=Path)
    parser.add_argument("--points", type=int, default=150, help="balls a ground")
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10, help="control steps a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    made = (synthesize(kind, 0, **params) for kind, params in KINDS.items())
    scenes = [*made, *(Scene.load(path) for path in args.scenes)]
    settings = {"points": args.points, "num_envs": args.envs, "steps": args.steps, "rounds": args.rounds}
    report = {
        "settings": settings,
        "machine": describe_machine(),
        "scenes": [measure(scene, args) for scene in scenes],
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(args.output)


if __name__ == "__main__":
    main()
