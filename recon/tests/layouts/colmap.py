"""A COLMAP project: sparse/0 as binary or text, images beside it (colmap.github.io/format.html).

World to camera, quaternion wxyz; pixel centres at .5; any scale; images in any order of ids.
"""

import struct

import numpy as np
from PIL import Image

from .truth import Written, general_frame, quaternion_xyzw

SCALE = 0.37
PINHOLE = 1


def write(folder, truth, *, binary=True):
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (folder / "images").mkdir()
    rotation, translation = general_frame()
    written = Written(folder, rotation, translation, scale=SCALE, lenses=truth.lenses)
    written.points, written.colors = truth.points, truth.colors
    w2c = np.linalg.inv(written.c2w_source(truth.c2w))
    for index in range(len(truth)):
        Image.fromarray(truth.render(index)).save(folder / "images" / f"frame_{index:02d}.png")
    tracks, observations = _observations(written, truth, w2c)
    (_write_binary if binary else _write_text)(sparse, written, truth, w2c, tracks, observations)
    return written


def _observations(written, truth, w2c):
    """Which image sees which point where: track of each point, observations of each image."""
    points = written.points_source(truth.points)
    tracks, observations = [[] for _ in points], [[] for _ in w2c]
    for index, (matrix, lens) in enumerate(zip(w2c, truth.lenses)):
        local = points @ matrix[:3, :3].T + matrix[:3, 3]
        for number, (x, y, z) in enumerate(local):
            if z <= 0:
                continue
            u, v = lens.fx * x / z + lens.cx, lens.fy * y / z + lens.cy
            if 0 <= u < lens.width and 0 <= v < lens.height:
                tracks[number].append((index, len(observations[index])))
                observations[index].append((u, v, number))
    return tracks, observations


def _ids(index):
    """Image and camera ids without order."""
    return (index * 5 + 3) % 8 + 1, 20 - index


def _write_binary(sparse, written, truth, w2c, tracks, observations):
    with (sparse / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(truth)))
        for index, lens in enumerate(truth.lenses):
            head = (_ids(index)[1], PINHOLE, lens.width, lens.height)
            file.write(struct.pack("<iiQQ4d", *head, lens.fx, lens.fy, lens.cx, lens.cy))
    with (sparse / "images.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(truth)))
        for index in sorted(range(len(truth)), key=lambda i: _ids(i)[0]):
            x, y, z, w = quaternion_xyzw(w2c[index][:3, :3])
            image_id, camera_id = _ids(index)
            file.write(struct.pack("<i7di", image_id, w, x, y, z, *w2c[index][:3, 3], camera_id))
            file.write(f"frame_{index:02d}.png".encode() + b"\0")
            file.write(struct.pack("<Q", len(observations[index])))
            for u, v, number in observations[index]:
                file.write(struct.pack("<ddq", u, v, number + 1))
    with (sparse / "points3D.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(tracks)))
        for number, track in enumerate(tracks):
            point = written.points_source(truth.points[number])
            file.write(struct.pack("<Q3d3Bd", number + 1, *point, *map(int, truth.colors[number]), 0.3))
            file.write(struct.pack("<Q", len(track)))
            for index, place in track:
                file.write(struct.pack("<ii", _ids(index)[0], place))


def _write_text(sparse, written, truth, w2c, tracks, observations):
    lines = ["# Camera list with one line of data per camera:"]
    for index, x in enumerate(truth.lenses):
        lines.append(f"{_ids(index)[1]} PINHOLE {x.width} {x.height} {x.fx!r} {x.fy!r} {x.cx!r} {x.cy!r}")
    (sparse / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:"]
    for index in sorted(range(len(truth)), key=lambda i: _ids(i)[0]):
        x, y, z, w = map(float, quaternion_xyzw(w2c[index][:3, :3]))
        position = " ".join(repr(float(value)) for value in w2c[index][:3, 3])
        image_id, camera_id = _ids(index)
        lines.append(f"{image_id} {w!r} {x!r} {y!r} {z!r} {position} {camera_id} frame_{index:02d}.png")
        lines.append(" ".join(f"{u:.6f} {v:.6f} {number + 1}" for u, v, number in observations[index]))
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# 3D point list with one line of data per point:"]
    for number, track in enumerate(tracks):
        point = " ".join(repr(float(value)) for value in written.points_source(truth.points[number]))
        color = " ".join(str(int(value)) for value in truth.colors[number])
        seen = " ".join(f"{_ids(index)[0]} {place}" for index, place in track)
        lines.append(f"{number + 1} {point} {color} 0.3 {seen}".rstrip())
    (sparse / "points3D.txt").write_text("\n".join(lines) + "\n")
