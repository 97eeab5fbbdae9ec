"""Polycam's raw export, as Polycam's own format notes describe it (github.com/PolyCam/polyform README).

keyframes/{images,corrected_images,cameras,corrected_cameras,depth,confidence}/<timestamp in µs>.*; c2w rows in
t_00 … t_23, +Y up, camera x right, y up, looking along -z; depth 16-bit PNG in mm; confidence 0, 127 or 255;
raw.glb = alignmentTransform (16 numbers, column by column) applied to the cameras' frame.
"""

import json
import struct

import numpy as np
from PIL import Image

from .truth import GL_FROM_CV, Written, axis_angle, pose, y_up_frame

DEPTH_SIZE = (32, 24)


def write(folder, truth, *, corrected=True, mesh=True, depth_size=DEPTH_SIZE):
    frames = folder / "keyframes"
    kinds = ["images", "cameras", "depth", "confidence"]
    kinds += ["corrected_images", "corrected_cameras"] if corrected else []
    for kind in kinds:
        (frames / kind).mkdir(parents=True)
    rotation, translation = y_up_frame()
    written = Written(folder, rotation, translation, lenses=truth.lenses, times_s=truth.times_s)
    c2w = written.c2w_source(truth.c2w) @ GL_FROM_CV
    for index in range(len(truth)):
        name = str(round(truth.times_s[index] * 1e6))
        good = "corrected_" if corrected else ""
        Image.fromarray(truth.render(index)).save(
            frames / f"{good}images" / f"{name}.jpg", quality=98, subsampling=0
        )
        camera = _camera(truth.lenses[index], c2w[index], truth.times_s[index], index)
        (frames / f"{good}cameras" / f"{name}.json").write_text(json.dumps(camera))
        if corrected:  # what the app had before its optimisation: images distorted, poses off by some cm
            Image.fromarray(255 - truth.render(index)).save(frames / "images" / f"{name}.jpg")
            drifted = pose(axis_angle([1, 2, 3], 0.05), [0.02, 0.05, -0.03]) @ c2w[index]
            camera = _camera(truth.lenses[index], drifted, truth.times_s[index], index)
            (frames / "cameras" / f"{name}.json").write_text(json.dumps(camera))
        depth = np.round(truth.depth_m(index, *depth_size) * 1000).astype(np.uint16)
        Image.fromarray(depth).save(frames / "depth" / f"{name}.png")
        levels = np.array([0, 127, 255], np.uint8)[truth.confidence(index, *depth_size)]
        Image.fromarray(levels).save(frames / "confidence" / f"{name}.png")
    alignment = pose(axis_angle([0, 1, 0], -0.4), [1.1, 0.2, -0.7])
    info = {"alignmentTransform": [float(x) for x in alignment.T.reshape(-1)], "faceCount": 1}
    (folder / "mesh_info.json").write_text(json.dumps(info))
    if mesh:
        cloud = written.points_source(truth.points) @ alignment[:3, :3].T + alignment[:3, 3]
        write_glb(folder / "raw.glb", cloud)
        written.points = truth.points
    written.metric = written.gravity = True
    written.depth_size, written.confidence, written.pixel_error = depth_size, True, 1.0
    return written


def _camera(lens, c2w, time_s, index):
    fields = {
        "fx": lens.fx, "fy": lens.fy, "cx": lens.cx, "cy": lens.cy, "width": lens.width, "height": lens.height,
        "blur_score": 100.0 + index, "timestamp": round(time_s * 1e6), "neighbors": [],
    }  # fmt: skip
    fields |= {f"t_{row}{column}": float(c2w[row, column]) for row in range(3) for column in range(4)}
    return fields


def write_glb(path, vertices):
    """A binary glTF 2.0 of one mesh whose node is turned and shifted, its triangles three vertices each."""
    node = pose(axis_angle([2, 1, -1], 0.8), [0.3, -0.6, 0.2])
    local = (vertices - node[:3, 3]) @ node[:3, :3]
    positions = local.astype("<f4").tobytes()
    indices = np.arange(len(local) + (-len(local)) % 3, dtype="<u4")
    indices = np.minimum(indices, len(local) - 1).astype("<u4").tobytes()
    gltf = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "matrix": [float(x) for x in node.T.reshape(-1)]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": 4}]}],
        "buffers": [{"byteLength": len(positions) + len(indices)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(positions), "target": 34962},
            {"buffer": 0, "byteOffset": len(positions), "byteLength": len(indices), "target": 34963},
        ],
        "accessors": [
            {
                "bufferView": 0, "componentType": 5126, "count": len(local), "type": "VEC3",
                "min": [float(x) for x in local.min(axis=0)], "max": [float(x) for x in local.max(axis=0)],
            },
            {"bufferView": 1, "componentType": 5125, "count": len(indices) // 4, "type": "SCALAR"},
        ],
    }  # fmt: skip
    text = json.dumps(gltf).encode()
    text += b" " * (-len(text) % 4)
    data = positions + indices
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
