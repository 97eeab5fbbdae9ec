"""ARKitScenes, raw and 3dod (github.com/apple/ARKitScenes DATA.md, raw/README.md, issues 47, 81).

<root>/<dataset>/<split>/<video>/; 3dod keeps its frames in <video>_frames. Images <video>_<time %.3f>.png, depth
16-bit PNG in mm, confidence 0 to 2, one .pincam an image (w h fx fy cx cy), lowres_wide.traj (time, rotation vector,
translation: world to camera, OpenCV axes, world +Z up), <video>_3dod_mesh.ply, metadata.csv with sky_direction.
"""

import struct

import numpy as np
from PIL import Image

from .truth import Lens, Written, axis_angle, pose, rotation_vector, z_up_frame

VIDEO = "41069021"
DEPTH_SIZE = (32, 24)
TURNS = {"Up": 0, "Left": 1, "Down": 2, "Right": 3}
"""Clockwise quarter turns that bring an image upright whose sky lies there."""


def write(
    root,
    truth,
    *,
    dataset="3dod",
    split="Validation",
    asset="lowres_wide",
    sky="Up",
    mesh=True,
    depth_size=DEPTH_SIZE,
):
    """Images are stored turned by `sky`; the truth is upright."""
    folder = root / dataset / split / VIDEO
    frames = folder / f"{VIDEO}_frames" if dataset == "3dod" else folder
    for name in (asset, f"{asset}_intrinsics", "lowres_depth", *(["confidence"] if dataset == "raw" else [])):
        (frames / name).mkdir(parents=True)
    rotation, translation = z_up_frame()
    written = Written(folder, rotation, translation, lenses=truth.lenses, times_s=truth.times_s)
    c2w = written.c2w_source(truth.c2w)
    turns = TURNS[sky]
    lines = []
    for index in range(len(truth)):
        stamp = truth.times_s[index]
        name = f"{VIDEO}_{stamp:.3f}"
        Image.fromarray(np.rot90(truth.render(index), turns)).save(frames / asset / f"{name}.png")
        depth = np.round(truth.depth_m(index, *depth_size) * 1000).astype(np.uint16)
        Image.fromarray(np.rot90(depth, turns).copy()).save(frames / "lowres_depth" / f"{name}.png")
        if dataset == "raw":
            levels = np.rot90(truth.confidence(index, *depth_size), turns).copy()
            Image.fromarray(levels).save(frames / "confidence" / f"{name}.png")
        lens, stored_c2w = _turned(truth.lenses[index], c2w[index], turns)
        # The intrinsics of an image may carry a stamp that is a millisecond off.
        pincam = frames / f"{asset}_intrinsics" / f"{VIDEO}_{stamp + 0.001 * (index % 2):.3f}.pincam"
        pincam.write_text(f"{lens.width} {lens.height} {lens.fx} {lens.fy} {lens.cx} {lens.cy}\n")
        w2c = np.linalg.inv(stored_c2w)
        numbers = [*rotation_vector(w2c[:3, :3]), *w2c[:3, 3]]
        lines.append(f"{stamp + 0.0004:.8f} " + " ".join(f"{x:.15g}" for x in numbers))
    (frames / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    if mesh:
        _write_mesh(folder / f"{VIDEO}_3dod_mesh.ply", written.points_source(truth.points), truth.colors)
        written.points, written.colors = truth.points, truth.colors
    (root / dataset / "metadata.csv").write_text(
        f"video_id,visit_id,fold,sky_direction\n40000000,1,{split},Down\n{VIDEO},2,{split},{sky}\n"
    )
    written.depth_size, written.confidence = depth_size, dataset == "raw"
    written.metric = written.gravity = True
    written.pixel_error = 1.2 if turns else 0.0  # turned images are encoded anew
    return written


def _turned(lens, c2w, turns):
    """The camera of the image after counter-clockwise quarter turns (numpy's rot90)."""
    for _ in range(turns):
        lens = Lens(lens.height, lens.width, lens.fy, lens.fx, lens.cy, lens.width - lens.cx)
        # A point right of the middle (x) is now above it: x' = y, y' = -x; so the camera turned by +90° about z.
        c2w = c2w @ pose(axis_angle([0, 0, 1], np.pi / 2), np.zeros(3))
    return lens, c2w


def _write_mesh(path, points, colors):
    faces = len(points) // 3
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    body = b"".join(
        struct.pack("<3f4B", *point, *map(int, color), 255) for point, color in zip(points, colors)
    )
    body += b"".join(struct.pack("<B3i", 3, 3 * i, 3 * i + 1, 3 * i + 2) for i in range(faces))
    path.write_bytes(header.encode() + body)
