"""nerfstudio's transforms.json with depth, masks and seed points (docs.nerf.studio, data conventions).

Camera to world, camera x right, y up, looking along -z; world_json = applied_transform @ world_original; depth 16-bit
PNG in units of depth_unit_scale_factor; masks 0 = ignore. Poses and seed points are both in the applied frame; the truth's frame is the original one.
"""

import json

import numpy as np
from PIL import Image

from .truth import GL_FROM_CV, Written, general_frame

APPLIED = np.array([[1.0, 0, 0, 0.2], [0, 0, 1, -0.7], [0, -1, 0, 1.1]])
UNIT_M = 0.0005


def write(folder, truth):
    for name in ("images", "depth", "masks"):
        (folder / name).mkdir(parents=True)
    rotation, translation = general_frame()
    written = Written(folder, rotation, translation, lenses=truth.lenses)
    written.points, written.colors = truth.points, truth.colors
    applied = np.vstack([APPLIED, [0, 0, 0, 1]])
    c2w = applied @ written.c2w_source(truth.c2w) @ GL_FROM_CV
    frames = []
    for index, lens in enumerate(truth.lenses):
        name = f"frame_{index + 1:05d}.png"
        Image.fromarray(truth.render(index)).save(folder / "images" / name)
        depth = np.round(truth.depth_m(index, lens.width, lens.height) / UNIT_M).astype(np.uint16)
        Image.fromarray(depth).save(folder / "depth" / name)
        mask = np.full((lens.height, lens.width), 255, np.uint8)
        mask[: 5 + index, : 9 + index] = 0
        Image.fromarray(mask).save(folder / "masks" / name)
        frames.append(
            {
                "file_path": f"images/{name}", "depth_file_path": f"depth/{name}", "mask_path": f"masks/{name}",
                "transform_matrix": c2w[index].tolist(),
                "fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy, "w": lens.width, "h": lens.height,
            }
        )  # fmt: skip
    order = np.random.default_rng(3).permutation(len(frames))
    document = {
        "camera_model": "OPENCV", "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0,
        "frames": [frames[index] for index in order],
        "applied_transform": APPLIED.tolist(), "ply_file_path": "seed.ply",
        "depth_unit_scale_factor": UNIT_M,
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(document))
    seeds = written.points_source(truth.points) @ APPLIED[:, :3].T + APPLIED[:, 3]
    _write_ply(folder / "seed.ply", seeds, truth.colors)
    written.depth_size = (truth.lenses[0].width, truth.lenses[0].height)
    written.depth_error_m = 0.0008
    return written


def _write_ply(path, points, colors):
    """As nerfstudio's colmap step writes it: text."""
    lines = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uint8 {name}" for name in ("red", "green", "blue")]
    lines.append("end_header")
    for point, color in zip(points, colors):
        lines.append(" ".join(f"{value:.8f}" for value in point) + " " + " ".join(map(str, map(int, color))))
    path.write_text("\n".join(lines) + "\n")
