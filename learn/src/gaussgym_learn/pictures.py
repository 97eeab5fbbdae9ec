"""What a run looks like, for its dashboards: each scene once at the start, films of what robots saw before each checkpoint."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from PIL import Image

from gaussgym_learn.metrics import MetricWriter

logger = logging.getLogger(__name__)

FOLDER = "pictures"
_MAX_SCENES = 12
_EYE_M = 1.2
"""Height of the eye above the path."""
_AHEAD_M = 4.0
"""How far along the path it looks."""
_SIZE = (256, 144)
_FIELD_RAD = 1.2
_FILM_WIDTH = 640


class CameraTape:
    """The newest camera images of the first environments, as robots saw them.

    Args:
        envs: how many environments.
        frames: how many camera frames of each.
    """

    def __init__(self, envs: int = 4, frames: int = 100) -> None:
        self.envs = envs
        self._frames: deque[torch.Tensor] = deque(maxlen=frames)

    def add(self, images: torch.Tensor, new: torch.Tensor) -> None:
        """Look at images `[E, C, H, W]` (uint8) of one step; they are kept where one of the first is `new` `[E, 1]`."""
        if bool(new[: self.envs].any()):
            self._frames.append(images[: self.envs].cpu().clone())

    def __len__(self) -> int:
        """How many frames are kept."""
        return len(self._frames)

    def images(self) -> list[NDArray[np.uint8]]:
        """The frames with the environments side by side, `[H, envs x W, 3]` each; depth in grey."""
        shown = []
        for frame in self._frames:
            colour = frame if frame.shape[1] == 3 else frame[:, :1].expand(-1, 3, -1, -1)
            shown.append(np.ascontiguousarray(torch.cat(list(colour.permute(0, 2, 3, 1)), dim=1).numpy()))
        return shown

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()


def scene_thumbnails(scenes: Sequence[Scene], folder: Path) -> dict[str, Path]:
    """Render each scene once from above the beginning of its longest path.

    Args:
        scenes: those without splats, and all after the first 12, are left out.
        folder: for the PNG files, made if missing.

    Returns:
        File of each scene's name.
    """
    from gaussgym_render import SplatRenderer

    files: dict[str, Path] = {}
    for scene in list({id(scene): scene for scene in scenes}.values())[:_MAX_SCENES]:
        try:
            splats = scene.splats
        except InputError:  # a course for physics alone
            continue
        focal = _SIZE[0] / 2 / np.tan(_FIELD_RAD / 2)
        K = np.array([[focal, 0, _SIZE[0] / 2], [0, focal, _SIZE[1] / 2], [0, 0, 1]])
        image = (
            SplatRenderer([splats], *_SIZE, backend="cpu")
            .render(_view(scene)[None], K[None], np.zeros(1, np.int64))
            .rgb[0]
        )
        folder.mkdir(parents=True, exist_ok=True)
        files[scene.name] = folder / f"{_file_name(scene.name)}.png"
        Image.fromarray(np.asarray(image)).save(files[scene.name])
    return files


def _view(scene: Scene) -> NDArray[np.float64]:
    """Camera-to-world pose `[4, 4]` above the first point of the longest path, looking along it."""
    from gaussgym_learn.film.chase import look_at

    numbers, counts = np.unique(scene.paths.path_id, return_counts=True)
    line = scene.paths.line(int(numbers[counts.argmax()]))[:, :3].astype(np.float64)
    away = np.linalg.norm(line[:, :2] - line[0, :2], axis=1)
    target = line[int(np.argmax(away > min(_AHEAD_M, 0.9 * away.max())))]
    return look_at(line[0] + [0.0, 0.0, _EYE_M], target)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


class RunPictures:
    """Hands a run's pictures to its writer: called at the start and after every checkpoint (`run_training`'s `on_save`).

    What cannot be drawn is said once and the run goes on.

    Args:
        out: the run's folder; files go to `pictures/` in it.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER
        self._tape: CameraTape | None = None

    def __call__(self, trainer: Any, writer: MetricWriter) -> None:
        """Draw what is due."""
        try:
            if self._tape is None:
                self._start(trainer, writer)
            elif len(self._tape) > 1:
                self._film(trainer, writer)
        except (InputError, OSError) as error:
            logger.warning("no pictures of this run any more: %s", error)
            self._tape = CameraTape()
            trainer.env.tape = None

    def _start(self, trainer: Any, writer: MetricWriter) -> None:
        self._tape = trainer.env.tape = CameraTape()
        scenes = getattr(getattr(trainer.env, "sim", None), "scenes", ())
        for name, file in scene_thumbnails(scenes, self.folder).items():
            writer.add_picture(f"Scenes/{name}", file, trainer.iteration)

    def _film(self, trainer: Any, writer: MetricWriter) -> None:
        from gaussgym_learn.film.chase import enlarged, write_video

        assert self._tape is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        images = [enlarged(image, _FILM_WIDTH) for image in self._tape.images()]
        file = write_video(
            self.folder / f"seen_{trainer.iteration}.mp4", images, getattr(trainer.env, "camera_hz", 10.0)
        )
        writer.add_film("Videos/seen", file, trainer.iteration)
        self._tape.clear()
