"""A GrandTour mission (github.com/leggedrobotics/grand_tour_dataset and grand_tour_box, its dataset builder).

<mission>/data is a zarr root with one group a sensor: arrays timestamp, sequence_id, and what it measured; attributes
frame_id, camera_info (ROS: K row by row, pixel centres at integers, D, distortion_model), transform (translation x y z,
rotation x y z w, base_frame_id, child_frame_id: maps points of base_frame_id to the sensor). Images lie in
<mission>/images/<tag>/%06d.jpeg by row. Odometry maps the LiDAR's points to the map. zarr is written by hand, as its
specifications 2 and 3 say, uncompressed.
"""

import json

import numpy as np
from PIL import Image

from .truth import Written, axis_angle, pose, quaternion_xyzw, z_up_frame

CAMERAS = {
    "hdr_front": ([31.0, 30.5, 30.2, 24.9], [0.05, -0.02, 0.004, -0.001], "equidistant"),
    "hdr_left": ([46.0, 46.5, 32.3, 23.1], [-0.05, 0.02, 0.003, -0.002, 0.01], "plumb_bob"),
}
"""fx fy cx cy in ROS's convention, distortion, its model."""
MOUNTS = {
    "hdr_front": ("box_base", pose(axis_angle([0.6, -0.5, 0.55], 2.0), [0.05, -0.13, -0.21])),
    "hdr_left": ("base", pose(axis_angle([-0.3, 0.7, 0.4], 1.4), [-0.12, 0.3, 0.05])),
    "hesai_lidar": ("box_base", pose(axis_angle([0.1, 0.2, 0.9], 1.2), [0.02, 0.11, -0.31])),
    "livox_lidar": ("box_base", pose(axis_angle([0.9, 0.2, 0.1], 2.9), [-0.05, 0.02, -0.15])),
    "box_base": ("base", pose(axis_angle([0.2, -0.1, 0.3], 0.3), [0.11, -0.02, 0.25])),
}
"""Frame → the frame that it is described in, and the map of that frame's points to it."""
TAGS = tuple(CAMERAS)


def write(mission, truth, *, zarr_format=3, scans_per_image=1):
    store = _Store(mission / "data", zarr_format)
    rotation, translation = z_up_frame()
    # The sensors stamp in seconds since 1970.
    times = truth.times_s + 1730714000.0
    written = Written(mission, rotation, translation, times_s=times, points=truth.points)
    c2w = written.c2w_source(truth.c2w)
    tags = [TAGS[index % 2] for index in range(len(truth))]
    lidar = np.array(
        [
            c2w[index] @ _from_box_base(tags[index]) @ np.linalg.inv(_from_box_base("hesai_lidar"))
            for index in range(len(truth))
        ]
    )
    for tag in TAGS:
        _write_camera(mission, store, truth, times, tag, [i for i in range(len(truth)) if tags[i] == tag])
    _write_odometry(store, times, lidar)
    _write_scans(store, times, lidar, written.points_source(truth.points))
    store.group("tf", {"tf": {name: _transform(name) for name in MOUNTS}})
    written.metric = written.gravity = True
    written.pixel_error = 2.0
    return written


def _from_box_base(frame):
    """Map of the box's points to a frame."""
    base, mount = MOUNTS[frame]
    return mount if base == "box_base" else mount @ np.linalg.inv(MOUNTS["box_base"][1])


def _transform(frame):
    base, mount = MOUNTS[frame]
    return {
        "base_frame_id": base,
        "child_frame_id": frame,
        "translation": dict(zip("xyz", map(float, mount[:3, 3]))),
        "rotation": dict(zip("xyzw", map(float, quaternion_xyzw(mount[:3, :3])))),
    }


def camera_rays(tag, width, height):
    """Ray of every pixel centre of a distorted camera, by Newton's method on the published lens formulas."""
    (fx, fy, cx, cy), d, model = CAMERAS[tag]
    u, v = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    x, y = (u - cx) / fx, (v - cy) / fy
    if model == "equidistant":
        radius = np.hypot(x, y)
        theta = radius.copy()
        for _ in range(30):
            t2 = theta**2
            value = theta * (1 + t2 * (d[0] + t2 * (d[1] + t2 * (d[2] + t2 * d[3])))) - radius
            slope = 1 + t2 * (3 * d[0] + t2 * (5 * d[1] + t2 * (7 * d[2] + t2 * 9 * d[3])))
            theta = theta - value / slope
        side = np.where(radius > 1e-12, np.sin(theta) / np.maximum(radius, 1e-12), 1.0)
        return np.stack([x * side, y * side, np.cos(theta)], axis=-1)
    a, b = x.copy(), y.copy()
    for _ in range(200):
        r2 = a * a + b * b
        radial = 1 + r2 * (d[0] + r2 * (d[1] + r2 * d[4]))
        a = (x - 2 * d[2] * a * b - d[3] * (r2 + 2 * a * a)) / radial
        b = (y - d[2] * (r2 + 2 * b * b) - 2 * d[3] * a * b) / radial
    return np.stack([a, b, np.ones_like(a)], axis=-1)


def _write_camera(mission, store, truth, times, tag, indices):
    (fx, fy, cx, cy), distortion, model = CAMERAS[tag]
    width, height = truth.lenses[0].width, truth.lenses[0].height
    info = {
        "frame_id": tag, "width": width, "height": height, "distortion_model": model, "D": distortion,
        "K": [fx, 0, cx, 0, fy, cy, 0, 0, 1], "R": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    }  # fmt: skip
    store.group(tag, {"frame_id": tag, "topic": tag, "camera_info": info, "transform": _transform(tag)})
    store.array(f"{tag}/timestamp", times[indices])
    store.array(f"{tag}/sequence_id", np.arange(len(indices), dtype=np.uint64) + 500)
    folder = mission / "images" / tag
    folder.mkdir(parents=True)
    rays = camera_rays(tag, width, height)
    for row, index in enumerate(indices):
        Image.fromarray(truth.render(index, rays)).save(folder / f"{row:06d}.jpeg", quality=98, subsampling=0)


def _write_odometry(store, times, lidar):
    """Two poses around each image, so placed that the one between, a third of the way, is the image's."""
    stamps, poses = [], []
    for index, matrix in enumerate(lidar):
        axis = np.array([0.2 + index, -1.0, 0.5])
        for steps in (-1, 2):
            turned = matrix[:3, :3] @ axis_angle(axis, 0.05 * steps)
            poses.append(pose(turned, matrix[:3, 3] + np.array([0.03, -0.02, 0.01]) * steps))
            stamps.append(times[index] + 0.03 * steps)
    store.group("dlio_map_odometry", {"frame_id": "dlio_map", "topic": "dlio_map_odometry"})
    store.array("dlio_map_odometry/timestamp", np.array(stamps))
    store.array("dlio_map_odometry/sequence_id", np.arange(len(stamps), dtype=np.uint64))
    store.array("dlio_map_odometry/pose_pos", np.array([matrix[:3, 3] for matrix in poses]))
    quats = np.array([quaternion_xyzw(matrix[:3, :3]) for matrix in poses])
    quats[1::2] *= -1  # a quaternion and its negative are one rotation
    store.array("dlio_map_odometry/pose_orien", quats)


def _write_scans(store, times, lidar, cloud):
    """One LiDAR a half of the points; a scan an image, padded with zeros behind the valid ones."""
    halves = {"hesai_points_undistorted": ("hesai_lidar", cloud[0::2])}
    halves["livox_points_undistorted"] = ("livox_lidar", cloud[1::2])
    for tag, (frame, points) in halves.items():
        parts = np.array_split(points, len(times))
        most = max(map(len, parts)) + 3
        scans, valid = np.zeros((len(times), most, 3), np.float32), np.zeros((len(times), 1), np.uint32)
        for index, part in enumerate(parts):
            map_from_frame = (
                lidar[index] @ _from_box_base("hesai_lidar") @ np.linalg.inv(_from_box_base(frame))
            )
            local = np.linalg.inv(map_from_frame)
            scans[index, : len(part)] = part @ local[:3, :3].T + local[:3, 3]
            valid[index] = len(part)
        store.group(tag, {"frame_id": frame, "topic": tag, "transform": _transform(frame)})
        store.array(f"{tag}/timestamp", times)
        store.array(f"{tag}/sequence_id", np.arange(len(times), dtype=np.uint64))
        store.array(f"{tag}/points", scans)
        store.array(f"{tag}/valid", valid)


class _Store:
    """Just enough of zarr: groups with attributes, arrays in chunks of three rows, little-endian, uncompressed."""

    def __init__(self, root, version):
        self.root, self.version = root, version
        self._write_group(root, {})

    def group(self, name, attributes):
        self._write_group(self.root / name, attributes)

    def array(self, name, values):
        folder = self.root / name
        folder.mkdir(parents=True)
        values = np.ascontiguousarray(values)
        chunks = [3, *values.shape[1:]]
        if self.version == 3:
            head = {
                "zarr_format": 3, "node_type": "array", "shape": list(values.shape), "data_type": values.dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0, "attributes": {},
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            }  # fmt: skip
            (folder / "zarr.json").write_text(json.dumps(head))
        else:
            head = {
                "zarr_format": 2, "shape": list(values.shape), "chunks": chunks, "dtype": values.dtype.str,
                "compressor": None, "fill_value": 0, "order": "C", "filters": None,
            }  # fmt: skip
            (folder / ".zarray").write_text(json.dumps(head))
        for start in range(0, len(values), 3):
            chunk = np.zeros(chunks, values.dtype)
            part = values[start : start + 3]
            chunk[: len(part)] = part
            keys = [str(start // 3), *["0"] * (values.ndim - 1)]
            file = folder.joinpath("c", *keys) if self.version == 3 else folder / ".".join(keys)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(chunk.tobytes())

    def _write_group(self, folder, attributes):
        folder.mkdir(parents=True, exist_ok=True)
        if self.version == 3:
            head = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
            (folder / "zarr.json").write_text(json.dumps(head))
        else:
            (folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
            (folder / ".zattrs").write_text(json.dumps(attributes))
