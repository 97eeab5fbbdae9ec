"""Command `gaussgym-render`: images of a scene, how fast they come, a scene with levels of detail, images for other programs."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from gaussgym_scene import InputError, Scene, Splats, command
from gaussgym_scene.artifact import replace_directory
from PIL import Image
from tqdm import tqdm

from gaussgym_render import client, serve
from gaussgym_render.backends import AnySplats
from gaussgym_render.bench import comparison
from gaussgym_render.bench.command import Bench
from gaussgym_render.frames import Frames
from gaussgym_render.lod import LodSplats
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.sources import SplatSource, open_splats, open_viewpoints
from gaussgym_render.viewpoints import Viewpoints, load_viewpoints, path_viewpoints, scene_viewpoints

CAMERAS_FILE = "cameras.json"
MAX_DEPTH_MM = 65535


@dataclass(kw_only=True)
class Images:
    """Render a scene's images into a folder: NAME.png for each camera, and cameras.json with the cameras used."""

    scene: tyro.conf.Positional[Path]
    """Scene folder; or, with --cameras, a folder written by `gaussgym-render optimize` or a splat file (PLY, compressed PLY,
    SPZ, splat, SOG)."""
    output: Path
    """Folder to write; replaced if it exists."""
    cameras: Path | None = None
    """Camera file, JSON: {"format": "gaussgym-cameras", "version": 1, "width_px": 640, "height_px": 480, "cameras": [{"name":
    "a", "c2w": 4x4 camera to world in OpenCV axes [m], "K": 3x3 [px]}, ...]}; the cameras.json that this command writes is one.
    Or a scene folder, whose cameras are taken.
    Default: the photographs' cameras where the scene records them, else one every metre along its paths."""
    backend: str = "auto"
    """'cuda' (by NVIDIA Warp), 'cpu', 'reference' (float64, slow), any that an installed package adds, or 'auto'."""
    width: int | None = None
    """Image width [px]; default: the cameras'. The height follows."""
    every: int = 1
    """Render each n-th camera only."""
    depth: bool = False
    """Also write NAME.depth.png: expected depth along the viewing axis, uint16 [mm], 0 = nothing hit."""
    near: float = 0.01
    """Splats nearer than this are not drawn [m]."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour behind the splats, red green blue in 0..1."""

    def run(self) -> Path:
        """Render; returns the folder."""
        splats, cameras = self._load()
        renderer = SplatRenderer(
            [splats],
            cameras.width,
            cameras.height,
            backend=self.backend,
            near=self.near,
            background=self.background,
        )
        partial = self.output.with_name(self.output.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        batch = int(np.clip(2_000_000 // (cameras.width * cameras.height), 1, 64))
        with tqdm(total=len(cameras), unit="image", desc=f"render ({renderer.backend})") as bar:
            for start in range(0, len(cameras), batch):
                part = slice(start, start + batch)
                ids = np.zeros(len(cameras.c2w[part]), np.int64)
                frames = renderer.render(cameras.c2w[part], cameras.K[part], ids)
                _write_images(partial, cameras.names[part], frames, depth=self.depth)
                bar.update(len(ids))
        (partial / CAMERAS_FILE).write_text(json.dumps(cameras.to_json(), indent=1) + "\n")
        replace_directory(partial, self.output)
        return self.output

    def _load(self) -> tuple[AnySplats, Viewpoints]:
        """The scene's splats and the cameras asked for."""
        if self.every < 1 or (self.width is not None and self.width < 1):
            raise InputError(f"--every {self.every} and --width {self.width}: expected at least 1")
        source = open_splats(self.scene)
        if self.cameras is None:
            cameras = scene_viewpoints(source.whole_scene("cameras", "--cameras"))
        else:
            cameras = open_viewpoints(self.cameras, scene_viewpoints)
        if self.every > 1:
            cameras = Viewpoints(
                cameras.names[:: self.every],
                cameras.c2w[:: self.every],
                cameras.K[:: self.every],
                cameras.width,
                cameras.height,
            )
        if self.width is not None:
            cameras = cameras.resized(self.width, max(1, round(cameras.height * self.width / cameras.width)))
        return source.splats, cameras


def _write_images(folder: Path, names: list[str], frames: Frames, *, depth: bool) -> None:
    for i, name in enumerate(names):
        Image.fromarray(frames.rgb[i]).save(folder / f"{name}.png", compress_level=1)
        if depth:
            millimetres = np.clip(np.rint(frames.depth[i] * 1000.0), 0, MAX_DEPTH_MM).astype(np.uint16)
            Image.fromarray(millimetres).save(folder / f"{name}.depth.png", compress_level=1)


@dataclass(kw_only=True)
class Optimize:
    """Prune a scene and merge its splats at a distance, as far as a PSNR allows; writes a folder for `LodSplats.load`."""

    scene: tyro.conf.Positional[Path]
    """Scene folder with paths; or with --cameras any scene folder, or a 3DGS PLY."""
    output: Path
    """Folder to write: lod.npz, and lod.json with the recipe and what was measured. Replaced if it exists."""
    psnr_db: float = 40.0
    """Least PSNR against the full scene at the same image size, mean over held-out cameras, on the paths and turned each [dB]."""
    width: int = 64
    """Image width to optimise for [px]."""
    height: int = 48
    """Image height to optimise for [px]."""
    cameras: Path | None = None
    """Camera file, JSON as `gaussgym-render images --help` shows; default: one each half metre along the scene's paths.
    Every other one is held out."""
    max_cameras: int = 160
    """Most cameras to measure importance from, and most held-out ones."""
    seed: int = 0
    """Of the headings and offsets of cameras beside the paths."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def run(self) -> Path:
        """Optimise, compare with the full scene and write; returns the manifest."""
        from gaussgym_render import optimize  # brings torch, which the other commands do without

        if self.width < 1 or self.height < 1 or self.max_cameras < 4:
            raise InputError(
                f"--width {self.width}, --height {self.height}, --max-cameras {self.max_cameras}: expected at least 1, 1 and 4"
            )
        splats, near, path = self._load()
        cfg = optimize.OptimizeCfg(
            psnr_db=self.psnr_db,
            width=self.width,
            height=self.height,
            max_cameras=self.max_cameras,
            seed=self.seed,
            num_threads=self.threads,
        )
        with tqdm(total=optimize.num_steps(near, cfg), unit="step", desc="optimize") as bar:
            lod = optimize.optimize(splats, near, cfg, progress=bar.update)
        wider = _framed(path, self.width * 21 // 16, self.height)
        rows = [
            comparison.compare(splats, lod, cameras, threads=self.threads)
            for cameras in (path.resized(self.width, self.height), wider)
        ]
        lod = replace(lod, recipe={**lod.recipe, "measured": [asdict(row) for row in rows]})
        _print_comparison(splats, lod, rows)
        return lod.save(self.output)

    def _load(self) -> tuple[Splats, Viewpoints, Viewpoints]:
        """The splats, the cameras to optimise for, and those to report on."""
        if self.cameras is not None:
            cameras = load_viewpoints(self.cameras)
            ply = self.scene.suffix == ".ply"
            return Splats.load_ply(self.scene) if ply else Scene.load(self.scene).splats, cameras, cameras
        if self.scene.suffix == ".ply":
            raise InputError(f"{self.scene}: a PLY brings no paths; give --cameras FILE")
        scene = Scene.load(self.scene)
        size = {"width": self.width, "height": self.height}
        return scene.splats, path_viewpoints(scene, step_m=0.5, **size), path_viewpoints(scene, **size)


def _framed(cameras: Viewpoints, width: int, height: int) -> Viewpoints:
    """The same cameras with another image size [px] and their horizontal field of view."""
    k = cameras.K * (width / cameras.width)
    k[:, 0, 2], k[:, 1, 2], k[:, 2, 2] = width / 2, height / 2, 1.0
    return Viewpoints(cameras.names, cameras.c2w, k, width, height)


def _print_comparison(full: Splats, lod: LodSplats, rows: list[comparison.Comparison]) -> None:
    recipe = lod.recipe
    print(
        f"{len(full)} splats, {recipe['splats_kept']} kept (importance at least {recipe['least_importance_px']:.2g} px), "
        f"{len(lod) - recipe['splats_kept']} merged ones in {len(lod.node_sizes)} nodes; threshold {lod.threshold_px:.3g} px"
    )
    print(
        f"held out: {recipe['held_out_psnr_db']:.2f} dB, the lower of the means of {recipe['held_out_views'] // 2} views on the "
        "paths and as many turned any way"
    )
    print("size [px]    PSNR mean (min) [dB]    visible splats       speed, full = 1 (min to max)")
    for row in rows:
        quality = f"{row.psnr_db_mean:.2f} ({row.psnr_db_min:.2f})"
        visible = f"{row.visible_splats_full:.0f} -> {row.visible_splats:.0f}"
        ratio = f"{row.speed_ratio:.2f} ({row.speed_ratio_min:.2f} to {row.speed_ratio_max:.2f})"
        print(f"{row.width_px}x{row.height_px:<8} {quality:<23} {visible:<20} {ratio}")


@dataclass(kw_only=True)
class Serve:
    """Render for other programs, such as a simulator in a Python of its own, over shared memory; ends with Ctrl-C or SIGTERM.

    They use client.py of this package, one file that needs numpy and Python 3.8 or later.
    """

    scenes: tyro.conf.Positional[tuple[Path, ...]]
    """Scene folders, folders written by `gaussgym-render optimize`, splat files; a camera's scene id is a place in this list."""
    name: str
    """By which clients find the server."""
    width: int = 64
    """Image width [px]."""
    height: int = 48
    """Image height [px]."""
    max_cameras: int = 256
    """Most cameras of a request."""
    clients: int = 4
    """Most clients at a time."""
    camera_model: str = "ideal"
    """'ideal' (pinhole) or 'robot' (lens, shutter and sensor of a robot's camera)."""
    fov: float = 90.0
    """Horizontal field of view that the lens of --camera-model robot is sized for [deg]."""
    seed: int = 0
    """Of the camera model."""
    backend: str = "auto"
    """Renderer backend."""
    threads: int | None = None
    """CPU threads; default: all cores."""

    def run(self) -> None:
        """Serve until a signal comes."""
        if not self.scenes:
            raise InputError(
                "found no scenes, expected at least one: gaussgym-render serve SCENE --name NAME"
            )
        cfg = serve.RenderServerCfg(name=self.name, max_cameras=self.max_cameras, num_clients=self.clients)
        sources = [open_splats(path) for path in self.scenes]
        camera = serve.make_camera(
            [source.splats for source in sources],
            self.width,
            self.height,
            camera_model=self.camera_model,
            horizontal_fov_rad=float(np.radians(self.fov)),
            seed=self.seed,
            backend=self.backend,
            num_threads=self.threads,
        )
        with serve.RenderServer(camera, cfg, [source.name for source in sources]) as server:
            self._announce(sources, server)
            received = serve.serve_until_signalled(server)
        print(f"stopped; {server.num_requests} requests, {server.num_images} images", flush=True)
        if received == signal.SIGINT:
            raise KeyboardInterrupt

    def _announce(self, sources: list[SplatSource], server: serve.RenderServer) -> None:
        for i, source in enumerate(sources):
            levels = " with levels of detail" if isinstance(source.splats, LodSplats) else ""
            print(f"scene {i}: {source.name}, {len(source.splats)} splats{levels}")
        print(
            f"serving {self.width}x{self.height} px as {self.name!r}: {self.max_cameras} cameras a request, {self.clients} "
            f"clients, {self.camera_model} camera, backend {server.renderer.backend}, {server.size_bytes / 1e6:.1f} MB of "
            "shared memory"
        )
        print(
            f'connect: RenderClient("{self.name}").render(c2w, K, scene_ids), with {client.__file__}, which may be copied',
            flush=True,
        )


Command = (
    Annotated[Images, tyro.conf.subcommand("images")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Optimize, tyro.conf.subcommand("optimize")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
)


def main() -> int:
    """Run the command line."""
    return command.run(lambda: tyro.cli(Command, prog="gaussgym-render", description=__doc__).run())  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
