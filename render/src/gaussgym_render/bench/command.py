"""Command `gaussgym-render bench`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from gaussgym_scene import InputError

from gaussgym_render.bench import effects, matrix, report, rivals, steps
from gaussgym_render.bench.scenes import Place, make_workload, opened_place, synthetic_place
from gaussgym_render.lod import LodSplats
from gaussgym_render.renderer import SplatRenderer

EFFECTS_HEADER = "effects     frames per CPU second    CPU time over none (min to max)    images per frame"


@dataclass(kw_only=True)
class Bench:
    """Time the renderer: frames per second over image sizes, batches, scenes and splats, and the time by step; prints tables.

    Cells that would not fit into memory or the time limit are skipped, and the table says so. Of --rivals, --scaling, --effects,
    --objects and --differentiable each replaces the matrix by a measurement of its own.
    """

    scene: tyro.conf.Positional[Path | None] = None
    """Scene folder, or with --viewpoints a folder written by `gaussgym-render optimize` or a splat file; default: a procedural
    scene."""
    viewpoints: Path | None = None
    """Camera file, JSON as `gaussgym-render images --help` shows, or a scene folder, along whose paths cameras are placed;
    default: along the scene's own."""
    kind: str = "street"
    """Kind of the procedural scene (`gaussgym_scene.synthesize`), seed 0."""
    sizes: list[str] = field(default_factory=lambda: [f"{w}x{h}" for w, h in matrix.SIZES])
    """Image sizes [px]."""
    cameras: list[int] = field(default_factory=lambda: [1, 64, 1024])
    """Batch sizes."""
    scenes: list[int] = field(default_factory=lambda: [1, 8])
    """Numbers of scenes: copies, each moved a little."""
    splats: list[int] = field(default_factory=list)
    """Splats of each scene: random subsets, or jittered copies on top. Default: 100000 (--differentiable 50000, --scaling 20000,
    --effects and --objects its own), or the given scene's own."""
    matrix: bool = False
    """All of it: 5 sizes, 1 to 4096 cameras, 1 to 128 scenes, 20000 to 500000 splats. Takes an hour or more."""
    rivals: list[str] = field(default_factory=list)
    """Instead: other renderers on the same cameras, in turns: 'all', or names. At the first of --sizes (or 64x64)."""
    lod: Path | None = None
    """For --rivals: the scene's levels of detail (a folder of `gaussgym-render optimize`), which they meet in its place."""
    scaling: bool = False
    """Instead: what a frame costs in 4096 cameras against 64, in 128 scenes against 1. At the first of --sizes (or 84x48)."""
    effects: bool = False
    """Instead: the parts of the camera model at 64x48, against the plain renderer."""
    objects: bool = False
    """Instead: 64x48 px with and without a quadruped of 13 parts before every camera."""
    differentiable: bool = False
    """Instead: forward and backward of the differentiable rasterizer, 480x270, 50000 splats."""
    backend: str = "auto"
    """Renderer backend."""
    threads: int | None = None
    """CPU threads; default: all cores."""
    seconds: float = 1.0
    """Time to spend on each cell [s]; ten times that on each rival."""
    limit_s: float = 30.0
    """Cells of which one batch takes longer are skipped [s]."""
    json: Path | None = None
    """Also write the numbers into this file."""
    plot: Path | None = None
    """Also draw the matrix into this picture (.png, .svg, .pdf)."""

    def run(self) -> Path | None:
        """Time and report; returns the file written last, if any."""
        self._check()
        if self.rivals:
            return self._write("rivals", *self._duel())
        if self.scaling:
            return self._write("scaling", *self._measure_scaling())
        if self.effects:
            return self._write("timings", *self._time_effects())
        if self.objects:
            return self._write("timings", *self._time_objects())
        if self.differentiable:
            return self._write("training", *self._time_training())
        return self._run_matrix()

    def _check(self) -> None:
        if not self.seconds > 0 or not self.limit_s > 0:
            raise InputError(f"--seconds {self.seconds}, --limit-s {self.limit_s}: expected positive times")
        counts = [*self.cameras, *self.scenes, *self.splats]
        if not (self.cameras and self.scenes and self.sizes) or min(counts) < 1:
            raise InputError(
                "--sizes, --cameras, --scenes and --splats: expected one or more numbers of at least 1"
            )
        known = [rival.name for rival in rivals.RIVALS]
        if unknown := [name for name in self.rivals if name not in (*known, "all")]:
            raise InputError(
                f"--rivals {' '.join(unknown)}: unknown, expected 'all' or of {', '.join(known)}"
            )
        self._parsed_sizes()

    def _parsed_sizes(self) -> list[tuple[int, int]]:
        return [_parse_size(size) for size in self.sizes]

    def _place(self, num_splats: int | None) -> Place:
        if self.scene is None:
            return synthetic_place(self.kind, num_splats)
        return opened_place(self.scene, self.viewpoints).with_splats(num_splats)

    def _counts(self, default: int) -> list[int | None]:
        """Numbers of splats: those asked for, else the given scene's own, else a default."""
        return list(self.splats) or [None if self.scene is not None else default]

    def _start(self, place: Place) -> dict[str, Any]:
        """Say what is measured; the head of the report."""
        name = SplatRenderer([place.splats], 8, 8, backend=self.backend, num_threads=self.threads).backend
        run = report.describe_run(place, backend=name, threads=self.threads)
        report.print_run(run)
        return run

    def _size(self, default: tuple[int, int]) -> tuple[int, int]:
        """The first size asked for, or a default where none was."""
        sizes = self._parsed_sizes()
        return default if sizes == list(matrix.SIZES) else sizes[0]

    def _run_matrix(self) -> Path | None:
        splats = list(matrix.SPLATS) if self.matrix else self._counts(100_000)
        cfg = matrix.MatrixCfg(
            sizes=matrix.SIZES if self.matrix else self._parsed_sizes(),
            cameras=matrix.CAMERAS if self.matrix else self.cameras,
            scenes=matrix.SCENES if self.matrix else self.scenes,
            splats=splats,
            backend=self.backend,
            threads=self.threads,
            seconds=self.seconds,
            limit_s=self.limit_s,
        )
        run = self._start(self._place(splats[0]))
        print(report.CELL_HEADER, flush=True)
        cells = matrix.run_matrix(
            self._place, cfg, on_cell=lambda cell: print(report.cell_line(cell), flush=True)
        )
        times = []
        if run["backend"] == "cpu":
            times = [
                steps.time_steps(make_workload(place, 1, steps.CAMERAS, *size))
                for place in map(self._place, splats)
                for size in cfg.sizes
            ]
            report.print_steps(times)
        else:
            print(f"the time by step is known of the backend cpu only, not of {run['backend']}")
        written = self._write("cells", run | {"steps": report.plain(times)}, cells)
        if self.plot is not None:
            machine = run["machine"]["processor"]
            title = f"{run['scene']}, backend {run['backend']}, {run['threads']} threads of {machine}"
            written = report.write_plot(self.plot, cells, times, title)
        return written

    def _duel(self) -> tuple[dict[str, Any], list[rivals.Duel]]:
        place = self._place(self._counts(100_000)[0])
        run, size = self._start(place), self._size((64, 64))
        print(f"{size[0]}x{size[1]} px, {len(place.splats)} splats, {self.scenes[0]} scenes")
        workload = make_workload(place, self.scenes[0], 64 * self.scenes[0], *size)
        ours = None
        if self.lod is not None:
            if self.scenes[0] > 1:
                raise InputError(f"--lod with --scenes {self.scenes[0]}: expected one scene")
            ours = [LodSplats.load(self.lod)]
        rows = []
        for rival in rivals.RIVALS:
            if rival.name in self.rivals or "all" in self.rivals:
                rows.append(
                    rivals.duel(
                        rival,
                        workload,
                        backend=self.backend,
                        threads=self.threads,
                        seconds=10 * self.seconds,
                        ours=ours,
                    )
                )
                report.print_duel(rows[-1])
        return run | {"width_px": size[0], "height_px": size[1], "scenes": self.scenes[0]}, rows

    def _measure_scaling(self) -> tuple[dict[str, Any], list[matrix.Scaling]]:
        place = self._place(self._counts(20_000)[0])
        run = self._start(place)
        rows = matrix.measure_scaling(place, self._size((84, 48)), backend=self.backend, threads=self.threads)
        report.print_scaling(rows)
        return run, rows

    def _time_effects(self) -> tuple[dict[str, Any], list[effects.EffectTiming]]:
        place = self._place(self.splats[0] if self.splats else None)
        run = self._start(place)
        rows = effects.time_effects(place, backend=run["backend"], threads=self.threads)
        print(EFFECTS_HEADER)
        for t in rows:
            spread = f"{t.time_ratio:.2f} ({t.time_ratio_min:.2f} to {t.time_ratio_max:.2f})"
            print(f"{t.effects:<11} {t.frames_per_cpu_s:<24.0f} {spread:<34} {t.images_per_frame:.2f}")
        return run, rows

    def _time_objects(self) -> tuple[dict[str, Any], list[effects.ObjectsTiming]]:
        place = self._place(self.splats[0] if self.splats else None)
        run = self._start(place)
        timing = effects.time_objects(
            place, backend=run["backend"], threads=self.threads, seconds=self.seconds
        )
        print(
            f"{timing.parts_per_camera} parts of {timing.faces_per_camera} triangles in {100 * timing.covered_pixels:.1f} % of "
            f"the pixels: {timing.frames_per_cpu_s:.0f} frames per CPU second, {timing.time_ratio:.3f} "
            f"(quartiles {timing.time_ratio_quartiles[0]:.3f}, {timing.time_ratio_quartiles[1]:.3f}; {timing.turns} turns) times "
            f"the CPU time without"
        )
        return run, [timing]

    def _time_training(self) -> tuple[dict[str, Any], list[Any]]:
        from gaussgym_render.bench import training  # brings torch, which the others do without

        place = self._place(self._counts(training.SPLATS)[0])
        run = report.describe_run(place, backend="differentiable", threads=None)
        report.print_run(run)
        row = training.time_training_step(place)
        report.print_training(row)
        return run, [row]

    def _write(self, name: str, run: dict[str, Any], rows: list[Any]) -> Path | None:
        """Write the report into `--json`, if that was asked for."""
        if self.json is None:
            return None
        return report.write_json(self.json, run | {name: report.plain(rows)})


def _parse_size(text: str) -> tuple[int, int]:
    """An image size of the form 64x48 [px]."""
    try:
        width, height = (int(part) for part in text.split("x"))
    except ValueError:
        raise InputError(f"--sizes {text}: expected WIDTHxHEIGHT in pixels, such as 64x48") from None
    if width < 1 or height < 1:
        raise InputError(f"--sizes {text}: expected at least 1x1")
    return width, height
