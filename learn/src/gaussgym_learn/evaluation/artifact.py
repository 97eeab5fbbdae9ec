"""The folder of an evaluation, `evaluation.json` and what it names: run what is missing, then write everything at once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import ArtifactWriter, write_json
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene

from gaussgym_learn.evaluation.gallery import GalleryCfg, check_ffmpeg, make_films, make_gallery
from gaussgym_learn.evaluation.page import page
from gaussgym_learn.evaluation.plots import draw_all
from gaussgym_learn.evaluation.protocol import CELLS, Outcome, Protocol, ProtocolCfg
from gaussgym_learn.evaluation.report import results_of
from gaussgym_learn.evaluation.subjects import Subject
from gaussgym_learn.evaluation.tables import markdown

MANIFEST = "evaluation.json"
FORMAT = "gaussgym-evaluation"
VERSION = 1


def evaluate_policies(
    subjects: Sequence[Subject],
    scenes: Sequence[Scene | Path | str],
    output: Path,
    cfg: ProtocolCfg,
    *,
    videos: bool = True,
    gallery: GalleryCfg | None = None,
    progress: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Evaluate policies and write the folder.

    Finished cells lie in `<output>.cells/` until the folder is whole, and in its `cells/` from then on: a run that was killed,
    or one with more policies or conditions, runs only what is missing.

    Args:
        subjects: policies.
        scenes: scenes or folders.
        output: folder, replaced as a whole.
        cfg: how to evaluate.
        videos: film, with ffmpeg.
        gallery: how to film.
        progress: show a bar on stderr.

    Returns:
        The manifest's path, and the results (`gaussgym_learn.evaluation.report.results_of`).

    Raises:
        InputError: policies, scenes and settings that do not go together; no ffmpeg.
    """
    check_output(output)
    if videos:
        check_ffmpeg()
    work = output.with_name(output.name + ".cells")
    protocol = Protocol(subjects, scenes, cfg, work)
    outcome = protocol.run(progress=progress, found=output / CELLS)
    results = results_of(outcome)
    _write(outcome, protocol, results, output, gallery or GalleryCfg(), videos=videos)
    shutil.rmtree(work)
    return output / MANIFEST, results


def check_output(output: Path) -> None:
    """Raise an `InputError` where something else than an evaluation would be replaced."""
    if (
        output.exists()
        and not (output / MANIFEST).is_file()
        and not (output.is_dir() and not any(output.iterdir()))
    ):
        raise InputError(f"{output}: exists and is not an evaluation; give another --output, or remove it")


def _write(
    outcome: Outcome,
    protocol: Protocol,
    results: dict[str, Any],
    output: Path,
    gallery: GalleryCfg,
    *,
    videos: bool,
) -> None:
    """All files of the folder, from cells that are there."""
    with ArtifactWriter(output, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        folder = writer.path
        (folder / CELLS).mkdir()
        for file in protocol.files():
            shutil.copyfile(file, folder / CELLS / file.name)
        write_json(folder / "results.json", results)
        (folder / "table.md").write_text(markdown(results), encoding="utf-8")
        plots = [f"plots/{path.name}" for path in draw_all(results, folder / "plots")]
        films = make_films(outcome, folder / "videos", gallery) if videos else []
        failures = make_gallery(outcome, folder / "gallery", gallery, videos=videos)
        write_json(folder / "gallery" / "gallery.json", failures)
        (folder / "index.html").write_text(page(results, plots, films, failures), encoding="utf-8")
        writer.fields.update(
            policies=list(results["policies"]),
            protocol=results["protocol"],
            success={
                name: one["conditions"]["none"].get("success") for name, one in results["policies"].items()
            },
            eyes={name: one["eyes"]["verdict"] for name, one in results["policies"].items() if "eyes" in one},
            films=films,
        )
