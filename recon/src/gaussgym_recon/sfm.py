"""Structure from motion with pycolmap, for people who walk forward: images → maps, of which the one that is one piece is kept.

A forward-walking street breaks the defaults of incremental mapping, which register two of 29 images without any
error. What works: the focal length fixed at the EXIF prior, one SIMPLE_RADIAL camera, neighbours matched at
quadratically growing distances, an easy initial pair, and triangulation down to a fraction of a degree. Registered
is not right, so several maps are made and :mod:`gaussgym_recon.consistency` keeps the one that is one piece. What fails is
tried again with more pairs, with global mapping, and with more and fainter features, and every try is logged with its reason.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.errors import InputError

from gaussgym_recon.colmap_options import mark
from gaussgym_recon.consensus import Attempt, agreed_against_gps, chosen, contested
from gaussgym_recon.consistency import (
    Consistency,
    ConsistencyCfg,
    RecaptureError,
    check_consistency,
    link_points,
)
from gaussgym_recon.depth_images import depth_is_measured, depths_at_points, scales_of_images
from gaussgym_recon.georegister import enu_from_gps
from gaussgym_recon.matching import FeatureCfg, Progress, camera_groups, extract, match, pair_sets, run_job
from gaussgym_recon.sfm_model import SfmModel, capture_indices, read_model, without_loose_cameras
from gaussgym_recon.static_world import StaticWorldCfg, check_static_world

if TYPE_CHECKING:
    from gaussgym_scene.capture import Capture
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MIN_FIRM_POINTS = 15
"""Of a camera of a global map; as many as incremental mapping asks for (`mapping_options`)."""

LAST_CONTESTED = 2
"""Rung of the ladder at which maps that contradict each other are judged by what there is."""


@dataclass(frozen=True, kw_only=True)
class SfmCfg:
    """Settings of :func:`reconstruct`."""

    features: FeatureCfg = field(default_factory=FeatureCfg)
    """Of features and matches."""
    hard_max_features: int = 8192
    """Features per image of the last try."""
    hard_peak_threshold: float = 0.0015
    """SIFT contrast threshold of the last try."""
    mapper: str = "auto"
    """'incremental', 'global', or 'auto': incremental, global where no incremental map passes."""
    min_tri_angles_deg: tuple[float, ...] = (0.5, 0.25, 0.75, 1.5)
    """Smallest triangulation angles that the attempts go through [deg]."""
    max_attempts: int = 8
    """Most incremental maps that are made per matching."""
    min_attempts: int = 3
    """Fewest maps per matching of captures of up to `exhaustive_up_to` images; longer ones stop at the first good."""
    seed: int = 0
    """Of the first attempt; attempts count up from it."""
    max_disagreement: float = 0.02
    """Maps agree when their cameras lie closer than this, over the extent of the path (both root mean square)."""
    max_contradiction: float = 0.1
    """Maps that differ by more contradict each other."""
    gates: ConsistencyCfg = field(default_factory=ConsistencyCfg)
    """When a map is one piece."""
    static: StaticWorldCfg = field(default_factory=StaticWorldCfg)
    """When images show one world that does not change."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: which pairs, of which features, mapped how."""

    features: FeatureCfg
    pairs: str
    """Place among the sets of :func:`gaussgym_recon.matching.pair_sets`: 'first' or 'all'."""
    mapper: str
    attempts: int


@dataclass(frozen=True)
class MapContext:
    """What all maps of a capture have in common."""

    capture: Capture
    cfg: SfmCfg
    gps: NDArray[np.float64] | None
    progress: Progress

    @property
    def short(self) -> bool:
        """Whether several maps are made of every matching, so that they can confirm each other."""
        return len(self.capture.images) <= self.cfg.features.exhaustive_up_to

    def check(self, model: SfmModel) -> Consistency:
        """What the gates say of a map."""
        capture, indices = self.capture, capture_indices(self.capture, model.names)
        return check_consistency(
            indices,
            model.c2w[:, :3, 3],
            num_images=len(capture.images),
            reprojection_error_px=model.reprojection_error_px,
            link_points=link_points(model.visible, len(model.points)),
            gps_enu_m=None if self.gps is None else self.gps[indices],
            depth_scales=_depth_scales(capture, model, indices),
            ordered=bool(capture.metadata.get("ordered", True)),
            cfg=self.cfg.gates,
        )

    def straightened(self, attempt: Attempt) -> Attempt:
        """A map adjusted with all its matches (`gaussgym_recon.straighten`), unless it explains fewer or fails more gates."""
        if attempt.straight:
            return attempt
        output = attempt.folder / "straight"
        if not (output / "done.json").exists():
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir()
            job = map_job(
                self.capture, attempt.folder.parents[1], output, attempt.min_tri_angle_deg, attempt.seed
            )
            run_job("straighten", {**job, "map": str(attempt.folder / "best")}, "map", self.progress)
        model = read_model(output / "best", self.capture)
        if model is not None and attempt.mapper == "global":
            model = without_loose_cameras(model, MIN_FIRM_POINTS)
        if model is None or model.observations < attempt.model.observations:
            return replace(attempt, straight=True)
        found = self.check(model)
        if len(found.reasons) > len(attempt.consistency.reasons):
            return replace(attempt, straight=True)
        return replace(attempt, model=model, consistency=found, straight=True)


def ladder(cfg: SfmCfg) -> list[Rung]:
    """What is tried, the cheapest first; later rungs only where no map of the earlier ones passes."""
    hard = replace(
        cfg.features,
        max_features=cfg.hard_max_features,
        min_features=cfg.hard_max_features // 2,
        feature_budget=2 * cfg.features.feature_budget,
        peak_threshold=cfg.hard_peak_threshold,
        enlarge_below_px=4 * cfg.features.enlarge_below_px,
    )
    rungs = []
    if cfg.mapper in ("auto", "incremental"):
        rungs += [
            Rung(cfg.features, "first", "incremental", cfg.max_attempts),
            Rung(cfg.features, "all", "incremental", cfg.max_attempts),
        ]
    if cfg.mapper in ("auto", "global"):
        rungs.append(Rung(cfg.features, "all", "global", 2))
    rungs.append(Rung(hard, "all", "global" if cfg.mapper == "global" else "incremental", cfg.max_attempts))
    return rungs


def reconstruct(
    capture: Capture, workdir: Path, *, cfg: SfmCfg | None = None, progress: Progress | None = None
) -> tuple[Attempt, list[dict[str, Any]]]:
    """Make maps until one passes the gates.

    Args:
        capture: The images, of one camera or several.
        workdir: Folder for the feature databases and maps; what is finished there is not made again.
        cfg: Settings.
        progress: Told how far each step is.

    Returns:
        The best attempt that passes, and all that were made: pairs, mapper, seed, registered images, reasons.

    Raises:
        InputError: Fewer than two images.
        RecaptureError: No images overlap, no map passed the gates, or the views contradict each other; the text says why.
    """
    cfg = cfg or SfmCfg()
    progress = progress or (lambda step, fraction: None)
    if len(capture.images) < 2:
        raise InputError(f"{capture.directory}: {len(capture.images)} images, expected two or more")
    context = MapContext(capture, cfg, gps_of(capture), progress)
    folder = Path(workdir)
    attempts: list[Attempt] = []
    tries: list[dict[str, Any]] = []
    seen: set[tuple[FeatureCfg, str, str]] = set()
    for step, rung in enumerate(ladder(cfg)):
        if step >= 2 and attempts:
            # Global mapping and more features cannot mend views that contradict each other.
            _check_best(capture, attempts, Path(workdir), cfg)
        folder = Path(workdir) / f"sfm-{work_key(capture, rung.features)}"
        name = prepare(capture, folder, rung.features, rung.pairs, progress)
        if (rung.features, name, rung.mapper) in seen:
            continue
        seen.add((rung.features, name, rung.mapper))
        attempts += _climb(context, folder, name, rung, tries)
        if not any(attempt.consistency.ok for attempt in attempts):
            log.warning("%s: no map of %s pairs, %s, passes", capture.directory.name, name, rung.mapper)
            continue
        if context.short and contested(attempts, cfg):
            attempts = [context.straightened(attempt) for attempt in attempts]
        if not context.short or step >= LAST_CONTESTED or not contested(attempts, cfg):
            break
        log.warning("%s: maps of %s pairs do not confirm each other", capture.directory.name, name)
    if any(attempt.consistency.ok for attempt in attempts):
        # Of longer captures one map is made; those before it were refused.
        best = chosen(attempts if context.short else attempts[-1:], cfg)
        if not best.consistency.scale_checked:
            best = context.straightened(best)
        check_static_world(capture, best.model, folder / "database.db", cfg.static)
        return best, tries
    if attempts:
        _check_best(capture, attempts, Path(workdir), cfg)
    raise _refusal(capture, attempts, tries, Path(workdir), cfg)


def _check_best(capture: Capture, attempts: list[Attempt], workdir: Path, cfg: SfmCfg) -> None:
    """Refuse views that contradict each other, by the best map of those that did not pass."""
    best = min(attempts, key=lambda attempt: attempt.consistency.badness())
    folder = workdir / f"sfm-{work_key(capture, cfg.features)}"
    check_static_world(capture, best.model, folder / "database.db", cfg.static)


def _climb(
    context: MapContext, folder: Path, pairs: str, rung: Rung, tries: list[dict[str, Any]]
) -> list[Attempt]:
    """Maps of one rung, until enough were made and one of them passes."""
    made: list[Attempt] = []
    capture, cfg, gps = context.capture, context.cfg, context.gps
    for number, attempt in enumerate(_attempts(context, folder, pairs, rung)):
        if attempt is not None:
            made.append(attempt)
        record = _record(pairs, rung, number, attempt, cfg)
        tries.append(record)
        log.info("map %d: %s", len(tries), record)
        if number >= 2 and gps is not None and not any(a.consistency.ok for a in made):
            agreed = agreed_against_gps(capture, made, gps, cfg)
            if agreed is not None:
                log.warning(
                    "%s: GPS is off by %.0f m, though not the maps, which agree with one another",
                    capture.directory.name, agreed.consistency.gps_noise_m,
                )  # fmt: skip
                return [*made, agreed]
        enough = not context.short or number + 1 >= cfg.min_attempts
        if enough and any(a.consistency.ok for a in made):
            break
    return made


def _record(pairs: str, rung: Rung, number: int, attempt: Attempt | None, cfg: SfmCfg) -> dict[str, Any]:
    found = None if attempt is None else attempt.consistency
    return {
        "pairs": pairs,
        "features": rung.features.max_features,
        "mapper": rung.mapper,
        "seed": cfg.seed + number,
        "registered": 0 if attempt is None else len(attempt.model.names),
        "reprojection_error_px": None if found is None else found.reprojection_error_px,
        "reasons": ["no two images could be posed"] if found is None else list(found.reasons),
    }


def _refusal(
    capture: Capture, attempts: list[Attempt], tries: list[dict[str, Any]], workdir: Path, cfg: SfmCfg
) -> Exception:
    """What to tell when no map passed."""
    mark(workdir / "tries.json", {"tries": tries})
    total = len(capture.images)
    if not attempts:
        return RecaptureError(
            f"{capture.directory}: its {total} images do not overlap: no two could be matched and posed; "
            "expected photographs of one place, each sharing more than half of its view with the next",
            reasons=(f"no two of {total} images overlap",),
        )
    best = min(attempts, key=lambda a: a.consistency.badness())
    if best.consistency.registered_fraction < 0.5 * cfg.gates.min_registered_fraction:
        reason = f"{len(best.model.names)} of {total} could be posed after {len(tries)} attempts"
        return RecaptureError(
            f"{capture.directory}: most images do not overlap: {reason}; take more photographs, each sharing more than "
            "half of its view with the next",
            reasons=(reason,),
        )
    return RecaptureError(
        f"{capture.directory}: no consistent reconstruction in {len(tries)} attempts; the best: "
        + "; ".join(best.consistency.reasons),
        reasons=best.consistency.reasons,
    )


def prepare(capture: Capture, folder: Path, features: FeatureCfg, pairs: str, progress: Progress) -> str:
    """Fill `<folder>/database.db` with features and matches; returns the name of the set of pairs.

    Args:
        capture: The images.
        folder: Of these features.
        features: Settings.
        pairs: 'first' or 'all' of the sets of pairs for this kind of capture.
        progress: Told how far each step is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "database.db"
    extract(database, capture, features, progress)
    names = [image.file for image in capture.images]
    sets = list(pair_sets(database, names, bool(capture.metadata.get("ordered", True)), features))
    name, chosen = sets[0] if pairs == "first" else sets[-1]
    match(database, folder / f"matched-{name}.json", chosen, features, progress)
    return name


def gps_of(capture: Capture) -> NDArray[np.float64] | None:
    """East, north, up of each image about their mean [m], `[n, 3]`, NaN where unknown; None without any."""
    known = [image.gps_lat_lon_alt for image in capture.images if image.gps_lat_lon_alt is not None]
    if not known:
        return None
    # The median, so that a falsified fix cannot move the tangent plane to another country.
    origin = np.median(known, axis=0)
    missing = (np.nan,) * 3
    return enu_from_gps([image.gps_lat_lon_alt or missing for image in capture.images], origin)


def work_key(capture: Capture, *settings: Any) -> str:
    """Name of the work that these images and settings need, so that changed inputs never meet old results."""
    images = [
        [image.file, (capture.directory / image.file).stat().st_size, image.intrinsics.to_dict(), image.mask]
        for image in capture.images
    ]
    parts = [asdict(part) if hasattr(part, "__dataclass_fields__") else part for part in settings]
    for part in parts:
        if isinstance(part, dict):
            part.pop("threads", None)
    text = json.dumps([parts, images, capture.metadata.get("ordered", True)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _attempts(context: MapContext, folder: Path, pairs: str, rung: Rung) -> Iterator[Attempt | None]:
    """Maps with changing seed and triangulation angle, lazily; finished ones are read back from `folder`.

    Those that are bent are straightened.
    """
    cfg = context.cfg
    for number in range(rung.attempts):
        angle = cfg.min_tri_angles_deg[number % len(cfg.min_tri_angles_deg)]
        seed = cfg.seed + number
        maps = f"maps-{pairs}" if rung.mapper == "incremental" else f"maps-{pairs}-{rung.mapper}"
        output = folder / maps / f"{seed:02d}-{angle:g}"
        model = _map(context.capture, folder, output, rung.mapper, angle, seed, context.progress)
        if model is None or len(model.names) < 3:
            yield None
            continue
        attempt = Attempt(model, context.check(model), seed, angle, rung.mapper, pairs, output)
        yield context.straightened(attempt) if _bent(attempt.consistency, cfg) else attempt


def _bent(found: Consistency, cfg: SfmCfg) -> bool:
    """Whether a map holds the images and fails a gate for its shape; where only GPS of a long walk says so, GPS may be off."""
    if found.ok or found.registered_fraction < cfg.gates.min_registered_fraction:
        return False
    return not found.scale_checked or found.reasons != found.gps_reasons


def _depth_scales(
    capture: Capture, model: SfmModel, indices: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Scale of each image of a map by its own depth; None where depth was not measured."""
    if not depth_is_measured(capture) or all(image.depth is None for image in capture.images):
        return None
    return scales_of_images(*depths_at_points(capture, model, indices))


def _map(
    capture: Capture, folder: Path, output: Path, mapper: str, angle_deg: float, seed: int, progress: Progress
) -> SfmModel | None:
    """One map; the largest of its pieces."""
    if not (output / "done.json").exists():
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        job = {**map_job(capture, folder, output, angle_deg, seed), "mapper": mapper}
        run_job("map", job, "map", progress)
    finished = output / "best"
    model = read_model(finished, capture) if finished.exists() else None
    return (
        without_loose_cameras(model, MIN_FIRM_POINTS) if model is not None and mapper == "global" else model
    )


def map_job(capture: Capture, folder: Path, output: Path, angle_deg: float, seed: int) -> dict[str, Any]:
    """What every job that makes points of matches is told."""
    cameras = camera_groups(capture)
    return {
        "database": str(folder / "database.db"),
        "images": str(capture.directory),
        "images_total": len(capture.images),
        "output": str(output),
        "seed": seed,
        "min_tri_angle_deg": angle_deg,
        "free_focal": any(camera["focal_source"] == "guess" for camera in cameras),
        "calibrated": [c["names"][0] for c in cameras if c["focal_source"] == "calibrated"],
    }
