"""`SplatRenderer`: camera poses in, images out, for any number of scenes at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene import InputError
from numpy.typing import NDArray

from gaussgym_render import channels
from gaussgym_render.arrays import Array, device_of, to_numpy
from gaussgym_render.backends import (
    BACKEND_ABILITIES,
    LEVELS_ALIASED,
    DeviceRasterizer,
    RasterizerCfg,
    choose_backend,
    find_backends,
    labels_of,
)
from gaussgym_render.channels import ChannelArrays
from gaussgym_render.edits import SceneEdits, check_edits, numpy_edits
from gaussgym_render.frames import Frames, deliver, frame_arrays, seen_array
from gaussgym_render.lod import LodSplats
from gaussgym_render.objects import Instances, check_instances, is_rigid
from gaussgym_render.packed import SceneSource, read_splats
from gaussgym_render.paging import PagingStats, ScenePool


class SplatRenderer:
    """Renders batches of pinhole cameras in several splat scenes.

    Args:
        splats: The scenes; a camera names its scene by its place here. Scenes may be empty and of any size, and have levels of
            detail (`gaussgym_render.lod.LodSplats`) or not, and be given as paths: a scene folder, a `LodSplats` folder, a
            splat file.
        width: Image width [px].
        height: Image height [px].
        backend: One of `available_backends()`, or 'auto'.
        device: Device of returned torch tensors where inputs are numpy and torch is wanted; None: as the input. Backend 'cuda'
            renders there, on the current CUDA device if None.
        near: Splats whose mean lies nearer than this along +Z are not drawn [m].
        antialiased: Compensate opacity for the 0.3 px² low-pass (Mip-Splatting); needed at robot resolutions.
        sh_degree: Highest SH degree to use; None: all that each scene has.
        background: Linear RGB in 0..1 behind the splats.
        num_threads: CPU threads; None: all cores the process may run on.
        features: Channels for the output `features`, an array `[N, F]` a scene, N as in its splats; None: none.
        memory_budget_bytes: Most that the scenes may take in memory [B], beside the renderer's own buffers: they then take turns
            (`gaussgym_render.paging`), and images are the same; None: all are in memory. Give paths, not splats, which their
            owner keeps in memory.
        cache_dir: Folder for the packed files of scenes that take turns; None: the user's cache folder.

    Attributes:
        backend: Name of the backend in use ('auto' resolved).

    Raises:
        InputError: On no scenes, sizes below 1, a bad setting, an unknown backend, levels of detail without antialiasing,
            features that do not fit the splats, a scene that cannot be read, or one larger than the budget.
    """

    def __init__(
        self,
        splats: Sequence[SceneSource],
        width: int,
        height: int,
        *,
        backend: str = "auto",
        device: Any = None,
        near: float = 0.01,
        antialiased: bool = True,
        sh_degree: int | None = None,
        background: Sequence[float] = (0.0, 0.0, 0.0),
        num_threads: int | None = None,
        features: Sequence[NDArray[np.floating]] | None = None,
        memory_budget_bytes: int | None = None,
        cache_dir: Path | str | None = None,
    ) -> None:
        if len(splats) == 0:
            raise InputError("found no scenes, expected at least one set of splats")
        if memory_budget_bytes is None:
            splats = [read_splats(source) for source in splats]
        elif memory_budget_bytes <= 0:
            raise InputError(
                f"memory budget is {memory_budget_bytes} bytes, expected a positive number or None"
            )
        elif features is not None:
            raise InputError("found features and a memory budget; scenes that take turns carry no features")
        if width < 1 or height < 1:
            raise InputError(f"image size {width}x{height} px, expected at least 1x1")
        if not near > 0:
            raise InputError(f"near plane at {near} m, expected a positive distance")
        if sh_degree is not None and not 0 <= sh_degree <= 3:
            raise InputError(f"SH degree {sh_degree}, expected 0 to 3 or None")
        if not antialiased and any(isinstance(scene, LodSplats) for scene in splats):
            raise InputError(LEVELS_ALIASED)
        if num_threads is not None and num_threads < 1:
            raise InputError(f"num_threads is {num_threads}, expected at least 1 or None")
        self.background = np.asarray(background, np.float32)
        if self.background.shape != (3,) or not np.isfinite(self.background).all():
            raise InputError(f"background {background!r}, expected three finite numbers (linear RGB in 0..1)")
        self.width, self.height = int(width), int(height)
        self.device = device
        self.num_scenes = len(splats)
        self._has_labels = any(labels_of(scene) is not None for scene in splats)
        self.cfg = RasterizerCfg(
            width=self.width,
            height=self.height,
            near=float(near),
            antialiased=antialiased,
            sh_degree=sh_degree,
            num_threads=num_threads,
            features=_check_features(features, splats),
            memory_budget_bytes=memory_budget_bytes,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            device=None if device is None else str(device),
        )
        self.backend, factory = choose_backend(backend, paged=memory_budget_bytes is not None)
        if memory_budget_bytes is not None:
            self.need("memory_budget_bytes")
        self.rasterizer = factory(splats, self.cfg)  # type: ignore[arg-type]
        if self.pool is not None:
            self._has_labels = len(self.pool.labels) > 0

    @property
    def pool(self) -> ScenePool | None:
        """Where scenes take turns, or None if all are in memory."""
        return getattr(self.rasterizer, "pool", None)

    @property
    def paging(self) -> PagingStats | None:
        """What paging did so far, or None if all scenes are in memory."""
        return None if self.pool is None else self.pool.stats

    def stays_on(self, device: Any) -> bool:
        """Whether tensors on a torch device stay there in `render`, so that a mask of a few cameras costs no more than these."""
        return isinstance(self.rasterizer, DeviceRasterizer) and self.rasterizer.is_on(device)

    def prefetch(self, scene_ids: Iterable[int]) -> None:
        """Start reading scenes that calls to come will need; returns at once. Does nothing where all scenes are in memory.

        Raises:
            InputError: On ids out of range.
        """
        ids = [int(scene) for scene in scene_ids]
        if bad := [scene for scene in ids if not 0 <= scene < self.num_scenes]:
            raise InputError(f"prefetch of scene {bad[0]}, expected 0 to {self.num_scenes - 1}")
        if self.pool is not None:
            self.pool.prefetch(ids)

    def render(
        self,
        c2w: Array,
        K: Array,
        scene_ids: Array,
        *,
        mask: Array | None = None,
        out: Frames | None = None,
        objects: Instances | None = None,
        edits: SceneEdits | None = None,
        outputs: Collection[str] = (),
        sizes: Array | None = None,
    ) -> Frames:
        """Render one image per camera.

        Arrays on the device of a backend that takes them there (CUDA tensors for 'cuda') stay there: nothing is copied, nobody
        waits, and so no value is looked at; cameras that cannot be rendered are left out and counted by the rasterizer.

        Args:
            c2w: Camera to world `[C, 4, 4]`, OpenCV axes (+X right, +Y down, +Z forward), rigid.
            K: Calibration matrices `[C, 3, 3]` [px], pixel centres at +0.5, no skew.
            scene_ids: Scene of each camera, integers `[C]`.
            mask: Which cameras to render, bool `[C]`; None: all. The others keep what `out` holds, or are 0.
            out: Frames to write into, of the kind and device of `c2w` (`instances` may be None); None: new ones.
            objects: Opaque meshes posed for each camera, hidden by the splats before them and hiding those behind; None:
                there are none.
            edits: How each camera's scene looks; None: as it was captured.
            outputs: More to write than rgb, depth and alpha: names of `gaussgym_render.channels.OUTPUTS`.
            sizes: Width and height of each camera's own image, integers `[C, 2]` [px], at most the renderer's; it is the top left
                part of its frame, the rest keeps what `out` holds, or is 0. None: all of it.

        Returns:
            `out`, or new frames: torch tensors on the device of `c2w` if that is a tensor, else numpy arrays.

        Raises:
            InputError: On wrong shapes, poses that are not rigid or not finite, scene or object ids out of range, or
                something that the backend or the scenes do not offer.
        """
        if isinstance(self.rasterizer, DeviceRasterizer) and self.rasterizer.takes(c2w):
            return self._render_there(
                self.rasterizer, c2w, K, scene_ids, mask, out, objects, edits, outputs, sizes
            )
        torch_device = device_of(c2w) if self.device is None else self.device
        poses = to_numpy(c2w, np.float64)
        ks = to_numpy(K, np.float64)
        ids = to_numpy(scene_ids, None)
        chosen = self.check(poses, ks, ids, mask)
        ids = ids.astype(np.int64, copy=False)
        frames = frame_arrays(len(poses), self.width, self.height, out)
        options: dict[str, Any] = {}
        if objects is not None:
            options["objects"] = self.check_objects(objects, len(poses), chosen)
            options["seen"] = seen_array(len(poses), self.width, self.height, out)
        if edits is not None:
            self.need("edits")
            options["changes"] = check_edits(numpy_edits(edits), len(poses))
        if sizes is not None:
            self.need("sizes")
            options["sizes"] = self._check_sizes(to_numpy(sizes, None), len(poses))
        more: dict[str, NDArray[Any]] = {}
        if outputs:
            labelled = self._has_labels or (
                edits is not None and bool((options["changes"].patch_labels >= 0).any())
            )
            more = self._more(outputs, len(poses), out, labelled)
            empty = channels.shapes_of(0, 0, 0, 0)
            options["extra"] = ChannelArrays(
                **{n: more.get(n, np.zeros(shape, dtype)) for n, (shape, dtype) in empty.items()}
            )
        self.rasterizer.render(poses, ks, ids, chosen, self.background, frames, **options)
        return deliver(frames, {"instances": options.get("seen"), **more}, out, torch_device)

    def _render_there(
        self,
        rasterizer: DeviceRasterizer,
        c2w: Array,
        K: Array,
        scene_ids: Array,
        mask: Array | None,
        out: Frames | None,
        objects: Instances | None,
        edits: SceneEdits | None,
        outputs: Collection[str],
        sizes: Array | None,
    ) -> Frames:
        """`render` from and into arrays on the rasterizer's device, none of which passes through main memory."""
        for ability, given in (
            ("objects", objects),
            ("edits", edits),
            ("outputs", outputs or None),
            ("sizes", sizes),
        ):
            if given is not None:
                self.need(ability)
        names = list(outputs)
        if outputs:
            self._check_outputs(
                outputs, self._has_labels or (edits is not None and len(edits.patch_labels) > 0)
            )
        if objects is not None and (out is None or out.instances is not None):
            names.append("instances")
        more = {name: None if out is None else getattr(out, name) for name in names}
        more = {
            name: rasterizer.new_output(name, len(c2w), c2w) if array is None else array
            for name, array in more.items()
        }
        target = None if out is None else (out.rgb, out.depth, out.alpha)
        frames = rasterizer.render_arrays(
            c2w,
            K,
            scene_ids,
            mask,
            sizes,
            self.background,
            target,
            objects=objects,
            edits=edits,
            outputs=more,
        )
        if out is None:
            return Frames(*frames, **more)
        for name, array in more.items():
            setattr(out, name, array)
        return out

    def _check_sizes(self, sizes: NDArray[Any], count: int) -> NDArray[np.int64]:
        """Validate image sizes `[C, 2]`."""
        if sizes.shape != (count, 2) or not np.issubdtype(sizes.dtype, np.integer):
            raise InputError(f"sizes are {sizes.dtype} {sizes.shape}, expected integers {(count, 2)}")
        bad = ((sizes < 1) | (sizes > [self.width, self.height])).any(1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"camera {first}: image of {sizes[first, 0]}x{sizes[first, 1]} px, expected 1x1 to {self.width}x{self.height}"
            )
        return sizes.astype(np.int64)

    def need(self, ability: str) -> None:
        """Raise an `InputError` unless the backend has an ability."""
        if ability not in BACKEND_ABILITIES.get(self.backend, ()):
            able = sorted(name for name in find_backends() if ability in BACKEND_ABILITIES.get(name, ()))
            raise InputError(
                f"renderer backend {self.backend!r} cannot take {ability}; those that can: {', '.join(able)}"
            )

    def _check_outputs(self, outputs: Collection[str], labelled: bool) -> None:
        """Raise an `InputError` unless the backend and the scenes, some of which may be `labelled`, have what outputs need."""
        self.need("outputs")
        channels.check_outputs(outputs)
        if "features" in outputs and self.cfg.features is None:
            raise InputError("output 'features' without features; give SplatRenderer(features=...)")
        if "labels" in outputs and not labelled:
            raise InputError(
                "output 'labels', but no scene and no patch has labels; expected Splats with labels"
            )

    def _more(
        self, outputs: Collection[str], count: int, out: Frames | None, labelled: bool
    ) -> dict[str, NDArray[Any]]:
        """Arrays for further outputs: those of `out`, where it has them, else new ones."""
        self._check_outputs(outputs, labelled)
        width = 0 if self.cfg.features is None else self.cfg.features[0].shape[1]
        made = {}
        for name, (shape, dtype) in channels.shapes_of(count, self.width, self.height, width).items():
            if name not in outputs:
                continue
            given = None if out is None else getattr(out, name)
            if given is None:
                made[name] = np.full(shape, -1 if name == "labels" else 0, dtype)
                continue
            made[name] = to_numpy(given, None)
            if made[name].shape != shape or made[name].dtype != dtype or not made[name].flags.c_contiguous:
                raise InputError(
                    f"out.{name} is {made[name].dtype} {made[name].shape}, expected contiguous {np.dtype(dtype)} {shape}"
                )
        return made

    def check(
        self, poses: NDArray[np.float64], ks: NDArray[np.float64], ids: NDArray[Any], mask: Array | None
    ) -> NDArray[np.int64]:
        """Validate a batch as `render` does.

        Args:
            poses: `[C, 4, 4]`.
            ks: `[C, 3, 3]`.
            ids: `[C]`.
            mask: bool `[C]` or None.

        Returns:
            The cameras to render, indices into C.

        Raises:
            InputError: See `render`.
        """
        c = len(poses) if poses.ndim else 0
        for name, array, shape in (
            ("c2w", poses, (c, 4, 4)),
            ("K", ks, (c, 3, 3)),
            ("scene_ids", ids, (c,)),
        ):
            if array.shape != shape:
                raise InputError(f"{name} has shape {array.shape}, expected {shape} (C = {c} cameras)")
        if not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"scene_ids are {ids.dtype}, expected integers")
        chosen = np.arange(c)
        if mask is not None:
            flags = to_numpy(mask, None)
            if flags.shape != (c,) or flags.dtype != np.bool_:
                raise InputError(f"mask is {flags.dtype} {flags.shape}, expected bool ({c},)")
            chosen = np.flatnonzero(flags)
        _check_values(poses[chosen], ks[chosen], ids[chosen], chosen, self.num_scenes)
        return chosen

    def check_objects(self, objects: Instances, num_cameras: int, cameras: NDArray[np.int64]) -> Instances:
        """Validate objects as `render` does.

        Args:
            objects: What a caller gave.
            num_cameras: C.
            cameras: Those that are rendered.

        Returns:
            Their copy out of numpy arrays.

        Raises:
            InputError: See `render`.
        """
        self.need("objects")
        arrays = Instances(
            objects.objects,
            to_numpy(objects.camera_offsets, None),
            to_numpy(objects.object_ids, None),
            to_numpy(objects.poses_w, np.float64),
            None if objects.twists_o is None else to_numpy(objects.twists_o, np.float64),
        )
        return check_instances(arrays, num_cameras, cameras)


def _check_values(
    poses: NDArray[np.float64],
    ks: NDArray[np.float64],
    ids: NDArray[Any],
    cameras: NDArray[np.int64],
    num_scenes: int,
) -> None:
    """Raise an `InputError` that names the first camera that cannot be rendered."""
    if not len(cameras):
        return
    focal = np.stack([ks[:, 0, 0], ks[:, 1, 1]], -1)
    problems = (
        (~np.isfinite(poses).all((1, 2)), "c2w", "has NaN or infinite entries"),
        (~is_rigid(poses), "c2w", "is not a rigid pose (a right-handed rotation and a translation)"),
        (~np.isfinite(ks).all((1, 2)), "K", "has NaN or infinite entries"),
        (~(focal > 0).all(1), "K", "needs positive focal lengths [px]"),
        (ks[:, 0, 1] != 0, "K", "has skew, which is not supported"),
        ((ids < 0) | (ids >= num_scenes), "scene_ids", f"is out of range, expected 0 to {num_scenes - 1}"),
    )
    values = {"c2w": poses, "K": ks, "scene_ids": ids}
    for bad, name, text in problems:
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            found = np.array2string(values[name][first], precision=4, separator=", ").replace("\n", "")
            raise InputError(f"camera {int(cameras[first])}: {name} {text}; found {found}")


def _check_features(
    features: Sequence[NDArray[np.floating]] | None, splats: Sequence[Any]
) -> list[NDArray[np.float32]] | None:
    """Feature channels as float32 arrays of the splats' length and one width."""
    if features is None:
        return None
    if len(features) != len(splats):
        raise InputError(
            f"found features of {len(features)} scenes, expected {len(splats)}, one array a scene"
        )
    if any(isinstance(scene, LodSplats) for scene in splats):
        raise InputError("found features and a scene with levels of detail; its merged splats have none")
    arrays = [np.ascontiguousarray(array, np.float32) for array in features]
    width = arrays[0].shape[-1]
    for i, (array, scene) in enumerate(zip(arrays, splats)):
        if array.shape != (len(scene.means), width) or not np.isfinite(array).all():
            raise InputError(
                f"features of scene {i} have shape {array.shape}, expected finite {(len(scene.means), width)}"
            )
    return arrays
