"""Stands in for nerfstudio's `exporter`: a splat at every seed point, in the frame that the stand-in's training says."""

import json
import sys
from pathlib import Path

import numpy as np


def read_seeds(path):
    data = path.read_bytes()
    header, body = data.split(b"end_header\n", 1)
    count = int(next(line.split()[2] for line in header.split(b"\n") if line.startswith(b"element vertex")))
    dtype = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    return np.frombuffer(body, dtype, count=count)


def entrypoint():
    assert sys.argv[1] == "gaussian-splat"
    told = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    config = Path(told["--load-config"])
    settings = json.loads(config.read_text())
    data, step = Path(settings["data"]), settings["load_step"]
    if step is not None:  # as nerfstudio does: the step that a resumed training began with, not its last
        assert (config.parent / "nerfstudio_models" / f"step-{int(step):09d}.ckpt").exists()
    fields = json.loads((config.parent / "dataparser_transforms.json").read_text())
    matrix, scale = np.array(fields["transform"]), fields["scale"]
    seeds = read_seeds(data / "seeds.ply")
    xyz = np.stack([seeds[axis] for axis in "xyz"], axis=1)
    xyz = scale * (xyz @ matrix[:, :3].T + matrix[:, 3])
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    table = np.zeros((len(seeds), len(names)), "<f4")
    table[:, :3] = xyz
    table[:, 6:9] = (np.stack([seeds[c] for c in ("red", "green", "blue")], axis=1) / 255 - 0.5) / 0.28209479
    table[:, 9] = 2.0
    table[:, 10:13] = np.log(scale * 0.1)
    table[:, 13] = 1.0
    output = Path(told["--output-dir"])
    output.mkdir(parents=True, exist_ok=True)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(seeds)}\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    (output / "splat.ply").write_bytes(header.encode() + table.tobytes())
