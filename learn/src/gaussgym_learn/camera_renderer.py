"""The splat renderer of the robots' camera, from scenes and what is to be seen of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.sensors.camera import CameraRenderer, intrinsics
from gaussgym_sim.task import get_task

from gaussgym_learn.calibrated import calibrated, is_calibration
from gaussgym_learn.rotation import AHEAD, ScenesCfg, SlotRenderer

if TYPE_CHECKING:
    from gaussgym_render.lod import LodSplats
    from gaussgym_render.robot_camera import RobotCameraCfg

logger = logging.getLogger(__name__)


def check_blind(
    camera_model: str | RobotCameraCfg, show_robot: bool, show_others: int, lod: Sequence[Path | str] | None
) -> None:
    """Refuse settings that nobody would see.

    Raises:
        InputError: a setting of the camera, or no such camera model.
    """
    settings = {
        f"camera_model {camera_model!r}": camera_model != "ideal",
        "show_robot": show_robot,
        f"show_others {show_others}": show_others != 0,
        "lod": lod is not None,
    }
    found = [name for name, given in settings.items() if given]
    if not found:
        return
    from gaussgym_render.robot_camera import get_camera_model

    if isinstance(camera_model, str):
        get_camera_model(camera_model)
    raise InputError(
        f"found {', '.join(found)} for a policy without a camera; expected none: leave it out, or take one that sees"
    )


@dataclass(frozen=True)
class Seen:
    """What an environment's policy sees, as `gaussgym_learn.env.make_env` takes it.

    Attributes:
        backend: of the splat renderer; None for a blind environment.
        camera_model: see `make_env`.
        show_robot: see `make_env`.
        show_others: see `make_env`.
        lod: see `make_env`.

    Raises:
        InputError: settings of the camera without a renderer.
    """

    backend: str | None
    camera_model: str | RobotCameraCfg
    show_robot: bool
    show_others: int
    lod: Sequence[Path | str] | None

    def __post_init__(self) -> None:
        if self.backend is None:
            check_blind(self.camera_model, self.show_robot, self.show_others, self.lod)

    @property
    def _calibration(self) -> str | None:
        """The calibration that gives optics and mount, None where the camera model is none."""
        model = self.camera_model
        return (
            model if self.backend is not None and isinstance(model, str) and is_calibration(model) else None
        )

    def fitted(self, cfg: EnvCfg) -> EnvCfg:
        """The environment's settings, with the optics and the mount of a calibrated camera."""
        if self._calibration is None:
            return cfg
        return replace(cfg, camera=calibrated(cfg.camera, self._calibration))

    def renderer(
        self, scenes: Sequence[Scene | Path | str], cfg: EnvCfg, robot: RobotCfg, **options: Any
    ) -> CameraRenderer | None:
        """The renderer of scenes, by `make_camera_renderer` with its further options; None for a blind environment."""
        if self.backend is None:
            return None
        return make_camera_renderer(
            scenes,
            cfg,
            self.backend,
            camera_model="ideal" if self._calibration else self.camera_model,
            robot=robot,
            show_robot=self.show_robot,
            show_others=self.show_others,
            lod=self.lod,
            **options,
        )


def make_camera_renderer(
    scenes: Sequence[Scene | Path | str],
    cfg: EnvCfg,
    backend: str,
    num_threads: int | None = None,
    *,
    camera_model: str | RobotCameraCfg = "ideal",
    robot: RobotCfg | None = None,
    show_robot: bool = False,
    show_others: int = 0,
    lod: Sequence[Path | str] | None = None,
    memory: ScenesCfg | None = None,
    shown: Sequence[int] | None = None,
    device: str = "cpu",
) -> CameraRenderer:
    """The splat renderer of the robot's camera. A scene that is given several times is kept once.

    Args:
        scenes: all that there are, without `shown` in the simulator's order.
        cfg: gives the image size, and the task, whose patches on the ground are painted.
        backend: see `gaussgym_render.SplatRenderer`.
        num_threads: of the renderer.
        camera_model: see `make_env`; episodes draw their cameras from it, by the environment's seed.
        robot: which to draw; needed by the next two.
        show_robot: see `make_env`.
        show_others: see `make_env`.
        lod: see `make_env`.
        memory: see `make_env`.
        shown: number in `scenes` of each of the simulator's; None: all in order.
        device: of the environment's tensors; a GPU is also where a renderer renders that can.

    Raises:
        InputError: no such camera model, fewer than no other robots, levels of detail that do not fit the scenes, or too little
            memory for the scenes shown.
    """
    from gaussgym_render import SplatRenderer
    from gaussgym_render.robot_camera import get_camera_model, make_robot_camera

    if show_others < 0:
        raise InputError(f"show_others is {show_others}, expected at least 0 robots")
    paged = memory is not None and memory.memory_gb is not None
    pairs = _with_lod(scenes, lod)
    distinct: dict[Any, int] = {}
    place = [distinct.setdefault(_identity(*pair), len(distinct)) for pair in pairs]
    sources = [_splat_source(*pairs[place.index(i)], paged=paged) for i in range(len(distinct))]
    size = (cfg.camera.width, cfg.camera.height)
    options: dict[str, Any] = {"backend": backend, "num_threads": num_threads}
    if torch.device(device).type == "cuda":
        options["device"] = device
    if memory is not None and memory.memory_gb is not None:
        options |= {"memory_budget_bytes": int(memory.memory_gb * 1e9), "cache_dir": memory.cache}
    model = get_camera_model(camera_model) if isinstance(camera_model, str) else camera_model
    renderer: Any
    if model.ideal:
        renderer = splats = SplatRenderer(sources, *size, **options)
    else:
        renderer = make_robot_camera(sources, intrinsics(cfg.camera).numpy(), *size, model, **options)
        splats = renderer.renderer
    if shown is not None and splats.pool is not None:
        _check_room(splats.pool.bytes_of, splats.num_scenes, len(shown), options["memory_budget_bytes"])
    if shown is not None or len(distinct) < len(scenes):
        renderer = SlotRenderer(renderer, place, range(len(scenes)) if shown is None else shown)
    if show_robot or show_others:
        from gaussgym_learn.robot_view import RobotRenderer

        if robot is None:
            raise InputError("found show_robot or show_others without a robot; expected which robot to draw")
        renderer = RobotRenderer(renderer, robot, own=show_robot, num_others=show_others)
    if get_task(cfg.task).camera_inputs is not None:
        from gaussgym_learn.patch_view import PatchRenderer

        renderer = PatchRenderer(renderer)
    return renderer


def _with_lod(
    scenes: Sequence[Scene | Path | str], lod: Sequence[Path | str] | None
) -> list[tuple[Scene | Path | str, Path | None]]:
    """Each scene with the folder of its levels of detail."""
    if lod is None:
        return [(scene, None) for scene in scenes]
    if len(lod) != len(scenes):
        raise InputError(
            f"found {len(lod)} folders of levels of detail for {len(scenes)} scenes; expected one a scene, in the same order"
        )
    return list(zip(scenes, map(Path, lod), strict=True))


def _splat_source(scene: Scene | Path | str, folder: Path | None, *, paged: bool) -> Any:
    """What the renderer is given: what is paged in is checked here, and read when it is needed."""
    if folder is None:
        return scene
    if isinstance(scene, Scene) and not paged:
        return _open_lod(scene, folder)
    place = scene.directory if isinstance(scene, Scene) else scene
    again = scene if isinstance(scene, Scene) and place is None else Scene.load(place, verify=False)  # type: ignore[arg-type]
    splats = _open_lod(again, folder)
    return folder if paged else splats


def _open_lod(scene: Scene, folder: Path) -> LodSplats:
    """Levels of detail that were made from a scene's splats.

    Raises:
        InputError: they were made from others.
    """
    from gaussgym_render.lod import LodSplats
    from gaussgym_render.optimize import digest

    splats = LodSplats.load(folder)
    source = splats.recipe.get("source", {})
    made_from = source.get("sha256") if isinstance(source, dict) else None
    if made_from != digest(scene.splats):
        raise InputError(
            f"{folder}: made from other splats than those of scene {scene.name!r} ({len(scene.splats)}); give the folders in "
            "the order of the scenes, or make this one again (gaussgym-render optimize)"
        )
    return splats


def _identity(scene: Scene | Path | str, folder: Path | None) -> Any:
    return id(scene) if isinstance(scene, Scene) else Path(scene), folder


def _check_room(bytes_of: Callable[[list[int]], int], count: int, slots: int, budget: int) -> None:
    """Raise an `InputError` if the largest scenes, one a slot, do not fit into the renderer's memory together."""
    sizes = sorted((bytes_of([i]) for i in range(count)), reverse=True)
    needed = sum(sizes[:slots])
    if needed > budget:
        raise InputError(
            f"{slots} scenes at once take up to {needed / 1e9:.3g} GB of the renderer's memory, found {budget / 1e9:.3g} GB; "
            "give more memory or fewer scenes at once"
        )
    if sum(sizes[: slots + AHEAD]) > budget:
        logger.warning(
            "the renderer's memory has no room for the next %d scenes beside %d at once: exchanges will wait for the disk",
            AHEAD, slots,
        )  # fmt: skip
