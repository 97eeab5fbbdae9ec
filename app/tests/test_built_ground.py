"""What physics makes of a reconstructed surface: walls become boxes, where they are."""

import numpy as np
from gaussgym_recon.depth_views import DepthView
from gaussgym_recon.fusion import FusionCfg, fuse_mesh
from gaussgym_recon.ground import ground_heightfield
from gaussgym_recon.walkable import scene_paths
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.scene import Scene
from gaussgym_sim.ground.terrain import ground_of

CAMERA = Intrinsics(width=160, height=120, fx=110.0, fy=110.0, cx=80.0, cy=60.0)
WALL_Y_M = 1.2


class Walked:
    """What the ground asks of posed photographs: ten along +X and back, 1.5 m up, looking a little to the wall."""

    camera_height_m = 1.5
    points = np.zeros((0, 3))

    def __init__(self):
        poses = []
        for x, back in [(x, False) for x in np.linspace(0, 6, 10)] + [
            (x, True) for x in np.linspace(6, 0, 10)
        ]:
            yaw = np.pi - 0.5 if back else 0.5
            forward = np.array([np.cos(0.5) * np.cos(yaw), np.cos(0.5) * np.sin(yaw), -np.sin(0.5)])
            right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
            c2w = np.eye(4)
            c2w[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
            c2w[:3, 3] = [x, 0, 1.5]
            poses.append(c2w)
        self.c2w = np.stack(poses)


def depths(c2ws):
    """Of a floor z = 0 and a wall y = WALL_Y_M that is 1 m high."""
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width] + 0.5
    rays_c = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)], -1)
    out = []
    for c2w in c2ws:
        rays, eye = rays_c @ c2w[:3, :3].T, c2w[:3, 3]
        with np.errstate(divide="ignore"):
            floor = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
            wall = np.where(rays[..., 1] > 0, (WALL_Y_M - eye[1]) / rays[..., 1], np.inf)
        on_wall = (wall < floor) & (eye[2] + wall * rays[..., 2] < 1.0)
        t = np.where(on_wall, wall, np.where(floor < wall, floor, np.inf))
        depth = np.where(t < 8, t, 0).astype(np.float32)
        out.append(DepthView(c2w, CAMERA.K, depth, np.full((*t.shape, 3), 0.5, np.float32)))
    return out


def test_a_wall_seen_in_depth_images_stands_where_it_is():
    walked = Walked()
    views = depths(walked.c2w)
    mesh = fuse_mesh(views, FusionCfg())
    field = ground_heightfield(mesh, walked, FusionCfg(), depths=views)  # type: ignore[arg-type]
    paths, _, _ = scene_paths(walked.c2w[:, :2, 3], field, mesh)
    scene = Scene("built", mesh=mesh, heightfield=field, paths=paths)
    boxes = ground_of(scene, "boxes").boxes
    low, high = boxes.centre_m - boxes.half_m, boxes.centre_m + boxes.half_m
    tall = (high[:, 2] > 0.6) & (low[:, 0] < 5) & (high[:, 0] > 1)
    assert tall.any()
    np.testing.assert_allclose(low[tall, 1], WALL_Y_M, atol=0.02)
    assert (high[tall, 2] > 0.9).all()
    # Nothing stands where somebody walked.
    assert not ((low[:, 1] < 0.3) & (high[:, 1] > -0.3)).any()
