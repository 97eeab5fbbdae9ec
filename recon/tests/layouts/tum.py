"""TUM RGB-D: rgb.txt, depth.txt, groundtruth.txt (cvg.cit.tum.de, file formats of the RGB-D benchmark).

Lines `timestamp file` and `timestamp tx ty tz qx qy qz qw` (camera to world, OpenCV axes); depth 16-bit PNG, 5000 to the
metre; the three clocks do not tick together. The camera is one for all; the layout has no file for it.
"""

import numpy as np
from PIL import Image

from .truth import Written, axis_angle, general_frame, quaternion_xyzw

CAMERA = (51.3, 52.1, 30.2, 24.9)
"""fx fy cx cy that the benchmark's page would tell: by OpenCV's calibration, pixel centres at integers."""


def write(folder, truth):
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    rotation, translation = general_frame()
    lens = truth.lenses[0]
    written = Written(folder, rotation, translation, lenses=[lens] * len(truth), times_s=truth.times_s)
    c2w = written.c2w_source(truth.c2w)
    heads = ["# color images\n# file: 'made.bag'\n# timestamp filename\n"]
    rgb, depth = heads[:], ["# depth maps\n# file: 'made.bag'\n# timestamp filename\n"]
    poses = ["# ground truth trajectory\n# file: 'made.bag'\n# timestamp tx ty tz qx qy qz qw\n"]
    for index in range(len(truth)):
        stamp = truth.times_s[index]
        Image.fromarray(truth.render(index)).save(folder / "rgb" / f"{stamp:.6f}.png")
        rgb.append(f"{stamp:.6f} rgb/{stamp:.6f}.png\n")
        metres = truth.depth_m(index, lens.width, lens.height)
        Image.fromarray(np.round(metres * 5000).astype(np.uint16)).save(
            folder / "depth" / f"{stamp + 0.004:.6f}.png"
        )
        depth.append(f"{stamp + 0.004:.6f} depth/{stamp + 0.004:.6f}.png\n")
        for steps in (-1, 2):  # the pose a third of the way between is the image's
            turned = c2w[index][:3, :3] @ axis_angle([0.4, 1.0, -0.3 * index], 0.01 * steps)
            position = c2w[index][:3, 3] + np.array([0.004, -0.002, 0.001]) * steps
            values = " ".join(f"{x:.12f}" for x in (*position, *quaternion_xyzw(turned)))
            poses.append(f"{stamp + 0.003 * steps:.6f} {values}\n")
    (folder / "rgb.txt").write_text("".join(rgb))
    (folder / "depth.txt").write_text("".join(depth))
    (folder / "groundtruth.txt").write_text("".join(poses))
    written.depth_size = (lens.width, lens.height)
    written.metric = True
    return written
