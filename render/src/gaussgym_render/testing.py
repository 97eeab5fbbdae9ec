"""Splat scenes and cameras for tests and benchmarks; made, not loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from gaussgym_scene import Mesh, Splats
from gaussgym_scene.frames import look_at, quat_wxyz_from_matrix, rigid
from numpy.typing import NDArray

from gaussgym_render import harmonics, objects
from gaussgym_render.objects import Instances


def _splats(
    means: NDArray[Any],
    quats_wxyz: NDArray[Any],
    scales: NDArray[Any],
    opacities: NDArray[Any],
    sh: NDArray[Any],
) -> Splats:
    return Splats(means, quats_wxyz, scales, opacities, sh)


def random_splats(
    n: int,
    rng: np.random.Generator,
    *,
    sh_degree: int = 3,
    size_m: tuple[float, float, float] = (4.0, 4.0, 1.5),
    log_scale_mean: float = -2.5,
    log_scale_std: float = 1.0,
) -> Splats:
    """Unstructured splats: any rotation, aspect ratios up to some hundreds, all opacities, strong view dependence.

    Args:
        n: Number of splats.
        rng: Source of randomness.
        sh_degree: 0 to 3.
        size_m: Standard deviation of the means [m].
        log_scale_mean: Mean of the natural logarithm of the scales [ln m].
        log_scale_std: Its standard deviation, independent for the three axes.
    """
    quats = rng.normal(size=(n, 4)) + 1e-9
    return _splats(
        rng.normal(size=(n, 3)) * size_m,
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.exp(rng.normal(size=(n, 3)) * log_scale_std + log_scale_mean),
        rng.uniform(0.005, 1.0, n),
        rng.normal(size=(n, harmonics.num_coefficients(sh_degree), 3)) * 0.4,
    )


def street_splats(n: int, rng: np.random.Generator, *, length_m: float = 40.0) -> Splats:
    """About n flat splats on a road, two pavements and two facades, as surfaces of a real scene have them."""
    half, wall = 4.0, 6.0
    area = length_m * (2 * half + 2 * wall)
    spacing = np.sqrt(area / n)
    x = np.arange(0.5 * spacing, length_m, spacing)
    parts = []
    for direction, origin, extent in (
        ((0.0, 1.0, 0.0), (0.0, -half, 0.0), 2 * half),
        ((0.0, 0.0, 1.0), (0.0, -half, 0.0), wall),
        ((0.0, 0.0, 1.0), (0.0, half, 0.0), wall),
    ):
        t = np.arange(0.5 * spacing, extent, spacing)
        grid = np.stack(np.meshgrid(x, t, indexing="ij"), -1).reshape(-1, 2)
        points = np.asarray(origin) + grid[:, :1] * [1.0, 0.0, 0.0] + grid[:, 1:] * np.asarray(direction)
        axes = np.stack([[1.0, 0.0, 0.0], direction, np.cross([1.0, 0.0, 0.0], direction)], -1)
        parts.append((points + rng.normal(size=points.shape) * 0.02 * spacing, axes))
    means = np.concatenate([points for points, _ in parts])
    quats = np.concatenate([np.tile(quat_wxyz_from_matrix(axes), (len(points), 1)) for points, axes in parts])
    scales = np.tile([0.7 * spacing, 0.7 * spacing, 0.003], (len(means), 1))
    colors = np.clip(
        0.5 + 0.3 * np.sin(means @ rng.normal(size=(3, 3)) * 3.0) + rng.normal(size=(len(means), 3)) * 0.05,
        0,
        1,
    )
    return _splats(means, quats, scales, np.full(len(means), 0.97), ((colors - 0.5) / harmonics.C0)[:, None])


def street_cameras(c: int, rng: np.random.Generator, *, length_m: float = 40.0) -> NDArray[np.float64]:
    """Poses `[C, 4, 4]` of a quadruped's camera on that street: 0.35 m above the road, looking ahead and down."""
    poses = []
    for _ in range(c):
        eye = np.array([rng.uniform(1.0, length_m - 1.0), rng.uniform(-2.5, 2.5), rng.uniform(0.3, 0.4)])
        yaw = rng.choice([0.0, np.pi]) + rng.normal() * 0.4
        down = np.tan(np.radians(rng.uniform(5.0, 30.0)))
        poses.append(look_at(eye, eye + [np.cos(yaw), np.sin(yaw), -down]))
    return np.stack(poses)


def random_cameras(c: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Poses `[C, 4, 4]` inside `random_splats`, rolled at random: no rotation is symmetric."""
    poses = []
    for _ in range(c):
        up = rng.normal(size=3)
        eye = rng.normal(size=3) * [3.0, 3.0, 1.0]
        poses.append(look_at(eye, eye + rng.normal(size=3), up))
    return np.stack(poses)


def pinhole(width: int, height: int, horizontal_fov_rad: float = np.pi / 2) -> NDArray[np.float64]:
    """Calibration matrix `[3, 3]` [px] with square pixels and the principal point in the middle."""
    focal = 0.5 * width / np.tan(0.5 * horizontal_fov_rad)
    return np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])


def quadruped_parts() -> tuple[list[Mesh], NDArray[np.float64]]:
    """A standing quadruped of the Go1's size out of primitives.

    Returns:
        Its 13 bodies (trunk with head; hip, thigh, calf with foot of each leg), and their poses in the base frame
        `[13, 4, 4]` (+X forward, +Z up).
    """
    shell, dark = (220, 120, 40), (60, 60, 70)
    head = objects.capsule(0.05, 0.02, shell)
    trunk = [
        (objects.box((0.19, 0.047, 0.055), shell), np.eye(4)),
        (head, rigid(_turn_x(np.pi / 2), (0.235, 0, 0.01))),
    ]
    meshes, poses = [objects.joined(trunk)], [np.eye(4)]
    for front, side in ((1, -1), (1, 1), (-1, -1), (-1, 1)):
        hip = rigid(_turn_x(0.1 * side), (0.1881 * front, 0.04675 * side, 0.0))
        thigh = hip @ rigid(_turn_y(0.9), (0.0, 0.08 * side, 0.0))
        calf = thigh @ rigid(_turn_y(-1.8), (0.0, 0.0, -0.213))
        across = rigid(_turn_x(np.pi / 2), (0.0, 0.03 * side, 0.0))
        foot = (objects.sphere(0.023, (25, 25, 25), around=12), rigid(np.eye(3), (0.0, 0.0, -0.213)))
        meshes += [
            objects.joined([(objects.capsule(0.046, 0.01, dark), across)]),
            objects.joined([(objects.capsule(0.018, 0.085, dark), rigid(np.eye(3), (-0.012, 0.0, -0.105)))]),
            objects.joined([(objects.capsule(0.012, 0.083, dark), rigid(np.eye(3), (0, 0, -0.1125))), foot]),
        ]
        poses += [hip, thigh, calf]
    return meshes, np.stack(poses)


def _turn_x(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _turn_y(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def quadruped_before(c2w: NDArray[np.float64], *, down_rad: float = 0.0) -> Instances:
    """That quadruped 0.9 m before each of C cameras `[C, 4, 4]`, turned by 35°, so that all of it is in view.

    Args:
        c2w: The cameras.
        down_rad: By how much they look down; the quadruped stands level if they have no roll.
    """
    meshes, poses_b = quadruped_parts()
    yaw = np.radians(35.0)
    # Axes of the base as a level camera sees them.
    forward, left, up = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    turned = np.stack(
        [np.cos(yaw) * forward + np.sin(yaw) * left, np.cos(yaw) * left - np.sin(yaw) * forward, up], 1
    )
    pose_c = rigid(_turn_x(down_rad), np.zeros(3)) @ rigid(turned, (0.0, 0.07, 0.9)) @ poses_b
    return Instances.dense(objects.build_objects(meshes), np.arange(len(meshes)), c2w[:, None] @ pose_c)


ONE_PIXEL = np.array([[[50.0, 0.0, 0.5], [0.0, 50.0, 0.5], [0.0, 0.0, 1.0]]])
"""Calibration matrix `[1, 3, 3]` of one pixel whose centre is the optical axis."""


def covering_splat(
    z_m: float,
    opacity: float,
    label: int = 0,
    *,
    color: tuple[float, float, float] = (0.0, 0.0, 0.0),
    normal_axis: int = 2,
) -> Splats:
    """One splat on the optical axis of the identity pose that covers `ONE_PIXEL` evenly, thin along one axis."""
    scales = np.full(3, 50.0)
    scales[normal_axis] = 1e-3
    sh = (np.array(color) - 0.5)[None, None] / 0.28209479177387814
    return Splats([[0, 0, z_m]], [[1, 0, 0, 0]], [scales], [opacity], sh, np.array([label], np.int32))  # type: ignore[arg-type]


def join_splats(*parts: Splats) -> Splats:
    """Labelled splats of one SH degree as one set."""
    names = ("means", "quats_wxyz", "scales", "opacities", "sh", "labels")
    return Splats(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
