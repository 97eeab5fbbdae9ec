"""Robots in the picture: the simulator's shapes and body poses as the renderer's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gaussgym_render import objects
from gaussgym_render.objects import Instances, ObjectSet, build_objects
from gaussgym_scene.mesh import Mesh
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.geoms import Geom, robot_geoms
from gaussgym_sim.sensors.camera import CameraRenderer, RenderedFrames


@dataclass(frozen=True, eq=False)
class RobotShapes:
    """A robot as objects, one for each body that has shapes.

    Attributes:
        objects: all of them.
        whole: objects of the robot as others see it `[P]`.
        whole_bodies: the body of each `[P]`, as `gaussgym_sim.robots.geoms` counts them.
        own: objects of the robot as its own camera sees it: without the camera's housing `[Q]`.
        own_bodies: the body of each `[Q]`.
    """

    objects: ObjectSet
    whole: np.ndarray
    whole_bodies: np.ndarray
    own: np.ndarray
    own_bodies: np.ndarray


def robot_shapes(robot: RobotCfg) -> RobotShapes:
    """The shapes of a robot's MJCF, those of a body joined."""
    parts: dict[int, list[Geom]] = {}
    for geom in robot_geoms(robot):
        parts.setdefault(geom.body, []).append(geom)
    meshes, whole, own, own_bodies = [], [], [], []
    for body, geoms in parts.items():
        seen = [geom for geom in geoms if geom.own_view]
        whole.append(len(meshes))
        meshes.append(objects.joined([(geom_mesh(g), g.pose_b_g) for g in geoms]))
        if seen:
            if len(seen) < len(geoms):
                meshes.append(objects.joined([(geom_mesh(g), g.pose_b_g) for g in seen]))
            own.append(len(meshes) - 1)
            own_bodies.append(body)
    return RobotShapes(
        build_objects(meshes),
        *(np.array(ids, np.int64) for ids in (whole, list(parts), own, own_bodies)),
    )


def geom_mesh(geom: Geom) -> Mesh:
    """Triangles of one shape, in its own frame."""
    size = geom.size_m
    if geom.kind == "box":
        return objects.box(size, geom.rgb)
    if geom.kind == "sphere":
        return objects.sphere(size[0], geom.rgb)
    if geom.kind == "capsule":
        return objects.capsule(size[0], size[1], geom.rgb)
    if geom.kind == "cylinder":
        return objects.cylinder(size[0], size[1], geom.rgb)
    if geom.kind == "ellipsoid":
        ball = objects.sphere(1.0, geom.rgb)
        return Mesh((ball.vertices * np.array(size)).astype(np.float32), ball.faces, ball.colors)
    colors = np.tile(np.array(geom.rgb, np.uint8), (len(geom.vertices_g), 1))
    return Mesh(geom.vertices_g.astype(np.float32), geom.faces.astype(np.int32), colors)


class RobotRenderer:
    """A renderer that also draws robots into what it renders; see `gaussgym_sim.sensors.camera.CameraRenderer`.

    Args:
        renderer: one whose `render` takes `objects`.
        robot: which.
        own: draw the camera's own robot, less the camera's housing.
        num_others: draw up to so many other robots of the same scene, the nearest ones.
    """

    takes_bodies = True

    def __init__(self, renderer: CameraRenderer, robot: RobotCfg, *, own: bool, num_others: int) -> None:
        self._renderer, self.num_others = renderer, num_others
        self.takes_motion = bool(getattr(renderer, "takes_motion", False))
        shapes = robot_shapes(robot)
        self._objects = shapes.objects
        own_ids, own_bodies = (
            (shapes.own, shapes.own_bodies) if own else (shapes.own[:0], shapes.own_bodies[:0])
        )
        others = np.repeat(np.arange(num_others) + 1, len(shapes.whole))
        self._ids = torch.from_numpy(np.concatenate([own_ids, np.tile(shapes.whole, num_others)]))
        self._robots = torch.from_numpy(np.concatenate([np.zeros(len(own_ids), np.int64), others]))
        self._bodies = torch.from_numpy(
            np.concatenate([own_bodies, np.tile(shapes.whole_bodies, num_others)])
        )

    def stays_on(self, device: torch.device) -> bool:
        """See `gaussgym_sim.sensors.camera.CameraRenderer`."""
        stays_on = getattr(self._renderer, "stays_on", None)
        return stays_on is not None and bool(stays_on(device))

    def render(
        self,
        c2w: Any,
        K: Any,
        scene_ids: Any,
        *,
        body_poses_w: torch.Tensor,
        robot_shown: torch.Tensor,
        body_twists_b: torch.Tensor | None = None,
        **options: Any,
    ) -> RenderedFrames:
        """Render one image per camera; arguments as `gaussgym_sim.sensors.camera.CameraRenderer` names them."""
        shown = robot_shown[:, self._robots]  # [C, P]
        ids = self._ids.to(shown.device)
        seen = Instances(
            self._objects,
            torch.nn.functional.pad(shown.sum(dim=1).cumsum(0), (1, 0)),
            ids.expand(len(shown), -1)[shown],
            body_poses_w[:, self._robots, self._bodies][shown],
            None if body_twists_b is None else body_twists_b[:, self._robots, self._bodies][shown],
        )
        return self._renderer.render(c2w, K, scene_ids, objects=seen, **options)  # type: ignore[call-arg]
