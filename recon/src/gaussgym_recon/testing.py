"""Small scenes and cameras for tests."""

from __future__ import annotations

import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Appearance, Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.testing import random_splats
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation


def board() -> Scene:
    """A scene of one square of 2 m at z = 0, its four quarters red, green, blue and white."""
    vertices = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]], np.float32)
    faces = np.array([[0, 2, 1], [0, 3, 2]], np.int32)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    colors = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    texture = np.kron(colors, np.ones((64, 64, 1), np.uint8))
    points = np.c_[np.linspace(-0.9, 0.9, 9), np.zeros((9, 3))]
    return Scene(
        name="board",
        splats=random_splats(4),
        mesh=Mesh(vertices, faces),
        heightfield=Heightfield(
            np.zeros((41, 41), np.float32), 0.05, np.array([-1.0, -1.0]), np.ones((41, 41), bool)
        ),
        paths=Paths(points, np.zeros(9, int), np.full(9, 0.4)),
        metadata={},
        appearance=Appearance(corners[faces], np.zeros(2, np.int32), [texture]),
    )


def look_down(height: float, *, turn_rad: float = 0.0) -> NDArray[np.float64]:
    """A camera above the origin that looks down, image-up along +Y turned by `turn_rad`."""
    c2w = np.eye(4)
    c2w[:3, :3] = Rotation.from_euler("z", turn_rad).as_matrix() @ np.diag([1.0, -1.0, -1.0])
    c2w[2, 3] = height
    return c2w
