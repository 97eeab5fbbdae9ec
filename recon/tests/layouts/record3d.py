"""Record3D's .r3d: a zip of `metadata` (JSON) and rgbd/<i>.{jpg,depth,conf} (record3d issues 7, 27, 33, 36, 83, 93).

K column by column; poses and initPose qx qy qz qw x y z, camera to world, OpenGL axes; perFrameIntrinsicCoeffs fx fy
cx cy; depth float32 [m] and confidence uint8 as LZFSE streams: here its blocks of the kind `bvx-` (stored as they are).
"""

import io
import json
import struct
import zipfile

import numpy as np
from PIL import Image

from .truth import GL_FROM_CV, Written, pose, quaternion_xyzw, y_up_frame

DEPTH_SIZE = (32, 24)


def stored_lzfse(data):
    """An LZFSE stream of one uncompressed block."""
    return struct.pack("<4sI", b"bvx-", len(data)) + data + b"bvx$"


def write(
    path,
    truth,
    *,
    relative=False,
    init_pose=False,
    per_frame=True,
    compress=stored_lzfse,
    depth_size=DEPTH_SIZE,
):
    """`relative`: poses start at the identity; `init_pose`: with it the first pose in ARKit's frame is stored."""
    rotation, translation = y_up_frame()
    written = Written(path, rotation, translation, times_s=truth.times_s - truth.times_s[0])
    c2w = written.c2w_source(truth.c2w) @ GL_FROM_CV
    first = c2w[0].copy()
    if relative:
        c2w = np.linalg.inv(first) @ c2w
        if not init_pose:
            to_first = np.linalg.inv(first) @ pose(rotation, translation)
            written.rotation, written.translation = to_first[:3, :3], to_first[:3, 3]
    lens = truth.lenses[0]
    k = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    metadata = {
        "w": lens.width, "h": lens.height, "dw": depth_size[0], "dh": depth_size[1], "fps": 5,
        "K": [float(x) for x in k.T.reshape(-1)],
        "poses": [_seven(matrix) for matrix in c2w],
        "initPose": _seven(first if init_pose else np.eye(4)),
        "frameTimestamps": [float(t) for t in written.times_s],
        "cameraType": 1,
    }  # fmt: skip
    if per_frame:
        metadata["perFrameIntrinsicCoeffs"] = [[x.fx, x.fy, x.cx, x.cy] for x in truth.lenses]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata", json.dumps(metadata))
        for index in range(len(truth)):
            jpeg = io.BytesIO()
            Image.fromarray(truth.render(index)).save(jpeg, "jpeg", quality=98, subsampling=0)
            archive.writestr(f"rgbd/{index}.jpg", jpeg.getvalue())
            depth = truth.depth_m(index, *depth_size).astype("<f4")
            archive.writestr(f"rgbd/{index}.depth", compress(depth.tobytes()))
            archive.writestr(f"rgbd/{index}.conf", compress(truth.confidence(index, *depth_size).tobytes()))
    written.lenses = truth.lenses if per_frame else [lens] * len(truth)
    written.depth_size, written.confidence, written.pixel_error = depth_size, True, 1.0
    written.metric, written.gravity = True, not relative or init_pose
    return written


def _seven(matrix):
    return [float(x) for x in (*quaternion_xyzw(matrix[:3, :3]), *matrix[:3, 3])]
