"""One synthetic room, imported through each layout and built, becomes one scene: the same ground, the same mesh, as it is."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from gaussgym_recon.build import BuildCfg, build
from gaussgym_recon.sources import SOURCES
from gaussgym_recon.sources.arkitscenes import ArkitScenesCfg
from gaussgym_recon.sources.nerfstudio import NerfstudioCfg
from gaussgym_recon.sources.tum import TumCfg
from gaussgym_recon.training.cfg import TrainerCfg
from gaussgym_scene.scene import Scene
from layouts import arkitscenes, nerfstudio, polycam, record3d, tum
from layouts.truth import BOX_MAX, BOX_MIN, ROOM_MAX, ROOM_MIN, make_truth

pytestmark = pytest.mark.slow

SIZE = (160, 120)
# Rolled no more than hands do: where a layout knows no gravity, how cameras are held is part of what tells it.
ROOM = replace(
    make_truth(16, zoom_step=0.0, width=SIZE[0], height=SIZE[1], points=4000, roll_rad=0.04), sure=True
)
SCENES = {
    "polycam": (lambda at: polycam.write(at, ROOM, depth_size=SIZE), None),
    "record3d": (lambda at: record3d.write(at, ROOM, depth_size=SIZE), None),
    "arkitscenes": (
        lambda at: arkitscenes.write(at, ROOM, dataset="raw", sky="Left", depth_size=SIZE),
        ArkitScenesCfg(),
    ),
    "nerfstudio": (lambda at: nerfstudio.write(at, ROOM), NerfstudioCfg(metric=True)),
    "tum": (lambda at: tum.write(at, ROOM), TumCfg(camera=(128.25, 130.25, 76.25, 63.0))),
}
UP_BY_GROUND = ("nerfstudio", "tum")
"""Layouts that know no gravity: the floor has to tell it."""


@pytest.fixture(scope="module", params=SCENES)
def scene(request, tmp_path_factory):
    """The scene, and truth in its world: rotation and translation from the truth's world to it."""
    if request.param == "record3d" and importlib.util.find_spec("liblzfse") is None:
        pytest.skip("pyliblzfse is not installed")
    folder = tmp_path_factory.mktemp("scene")
    write, cfg = SCENES[request.param]
    written = write(folder / ("made.r3d" if request.param == "record3d" else "made"))
    capture = SOURCES.get(request.param).read(written.path, folder / "capture", cfg)
    settings = BuildCfg(
        long_sides_px=(80, 160),
        trainer=TrainerCfg(max_splats=4000, iterations=60),
    )
    manifest = build(capture, folder / "scene", settings)
    return request.param, written, Scene.load(manifest.parent)


def into_truth(written, scene, points):
    """Points of the scene's world in the truth's: back through both transforms that are known."""
    world = scene.metadata["world_from_capture"]
    source = (points - np.array(world["translation_m"])) @ np.array(world["rotation"]) / world["scale"]
    return (source - written.translation) @ written.rotation / written.scale


def test_scale_and_gravity_are_the_sources(scene):
    name, written, built = scene
    world = built.metadata["world_from_capture"]
    up = np.array(world["rotation"]) @ written.rotation @ [0, 0, 1]
    off_rad = np.arccos(min(1.0, up[2]))
    if name in UP_BY_GROUND:
        assert off_rad < 2 * built.metadata["gravity_std_rad"]
    else:
        assert np.degrees(off_rad) < 0.01
    assert world["scale"] * written.scale == pytest.approx(1.0, abs=1e-6)


def test_the_ground_is_the_rooms_floor(scene):
    _, written, built = scene
    ground = built.heightfield
    rows, columns = np.nonzero(ground.known)
    xy = np.array(ground.origin_xy_m) + ground.cell_m * np.stack([columns, rows], axis=1)
    height = ground.height_m[rows, columns]
    at = into_truth(written, built, np.column_stack([xy, height]))
    inside = ((at[:, :2] > ROOM_MIN[:2] + 0.2) & (at[:, :2] < ROOM_MAX[:2] - 0.2)).all(axis=1)
    near_box = ((at[:, :2] > BOX_MIN[:2] - 0.1) & (at[:, :2] < BOX_MAX[:2] + 0.1)).all(axis=1)
    floor = inside & ~near_box
    assert floor.sum() > 1000
    assert np.sqrt(np.mean(at[floor, 2] ** 2)) < 0.02


def test_the_mesh_lies_on_walls_floor_and_box(scene):
    _, written, built = scene
    vertices = into_truth(written, built, built.mesh.vertices.astype(float))
    to_room = np.minimum(np.abs(vertices - ROOM_MIN), np.abs(vertices - ROOM_MAX)).min(axis=1)
    outside = np.linalg.norm(np.maximum(np.maximum(BOX_MIN - vertices, vertices - BOX_MAX), 0), axis=1)
    within = np.minimum(vertices - BOX_MIN, BOX_MAX - vertices).min(axis=1)
    to_box = np.where(within > 0, within, outside)
    distance = np.minimum(to_room, to_box)
    assert len(vertices) > 2000
    assert np.median(distance) < 0.01
    assert np.percentile(distance, 95) < 0.05
    top = (np.abs(vertices[:, 2] - BOX_MAX[2]) < 0.02) & (np.abs(to_box) < 0.02)
    assert top.sum() > 50  # the box stands in the way
