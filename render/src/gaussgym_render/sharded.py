"""One renderer a device, each with its own cameras and the scenes that these see: rendering on several GPUs by environment.

Cameras do not move between devices: which one renders a camera follows from the scene that it was announced with. Cameras are
put in the order of their scenes and cut into equal parts, so that a scene lies on one device, or on two where a cut goes through
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gaussgym_scene import InputError
from numpy.typing import ArrayLike, NDArray

from gaussgym_render.arrays import Array, device_of, to_numpy
from gaussgym_render.frames import Frames, deliver, frame_arrays
from gaussgym_render.packed import SceneSource
from gaussgym_render.renderer import SplatRenderer


@dataclass(frozen=True)
class Shard:
    """What one device renders.

    Attributes:
        cameras: Which of all cameras, ascending, int64 `[D]`.
        scenes: Which of all scenes it holds, ascending, int64 `[T]`.
    """

    cameras: NDArray[np.int64]
    scenes: NDArray[np.int64]


def plan_shards(scene_of_camera: ArrayLike, num_devices: int) -> list[Shard]:
    """Share cameras out between devices so that each has as many as any other, or one less.

    Args:
        scene_of_camera: Scene of each camera, integers `[C]`.
        num_devices: How many.

    Returns:
        One shard a device; those without cameras are left out.

    Raises:
        InputError: There are no cameras or devices, or the scenes are not integers.
    """
    scenes = np.asarray(scene_of_camera)
    if scenes.ndim != 1 or len(scenes) == 0 or not np.issubdtype(scenes.dtype, np.integer):
        raise InputError(
            f"scene_of_camera is {scenes.dtype} {scenes.shape}, expected integers (C,) of at least one camera"
        )
    if num_devices < 1:
        raise InputError(f"found {num_devices} devices, expected at least 1")
    order = np.argsort(scenes, kind="stable")
    parts = (np.sort(part) for part in np.array_split(order, num_devices) if len(part))
    return [Shard(part.astype(np.int64), np.unique(scenes[part]).astype(np.int64)) for part in parts]


class ShardedRenderer:
    """Renders as `SplatRenderer` or `RobotCamera` do, on several devices at once.

    Launches go to one device after the other, and each works on its own while the next is given its work. What is returned is
    gathered on the device of `c2w`; `render_shards` leaves it where it is.

    Args:
        splats: The scenes.
        scene_of_camera: Scene that each camera is in `[C]`; a camera may later be in another one that its device holds.
        devices: One a shard: 'cuda:0', 'cuda:1' and so on; a device may be named twice.
        make: Makes the renderer of a device from its scenes and the device: for example
            `lambda scenes, device: SplatRenderer(scenes, 64, 48, backend='cuda', device=device)`.

    Attributes:
        shards: What each device renders.
        renderers: One a shard.

    Raises:
        InputError: See `plan_shards`; also no devices, or a scene out of range.
    """

    def __init__(
        self,
        splats: Sequence[SceneSource],
        scene_of_camera: ArrayLike,
        devices: Sequence[Any],
        make: Callable[[Sequence[SceneSource], Any], Any],
    ) -> None:
        self.shards = plan_shards(scene_of_camera, len(devices))
        self.num_cameras, self.num_scenes = len(np.asarray(scene_of_camera)), len(splats)
        if (
            max(int(shard.scenes[-1]) for shard in self.shards) >= len(splats)
            or min(int(shard.scenes[0]) for shard in self.shards) < 0
        ):
            raise InputError(f"scene_of_camera is out of range, expected 0 to {len(splats) - 1}")
        self.devices = list(devices)[: len(self.shards)]
        self.renderers = [
            make([splats[s] for s in shard.scenes], device)
            for shard, device in zip(self.shards, self.devices)
        ]
        first = self.renderers[0]
        self.width, self.height = int(first.width), int(first.height)
        self.takes_motion = bool(getattr(first, "takes_motion", False))
        self._here: dict[Any, list[_Indices]] = {}  # by device of inputs
        self._frames: list[Frames | None] = [None] * len(self.shards)

    def render(
        self,
        c2w: Array,
        K: Array,
        scene_ids: Array,
        *,
        mask: Array | None = None,
        out: Frames | None = None,
        **options: Array | None,
    ) -> Frames:
        """Render one image per camera.

        Args:
            c2w: See `SplatRenderer.render`; C is the number of cameras that this was made for.
            K: Likewise.
            scene_ids: Scenes as all are counted, not as a device counts its own.
            mask: Likewise.
            out: Frames to write into, of the kind and device of `c2w`; None: new ones.
            options: Arrays with a row for each camera, such as `RobotCamera.render`'s `twist_c`; or None.

        Raises:
            InputError: Another number of cameras, a camera in a scene that its device does not hold, something that has no row
                for each camera, or as the renderers.
        """
        parts = self.render_shards(c2w, K, scene_ids, mask=mask, **options)
        torch_device, count = device_of(c2w), self.num_cameras
        if torch_device is None:
            arrays = frame_arrays(count, self.width, self.height, out)
            flags = np.ones(count, bool) if mask is None else to_numpy(mask, None)
            for shard, part in zip(self.shards, parts):
                shown = flags[shard.cameras]
                for target, name in zip(arrays, ("rgb", "depth", "alpha")):
                    target[shard.cameras[shown]] = to_numpy(getattr(part, name), None)[shown]
            return deliver(arrays, {}, out, None)
        import torch

        if out is None:
            shape, zeros = (count, self.height, self.width), torch.zeros
            out = Frames(
                zeros((*shape, 3), dtype=torch.uint8, device=torch_device),
                zeros(shape, device=torch_device),
                zeros(shape, device=torch_device),
            )
        for index, part in zip(self._indices(torch_device), parts):
            for name in ("rgb", "depth", "alpha"):
                target = getattr(out, name)
                own = getattr(part, name).to(torch_device, non_blocking=True)
                if mask is not None:
                    shown = mask[index.cameras].view(-1, *(1,) * (own.ndim - 1))
                    own = torch.where(shown, own, target[index.cameras])
                target.index_copy_(0, index.cameras, own)
        return out

    def render_shards(
        self, c2w: Array, K: Array, scene_ids: Array, *, mask: Array | None = None, **options: Array | None
    ) -> list[Frames]:
        """As `render`, but each shard's frames, in the order of its `cameras`, stay on its device until the next call."""
        given = {"c2w": c2w, "K": K, "scene_ids": scene_ids, "mask": mask, **options}
        given = {name: values for name, values in given.items() if values is not None}
        for name, values in given.items():
            if len(getattr(values, "shape", ())) == 0 or values.shape[0] != self.num_cameras:
                found = tuple(getattr(values, "shape", ())) or type(values).__name__
                raise InputError(f"{name} is {found}, expected a row for each of {self.num_cameras} cameras")
        if self.takes_motion and "camera_ids" not in given:
            given["camera_ids"] = self._numbers(device_of(c2w))
        for i, renderer in enumerate(self.renderers):
            own = {name: self._rows(values, i) for name, values in given.items()}
            own["scene_ids"] = self._local(own["scene_ids"], i)
            poses, ks, ids = (own.pop(name) for name in ("c2w", "K", "scene_ids"))
            self._frames[i] = renderer.render(poses, ks, ids, out=self._frames[i], **own)
        return [frames for frames in self._frames if frames is not None]

    def _numbers(self, device: Any) -> Array:
        """All cameras' places `[C]`, beside the other inputs."""
        if device is None:
            return np.arange(self.num_cameras)
        import torch

        return torch.arange(self.num_cameras, device=device)

    def _indices(self, device: Any) -> list[_Indices]:
        """The shards' tables as tensors on a device, made once."""
        if device not in self._here:
            self._here[device] = [_Indices(shard, self.num_scenes, device) for shard in self.shards]
        return self._here[device]

    def _rows(self, values: Array, i: int) -> Array:
        """A shard's rows of an array, on the shard's device if it is a tensor."""
        device = device_of(values)
        if device is None:
            return np.asarray(values)[self.shards[i].cameras]
        return values[self._indices(device)[i].cameras].to(_torch_device(self.devices[i]), non_blocking=True)

    def _local(self, scene_ids: Array, i: int) -> Array:
        """Scenes as a shard counts them; -1, which renderers refuse, where it does not hold one."""
        device = device_of(scene_ids)
        if device is not None:
            return self._indices(device)[i].local[scene_ids.long()]
        places = np.full(self.num_scenes, -1)
        places[self.shards[i].scenes] = np.arange(len(self.shards[i].scenes))
        local = places[scene_ids]
        if (local < 0).any():
            wrong = int(np.flatnonzero(local < 0)[0])
            raise InputError(
                f"camera {int(self.shards[i].cameras[wrong])}: scene {int(scene_ids[wrong])} is not on its device, which holds "
                f"{self.shards[i].scenes.tolist()}"
            )
        return local


class _Indices:
    """A shard's tables on a torch device."""

    def __init__(self, shard: Shard, num_scenes: int, device: Any) -> None:
        import torch

        self.cameras = torch.from_numpy(shard.cameras).to(device)
        local = np.full(num_scenes, -1, np.int64)
        local[shard.scenes] = np.arange(len(shard.scenes))
        self.local = torch.from_numpy(local).to(device)


def _torch_device(device: Any) -> Any:
    """A torch device of a renderer's device; torch has it, or there would be no tensor."""
    import torch

    return torch.device(str(device))


def shard_splats(
    splats: Sequence[SceneSource],
    scene_of_camera: ArrayLike,
    width: int,
    height: int,
    *,
    devices: Sequence[Any],
    **options: Any,
) -> ShardedRenderer:
    """A `ShardedRenderer` of `SplatRenderer`s of one size; `options` are theirs."""
    return ShardedRenderer(
        splats,
        scene_of_camera,
        devices,
        lambda scenes, device: SplatRenderer(scenes, width, height, device=device, **options),
    )
