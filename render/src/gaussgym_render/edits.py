"""Edits of how scenes look, camera by camera, applied to colours as they are rendered: no scene is copied.

In this order, on a splat's colour as stored (gamma-encoded, seen from the camera, at least 0):

1. **view dependence**: the bands above the first are multiplied by a gain; 0 makes everything matte;
2. **relight**: each channel is multiplied by `l0 + f·(l·n)`: light of spherical-harmonics degree 0 and 1 (Ramamoorthi and
   Hanrahan, 2001), relative to the light of the capture; n is the splat's normal (its shortest axis, facing the camera) and
   `f = 1 - shortest/middle axis` its flatness, since a round splat has no normal;
3. **recolour**: an affine map of the colour;
4. **patches**: splats whose centre lies in a patch's box take its colour to the given share, and its label.

Positions, opacities and so depth stay what they are.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numba
import numpy as np
from gaussgym_scene import InputError
from numpy.typing import ArrayLike, NDArray

from gaussgym_render import sensor
from gaussgym_render.arrays import to_numpy
from gaussgym_render.atlas import CHUNK
from gaussgym_render.objects import is_rigid
from gaussgym_render.shutter import Range, check_range

_F = np.float32
LUMA = (0.2126, 0.7152, 0.0722)
"""Shares of red, green and blue in brightness (ITU-R BT.709)."""
GAMMA = 2.2
"""Of the stored colours, nearly."""


@dataclass(frozen=True)
class SceneEdits:
    """Edits of C cameras' scenes; see the module for what they do.

    Attributes:
        color: Affine map of colours `[C, 3, 4]`; the last column is added.
        view_dependence: Gain of the bands above the first `[C]`.
        light: `l0` and `l` (world frame) of each channel, `[C, 3, 4]`; 1, 0, 0, 0 changes nothing.
        patch_offsets: Camera c has the patches `patch_offsets[c]` to `patch_offsets[c + 1]`, integers `[C + 1]`; later ones lie
            on top.
        patch_poses_w: Patch to world `[P, 4, 4]`, rigid.
        patch_half_sizes_m: Half sizes of the boxes along their own axes `[P, 3]` [m].
        patch_colors: Colour 0..1 and share of it 0..1, `[P, 4]`.
        patch_labels: Labels `[P]` integers; -1 keeps the splats'.
    """

    color: NDArray[np.float64]
    view_dependence: NDArray[np.float64]
    light: NDArray[np.float64]
    patch_offsets: NDArray[np.int64]
    patch_poses_w: NDArray[np.float64]
    patch_half_sizes_m: NDArray[np.float64]
    patch_colors: NDArray[np.float64]
    patch_labels: NDArray[np.int64]

    @classmethod
    def none(cls, count: int) -> SceneEdits:
        """Edits of `count` cameras that change nothing."""
        identity = np.tile(np.eye(3, 4), (count, 1, 1))
        light = np.tile(np.array([1.0, 0.0, 0.0, 0.0]), (count, 3, 1))
        return cls(
            identity, np.ones(count), light, np.zeros(count + 1, np.int64), np.zeros((0, 4, 4)), np.zeros((0, 3)),
            np.zeros((0, 4)), np.zeros(0, np.int64),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.view_dependence)

    def take(self, cameras: NDArray[np.integer]) -> SceneEdits:
        """The edits of cameras `[D]`, which may repeat."""
        counts = np.diff(self.patch_offsets)[cameras]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        patches = (
            np.arange(offsets[-1])
            - np.repeat(offsets[:-1], counts)
            + np.repeat(self.patch_offsets[cameras], counts)
        )
        return SceneEdits(
            self.color[cameras], self.view_dependence[cameras], self.light[cameras], offsets,
            self.patch_poses_w[patches], self.patch_half_sizes_m[patches], self.patch_colors[patches],
            self.patch_labels[patches],
        )  # fmt: skip

    def with_patches(
        self,
        poses_w: ArrayLike,
        half_sizes_m: ArrayLike,
        *,
        color: ArrayLike,
        share: float = 1.0,
        label: int = -1,
    ) -> SceneEdits:
        """These edits with one more patch for every camera, on top of what it has, say an area that is not to be stepped on.

        Args:
            poses_w: Patch to world `[C, 4, 4]`, or one pose `[4, 4]`.
            half_sizes_m: Half sizes of the box `[3]` or `[C, 3]`; deep enough to hold the ground's splats [m].
            color: `[3]` 0..1, as it is to look.
            share: How much of it is taken, 0..1.
            label: Label of what lies in it, for the output `labels`; -1 keeps that of the splats.
        """
        count = len(self)
        at = self.patch_offsets[1:]
        poses = np.broadcast_to(np.asarray(poses_w, np.float64), (count, 4, 4))
        sizes = np.broadcast_to(np.asarray(half_sizes_m, np.float64), (count, 3))
        colors = np.broadcast_to(np.append(np.asarray(color, np.float64), share), (count, 4))
        return replace(
            self,
            patch_offsets=self.patch_offsets + np.arange(count + 1),
            patch_poses_w=np.insert(self.patch_poses_w, at, poses, axis=0),
            patch_half_sizes_m=np.insert(self.patch_half_sizes_m, at, sizes, axis=0),
            patch_colors=np.insert(self.patch_colors, at, colors, axis=0),
            patch_labels=np.insert(self.patch_labels, at, label),
        )


def numpy_edits(edits: SceneEdits) -> SceneEdits:
    """Edits whose arrays are numpy's."""
    return SceneEdits(**{field.name: to_numpy(getattr(edits, field.name), None) for field in fields(edits)})


def check_edits(edits: SceneEdits, count: int) -> SceneEdits:
    """Contiguous arrays of the right types.

    Raises:
        InputError: Wrong shapes, values that are not finite, offsets that do not ascend, or patches that are not rigid.
    """
    patches = len(edits.patch_labels)
    shapes = {
        "color": (count, 3, 4), "view_dependence": (count,), "light": (count, 3, 4), "patch_offsets": (count + 1,),
        "patch_poses_w": (patches, 4, 4), "patch_half_sizes_m": (patches, 3), "patch_colors": (patches, 4),
        "patch_labels": (patches,),
    }  # fmt: skip
    arrays = {}
    for name, shape in shapes.items():
        integer = name in ("patch_offsets", "patch_labels")
        array = np.asarray(getattr(edits, name))
        if array.shape != shape:
            raise InputError(f"edits.{name} has shape {array.shape}, expected {shape} (C = {count} cameras)")
        if integer and not np.issubdtype(array.dtype, np.integer):
            raise InputError(f"edits.{name} are {array.dtype}, expected integers")
        arrays[name] = np.ascontiguousarray(array, np.int64 if integer else np.float64)
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"edits.{name} has NaN or infinite entries")
    offsets = arrays["patch_offsets"]
    if offsets[0] != 0 or offsets[-1] != patches or (np.diff(offsets) < 0).any():
        raise InputError(
            f"edits.patch_offsets are {offsets.tolist()}, expected to ascend from 0 to {patches}"
        )
    if not is_rigid(arrays["patch_poses_w"]).all():
        first = int(np.flatnonzero(~is_rigid(arrays["patch_poses_w"]))[0])
        raise InputError(f"patch {first}: its pose is not rigid (a right-handed rotation and a translation)")
    return SceneEdits(**arrays)


@dataclass(frozen=True, kw_only=True)
class AppearanceCfg:
    """Ranges that each camera draws the look of its world from, uniformly; the defaults change nothing.

    Attributes:
        exposure_ev: Brightness of the whole scene [EV].
        tint_ev: log2 of the gains of red and blue, drawn apart [EV].
        contrast: About middle grey.
        saturation: 0 is grey, 1 as captured.
        hue_rad: Turn of the hues about the grey axis [rad].
        view_dependence: Gain of view-dependent colour.
        light: Strength of a light from a random direction, relative to the light of the capture: a wall that faces it gets
            brighter by this share, one that faces away darker.
    """

    exposure_ev: Range = (0.0, 0.0)
    tint_ev: Range = (0.0, 0.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue_rad: Range = (0.0, 0.0)
    view_dependence: Range = (1.0, 1.0)
    light: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Check the values."""
        bounds = {
            "exposure_ev": (-16.0, 16.0), "tint_ev": (-4.0, 4.0), "contrast": (0.0, 10.0), "saturation": (0.0, 10.0),
            "hue_rad": (-np.pi, np.pi), "view_dependence": (0.0, 10.0), "light": (0.0, 1.0),
        }  # fmt: skip
        for name, (lowest, highest) in bounds.items():
            check_range(name, getattr(self, name), lowest=lowest, highest=highest)

    @property
    def ideal(self) -> bool:
        """Whether nothing is changed."""
        return all(getattr(self, field.name) == field.default for field in fields(self))

    @classmethod
    def typical(cls) -> AppearanceCfg:
        """Other weather, other hour, other paint; chosen by hand."""
        return cls(
            exposure_ev=(-0.7, 0.7), tint_ev=(-0.2, 0.2), contrast=(0.8, 1.2), saturation=(0.6, 1.3),
            hue_rad=(-0.15, 0.15), view_dependence=(0.0, 1.2), light=(0.0, 0.35),
        )  # fmt: skip


def draw_edits(cfg: AppearanceCfg, keys: NDArray[np.uint64]) -> SceneEdits:
    """Edits of cameras, each from its own key alone.

    Args:
        cfg: The ranges.
        keys: Of the cameras' random numbers, uint64 `[C]` (`sensor.camera_keys`).
    """
    own = sensor.child_keys(keys, sensor.APPEARANCE_STREAM)
    names = ("exposure_ev", "contrast", "saturation", "hue_rad", "view_dependence", "light")
    drawn = {name: sensor.uniform(own, i, *getattr(cfg, name)) for i, name in enumerate(names)}
    red, blue = (sensor.uniform(own, len(names) + i, *cfg.tint_ev) for i in range(2))
    height = sensor.uniform(own, len(names) + 2, -1.0, 1.0)
    turn = sensor.uniform(own, len(names) + 3, 0.0, 2.0 * np.pi)
    flat = np.sqrt(1.0 - height**2)
    towards = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], -1)
    gains = 2.0 ** ((drawn["exposure_ev"][:, None] + np.stack([red, 0 * red, blue], -1)) / GAMMA)
    edits = SceneEdits.none(len(keys))
    edits.light[:, :, 1:] = (drawn["light"][:, None] * towards)[:, None]
    edits.view_dependence[:] = drawn["view_dependence"]
    linear = drawn["contrast"][:, None, None] * _hue_saturation(drawn["hue_rad"], drawn["saturation"])
    edits.color[:, :, :3] = gains[:, :, None] * linear
    edits.color[:, :, 3] = gains * (0.5 * (1.0 - drawn["contrast"]))[:, None]
    return edits


def _hue_saturation(hue_rad: NDArray[np.float64], saturation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices `[C, 3, 3]` that turn colours about the grey axis and scale their distance from it; grey stays grey."""
    axis = np.full(3, 3**-0.5)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    sine, cosine = np.sin(hue_rad)[:, None, None], np.cos(hue_rad)[:, None, None]
    turn = cosine * np.eye(3) + sine * cross + (1.0 - cosine) * np.outer(axis, axis)
    grey = np.tile(np.array(LUMA), (3, 1))
    s = saturation[:, None, None]
    return (s * np.eye(3) + (1.0 - s) * grey) @ turn


def kernel_arrays(edits: SceneEdits | None) -> tuple[Any, ...]:
    """What the compiled code takes: `color` and `light` are empty without edits, `light` also if no camera is relit."""
    if edits is None:
        edits = SceneEdits.none(0)
    world_to_patch = np.linalg.inv(edits.patch_poses_w)[:, :3]
    lit = bool((edits.light != [1.0, 0.0, 0.0, 0.0]).any())
    return (
        edits.color.astype(np.float32), edits.view_dependence.astype(np.float32),
        edits.light.astype(np.float32) if lit else np.zeros((0, 3, 4), np.float32), edits.patch_offsets,
        np.ascontiguousarray(world_to_patch), edits.patch_half_sizes_m, edits.patch_colors.astype(np.float32),
        edits.patch_labels.astype(np.int32),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True, error_model="numpy")
def in_patch(to_patch, half_size, x, y, z) -> bool:
    """Whether a point of the world lies in a patch's box; `to_patch [3, 4]`."""
    for row in range(3):
        own = to_patch[row, 0] * x + to_patch[row, 1] * y + to_patch[row, 2] * z + to_patch[row, 3]
        if abs(own) > half_size[row]:
            return False
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _relight(light, means, shape, view, colors):
    """Multiply a chunk's colours by the light of degree 0 and 1 on their normals."""
    for i in range(CHUNK):
        shortest, least, second = 0, _F(np.inf), _F(np.inf)
        for j in range(3):
            a, b, c = shape[j * CHUNK + i], shape[(3 + j) * CHUNK + i], shape[(6 + j) * CHUNK + i]
            length = a * a + b * b + c * c
            if length < least:
                shortest, least, second = j, length, least
            elif length < second:
                second = length
        j, k = (shortest + 1) % 3, (shortest + 2) % 3
        a0, a1, a2 = shape[j * CHUNK + i], shape[(3 + j) * CHUNK + i], shape[(6 + j) * CHUNK + i]
        b0, b1, b2 = shape[k * CHUNK + i], shape[(3 + k) * CHUNK + i], shape[(6 + k) * CHUNK + i]
        nx = np.float64(a1) * b2 - np.float64(a2) * b1
        ny = np.float64(a2) * b0 - np.float64(a0) * b2
        nz = np.float64(a0) * b1 - np.float64(a1) * b0
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        flatness = 1.0 - np.sqrt(np.float64(least) / second) if second > 0.0 else 0.0
        scale = flatness / length if length > 0.0 else 0.0
        away = (
            nx * (means[i] - view[9])
            + ny * (means[CHUNK + i] - view[10])
            + nz * (means[2 * CHUNK + i] - view[11])
        )
        scale = -scale if away > 0.0 else scale
        for c in range(3):
            gain = light[c, 0] + scale * (light[c, 1] * nx + light[c, 2] * ny + light[c, 3] * nz)
            colors[c * CHUNK + i] *= _F(max(gain, 0.0))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def edit_chunk(camera, edits, bounds, means, shape, base, view, colors) -> None:
    """Edit the colours of a chunk as one camera sees it.

    Args:
        camera: Which.
        edits: See `kernel_arrays`.
        bounds: Centre and half size of the box of the chunk's means, see `Atlas.bounds_w`.
        means: `[3·256]` [m].
        shape: `Atlas.shapes` of the chunk as float32.
        base: Colours without view-dependent bands `[3·256]`.
        view: World to camera `[12]`.
        colors: Edited in place, `[3·256]`.
    """
    color, view_dependence, light, offsets, to_patch, half_sizes, patch_colors, _ = edits
    gain = view_dependence[camera]
    for i in range(3 * CHUNK):
        colors[i] = max(base[i] + gain * (colors[i] - base[i]), _F(0.0))
    if len(light) > 0:
        _relight(light[camera], means, shape, view, colors)
    m = color[camera]
    for i in range(CHUNK):
        r, g, b = colors[i], colors[CHUNK + i], colors[2 * CHUNK + i]
        for c in range(3):
            colors[c * CHUNK + i] = max(m[c, 0] * r + m[c, 1] * g + m[c, 2] * b + m[c, 3], _F(0.0))
    for p in range(offsets[camera], offsets[camera + 1]):
        middle = 0.0
        for row in range(3):
            own = to_patch[p, row, 0] * bounds[0] + to_patch[p, row, 1] * bounds[1]
            own += to_patch[p, row, 2] * bounds[2] + to_patch[p, row, 3]
            middle += own * own
        size = np.sqrt(bounds[3] ** 2 + bounds[4] ** 2 + bounds[5] ** 2)
        size += np.sqrt(half_sizes[p, 0] ** 2 + half_sizes[p, 1] ** 2 + half_sizes[p, 2] ** 2)
        if middle > size * size:
            continue
        share = patch_colors[p, 3]
        for i in range(CHUNK):
            if in_patch(to_patch[p], half_sizes[p], means[i], means[CHUNK + i], means[2 * CHUNK + i]):
                for c in range(3):
                    at = c * CHUNK + i
                    colors[at] += share * (patch_colors[p, c] - colors[at])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def patch_label(camera, edits, means, slot, label) -> np.int32:
    """Label of a splat after a camera's patches; `means` of the whole atlas, flat."""
    _, _, _, offsets, to_patch, half_sizes, _, labels = edits
    if len(offsets) <= 1:
        return label
    at = (slot // CHUNK) * 3 * CHUNK + slot % CHUNK
    for p in range(offsets[camera], offsets[camera + 1]):
        if labels[p] >= 0 and in_patch(
            to_patch[p], half_sizes[p], means[at], means[at + CHUNK], means[at + 2 * CHUNK]
        ):
            label = labels[p]
    return label


def patch_pose(xyz_w: Sequence[float], yaw_rad: float = 0.0) -> NDArray[np.float64]:
    """Pose `[4, 4]` of a patch on the ground: its centre [m] and its turn about the world's z."""
    pose = np.eye(4)
    cosine, sine = np.cos(yaw_rad), np.sin(yaw_rad)
    pose[:2, :2] = [[cosine, -sine], [sine, cosine]]
    pose[:3, 3] = xyz_w
    return pose
