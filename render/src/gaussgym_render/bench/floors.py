"""How fast a GPU could draw frames at all: the bytes that must move over its bandwidth, the operations over its rate.

The larger of the two times is the floor; what was measured over it is the gap. Bytes are counted in two ways: `least` is every
input read once and every output written once, which no renderer avoids; `design` adds what this one hands from kernel to kernel
through memory (projected records, sort keys, segments), as if none of it stayed in the cache.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FLOP_PER_TESTED = 40.0
"""Transforming a splat's mean and testing it, as counted by hand in `projection`."""
FLOP_PER_VISIBLE = 450.0
"""Covariance, its projection, conic, extent, colour of band 0, for a splat that is kept."""
SLOTS_PER_EVALUATION = 14.0
"""Instructions of one splat on one pixel: offset, exponent, alpha, four accumulations, transmittance. One slot is two FLOP."""
RECORD_BYTES = 44.0
"""A projected splat as `gaussgym_render.cuda` hands it on: centre, conic, opacity, colour, depth, slot."""
SORT_BYTES_PER_PAIR = 36.0
"""Key and index of a (splat, macro-tile) pair, read and written by the passes of a 16-bit sort."""
BIN_BYTES_PER_PAIR = 8.0
GROUP, PASSES = 32, 2
"""Cameras that share one reading of a chunk, and how often it is read: to mark what is visible, and to write it down."""
STAGES = ("prepare", "project", "bin", "sort", "blend")
_KERNELS = (
    ("blend", ("blend",)),
    ("sort", ("SegmentedRadix", "segmented", "sort_", "rank_ties", "keep_ties", "enqueue", "merge")),
    ("bin", ("camera_segments", "visit_pairs", "clear_counts")),
    ("prepare", ("prepare_cameras", "count_active", "group_cameras", "RadixSort", "Histogram")),
    ("project", ("cull", "mark", "count_visible", "project", "scan", "add_sums", "chunks", "find_cut")),
)
SPLAT_BYTES = 4 * 3 + 2 * 10 + 2 * 3 + 4
"""A splat in the atlas with band 0 only: mean, shape, base colour, source."""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """What a GPU's data sheet promises.

    Attributes:
        name: Of the GPU.
        bytes_per_s: Bandwidth of its memory [B/s].
        flop_per_s: Single precision without matrix units, a multiply-add counted as two [FLOP/s].
        half_factor: Rate of packed half precision over that of single precision.
        cache_bytes: Its last-level cache [B].
    """

    name: str
    bytes_per_s: float
    flop_per_s: float
    half_factor: float
    cache_bytes: float


CHIPS: tuple[tuple[tuple[str, ...], Chip], ...] = (
    (("H200",), Chip(name="H200", bytes_per_s=4.8e12, flop_per_s=66.9e12, half_factor=2, cache_bytes=50e6)),
    (("H100", "PCIe"), Chip(name="H100 PCIe", bytes_per_s=2.0e12, flop_per_s=51.2e12, half_factor=2, cache_bytes=50e6)),
    (("H100",), Chip(name="H100 SXM", bytes_per_s=3.35e12, flop_per_s=66.9e12, half_factor=2, cache_bytes=50e6)),
    (("A100", "80GB"), Chip(name="A100 80GB", bytes_per_s=2.0e12, flop_per_s=19.5e12, half_factor=4, cache_bytes=40e6)),
    (("A100",), Chip(name="A100 40GB", bytes_per_s=1.555e12, flop_per_s=19.5e12, half_factor=4, cache_bytes=40e6)),
    (("4090",), Chip(name="RTX 4090", bytes_per_s=1.008e12, flop_per_s=82.6e12, half_factor=1, cache_bytes=72e6)),
    (("5090",), Chip(name="RTX 5090", bytes_per_s=1.792e12, flop_per_s=104.8e12, half_factor=1, cache_bytes=96e6)),
    (("L40S",), Chip(name="L40S", bytes_per_s=0.864e12, flop_per_s=91.6e12, half_factor=1, cache_bytes=96e6)),
)  # fmt: skip
"""Words of the name that the driver gives, all of which must occur, and the chip. First match. Source: NVIDIA's data sheets."""


def chip_of(device_name: str) -> Chip | None:
    """The chip of that name, None if its constants are not known."""
    words = device_name.replace("-", " ").upper()
    for parts, chip in CHIPS:
        if all(part.upper() in words for part in parts):
            return chip
    return None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What drawing a frame takes, means over frames.

    Attributes:
        chunks_tested: Chunks whose bounds are tested against the view.
        tested: Splats of the chunks that are left, padding included.
        visible: Splats that touch the image.
        pairs: (Splat, macro-tile) pairs.
        evaluated: Pixels that splats are evaluated at, whole sub-tiles at a time.
        contributing: Of these, the ones where the splat adds to the image.
    """

    chunks_tested: float
    tested: float
    visible: float
    pairs: float
    evaluated: float
    contributing: float


@dataclass(frozen=True, kw_only=True)
class Floors:
    """Least time of a batch of frames [s].

    Attributes:
        least_bytes_s: Inputs once, outputs once.
        design_bytes_s: And what goes through memory between kernels.
        single_ops_s: Operations in single precision.
        half_ops_s: With blending in packed half precision.
    """

    least_bytes_s: float
    design_bytes_s: float
    single_ops_s: float
    half_ops_s: float

    @property
    def floor_s(self) -> float:
        """What no version of this design goes below: inputs and outputs, or operations at the best precision."""
        return max(self.least_bytes_s, min(self.single_ops_s, self.half_ops_s))

    @property
    def design_floor_s(self) -> float:
        """The same if everything between kernels went through memory."""
        return max(self.design_bytes_s, min(self.single_ops_s, self.half_ops_s))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "floor_s": self.floor_s, "design_floor_s": self.design_floor_s}


def floors(
    counts: Counts,
    chip: Chip,
    *,
    frames: int,
    pixels: int,
    scene_bytes: float,
    bytes_per_pixel: float,
) -> Floors:
    """The floors of a batch.

    Args:
        counts: Of a frame.
        chip: Where it runs.
        frames: In the batch.
        pixels: Of a frame.
        scene_bytes: Of all scenes that the batch shows, read once [B].
        bytes_per_pixel: Written.
    """
    least = scene_bytes + frames * pixels * bytes_per_pixel
    between = 2.0 * RECORD_BYTES * counts.visible + (SORT_BYTES_PER_PAIR + BIN_BYTES_PER_PAIR) * counts.pairs
    projecting = FLOP_PER_TESTED * counts.tested + FLOP_PER_VISIBLE * counts.visible
    blending = 2.0 * SLOTS_PER_EVALUATION * counts.evaluated
    return Floors(
        least_bytes_s=least / chip.bytes_per_s,
        design_bytes_s=(least + frames * between) / chip.bytes_per_s,
        single_ops_s=frames * (projecting + blending) / chip.flop_per_s,
        half_ops_s=frames * (projecting + blending / chip.half_factor) / chip.flop_per_s,
    )


def stage_of(kernel: str) -> str:
    """The stage that a kernel of `gaussgym_render.cuda` belongs to, by its name; 'other' for what is none of them."""
    for stage, parts in _KERNELS:
        if any(part in kernel for part in parts):
            return stage
    return "other"


def stage_floors(
    counts: Counts, chip: Chip, *, frames: int, pixels: int, bytes_per_pixel: float, half: bool
) -> dict[str, dict[str, float]]:
    """Least times of the stages [s] if all that goes between them goes through memory: `bytes_s` and `ops_s` of each.

    Args:
        counts: Of a frame.
        chip: Where they run.
        frames: In the batch.
        pixels: Of a frame.
        bytes_per_pixel: Written.
        half: Whether blending is in half precision.
    """
    between = RECORD_BYTES * counts.visible
    bytes_of = {
        "prepare": 0.0,
        "project": PASSES * counts.tested * SPLAT_BYTES / GROUP + between,
        "bin": 2.0 * BIN_BYTES_PER_PAIR * counts.pairs,
        "sort": SORT_BYTES_PER_PAIR * counts.pairs,
        "blend": (RECORD_BYTES + 4.0) * counts.pairs + pixels * bytes_per_pixel,
    }
    blending = 2.0 * SLOTS_PER_EVALUATION * counts.evaluated / (chip.half_factor if half else 1.0)
    ops_of = {
        "project": FLOP_PER_TESTED * counts.tested + FLOP_PER_VISIBLE * counts.visible,
        "blend": blending,
    }
    return {
        stage: {
            "bytes_s": frames * bytes_of[stage] / chip.bytes_per_s,
            "ops_s": frames * ops_of.get(stage, 0.0) / chip.flop_per_s,
        }
        for stage in STAGES
    }
