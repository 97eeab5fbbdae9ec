"""The shared contract of all stages: scenes, captures, splats, cameras, procedural worlds."""

from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import Capture, CaptureImage
from gaussgym_scene.errors import GaussgymError, InputError, StageError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Appearance, Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.splats import Splats

__all__ = [
    "Appearance",
    "Capture",
    "CaptureImage",
    "GaussgymError",
    "Heightfield",
    "InputError",
    "Intrinsics",
    "Mesh",
    "Paths",
    "Scene",
    "Splats",
    "StageError",
    "synthesize",
]


def synthesize(kind: str, seed: int = 0, **params: object) -> Scene:
    """Make a procedural scene; see `gaussgym_scene.synth` for the kinds and their parameters."""
    from gaussgym_scene.synth import synthesize as make

    return make(kind, seed, **params)
