"""``gaussgym-recon``: synthetic captures, imports, and the build from capture to scene."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numba
import tyro
from gaussgym_scene.command import run
from gaussgym_scene.scene import Scene

from gaussgym_recon.commands.bars import Bars as _Bars
from gaussgym_recon.commands.fleet import Fleet
from gaussgym_recon.commands.get import Get
from gaussgym_recon.commands.report import Report
from gaussgym_recon.commands.synth import Synth


@dataclass
class Import:
    """Make a capture of photographs, a video, or what another program wrote; `import --help` lists the sources."""

    def __call__(self) -> Path:
        """Never run: its words are parsed by :mod:`gaussgym_recon.commands.import_`, whose sources have their own options."""
        raise NotImplementedError


@dataclass
class ImportScene:
    """Make a scene of splats and a mesh that others published; `import-scene --help` lists the layouts."""

    def __call__(self) -> Path:
        """Never run: its words are parsed by :mod:`gaussgym_recon.commands.import_scene`."""
        raise NotImplementedError


@dataclass
class Build:
    """Build a scene from a capture: poses, splats, ground, paths.

    Interrupted or killed, the same command goes on where it stopped; finished stages lie in `<output>.work/`.
    Memory: about 2 GB for 100 photographs. Disk: some 100 MB beside the scene.
    """

    capture: Annotated[Path, tyro.conf.Positional]
    """Capture folder."""
    output: Path
    """Folder of the scene to write."""
    camera_height: float | None = None
    """Height above the ground at which the camera was carried [m]; needed without GPS, overrules it where given."""
    poses: Literal["auto", "source", "sfm"] = "auto"
    """Poses of the source, by structure from motion, or (auto) of the source where it has them for all images."""
    scale_from: str = "auto"
    """auto, sensor, gps, depth, camera-height=1.5, marker=0.16 (its side), gcp=FILE, or
    distance=A.jpg:x,y:B.jpg:x,y=2.0 between what is seen at two pixels (A.jpg:x,y+C.jpg:x,y: at two each) [m]."""
    up_from: str = "auto"
    """auto, sensor, plane (the ground is level), cameras (they were held upright), or axis=+z of the source's frame."""
    minutes: float = 4.8
    """Time for training the splats [min]."""
    steps: int | None = None
    """Train for this many steps, however long they take, instead of by the clock: then the same seed gives the same splats."""
    engine: Literal["numba", "gsplat"] = "numba"
    """What computes a training step: the CPU, or gsplat 1.5.3 on an NVIDIA GPU."""
    max_splats: int = 200_000
    """Most splats to keep; policies that learn from pixels see faster with fewer."""
    trainer: Literal["builtin", "nerfstudio"] = "builtin"
    """What trains the splats; nerfstudio runs in an environment of its own, see `make setup-nerfstudio`."""
    method: Literal["gaussgym-splatfacto", "splatfacto"] = "gaussgym-splatfacto"
    """nerfstudio's method; splatfacto itself wants an NVIDIA GPU. Without `--steps` 30000 on a GPU, 3000 else, however long."""
    seed: int = 0
    """Of all random numbers."""
    require_path: bool = False
    """Fail where no path of 10 m can be walked, which goals need; the scene is written all the same."""

    def __call__(self) -> Path:
        """Run the command; returns the path written."""
        from dataclasses import replace

        from gaussgym_recon.build import BuildCfg, build, require_goal_path
        from gaussgym_recon.nerfstudio.training import NerfstudioCfg
        from gaussgym_recon.poses import PoseCfg
        from gaussgym_recon.trainer import TrainerCfg

        cfg = BuildCfg(
            camera_height_m=self.camera_height,
            poses=PoseCfg(poses=self.poses, scale_from=self.scale_from, up_from=self.up_from),
            train_seconds=60.0 * self.minutes,
            seed=self.seed,
            trainer=replace(
                TrainerCfg(),
                iterations=self.steps,
                engine=self.engine,
                max_splats=self.max_splats,
                final_splats=self.max_splats,
            ),
            nerfstudio=NerfstudioCfg(method=self.method, steps=self.steps)
            if self.trainer == "nerfstudio"
            else None,
        )
        with _Bars() as bars:
            manifest = build(self.capture, self.output, cfg, progress=bars)
        if self.require_path:
            require_goal_path(Scene.load(self.output))
        return manifest


def _with_bars(parse: Callable[[list[str], _Bars], Callable[[], Path]]) -> int:
    """Run a command that has a parser of its own; its bars are gone when its last line is printed."""

    def work() -> Path:
        with _Bars() as bars:
            return parse(sys.argv[2:], bars)()

    return run(work)


def main() -> None:
    """Entry point of ``gaussgym-recon``."""
    # One Python thread calls the kernels here, which this layer is made for; it does not spin while it waits.
    numba.config.THREADING_LAYER = "workqueue"
    if sys.argv[1:2] == ["import"]:
        from gaussgym_recon.commands.import_ import import_command

        sys.exit(_with_bars(import_command))
    if sys.argv[1:2] == ["import-scene"]:
        from gaussgym_recon.commands.import_scene import import_scene_command

        sys.exit(_with_bars(import_scene_command))
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "get": Get,
            "synth": Synth,
            "import": Import,
            "build": Build,
            "import-scene": ImportScene,
            "fleet": Fleet,
            "report": Report,
        },
        prog="gaussgym-recon",
        description="Photographs or a video in, a metric scene that a robot can see and walk on out.",
    )
    sys.exit(run(command))


if __name__ == "__main__":
    main()
