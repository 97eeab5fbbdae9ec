"""Features of images and matches between them, in pycolmap's database: which pairs to try, and the jobs that fill it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.errors import StageError

from gaussgym_recon.colmap_options import mark
from gaussgym_recon.sfm_model import colmap_camera

if TYPE_CHECKING:
    from gaussgym_scene.capture import Capture
    from numpy.typing import NDArray

Progress = Callable[[str, float], None]
"""Called with the name of the step and the fraction of it that is done."""


@dataclass(frozen=True, kw_only=True)
class FeatureCfg:
    """Of :func:`extract` and :func:`match`."""

    max_features: int = 4096
    """SIFT features per image, at most."""
    feature_budget: int = 160_000
    """SIFT features of all images together; many images have no need of as many each."""
    min_features: int = 2048
    """SIFT features per image that are allowed whatever the budget."""
    peak_threshold: float = 0.0033
    """SIFT contrast threshold; half of the usual one, since ground has little contrast."""
    enlarge_below_px: int = 300_000
    """In captures longer than `exhaustive_up_to`, images with fewer pixels than this are doubled before features are
    sought, as all are in short ones; doubling takes four times as long."""
    overlap: int = 8
    """Neighbours of each image that are matched, plus those at 16, 32, … images."""
    exhaustive_up_to: int = 60
    """Unordered captures up to this many images are matched all with all."""
    similar_images: int = 5
    """Ordered captures longer than `exhaustive_up_to` also match this many look-alikes of each image."""
    seed: int = 0
    """Of matching."""
    threads: int = -1
    """Threads of extraction and matching."""


def run_job(kind: str, job: dict[str, Any], step: str, progress: Progress) -> None:
    """Run one of :mod:`gaussgym_recon.colmap_jobs` in a process of its own.

    Raises:
        StageError: It failed; the text is the last thing that it said.
    """
    command = [sys.executable, "-m", "gaussgym_recon.colmap_jobs", kind]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("p "):
                    progress(step, float(line[2:]))
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if status != 0:
            complaints.seek(0)
            raise StageError(f"{step}: {reason(complaints.read().decode(errors='replace'), status)}")
    progress(step, 1.0)


def reason(complaints: str, status: int) -> str:
    """The telling line of what a failed job wrote."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    telling = [line for line in lines if "what():" in line or "Error" in line]
    said = (telling or lines or ["no reason given"])[-1 if not telling else 0].removeprefix("what():").strip()
    if "disk is full" in complaints or "No space left" in complaints:
        said = "the disk is full; make room and run it again"
    if status < 0 and not lines:
        return (
            f"pycolmap was killed by signal {-status} (9 is often the system running out of memory); "
            "run the same command to go on"
        )
    return f"pycolmap stopped with status {status}: {said}"


def extract(database: Path, capture: Capture, cfg: FeatureCfg, progress: Progress) -> None:
    """Fill the database with SIFT features; images of one camera share it, masked places have none."""
    done = database.with_name("extracted.json")
    if done.exists():
        return
    images = capture.images
    first = images[0].intrinsics
    small = first.width * first.height < cfg.enlarge_below_px
    job = {
        "database": str(database),
        "images": str(capture.directory),
        "cameras": camera_groups(capture),
        "masks": _mask_folder(capture, database.with_name("masks")),
        "threads": cfg.threads,
        "max_features": min(cfg.max_features, max(cfg.min_features, cfg.feature_budget // len(images))),
        "peak_threshold": cfg.peak_threshold,
        "first_octave": -1 if small or len(images) <= cfg.exhaustive_up_to else 0,
    }
    run_job("extract", job, "features", progress)
    mark(done, {"images": len(images)})


def camera_groups(capture: Capture) -> list[dict[str, Any]]:
    """The cameras of a capture and their images: those with equal intrinsics are of one camera."""
    groups: dict[Any, list[str]] = {}
    for image in capture.images:
        groups.setdefault(image.intrinsics, []).append(image.file)
    cameras = []
    for intrinsics, names in groups.items():
        model, params = colmap_camera(intrinsics)
        guessed = intrinsics.focal_source == "guess"
        cameras.append(
            {
                "names": names,
                "model": model,
                "params": "" if guessed else ",".join(f"{value:.9g}" for value in params),
                "focal_factor": intrinsics.fx / max(intrinsics.width, intrinsics.height),
                "focal_source": intrinsics.focal_source,
            }
        )
    return cameras


def _mask_folder(capture: Capture, folder: Path) -> str:
    """A folder of links in which pycolmap finds the masks by the names of the images; empty text without any."""
    masked = [image for image in capture.images if image.mask is not None]
    for image in masked:
        link = folder / f"{image.file}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            os.symlink((capture.directory / str(image.mask)).resolve(), link)
    return str(folder) if masked else ""


def match(
    database: Path, done: Path, pairs: list[tuple[str, str]], cfg: FeatureCfg, progress: Progress
) -> None:
    """Match and verify image pairs."""
    if done.exists():
        return
    job = {"database": str(database), "pairs": pairs, "threads": cfg.threads, "seed": cfg.seed}
    run_job("match", job, "matches", progress)
    mark(done, {"pairs": len(pairs)})


def sequential_pairs(count: int, overlap: int) -> list[tuple[int, int]]:
    """Pairs of each image with its next `overlap` ones and with those 2, 4, 8, … `2**overlap` images on."""
    offsets = sorted({*range(1, overlap + 1), *(2**power for power in range(overlap + 1))})
    return [(i, i + offset) for i in range(count) for offset in offsets if i + offset < count]


def pair_sets(
    database: Path, names: list[str], ordered: bool, cfg: FeatureCfg
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What to match first, and what to add when no map of that passes."""
    count = len(names)
    everything = [(i, j) for i in range(count) for j in range(i + 1, count)]
    small = count <= cfg.exhaustive_up_to
    if ordered and small:
        sets = [("sequential", sequential_pairs(count, cfg.overlap)), ("exhaustive", everything)]
    elif small:
        sets = [("exhaustive", everything)]
    else:
        neighbours = sequential_pairs(count, cfg.overlap) if ordered else []
        similar = similar_pairs(database, names, 3 * cfg.similar_images, cfg.seed)
        few = [pair for pair, rank in similar.items() if rank < cfg.similar_images]
        sets = [
            ("similar", sorted({*neighbours, *few})),
            ("more-similar", sorted({*neighbours, *similar})),
        ]
    for name, pairs in sets:
        yield name, [(names[i], names[j]) for i, j in pairs]


def similar_pairs(
    database: Path, names: list[str], neighbours: int, seed: int, *, words: int = 64
) -> dict[tuple[int, int], int]:
    """Look-alikes by VLAD (Jégou et al., CVPR 2010) over the capture's own SIFT words, no vocabulary needed.

    Returns:
        Pairs `(i, j)`, `i < j`, with the better of their two ranks (0 is the most similar).
    """
    import pycolmap
    from scipy.cluster.vq import kmeans2

    descriptors = []
    with pycolmap.Database.open(database) as opened:
        for name in names:
            image = opened.read_image_with_name(name)
            assert image is not None
            data = np.asarray(opened.read_descriptors(image.image_id).data, dtype=np.float32)
            descriptors.append(data / np.maximum(np.linalg.norm(data, axis=1, keepdims=True), 1e-9))
    rng = np.random.default_rng(seed)
    sample = np.concatenate([d[rng.permutation(len(d))[:100]] for d in descriptors])
    centers, _ = kmeans2(sample, min(words, len(sample)), iter=10, minit="++", seed=seed)  # pyright: ignore[reportCallIssue]
    vectors = np.stack([_vlad(d, centers.astype(np.float32)) for d in descriptors])
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    ranks: dict[tuple[int, int], int] = {}
    for i, order in enumerate(np.argsort(-similarity, axis=1)[:, :neighbours]):
        for rank, j in enumerate(order):
            pair = (min(i, int(j)), max(i, int(j)))
            ranks[pair] = min(rank, ranks.get(pair, rank))
    return ranks


def _vlad(descriptors: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.float32]:
    words = np.argmax(descriptors @ centers.T - 0.5 * (centers**2).sum(axis=1), axis=1)
    sums = np.zeros_like(centers)
    np.add.at(sums, words, descriptors - centers[words])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    flat = sums.ravel()
    return flat / max(float(np.linalg.norm(flat)), 1e-9)
