"""What `renderer.py` measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        kind: Of the procedural scene (`gaussgym_scene.synthesize`, seed 0); many scenes are copies of it in memory of their own.
        splats: Of each scene.
        scenes: Of the headline.
        cameras: Of the headline.
        sizes: Of the headline, the small one first [px].
        flat_cameras: Batch sizes that are compared, smallest first.
        flat_scenes: Numbers of scenes that are compared, smallest first.
        matrix_sizes, matrix_cameras, matrix_scenes, matrix_splats: The matrix; splats in the order in which they are measured.
        parity_sizes, parity_splats: Of the correctness cases.
        kernels: Whose pictures are checked, the plain ones first.
        counted_cameras: On which operations are counted.
        seconds: For each measurement [s].
        copy_bytes: Of the copy that measures bandwidth.
        variants: Settings of the backend that are tried, each on top of the best so far; the first one counts as right.
        most_splats: In all scenes of a cell of the matrix: more take long to send to the device.
    """

    kind: str = "street"
    splats: int = 200_000
    scenes: int = 128
    cameras: int = 4096
    sizes: tuple[tuple[int, int], ...] = ((84, 48), (640, 480))
    flat_cameras: tuple[int, ...] = (256, 1024, 4096, 16384)
    flat_scenes: tuple[int, ...] = (1, 8, 128, 512)
    matrix_sizes: tuple[tuple[int, int], ...] = ((64, 64), (84, 48), (128, 128), (320, 240), (640, 480))
    matrix_cameras: tuple[int, ...] = (64, 256, 1024, 4096, 16384)
    matrix_scenes: tuple[int, ...] = (1, 16, 128, 512)
    matrix_splats: tuple[int, ...] = (200_000, 50_000, 1_000_000)
    parity_sizes: tuple[tuple[int, int], ...] = ((64, 64), (84, 48), (130, 70), (320, 240), (640, 480))
    parity_splats: int = 3000
    kernels: tuple[str, ...] = ("plain", "fast", "half")
    counted_cameras: int = 8
    seconds: float = 1.0
    copy_bytes: int = 2**32
    variants: tuple[dict[str, Any], ...] = (
        {"kernels": "plain"}, {"kernels": "fast"}, {"kernels": "half"}, {"wave_cameras": 64}, {"wave_cameras": 1024},
    )  # fmt: skip
    most_splats: int = 150_000_000


TINY = Plan(
    kind="flat", splats=1500, scenes=2, cameras=8, sizes=((16, 12), (40, 24)), flat_cameras=(4, 8), flat_scenes=(1, 2),
    matrix_sizes=((16, 12),), matrix_cameras=(2, 4), matrix_scenes=(1, 2), matrix_splats=(600,), parity_sizes=((16, 12), (70, 20)),
    parity_splats=150, counted_cameras=2, seconds=0.02, copy_bytes=2**16,
    variants=({"kernels": "plain"}, {"kernels": "fast"}, {"kernels": "half"}, {"wave_cameras": 4}),
)  # fmt: skip
