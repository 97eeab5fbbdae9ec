# numpy's and open3d's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""A published scene as one of ours: metric, +Z up, origin on the ground, with ground and paths, splats checked against mesh."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.artifact import ArtifactWriter, provenance
from gaussgym_scene.errors import InputError
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import FORMAT, MANIFEST, VERSION, Scene
from numpy.typing import NDArray

from gaussgym_recon.fusion import FusionCfg
from gaussgym_recon.ground import ground_heightfield
from gaussgym_recon.layouts import agreement
from gaussgym_recon.layouts.meshes import faces_up, ray_scene
from gaussgym_recon.layouts.published import Published
from gaussgym_recon.layouts.virtual_walk import virtual_walk
from gaussgym_recon.moving import move_mesh, move_splats
from gaussgym_recon.posed import PosedCapture, Similarity
from gaussgym_recon.walkable import WalkableCfg, longest_path_m, walkable_paths

Progress = Callable[[str, float, str], None]

MAX_CAMERA_HEIGHT_M = 4.0
"""Ground farther below a camera is not what its carrier walked on."""


@dataclass(frozen=True)
class ImportSceneCfg:
    """Settings of an import; lengths in metres.

    Attributes:
        max_disagreement_m: Larger median differences of splat depth and mesh depth are an error.
        fusion: Settings of the ground.
        walkable: Settings of the paths.
    """

    max_disagreement_m: float = 0.15
    fusion: FusionCfg = field(default_factory=FusionCfg)
    walkable: WalkableCfg = field(default_factory=WalkableCfg)


def import_scene(
    published: Published, output: Path, cfg: ImportSceneCfg | None = None, *, progress: Progress | None = None
) -> Path:
    """Write a published scene as one of ours.

    Args:
        published: What a layout's reader read.
        output: Folder of the scene to write.
        cfg: Settings.
        progress: Told how far each stage is.

    Returns:
        Path of `scene.json`.

    Raises:
        InputError: Mesh, cameras and splats do not fit together; the text says by how much.
    """
    cfg = cfg or ImportSceneCfg()
    tell = progress or (lambda stage, fraction, status: None)
    tell("scene", 0.0, "moving splats and mesh")
    turned = move_mesh(published.mesh, published.world_from_layout)
    track = published.track_c2w
    # Paths are looked for where nobody walked; a robot's eyes stand in for the camera.
    cameras = virtual_walk(turned) if track is None else published.world_from_layout.apply_c2w(track)
    height_m, origin = _standing(turned, cameras)
    world = Similarity(1.0, np.eye(3), -origin).compose(published.world_from_layout)
    mesh = move_mesh(published.mesh, world)
    cameras[:, :3, 3] -= origin
    splats = move_splats(published.splats, world.compose(published.layout_from_splats))
    tell("ground", 0.0, "heights")
    ground = ground_heightfield(mesh, _walk(cameras, height_m), cfg.fusion, evidence=_ground_samples(mesh))
    paths = walkable_paths(cameras[:, :2, 3], ground, cfg.walkable)
    tell("agreement", 0.0, "splats against mesh")
    agreed = agreement.measure(splats, mesh, cameras)
    _check(published, agreed, cfg)
    metadata = {
        **published.notes, **agreed,
        "scale_source": published.scale_source, "gravity_source": published.gravity_source, "camera_height_m": height_m,
        "path_length_max_m": longest_path_m(paths), "walk": "cameras" if track is not None else "looked for",
        "world_from_capture": {
            "scale": world.scale, "rotation": world.rotation.tolist(), "translation_m": world.translation.tolist(),
        },
    }  # fmt: skip
    if track is not None:
        metadata["cameras"] = {"c2w": cameras.tolist()}
    scene = Scene(published.name, splats, mesh, ground, paths, metadata)
    with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        scene.write_members(writer.path)
        writer.fields.update(scene.manifest_fields())
        writer.fields["provenance"] = provenance(capture_sha256=_identity(published))
    tell("scene", 1.0, f"longest path {metadata['path_length_max_m']:.1f} m")
    return Path(output) / MANIFEST


def _standing(mesh: Mesh, cameras: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Median height of cameras above the mesh [m], and the ground below the first one that has any.

    Raises:
        InputError: Few cameras have mesh below them.
    """
    import open3d as o3d

    at = cameras[:, :3, 3]
    rays = np.concatenate([at, np.tile([0.0, 0.0, -1.0], (len(at), 1))], axis=1).astype(np.float32)
    down = ray_scene(mesh).cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()
    below = down < MAX_CAMERA_HEIGHT_M
    if below.mean() < 0.2:
        raise InputError(
            f"{int(below.sum())} of {len(at)} cameras have the mesh less than {MAX_CAMERA_HEIGHT_M:g} m below them; "
            "mesh and cameras do not belong together, or their frame is not the one that the layout says"
        )
    first = int(np.argmax(below))
    return float(np.median(down[below])), at[first] - np.array([0.0, 0.0, float(down[first])])


def _walk(cameras: NDArray[np.float64], height_m: float) -> PosedCapture:
    """A camera track as the ground's finder takes it: it looks at positions and height alone."""
    none = np.zeros((0, 3))
    return PosedCapture(
        capture_dir=Path(), names=[], unregistered=[], intrinsics=[], c2w=cameras, points=none, colors=none.astype(np.uint8),
        errors_px=np.zeros(0), track_lengths=np.zeros(0, np.int32), visible=[], world_from_capture=Similarity.identity(),
        scale_source="sensor", gravity_source="sensor", camera_height_m=height_m, scale_std_fraction=None,
        reprojection_error_px=0.0, registered_fraction=1.0, seeds_tried=0, gps_residual_median_m=None,
        gps_residual_max_m=None, max_step_m=0.0,
    )  # fmt: skip


def _ground_samples(mesh: Mesh) -> NDArray[np.float64]:
    """Points on triangles that face up, one a square decimetre or so, and weights: `[n, 4]`.

    Decimated meshes have triangles of metres, whose corners alone would not say where the ground is.
    """
    corner = mesh.vertices[mesh.faces[faces_up(mesh)]].astype(np.float64)
    area = 0.5 * np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    if not area.sum() > 0:
        return np.zeros((0, 4))
    rng = np.random.default_rng(0)
    count = int(np.clip(area.sum() / 0.01, 1000, 200_000))
    corner = corner[rng.choice(len(corner), count, p=area / area.sum())]
    a, b = rng.random((2, count, 1))
    fold = a + b > 1
    a, b = np.where(fold, 1 - a, a), np.where(fold, 1 - b, b)
    points = corner[:, 0] + a * (corner[:, 1] - corner[:, 0]) + b * (corner[:, 2] - corner[:, 0])
    return np.column_stack([points, np.ones(count)])


def _check(published: Published, agreed: dict[str, Any], cfg: ImportSceneCfg) -> None:
    """Refuse splats and mesh that do not lie on each other.

    Raises:
        InputError: They are farther apart than the settings allow, or show nothing in common.
    """
    found = agreed["splat_mesh_disagreement_m"]
    if found is None:
        raise InputError(
            f"{published.name}: from the cameras, splats and mesh show no common surface; their frames differ"
        )
    if found > cfg.max_disagreement_m:
        raise InputError(
            f"{published.name}: splats and mesh lie {found:.3f} m apart (median of {agreed['compared_pixels']} rays), expected "
            f"at most {cfg.max_disagreement_m:g} m: frames or scales differ; --max-disagreement-m imports it all the same"
        )


def _identity(published: Published) -> str:
    """Hash that tells captures apart."""
    if published.capture:
        return hashlib.sha256(published.capture.encode()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(published.splats.means).tobytes()).hexdigest()
