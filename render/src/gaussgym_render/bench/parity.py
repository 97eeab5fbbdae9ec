"""Whether a backend draws the right pictures: against the reference, the CPU backend, gsplat, and itself in other batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gaussgym_scene import Splats
from numpy.typing import NDArray

from gaussgym_render import oracle
from gaussgym_render.backends import BACKEND_ABILITIES, AnySplats
from gaussgym_render.bench.comparison import psnr_db
from gaussgym_render.lod import LodSplats, build_tree
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.testing import pinhole, random_cameras, random_splats, street_cameras, street_splats

BACKGROUND = (0.2, 0.4, 0.6)


@dataclass(frozen=True)
class Gate:
    """What a backend has to keep: PSNR of the worst image [dB]; of all but 1 in 10,000 values, the error of a channel (0..1) and
    the relative error of a depth where at least half of the light is used up.
    """

    psnr_db: float
    error: float
    depth_error: float


GATES = {
    "reference": Gate(45.0, 2.0 / 255.0, 1e-2),
    "cpu": Gate(60.0, 2.0 / 255.0, 1e-3),
    "gsplat": Gate(60.0, 2.0 / 255.0, 1e-2),
}
"""By what it is compared with; the CPU backend has the same scenes in half precision, the others in single or double."""


@dataclass(frozen=True)
class Case:
    """Scenes and cameras to be drawn alike by all.

    Attributes:
        name: What it is there for.
        scenes: The scenes.
        c2w: Poses `[C, 4, 4]`.
        scene_ids: `[C]`.
        width: Image width [px].
        height: Image height [px].
        antialiased: See `SplatRenderer`.
    """

    name: str
    scenes: Sequence[AnySplats]
    c2w: NDArray[np.float64]
    scene_ids: NDArray[np.int64]
    width: int
    height: int
    antialiased: bool = True

    @property
    def K(self) -> NDArray[np.float64]:
        """Calibration matrices `[C, 3, 3]`: off-centre, fx ≠ fy."""
        k = pinhole(self.width, self.height)
        k[1, 1] *= 1.1
        k[0, 2] -= 0.04 * self.width
        k[1, 2] += 0.03 * self.height
        return np.tile(k, (len(self.c2w), 1, 1))


Render = Callable[[Case], dict[str, NDArray[Any]]]
"""Draws a case: rgb uint8, depth, alpha, and rgb_float where the backend has it."""


def cases(sizes: Sequence[tuple[int, int]], num_splats: int, *, seed: int = 0) -> list[Case]:
    """One case for each size in each kind of scene, others at the first size.

    Args:
        sizes: Image sizes [px].
        num_splats: Of the larger scenes.
        seed: Of everything random.
    """
    rng = np.random.default_rng(seed)
    ragged = [
        random_splats(num_splats, rng, sh_degree=3),
        Splats.empty(0),
        random_splats(1, rng, sh_degree=1),
        random_splats(num_splats // 3 + 7, rng, sh_degree=0),
    ]
    street = [street_splats(num_splats, rng, length_m=20.0)]
    made = []
    for width, height in sizes:
        made.append(Case("ragged scenes", ragged, random_cameras(8, rng), np.arange(8) % 4, width, height))
        made.append(
            Case(
                "street", street, street_cameras(3, rng, length_m=20.0), np.zeros(3, np.int64), width, height
            )
        )
    first = sizes[0]
    made.append(
        Case("classic", ragged[:1], random_cameras(3, rng), np.zeros(3, np.int64), *first, antialiased=False)
    )
    levels: list[AnySplats] = [build_tree(street[0], threshold_px=1.0)]
    made.append(
        Case("levels of detail", levels, street_cameras(3, rng, length_m=20.0), np.zeros(3, np.int64), *first)
    )
    return made


def drawn_by(backend: str, device: Any = None) -> Render:
    """Draws cases by a backend, with inputs on a device (None: numpy); colours before rounding too, where it has them."""
    extra = ("rgb_float",) if "outputs" in BACKEND_ABILITIES.get(backend, ()) else ()

    def render(case: Case) -> dict[str, NDArray[Any]]:
        renderer = SplatRenderer(
            case.scenes, case.width, case.height, backend=backend, antialiased=case.antialiased, background=BACKGROUND,
            device=None if device is None else str(device),
        )  # fmt: skip
        given: tuple[Any, ...] = (case.c2w, case.K, case.scene_ids)
        if device is not None:
            given = tuple(torch.as_tensor(array, device=device) for array in given)
        frames = renderer.render(*given, outputs=extra)
        values = {name: getattr(frames, name) for name in ("rgb", "depth", "alpha", "rgb_float")}
        return {name: as_numpy(value) for name, value in values.items() if value is not None}

    return render


def as_numpy(array: Any) -> NDArray[Any]:
    """On the host."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def drawn_by_oracle(case: Case) -> dict[str, NDArray[Any]]:
    """Draws a case by the float64 reference."""
    images = []
    for c2w, k, scene in zip(case.c2w, case.K, case.scene_ids):
        splats = case.scenes[scene]
        shown = (
            splats.take(splats.splats_of(splats.select(c2w, k))) if isinstance(splats, LodSplats) else splats
        )
        images.append(
            oracle.render(
                shown, c2w, k, case.width, case.height, antialiased=case.antialiased, background=BACKGROUND
            )
        )
    rgb = np.stack([image.rgb for image in images])
    return {
        "rgb": np.floor(np.clip(rgb, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8),
        "rgb_float": rgb,
        "depth": np.stack([image.depth_m for image in images]),
        "alpha": np.stack([image.alpha for image in images]),
    }


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How alike two renderers' images of a case are.

    Attributes:
        case: Its name.
        width_px: Image width.
        height_px: Image height.
        against: The other renderer.
        float_colors: Whether colours were compared before they were rounded to 8 bits.
        psnr_db: Of the worst image.
        bytes_psnr_db: Of the worst image in 8 bits, at most `comparison.MAX_PSNR_DB`.
        max_error: Largest difference of a channel, 0..1.
        max_alpha_error: The same of alpha.
        max_depth_error: Largest relative difference of depths, where alpha is above 0.5.
        passed: Whether it keeps its gate, of `GATES`.
    """

    case: str
    width_px: int
    height_px: int
    against: str
    float_colors: bool
    psnr_db: float
    bytes_psnr_db: float
    max_error: float
    max_alpha_error: float
    max_depth_error: float
    passed: bool


def compare(
    case: Case,
    own: dict[str, NDArray[Any]],
    other: dict[str, NDArray[Any]],
    against: str,
    *,
    gate: Gate | None = None,
) -> Parity:
    """Compare what two renderers drew.

    Args:
        case: What.
        own: By the backend in question.
        other: By the one that is trusted.
        against: Its name.
        gate: What to keep; None: that of `GATES` for this name.
    """
    gate = gate or GATES[against]
    exact = "rgb_float" in own and "rgb_float" in other
    bytes_db = float(psnr_db(own["rgb"], other["rgb"]).min())
    # Bytes too where there are floats: a backend may blend them apart.
    error = np.abs(own["rgb"] / 255.0 - other["rgb"] / 255.0)
    within = np.quantile(error, 0.9999) <= gate.error + 0.51 / 255.0
    worst_db, most = bytes_db, float(error.max())
    if exact:
        pair = [np.clip(np.asarray(each["rgb_float"], np.float64), 0.0, 1.0) for each in (own, other)]
        error = np.abs(pair[0] - pair[1])
        within = within and np.quantile(error, 0.9999) <= gate.error
        worst_db, most = (
            float(-10.0 * np.log10(max((error**2).mean((1, 2, 3)).max(), 1e-20))),
            float(error.max()),
        )
    seen = other["alpha"] > 0.5
    depth = np.abs(own["depth"] - other["depth"])[seen] / np.maximum(other["depth"][seen], 1e-6)
    deep = not depth.size or np.quantile(depth, 0.9999) <= gate.depth_error
    return Parity(
        case=case.name,
        width_px=case.width,
        height_px=case.height,
        against=against,
        float_colors=exact,
        psnr_db=worst_db,
        bytes_psnr_db=bytes_db,
        max_error=most,
        max_alpha_error=float(np.abs(own["alpha"] - other["alpha"]).max()),
        max_depth_error=float(depth.max(initial=0.0)),
        passed=bool(min(worst_db, bytes_db) >= gate.psnr_db and within and deep),
    )


def batch_checks(case: Case, render: Render) -> dict[str, bool]:
    """Whether an image depends on its batch: the same cameras drawn again, backwards, and one alone, byte for byte."""
    again, whole = render(case), render(case)
    count = len(case.c2w)
    order = np.arange(count)[::-1].copy()
    backwards = render(
        Case(case.name, case.scenes, case.c2w[order], case.scene_ids[order], case.width, case.height)
    )
    last = np.array([count - 1])
    alone = render(
        Case(case.name, case.scenes, case.c2w[last], case.scene_ids[last], case.width, case.height)
    )
    names = ("rgb", "depth", "alpha")
    return {
        "drawn_again": all(np.array_equal(again[n], whole[n]) for n in names),
        "backwards": all(np.array_equal(backwards[n][order], whole[n]) for n in names),
        "alone": all(np.array_equal(alone[n][0], whole[n][-1]) for n in names),
    }
