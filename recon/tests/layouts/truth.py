"""The capture that every layout holds: a textured room with a box in it, seen by cameras whose poses are general.

World: metres, +Z up. Cameras: x right, y down, z forward (c2w), pixel centres at .5. Nothing here is imported from the
project, so that a wrong convention there cannot hide behind the same one here.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOM_MIN, ROOM_MAX = np.array([-3.0, -2.5, 0.0]), np.array([3.1, 2.6, 2.8])
BOX_MIN, BOX_MAX = np.array([0.4, -0.5, 0.0]), np.array([1.2, 0.3, 0.7])
WIDTH, HEIGHT = 64, 48


def axis_angle(axis, angle_rad):
    """Rotation matrix by Rodrigues' formula."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle_rad) * k + (1 - np.cos(angle_rad)) * (k @ k)


def rotation_vector(rotation):
    """The axis times the angle of a rotation whose angle is neither 0 nor half a turn."""
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    axis = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    return axis / np.linalg.norm(axis) * angle


def quaternion_xyzw(rotation):
    """Unit quaternion by the eigenvector of Bar-Itzhack's 4x4 matrix (no case distinctions to get wrong)."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    values, vectors = np.linalg.eigh(k)  # reads the lower triangle
    return vectors[:, np.argmax(values)]


def pose(rotation, position):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, position
    return matrix


@dataclass(frozen=True)
class Lens:
    """A pinhole; pixel centres at .5."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def at(self, width, height):
        """Read out at another size."""
        sx, sy = width / self.width, height / self.height
        return Lens(width, height, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy)

    def rays(self):
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return np.stack([(u - self.cx) / self.fx, (v - self.cy) / self.fy, np.ones_like(u)], axis=-1)


def cast(origin, directions):
    """Distance along `directions` to the room from inside or to the box from outside, whichever is nearer."""
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(directions > 0, (ROOM_MAX - origin) / directions, (ROOM_MIN - origin) / directions)
        near = np.minimum((BOX_MIN - origin) / directions, (BOX_MAX - origin) / directions).max(axis=-1)
        far = np.maximum((BOX_MIN - origin) / directions, (BOX_MAX - origin) / directions).min(axis=-1)
    out = np.nanmin(room, axis=-1)
    return np.where((near < far) & (near > 0), np.minimum(near, out), out)


def paint(points):
    """Smooth colours in space, so that JPEG and resampling change them little."""
    waves = np.array([[2.1, 0.7, 1.3], [-0.9, 1.9, 0.8], [1.2, -1.1, 1.7]])
    return 127.5 + 110 * np.sin(points @ waves.T + np.array([0.3, 1.1, 2.3]))


@dataclass
class Truth:
    lenses: list[Lens]
    c2w: np.ndarray
    times_s: np.ndarray
    points: np.ndarray
    colors: np.ndarray
    sure: bool = False
    """Whether all confidence is high."""

    def __len__(self):
        return len(self.lenses)

    def render(self, index, rays=None):
        """Image uint8 [h, w, 3] along rays of the camera's frame; those of its pinhole by default."""
        rays = self.lenses[index].rays() if rays is None else rays
        directions = rays @ self.c2w[index, :3, :3].T
        origin = self.c2w[index, :3, 3]
        hits = origin + cast(origin, directions)[..., None] * directions
        return np.clip(np.round(paint(hits)), 0, 255).astype(np.uint8)

    def depth_m(self, index, width, height):
        """Depth along the camera's z at another resolution [h, w]."""
        rays = self.lenses[index].at(width, height).rays()
        return cast(self.c2w[index, :3, 3], rays @ self.c2w[index, :3, :3].T)

    def confidence(self, index, width, height):
        """Levels 0, 1, 2 in a pattern without symmetry."""
        if self.sure:
            return np.full((height, width), 2, np.uint8)
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        return ((u // 4 + v // 3 + index) % 3).astype(np.uint8)


def make_truth(
    count=8,
    *,
    zoom_step=0.01,
    start_s=1234.5,
    step_s=0.2,
    width=WIDTH,
    height=HEIGHT,
    points=300,
    roll_rad=0.35,
):
    """Cameras on an arc through the room, rolled and pitched; the focal length changes from image to image."""
    phase = np.linspace(0, 1, count)
    lenses, c2w = [], []
    for index, s in enumerate(phase):
        zoom = (1 + zoom_step * index) * width / 64
        lenses.append(Lens(width, height, 51.3 * zoom, 52.1 * zoom, 30.7 * width / 64, 25.4 * height / 48))
        eye = np.array([-2.2 + 1.5 * s, -1.4 + 2.6 * s, 1.3 + 0.3 * np.sin(5 * s)])
        forward = np.array([1.0 + 0.3 * s, 0.1 - 0.9 * s, 0.35]) - np.array([0, 0, 0.9 + 0.2 * s])
        z = forward / np.linalg.norm(forward)
        x = np.cross(z, [0, 0, 1.0])
        x /= np.linalg.norm(x)
        upright = np.stack([x, np.cross(z, x), z], axis=1)
        c2w.append(pose(upright @ axis_angle([0, 0, 1], roll_rad * np.sin(3 * s + 0.4)), eye))
    c2w = np.array(c2w)
    random = np.random.default_rng(7)
    found = []
    for index in range(count):
        rays = lenses[index].rays()[
            random.integers(0, height, points // count), random.integers(0, width, points // count)
        ]
        directions = rays @ c2w[index, :3, :3].T
        found.append(c2w[index, :3, 3] + cast(c2w[index, :3, 3], directions)[:, None] * directions)
    cloud = np.concatenate(found)
    times = start_s + step_s * np.arange(count)
    return Truth(lenses, c2w, times, cloud, np.clip(paint(cloud), 0, 255).astype(np.uint8))


@dataclass
class Written:
    """What a layout's writer made, and what an importer must find in it."""

    path: Path
    """What the importer is given."""
    rotation: np.ndarray
    """source point = scale * rotation @ world point + translation."""
    translation: np.ndarray
    scale: float = 1.0
    lenses: list[Lens] | None = None
    """Expected pinholes, one an image; None where the importer chooses them (undistortion)."""
    times_s: np.ndarray | None = None
    depth_size: tuple[int, int] | None = None
    depth_error_m: float = 0.0006
    """Half the depth's unit, and a little."""
    confidence: bool = False
    points: np.ndarray | None = None
    """Expected points in the world frame, `[P, 3]`."""
    colors: np.ndarray | None = None
    metric: bool = False
    gravity: bool = False
    pixel_error: float = 0.0
    """Largest mean absolute difference of an image from the truth; 0 where files are lossless."""
    options: dict = field(default_factory=dict)
    """Of the importer's configuration."""

    def c2w_source(self, c2w):
        """Truth poses in the source's frame."""
        out = c2w.copy()
        out[:, :3, :3] = self.rotation @ c2w[:, :3, :3]
        out[:, :3, 3] = self.points_source(c2w[:, :3, 3])
        return out

    def points_source(self, points):
        return self.scale * points @ self.rotation.T + self.translation


Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""Turns +Z up into +Y up."""
GL_FROM_CV = np.diag([1.0, -1.0, -1.0, 1.0])


def y_up_frame(yaw_rad=0.7):
    """World → a frame with +Y up, turned about it, its origin elsewhere."""
    return axis_angle([0, 1, 0], yaw_rad) @ Y_UP, np.array([0.4, -1.2, 2.3])


def z_up_frame(yaw_rad=-1.9):
    return axis_angle([0, 0, 1], yaw_rad), np.array([3.4, -5.2, 0.6])


def general_frame():
    return axis_angle([0.3, -0.8, 0.5], 2.1), np.array([0.7, -0.4, 1.9])
