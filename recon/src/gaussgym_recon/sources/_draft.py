"""Draft; replaced by writing.py."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gaussgym_scene.artifact import ArtifactWriter
from gaussgym_scene.capture import FORMAT, MANIFEST, VERSION, Capture, CaptureImage, write_points
from PIL import Image

Progress = Callable[[str, float], None]


@dataclass
class Frame:
    image: object
    intrinsics: object
    c2w: object = None
    timestamp_s: float | None = None
    depth_m: object = None
    confidence: object = None
    mask: object = None
    name: str | None = None


def sharpest(count, most, score):
    if count <= most:
        return list(range(count))
    edges = np.linspace(0, count, most + 1).round().astype(int)
    return [max(range(a, b), key=score) for a, b in zip(edges[:-1], edges[1:])]


def write_capture(output, frames, metadata, points=None, progress=None):
    with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        for kind in ("images", "depth", "confidence", "masks"):
            (writer.path / kind).mkdir()
        entries = []
        for i, f in enumerate(frames):
            name = f"images/{f.name or f.image.name}"
            if isinstance(f.image, Path):
                shutil.copyfile(f.image, writer.path / name)
            elif isinstance(f.image, bytes):
                (writer.path / name).write_bytes(f.image)
            else:
                name = name.rsplit(".", 1)[0] + ".png"
                Image.fromarray(f.image).save(writer.path / name)
            e = CaptureImage(name, f.intrinsics, None, f.c2w, f.timestamp_s)
            for kind, attribute, array in (
                ("depth", "depth", None if f.depth_m is None else np.round(f.depth_m * 1000).astype(np.uint16)),
                ("confidence", "confidence", f.confidence),
                ("masks", "mask", f.mask),
            ):
                if array is not None:
                    Image.fromarray(array).save(writer.path / kind / f"{i}.png")
                    setattr(e, attribute, f"{kind}/{i}.png")
            entries.append(e)
        if points is not None:
            write_points(writer.path / "points.ply", *points)
            metadata["points_file"] = "points.ply"
        writer.fields.update(Capture(writer.path, entries, metadata).manifest_fields())
    return output
