"""Third-person pictures: a robot among a place's splats, with the shadow that the light casts of it on the ground."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.frames import normalize
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.splats import Splats
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gaussgym_render import Instances, ObjectSet
    from gaussgym_sim.robot import RobotCfg

SUPERSAMPLING = 2
"""Rays along each side of a pixel that shows the robot: objects have hard edges."""
WINDOW = 0.5
"""Share of the picture's width and height, about the robot, in which its edges are smoothed."""
SHADOW_DARKNESS = 0.5
SHADOW_BLUR_PX = 2.0
SHADOW_REACH_M = 0.25
"""Splat surfaces this far before or behind the shadow's plane take none of it, at half of that all [m]."""

Floats = NDArray[np.float64]


class ThirdPerson:
    """Renders a robot in a place.

    Args:
        splats: The place.
        robot: Which robot.
        width: Of the pictures [px].
        height: Of the pictures [px].
        background: Linear RGB in 0..1 behind the splats.
    """

    def __init__(
        self,
        splats: Splats,
        robot: RobotCfg,
        width: int,
        height: int,
        *,
        background: tuple[float, float, float],
    ) -> None:
        from gaussgym_render import SplatRenderer
        from gaussgym_sim.robots.kinematics import BodyKinematics

        from gaussgym_learn.robot_view import robot_shapes

        nothing = splats.subset(np.zeros(0, np.int64))  # where the shadow is looked at by itself
        self._renderer = SplatRenderer([splats, nothing], width, height, background=background)
        self._window_px = np.array([round(WINDOW * width), round(WINDOW * height)])
        self._fine = SplatRenderer(
            [splats], *(SUPERSAMPLING * self._window_px).tolist(), background=background
        )
        shapes = robot_shapes(robot)
        self._meshes = [_part(shapes.objects, int(i)) for i in shapes.whole]
        self._bodies = shapes.whole_bodies
        self._kinematics = BodyKinematics(robot, 1)

    def picture(
        self,
        c2w: Floats,
        K: Floats,
        root_pos_w: Floats,
        root_quat_wxyz: Floats,
        joint_pos: Floats,
        *,
        ground_z_m: float | None = None,
    ) -> NDArray[np.uint8]:
        """One picture.

        Args:
            c2w: Camera to world `[4, 4]`, OpenCV axes.
            K: Calibration matrix `[3, 3]` of the picture [px].
            root_pos_w: Base position [m], `[3]`.
            root_quat_wxyz: Base orientation, `[4]`.
            joint_pos: Joint positions [rad], `[J]`.
            ground_z_m: Height of the ground below the robot [m]; with it, a soft shadow is drawn.

        Returns:
            `[H, W, 3]`.
        """
        import torch
        from gaussgym_render import Instances, build_objects

        state = (
            torch.from_numpy(np.asarray(a, np.float64))[None] for a in (root_pos_w, root_quat_wxyz, joint_pos)
        )
        poses = self._kinematics.poses(*state)[0].numpy()[self._bodies]
        parts = len(self._meshes)
        shadow = [] if ground_z_m is None else [_cast(self._meshes, poses, ground_z_m)]
        objects = build_objects([*self._meshes, *shadow])
        cameras = 1 + len(shadow)
        seen = Instances(
            objects,
            np.array([0, parts, parts + 1])[: cameras + 1],
            np.arange(len(objects)),
            np.concatenate([poses, np.tile(np.eye(4), (len(shadow), 1, 1))]),
        )
        frames = self._renderer.render(
            np.tile(c2w, (cameras, 1, 1)), np.tile(K, (cameras, 1, 1)), np.arange(cameras), objects=seen
        )
        assert frames.instances is not None  # a call with objects
        image, shown = frames.rgb[0], np.asarray(frames.instances[0] >= 0)
        shade = np.ones(shown.shape, np.float32)
        if shadow:
            shade = _shade(frames.instances[1] >= 0, frames.depth[1], frames.depth[0])
            image[:] = np.round(image * np.where(shown, 1.0, shade)[..., None])
        robot = Instances(objects, seen.camera_offsets[:2], seen.object_ids[:parts], poses)
        self._smooth(image, shade, c2w, K, robot)
        return image

    def _smooth(
        self, image: NDArray[np.uint8], shade: NDArray[np.float32], c2w: Floats, K: Floats, robot: Instances
    ) -> None:
        """Give pixels of an image that show the robot the mean of several rays, in a window about it."""
        centre_c = (robot.poses_w[:, :3, 3].mean(axis=0) - c2w[:3, 3]) @ c2w[:3, :3]
        if centre_c[2] <= 0:
            return
        size, whole = self._window_px, np.array(image.shape[1::-1])
        corner = (K @ centre_c)[:2] / centre_c[2] - size / 2
        corner = np.clip(np.round(np.clip(corner, -1e6, 1e6)), 0, whole - size).astype(int)
        k = np.asarray(K, np.float64).copy()
        k[:2, 2] -= corner
        k[:2] *= SUPERSAMPLING
        frames = self._fine.render(c2w[None], k[None], np.zeros(1, np.int64), objects=robot)
        part = tuple(slice(int(corner[i]), int(corner[i] + size[i])) for i in (1, 0))
        assert frames.instances is not None
        shown = _rays(np.asarray(frames.instances[0] >= 0))
        light = np.where(shown, 1.0, shade[part][:, None, :, None])[..., None]
        smooth = np.round((_rays(frames.rgb[0]) * light).mean(axis=(1, 3)))
        some = np.asarray(shown.any(axis=(1, 3)))[..., None]
        image[part] = np.where(some, smooth, image[part])


def _rays(values: NDArray[Any]) -> NDArray[Any]:
    """Split the first two axes into pixels and their rays: `[H, S, W, S, ...]`."""
    height, width = (n // SUPERSAMPLING for n in values.shape[:2])
    return values.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, *values.shape[2:])


def _part(objects: ObjectSet, index: int) -> Mesh:
    """One object as a mesh again."""
    vertices = objects.vertices_o[slice(*objects.vertex_offsets[index : index + 2])]
    faces = slice(*objects.face_offsets[index : index + 2])
    corners = objects.faces[faces]
    # A face has one colour: every face gets corners of its own.
    colors = np.round(objects.colors[faces] * 255).astype(np.uint8).repeat(3, axis=0)
    return Mesh(
        vertices[corners].reshape(-1, 3).astype(np.float32),
        np.arange(3 * len(corners), dtype=np.int32).reshape(-1, 3),
        colors,
    )


def _cast(meshes: list[Mesh], poses: Floats, ground_z_m: float) -> Mesh:
    """The robot pressed flat along the light onto the plane of the ground, in the world."""
    from gaussgym_render.objects import LIGHT_W, joined

    robot, light = joined(list(zip(meshes, poses))), normalize(np.array(LIGHT_W))
    height = robot.vertices[:, 2:].astype(np.float64) - ground_z_m
    return Mesh((robot.vertices - height / light[2] * light).astype(np.float32), robot.faces, None)


def _shade(
    cover: NDArray[np.bool_], plane_m: NDArray[np.float32], surface_m: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What to multiply an image with `[H, W]`: a blurred shadow, on surfaces near its plane.

    Args:
        cover: Where the shadow falls on the plane of the ground `[H, W]`.
        plane_m: Depth of that plane there `[H, W]`.
        surface_m: Depth of what is seen, 0 where nothing was hit `[H, W]`.
    """
    import cv2

    shade = np.ones(cover.shape, np.float32)
    margin = round(3 * SHADOW_BLUR_PX)
    rows, columns = (np.flatnonzero(cover.any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return shade
    part = tuple(slice(max(int(n[0]) - margin, 0), int(n[-1]) + margin + 1) for n in (rows, columns))
    cover, plane_m, surface_m = cover[part], plane_m[part], surface_m[part]
    soft = cv2.GaussianBlur(cover.astype(np.float32), (0, 0), SHADOW_BLUR_PX)
    # The blurred rim has the depth of the sharp shadow beside it.
    rim = cv2.dilate(np.where(cover, plane_m, np.float32(0)), np.ones((2 * margin + 1,) * 2, np.uint8))
    off = np.abs(np.where(surface_m > 0, surface_m, np.inf) - np.where(cover, plane_m, rim))
    shade[part] = 1 - SHADOW_DARKNESS * soft * np.clip(2.0 - 2.0 * off / SHADOW_REACH_M, 0.0, 1.0)
    return shade
