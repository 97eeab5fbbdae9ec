"""Reference rasterizer in float64: slow, plain, and the truth that every other renderer here is tested against.

It follows gsplat 1.5.3 convention by convention (EWA splatting, Zwicker et al. 2001; 3DGS, Kerbl et al. 2023;
antialiasing of Mip-Splatting, Yu et al. 2024):

- pixel centres at +0.5; `Σ2D + 0.3·I`; the Jacobian's `x/z` clamped 0.3·tan(fov/2) outside the image;
- antialiased: opacity times `sqrt(max(det Σ2D / det(Σ2D + 0.3·I), 0.005²))`;
- alpha clamped to 0.999 and skipped below 1/255; a pixel stops *before* the splat that would take its transmittance
  to 1e-4 or less; colour `max(SH + 0.5, 0)`;
- front to back by depth, compared as float32 like gsplat's sort does; equal depths keep the order of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gaussgym_render import harmonics

EPS_2D = 0.3
"""Low-pass variance added to both axes of the projected covariance [px²]."""
MAX_ALPHA = 0.999
MIN_ALPHA = 1.0 / 255.0
MIN_TRANSMITTANCE = 1e-4
MIN_COMPENSATION = 0.005
MAX_EXTENT = 3.33
"""Largest extent of a splat in standard deviations; `exp(-3.33²/2) < 1/255`, so it never cuts."""
TAN_MARGIN = 0.3
"""The Jacobian's clamp lies this many tan(fov/2) outside the image."""


class SplatArrays(Protocol):
    """What a renderer reads of a `gaussgym_scene.Splats`."""

    means: NDArray[np.float32]
    quats_wxyz: NDArray[np.float32]
    scales: NDArray[np.float32]
    opacities: NDArray[np.float32]
    sh: NDArray[np.float32]


@dataclass
class Projection:
    """Visible splats of one camera, front to back, all float64 except `index`.

    `index [V]` points into the input, `means_px [V, 2]` (u, v), `covariances_px [V, 2, 2]` with the low-pass included,
    `opacities [V]` with the antialiasing compensation included, `depths_m [V]` along +Z, `colors [V, 3]`.
    """

    index: NDArray[np.int64]
    means_px: NDArray[np.float64]
    covariances_px: NDArray[np.float64]
    opacities: NDArray[np.float64]
    depths_m: NDArray[np.float64]
    colors: NDArray[np.float64]
    normals_c: NDArray[np.float64]
    """Shortest axes, facing the camera, in its frame `[V, 3]`."""
    labels: NDArray[np.int64]
    """`[V]`, -1 for none."""
    features: NDArray[np.float64]
    """`[V, F]`."""


@dataclass
class Image:
    """`rgb [H, W, 3]` float64 (not clamped), `depth_m [H, W]` expected depth along +Z (0 = no hit), `alpha [H, W]`, and
    `surface_weight [H, W]`, the transmittance with which an opaque surface shows. `median_depth_m`, `labels`, `normals`
    (camera frame) and `features [H, W, F]` as `gaussgym_render.channels` defines them.
    """

    rgb: NDArray[np.float64]
    depth_m: NDArray[np.float64]
    alpha: NDArray[np.float64]
    surface_weight: NDArray[np.float64]
    median_depth_m: NDArray[np.float64]
    labels: NDArray[np.int64]
    normals: NDArray[np.float64]
    features: NDArray[np.float64]


@dataclass
class Surface:
    """The nearest opaque surface of each pixel: `rgb [H, W, 3]`, `depth_m [H, W]` along +Z, infinite where there is none, and
    `face [H, W]`, the triangle that it belongs to (0 where there is none).
    """

    rgb: NDArray[np.float64]
    depth_m: NDArray[np.float64]
    face: NDArray[np.int64]


@dataclass
class CameraEdit:
    """One camera's edits, as `gaussgym_render.edits.SceneEdits` holds them: `color [3, 4]`, `view_dependence`, `light [3, 4]`,
    patches as pairs of pose `[4, 4]` and half sizes `[3]` with `patch_colors [P, 4]` and `patch_labels [P]`.
    """

    color: NDArray[np.float64]
    view_dependence: float
    light: NDArray[np.float64]
    patches: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    patch_colors: NDArray[np.float64]
    patch_labels: NDArray[np.int64]

    def recolor(
        self,
        base: NDArray[np.float64],
        full: NDArray[np.float64],
        normals: NDArray[np.float64],
        flatness: NDArray[np.float64],
        means: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Edited colours `[V, 3]` of splats whose colours are `base` without and `full` with view-dependent bands."""
        colors = np.maximum(base + self.view_dependence * (full - base), 0.0)
        shade = self.light[:, 0] + flatness[:, None] * (normals @ self.light[:, 1:].T)
        colors = colors * np.maximum(shade, 0.0)
        colors = np.maximum(colors @ self.color[:, :3].T + self.color[:, 3], 0.0)
        for inside, color in zip(self._inside(means), self.patch_colors):
            colors[inside] = (1.0 - color[3]) * colors[inside] + color[3] * color[:3]
        return colors

    def relabel(self, labels: NDArray[np.int64], means: NDArray[np.float64]) -> NDArray[np.int64]:
        """Labels `[V]` after the patches."""
        labels = labels.copy()
        for inside, label in zip(self._inside(means), self.patch_labels):
            if label >= 0:
                labels[inside] = label
        return labels

    def _inside(self, means: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
        """Which splats each patch holds."""
        return [
            np.all(np.abs((means - pose[:3, 3]) @ pose[:3, :3]) <= half_size, axis=1)
            for pose, half_size in self.patches
        ]


def rotation_matrices(quats_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices `[N, 3, 3]` of Hamilton quaternions `[N, 4]` of any length but 0."""
    w, x, y, z = np.moveaxis(quats_wxyz / np.linalg.norm(quats_wxyz, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def project(
    splats: SplatArrays,
    c2w: NDArray[np.floating],
    intrinsics: NDArray[np.floating],
    width: int,
    height: int,
    *,
    near: float = 0.01,
    antialiased: bool = True,
    sh_degree: int | None = None,
    edit: CameraEdit | None = None,
    features: NDArray[np.floating] | None = None,
) -> Projection:
    """Project splats into one pinhole camera by the local affine approximation (EWA).

    Args:
        splats: N Gaussians, world frame [m].
        c2w: Camera to world `[4, 4]`, OpenCV axes.
        intrinsics: `[3, 3]` [px].
        width: Image width [px].
        height: Image height [px].
        near: Splats whose mean lies nearer than this along +Z [m] are dropped.
        antialiased: Whether to compensate opacity for the low-pass.
        sh_degree: Highest SH degree to use; default: all.
        edit: Changes of colours and labels.
        features: Channels of the splats `[N, F]`.

    Returns:
        The splats that can touch a pixel, front to back.
    """
    w2c = np.linalg.inv(np.asarray(c2w, np.float64))
    rotation, center = w2c[:3, :3], np.asarray(c2w, np.float64)[:3, 3]
    k = np.asarray(intrinsics, np.float64)
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]

    means = np.asarray(splats.means, np.float64)
    means_c = (means - center) @ rotation.T
    index = np.flatnonzero(means_c[:, 2] >= near)
    means, means_c = means[index], means_c[index]
    x, y, z = means_c.T

    factor = rotation_matrices(np.asarray(splats.quats_wxyz, np.float64)[index])
    factor = factor * np.asarray(splats.scales, np.float64)[index][:, None, :]
    covariances_c = rotation @ factor @ np.swapaxes(factor, -1, -2) @ rotation.T

    margin_x, margin_y = TAN_MARGIN * 0.5 * width / fx, TAN_MARGIN * 0.5 * height / fy
    tan_x = np.clip(x / z, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    tan_y = np.clip(y / z, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    jacobian = np.zeros((len(index), 2, 3))
    jacobian[:, 0, 0] = fx / z
    jacobian[:, 0, 2] = -fx * tan_x / z
    jacobian[:, 1, 1] = fy / z
    jacobian[:, 1, 2] = -fy * tan_y / z
    sharp = jacobian @ covariances_c @ np.swapaxes(jacobian, -1, -2)
    covariances = sharp + EPS_2D * np.eye(2)

    opacities = np.asarray(splats.opacities, np.float64)[index]
    if antialiased:
        ratio = np.linalg.det(sharp) / np.linalg.det(covariances)
        opacities = opacities * np.sqrt(np.maximum(ratio, MIN_COMPENSATION**2))
    means_px = np.stack([fx * x / z + cx, fy * y / z + cy], -1)

    visible = opacities >= MIN_ALPHA
    radii = _radii(covariances, opacities)
    visible &= np.all(means_px + radii > 0, -1) & np.all(means_px - radii < [width, height], -1)
    kept = np.flatnonzero(visible)
    kept = kept[np.argsort(z[kept].astype(np.float32), kind="stable")]

    directions = means[kept] - center
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    index = index[kept]
    colors = harmonics.colors(np.asarray(splats.sh, np.float64)[index], directions, sh_degree)
    normals, flatness = _normals(splats, index, directions)
    labels = getattr(splats, "labels", None)
    labels = np.full(len(index), -1) if labels is None else np.asarray(labels, np.int64)[index]
    if edit is not None:
        base = harmonics.colors(np.asarray(splats.sh, np.float64)[index], directions, 0, clamp=False)
        full = harmonics.colors(np.asarray(splats.sh, np.float64)[index], directions, sh_degree, clamp=False)
        colors = edit.recolor(base, full, normals, flatness, means[kept])
        labels = edit.relabel(labels, means[kept])
    return Projection(
        index=index,
        means_px=means_px[kept],
        covariances_px=covariances[kept],
        opacities=opacities[kept],
        depths_m=z[kept],
        colors=colors,
        normals_c=normals @ rotation.T,
        labels=labels,
        features=np.zeros((len(index), 0)) if features is None else np.asarray(features, np.float64)[index],
    )


def _normals(
    splats: SplatArrays, index: NDArray[np.int64], directions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shortest axes of splats, turned against the directions they are seen along, world frame, and how flat they are, 0 to 1."""
    scales = np.asarray(splats.scales, np.float64)[index]
    axes = rotation_matrices(np.asarray(splats.quats_wxyz, np.float64)[index])
    normals = np.take_along_axis(axes, scales.argmin(1)[:, None, None], 2)[:, :, 0]
    normals = np.where((normals * directions).sum(1, keepdims=True) > 0, -normals, normals)
    ordered = np.sort(scales, 1)
    flatness = 1.0 - np.divide(ordered[:, 0], ordered[:, 1], out=np.ones(len(index)), where=ordered[:, 1] > 0)
    return normals, flatness


def _radii(covariances: NDArray[np.float64], opacities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half width and height [px] of the box outside which a splat's alpha is below 1/255, `[N, 2]`."""
    extent = np.minimum(MAX_EXTENT, np.sqrt(2.0 * np.log(np.maximum(opacities / MIN_ALPHA, 1.0))))
    return np.ceil(extent[:, None] * np.sqrt(np.stack([covariances[:, 0, 0], covariances[:, 1, 1]], -1)))


def composite(
    projection: Projection,
    width: int,
    height: int,
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    surface: Surface | None = None,
) -> Image:
    """Blend projected splats front to back over a background colour.

    Args:
        projection: Splats in the order to blend.
        width: Image width [px].
        height: Image height [px].
        background: Linear RGB behind everything.
        surface: Opaque surfaces; splats at their depth or behind it are not blended, what is left shows them.

    Returns:
        The image.
    """
    transmittance = np.ones((height, width))
    done = np.zeros((height, width), bool)
    rgb = np.zeros((height, width, 3))
    depth, median, labels = np.zeros((height, width)), np.zeros((height, width)), np.full((height, width), -1)
    normals, features = np.zeros((height, width, 3)), np.zeros((height, width, projection.features.shape[1]))
    conics = np.linalg.inv(projection.covariances_px)
    radii = _radii(projection.covariances_px, projection.opacities)
    for i, (u, v) in enumerate(projection.means_px):
        x0, x1 = (int(np.clip(e, 0, width)) for e in (np.floor(u - radii[i, 0]), np.ceil(u + radii[i, 0])))
        y0, y1 = (int(np.clip(e, 0, height)) for e in (np.floor(v - radii[i, 1]), np.ceil(v + radii[i, 1])))
        if x0 >= x1 or y0 >= y1:
            continue
        box = np.s_[y0:y1, x0:x1]
        dx = np.arange(x0, x1) + 0.5 - u
        dy = (np.arange(y0, y1) + 0.5 - v)[:, None]
        conic = conics[i]
        sigma = 0.5 * (conic[0, 0] * dx * dx + conic[1, 1] * dy * dy) + conic[0, 1] * dx * dy
        alpha = np.minimum(MAX_ALPHA, projection.opacities[i] * np.exp(-sigma))
        touched = (sigma >= 0) & (alpha >= MIN_ALPHA) & ~done[box]
        if surface is not None:
            touched &= np.float32(projection.depths_m[i]) < surface.depth_m[box].astype(np.float32)
        after = transmittance[box] * (1.0 - alpha)
        stops = touched & (after <= MIN_TRANSMITTANCE)
        done[box] |= stops
        touched &= ~stops
        weight = np.where(touched, transmittance[box] * alpha, 0.0)
        rgb[box] += weight[..., None] * projection.colors[i]
        depth[box] += weight * projection.depths_m[i]
        normals[box] += weight[..., None] * projection.normals_c[i]
        features[box] += weight[..., None] * projection.features[i]
        halves = touched & (transmittance[box] > 0.5) & (after <= 0.5)
        median[box] = np.where(halves, projection.depths_m[i], median[box])
        labels[box] = np.where(halves, projection.labels[i], labels[box])
        transmittance[box] = np.where(touched, after, transmittance[box])
    left = np.zeros_like(transmittance)
    if surface is not None:
        left = np.where(np.isfinite(surface.depth_m), transmittance, 0.0)
        rgb += left[..., None] * surface.rgb
        depth += left * np.where(left > 0, surface.depth_m, 0.0)
        median = np.where(left > 0.5, surface.depth_m, median)
        transmittance = transmittance - left
    alpha = 1.0 - transmittance
    depth = np.divide(depth, alpha, out=np.zeros_like(depth), where=alpha > 0)
    seen = alpha[..., None] > 0
    features = np.divide(features, alpha[..., None], out=np.zeros_like(features), where=seen)
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 1e-6)
    rgb += transmittance[..., None] * np.asarray(background)
    return Image(rgb, depth, alpha, left, median, labels, normals, features)


def cast(
    triangles_w: NDArray[np.float64],
    colors: NDArray[np.floating],
    c2w: NDArray[np.floating],
    intrinsics: NDArray[np.floating],
    width: int,
    height: int,
    *,
    near: float = 0.01,
    light_w: NDArray[np.float64],
    ambient: float,
) -> Surface:
    """Meet every pixel's ray with every triangle (Möller and Trumbore, 1997), in the world frame.

    Args:
        triangles_w: Corners `[F, 3, 3]` [m]; both sides are seen.
        colors: `[F, 3]`, 0..1.
        c2w: Camera to world `[4, 4]`, OpenCV axes.
        intrinsics: `[3, 3]` [px].
        width: Image width [px].
        height: Image height [px].
        near: Nothing nearer than this along +Z [m] is seen.
        light_w: Unit vector towards the light.
        ambient: Brightness of a face without light, of 1 for one that the light meets at a right angle.

    Returns:
        The surface.
    """
    k = np.asarray(intrinsics, np.float64)
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays_c = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], -1).reshape(-1, 3)
    rays = (
        rays_c @ np.asarray(c2w, np.float64)[:3, :3].T
    )  # of length 1 along +Z: a hit's distance is its depth
    depth, face = np.full(len(rays), np.inf), np.zeros(len(rays), np.int64)
    for start in range(0, len(triangles_w), 128):
        corner, second, third = np.swapaxes(triangles_w[start : start + 128], 0, 1)
        edge_1, edge_2 = second - corner, third - corner
        origin = np.asarray(c2w, np.float64)[:3, 3] - corner
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 1.0 / (rays @ np.cross(edge_2, edge_1).T)
            first_share = scale * (rays @ np.cross(edge_2, origin).T)
            second_share = scale * (rays @ np.cross(origin, edge_1).T)
            z = scale * (edge_2 * np.cross(origin, edge_1)).sum(-1)
            hit = (first_share >= 0) & (second_share >= 0) & (first_share + second_share <= 1) & (z >= near)
        z = np.where(hit & np.isfinite(z), z, np.inf)
        nearest = z.argmin(-1)
        closer = z[np.arange(len(rays)), nearest] < depth
        depth[closer] = z[closer, nearest[closer]]
        face[closer] = start + nearest[closer]
    rgb = np.zeros((len(rays), 3))
    seen = np.isfinite(depth)
    corner, second, third = np.swapaxes(triangles_w[face[seen]], 0, 1)
    normals = np.cross(second - corner, third - corner)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[(normals * rays[seen]).sum(-1) > 0] *= -1
    bright = ambient + (1.0 - ambient) * np.maximum(normals @ light_w, 0.0)
    rgb[seen] = np.asarray(colors, np.float64)[face[seen]] * bright[:, None]
    shape = (height, width)
    return Surface(rgb.reshape(*shape, 3), depth.reshape(shape), face.reshape(shape))


def render(
    splats: SplatArrays,
    c2w: NDArray[np.floating],
    intrinsics: NDArray[np.floating],
    width: int,
    height: int,
    *,
    near: float = 0.01,
    antialiased: bool = True,
    sh_degree: int | None = None,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    surface: Surface | None = None,
    edit: CameraEdit | None = None,
    features: NDArray[np.floating] | None = None,
) -> Image:
    """Render one camera: `project`, then `composite` (arguments as there)."""
    projection = project(
        splats, c2w, intrinsics, width, height, near=near, antialiased=antialiased, sh_degree=sh_degree, edit=edit,
        features=features,
    )  # fmt: skip
    return composite(projection, width, height, background=background, surface=surface)
