"""A thousand scenes take turns in a gigabyte: are the images those of an unpaged renderer, and what does it cost?

Writes scenes (a street in several variants, turned and recoloured, so that no two are alike) as splat files, then

1. rotates through all of them, one exchanged a call, and notes the peak memory;
2. in a few segments of the rotation renders as training does (all cameras each call, one scene exchanged every few calls, the next
   prefetched), in turns with an unpaged renderer of the same scenes, and compares every image.

A packed file is dropped from the system's page cache before it is prefetched: the reads are from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_render import SplatRenderer
from gaussgym_render.harmonics import C0
from gaussgym_render.testing import pinhole, street_cameras, street_splats
from gaussgym_scene import Splats
from gaussgym_scene.formats import save_splats
from gaussgym_scene.frames import matrix_from_quat_wxyz, quat_wxyz_from_matrix, rigid
from tqdm import tqdm

BASES = 8


def pose_of(scene: int) -> np.ndarray:
    """Where a scene's street lies, `[4, 4]`."""
    rng = np.random.default_rng(10_000 + scene)
    yaw = rng.uniform(-np.pi, np.pi)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1.0]])
    return rigid(turn, rng.uniform(-20, 20, 3) * [1, 1, 0.1])


def write_scenes(folder: Path, count: int, num_splats: int) -> list[Path]:
    """Scenes as splat files; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04d}.splat" for i in range(count)]
    bases = [street_splats(num_splats, np.random.default_rng(seed)) for seed in range(BASES)]
    for i, path in enumerate(tqdm(paths, desc="scenes")):
        if path.exists():
            continue
        base, pose, rng = bases[i % BASES], pose_of(i), np.random.default_rng(i)
        means = base.means + rng.normal(size=base.means.shape) * 0.003
        quats = quat_wxyz_from_matrix(pose[:3, :3] @ matrix_from_quat_wxyz(base.quats_wxyz))
        colors = np.clip(
            0.5 + C0 * base.sh[:, 0] * rng.uniform(0.6, 1.2, 3) + rng.uniform(-0.1, 0.1, 3), 0, 1
        )
        save_splats(
            Splats(means @ pose[:3, :3].T + pose[:3, 3], quats, base.scales, base.opacities, ((colors - 0.5) / C0)[:, None]),
            path,
        )  # fmt: skip
    return paths


def batch(
    active: list[int], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cameras spread evenly over the active scenes."""
    ids = np.array([active[i % len(active)] for i in range(count)])
    c2w = np.stack([pose_of(scene) for scene in ids]) @ street_cameras(count, rng)
    return c2w, np.tile(pinhole(64, 48), (count, 1, 1)), ids


def forget(renderer: SplatRenderer, scene: int) -> None:
    """Drop a scene's packed file from the page cache."""
    with renderer.pool._scenes[scene].path.open("rb") as file:  # type: ignore[union-attr]
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak_rss_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def settle(renderer: SplatRenderer, scenes: list[int]) -> None:
    """Wait until some scenes are in memory."""
    while not all(renderer.pool.is_resident(scene) for scene in scenes):  # type: ignore[union-attr]
        time.sleep(0.0005)


def rotate_all(renderer: SplatRenderer, order: np.ndarray, k: int, cameras: int) -> dict[str, Any]:
    """Exchange one scene a call until every scene was rendered."""
    rng, begin, frames = np.random.default_rng(1), time.perf_counter(), 0
    for first in tqdm(range(len(order) - k + 1), desc="rotation"):
        renderer.prefetch(order[first + k : first + k + 2])
        renderer.render(*batch(order[first : first + k].tolist(), cameras, rng))
        frames += cameras
    return {
        "calls": len(order) - k + 1,
        "frames": frames,
        "seconds": time.perf_counter() - begin,
        **vars(renderer.paging),
    }


def timed(work: Any) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def segment(
    renderer: SplatRenderer, paths: list[Path], order: np.ndarray, first: int, args: argparse.Namespace
) -> list[dict[str, float]]:
    """Blocks of calls on a stretch of the rotation, paged and unpaged in turns."""
    k, rng = args.active, np.random.default_rng(first)
    visited = order[first : first + k + args.blocks + 1]
    place = {int(scene): i for i, scene in enumerate(visited)}
    unpaged = SplatRenderer([paths[scene] for scene in visited], 64, 48, num_threads=args.threads)
    renderer.prefetch(visited[:k])
    settle(renderer, visited[:k].tolist())
    rows = []
    for block in range(-1, args.blocks):  # the first one warms up
        at = max(block, 0)
        active, coming = visited[at : at + k].tolist(), int(visited[at + k])
        calls = [batch(active, args.cameras, rng) for _ in range(args.every)]
        forget(renderer, coming)

        def paged_block(calls: Any = calls, coming: int = coming) -> list[Any]:
            renderer.prefetch([coming])
            frames = [renderer.render(*call) for call in calls]
            settle(renderer, [coming])  # what the reader does is charged to this block
            return frames

        def unpaged_block(calls: Any = calls) -> list[Any]:
            return [
                unpaged.render(c2w, k_px, np.array([place[int(i)] for i in ids])) for c2w, k_px, ids in calls
            ]

        works = (paged_block, unpaged_block)
        results = [timed(work) for work in (works if block % 2 else works[::-1])]
        paged, plain = results if block % 2 else results[::-1]
        same = all(
            np.array_equal(getattr(a, name), getattr(b, name))
            for a, b in zip(paged[0], plain[0])
            for name in ("rgb", "depth", "alpha")
        )
        if not same:
            raise SystemExit(f"block {block} from scene {first} on: images differ")
        if block >= 0:
            rows.append(
                dict(paged_s=paged[1], unpaged_s=plain[1], paged_cpu_s=paged[2], unpaged_cpu_s=plain[2])
            )
    return rows


def summary(rows: list[dict[str, float]], frames_per_block: int) -> dict[str, Any]:
    """Ratios of the blocks' speeds, paged over unpaged."""
    out: dict[str, Any] = {
        "blocks": len(rows),
        "frames_compared": len(rows) * frames_per_block,
        "images_identical": True,
    }
    for name, a, b in (("wall", "unpaged_s", "paged_s"), ("cpu", "unpaged_cpu_s", "paged_cpu_s")):
        ratios = np.array([row[a] / row[b] for row in rows])
        out[f"speed_ratio_{name}"] = {
            "of_totals": sum(row[a] for row in rows) / sum(row[b] for row in rows),
            "median": float(np.median(ratios)), "quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
            "min": float(ratios.min()), "max": float(ratios.max()),
        }  # fmt: skip
    out["frames_per_s"] = {
        n: frames_per_block * len(rows) / sum(r[f"{n}_s"] for r in rows) for n in ("paged", "unpaged")
    }
    return out


def main() -> None:
    """Run it and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("scenes", 1000), ("splats", 100_000), ("active", 48), ("cameras", 256), ("every", 4), ("blocks", 8), ("segments", 6),
        ("rotation-cameras", 48),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--budget-gb", type=float, default=1.0)
    parser.add_argument(
        "--folder", type=Path, help="for the scenes, 7.5 GB a thousand; default: a temporary one"
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="paging_"))
    try:
        paths = write_scenes(folder / "splats", args.scenes, args.splats)
        (renderer, made_s, _) = timed(
            lambda: SplatRenderer(
                paths, 64, 48, memory_budget_bytes=int(args.budget_gb * 1e9), cache_dir=folder / "packed",
                num_threads=args.threads,
            )
        )  # fmt: skip
        order = np.random.default_rng(0).permutation(args.scenes)
        before_gb = peak_rss_gb()
        rotation = rotate_all(renderer, order, args.active, args.rotation_cameras)
        peak_gb = peak_rss_gb()
        starts = np.linspace(0, args.scenes - args.active - args.blocks - 1, args.segments).astype(int)
        rows = [
            row
            for first in tqdm(starts, desc="segments")
            for row in segment(renderer, paths, order, int(first), args)
        ]
        result = {
            "experiment": "paging", "python": platform.python_version(), "cores": os.cpu_count(),
            "settings": {k: v for k, v in vars(args).items() if k not in ("folder", "json", "keep")},
            "packing_s": made_s, "packed_gb": sum(f.stat().st_size for f in (folder / "packed").iterdir()) / 1e9,
            "peak_rss_gb": {"before_the_rotation": before_gb, "after_it": peak_gb},
            "rotation": rotation, **summary(rows, args.every * args.cameras), "rows": rows,
        }  # fmt: skip
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
