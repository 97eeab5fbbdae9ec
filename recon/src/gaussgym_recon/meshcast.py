"""Textured meshes as a camera sees them, by ray casting: colours and depths, independent of any splat renderer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics, pixel_rays_c
from gaussgym_scene.errors import InputError
from numba import njit, prange

if TYPE_CHECKING:
    from gaussgym_scene.scene import Scene
    from numpy.typing import NDArray

SKY_RGB = (196, 212, 230)


class MeshCaster:
    """Renders a scene's textured mesh by ray-casting, with lens distortion and mip-mapped textures."""

    def __init__(
        self,
        scene: Scene,
        intrinsics: Intrinsics,
        *,
        supersample: int = 2,
        rays_c: NDArray[np.float64] | None = None,
    ) -> None:
        """Build the ray-casting structure.

        Args:
            scene: With `appearance`.
            intrinsics: The camera, its distortion is applied.
            supersample: Rays per pixel along each axis.
            rays_c: Rays of colour images in the camera frame `[height * supersample, width * supersample, 3]`, of lenses that
                `intrinsics` cannot express; `surface` keeps to `intrinsics`.
        """
        import open3d as o3d

        if scene.appearance is None:
            raise InputError(f"scene {scene.name}: has no textured mesh")
        mesh, look = scene.mesh, scene.appearance
        self._o3d: Any = o3d
        self._casting = o3d.t.geometry.RaycastingScene(nthreads=os.cpu_count() or 1)
        self._casting.add_triangles(
            o3d.core.Tensor(np.ascontiguousarray(mesh.vertices, np.float32)),
            o3d.core.Tensor(np.ascontiguousarray(mesh.faces, np.uint32)),
        )
        self._size = intrinsics.height, intrinsics.width, supersample
        self._intrinsics = intrinsics
        fine = intrinsics.resized(intrinsics.width * supersample, intrinsics.height * supersample)
        self._rays_c = (pixel_rays_c(fine) if rays_c is None else rays_c).reshape(-1, 3)
        self._ray_width = 1.0 / fine.fx
        self._corners = mesh.vertices[mesh.faces].astype(np.float64)
        self._uv = np.ascontiguousarray(look.uv, np.float32)
        self._texture_id = np.ascontiguousarray(look.texture_id, np.int32)
        self._texels, self._levels, self._level_of = _mip_maps(look.textures)
        self._normals, self._texels_per_m = _face_scales(self._corners, look)

    def render(self, c2w: NDArray[np.float64]) -> NDArray[np.float32]:
        """Colours of 255, `[height, width, 3]`.

        Args:
            c2w: Camera to world `[4, 4]`, or `[height, 4, 4]`, one for each row, as a rolling shutter has it.
        """
        height, width, supersample = self._size
        rays = np.empty((len(self._rays_c), 6), np.float32)
        if c2w.ndim == 2:
            rays[:, :3] = c2w[:3, 3]
            rays[:, 3:] = self._rays_c @ c2w[:3, :3].T
        else:
            of_row = np.repeat(c2w, supersample, axis=0)
            by_row = self._rays_c.reshape(height * supersample, width * supersample, 3)
            rays[:, :3] = np.repeat(of_row[:, :3, 3], width * supersample, axis=0)
            rays[:, 3:] = (by_row @ of_row[:, :3, :3].transpose(0, 2, 1)).reshape(-1, 3)
        hit = self._casting.cast_rays(self._o3d.core.Tensor(rays))
        out = np.empty((height, width, 3), np.float32)
        _shade(
            rays[:, 3:],
            hit["t_hit"].numpy(),
            hit["primitive_ids"].numpy(),
            hit["primitive_uvs"].numpy(),
            self._uv,
            self._texture_id,
            self._normals,
            self._texels_per_m,
            self._ray_width,
            self._texels,
            self._levels,
            self._level_of,
            supersample,
            np.array(SKY_RGB, np.float32),
            out,
        )
        return out

    def surface(
        self, c2w: NDArray[np.float64], width: int, height: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Depth along +Z [m] and the cosine at which rays meet the surface, each `[height, width]`; depth 0 = nothing hit.

        Args:
            c2w: Camera to world `[4, 4]`.
            width: Of the depth image, which has the camera's field of view and distortion [px].
            height: Of the depth image [px].
        """
        rays_c = pixel_rays_c(self._intrinsics.resized(width, height)).reshape(-1, 3)
        rays = np.empty((len(rays_c), 6), np.float32)
        rays[:, :3], rays[:, 3:] = c2w[:3, 3], rays_c @ c2w[:3, :3].T
        hit = self._casting.cast_rays(self._o3d.core.Tensor(rays))
        depth = (
            hit["t_hit"].numpy().astype(np.float64)
        )  # rays have z = 1 in the camera, so this is depth along +Z
        normals = hit["primitive_normals"].numpy()
        cosine = np.abs((normals * rays[:, 3:]).sum(1)) / np.linalg.norm(rays[:, 3:], axis=1)
        found = np.isfinite(depth)
        shape = (height, width)
        return np.where(found, depth, 0).reshape(shape), np.where(found, cosine, 0).reshape(shape)


def _face_scales(corners: NDArray[np.float64], look: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit normals `[F, 3]` and texels per metre `[F]` of faces."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double_area = np.linalg.norm(cross, axis=1)
    normals = cross / np.maximum(double_area, 1e-12)[:, None]
    sizes = np.array([[t.shape[1], t.shape[0]] for t in look.textures], np.float64)[look.texture_id]
    a, b = (look.uv[:, k].astype(np.float64) - look.uv[:, 0] for k in (1, 2))
    texel_area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) * sizes.prod(axis=1)
    density = np.sqrt(texel_area / np.maximum(double_area, 1e-12))
    return normals.astype(np.float32), density.astype(np.float32)


def _mip_maps(
    textures: list[NDArray[np.uint8]],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
    """All levels of all textures in one array of texels; rows (start, height, width) and (first row, count)."""
    texels, levels, level_of, start = [], [], [], 0
    for texture in textures:
        first, level = len(levels), texture.astype(np.float32)
        while True:
            height, width = level.shape[:2]
            texels.append(np.clip(np.rint(level), 0, 255).astype(np.uint8).reshape(-1, 3))
            levels.append((start, height, width))
            start += height * width
            if min(height, width) < 2:
                break
            level = level[: height // 2 * 2, : width // 2 * 2]
            level = level.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
        level_of.append((first, len(levels) - first))
    return np.concatenate(texels), np.array(levels, np.int64), np.array(level_of, np.int32)


@njit(cache=True)
def _bilinear(texels, start, height, width, u, v, weight, color):  # noqa: ANN001, ANN202
    """Add `weight` times the texture at (u, v) to `color`; textures repeat, texel centres lie at halves."""
    x, y = u * width - 0.5, v * height - 0.5
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - x0, y - y0
    for dy in range(2):
        row = (y0 + dy) % height
        for dx in range(2):
            column = (x0 + dx) % width
            share = weight * (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
            texel = texels[start + row * width + column]
            for channel in range(3):
                color[channel] += share * texel[channel]


@njit(parallel=True, cache=True)
def _shade(  # noqa: ANN202
    directions, distance, face_of, corner_uv, uv, texture_id, normals, texels_per_m, ray_width,  # noqa: ANN001
    texels, levels, level_of, supersample, sky, out,  # noqa: ANN001
):  # fmt: skip
    """Trilinear texture lookup of each ray, averaged over the rays of a pixel (Williams 1983)."""
    height, width = out.shape[:2]
    share = 1.0 / (supersample * supersample)
    for row in prange(height):
        color = np.zeros(3)
        for column in range(width):
            color[:] = 0.0
            for sub in range(supersample * supersample):
                ray_row = row * supersample + sub // supersample
                ray = ray_row * width * supersample + column * supersample + sub % supersample
                if not np.isfinite(distance[ray]):
                    color += share * sky
                    continue
                face = face_of[ray]
                b, c = corner_uv[ray, 0], corner_uv[ray, 1]
                a = 1.0 - b - c
                u = a * uv[face, 0, 0] + b * uv[face, 1, 0] + c * uv[face, 2, 0]
                v = a * uv[face, 0, 1] + b * uv[face, 1, 1] + c * uv[face, 2, 1]
                d = directions[ray]
                length = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
                n = normals[face]
                facing = abs(d[0] * n[0] + d[1] * n[1] + d[2] * n[2]) / length
                spread = distance[ray] * ray_width * texels_per_m[face] / np.sqrt(max(facing, 0.02))
                first, count = level_of[texture_id[face]]
                level = min(max(np.log2(max(spread, 1e-6)), 0.0), count - 1.0)
                low = int(level)
                blend = level - low
                start, rows, columns = levels[first + low]
                _bilinear(texels, start, rows, columns, u, v, share * (1 - blend), color)
                if blend > 0:
                    start, rows, columns = levels[first + min(low + 1, count - 1)]
                    _bilinear(texels, start, rows, columns, u, v, share * blend, color)
            for channel in range(3):
                out[row, column, channel] = color[channel]
