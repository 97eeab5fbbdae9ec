"""``gaussgym-recon import-scene LAYOUT PATH --output SCENE``: a subcommand for each layout, with the options of its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from gaussgym_recon.layouts import LAYOUTS
from gaussgym_recon.layouts.assemble import ImportSceneCfg, Progress, import_scene


def import_scene_command(arguments: Sequence[str], progress: Progress) -> Callable[[], Path]:
    """Parse the words after ``gaussgym-recon import-scene``.

    Args:
        arguments: The words.
        progress: Told how far the import is.

    Returns:
        A function that imports and returns the path of the scene's manifest.
    """
    kinds = {name: _arguments_of(name, LAYOUTS.get(name)[0]) for name in LAYOUTS.names()}
    given: Any = tyro.extras.subcommand_cli_from_dict(
        kinds,
        prog="gaussgym-recon import-scene",
        description="Make a scene of splats and a mesh that others published: metric, +Z up, with ground and paths.",
        args=list(arguments),
    )
    read = LAYOUTS.get(next(name for name, kind in kinds.items() if type(given) is kind))[1]
    cfg = ImportSceneCfg(max_disagreement_m=given.max_disagreement_m)
    return lambda: import_scene(read(given.path, given.cfg), given.output, cfg, progress=progress)


def _arguments_of(name: str, cfg: type) -> type:
    limit = "Splats and mesh that lie farther apart are an error (median along rays) [m]."
    return make_dataclass(
        f"ImportScene{name.title()}",
        [
            (
                "path",
                Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="What was published: see above.")],
            ),
            ("output", Annotated[Path, tyro.conf.arg(help="Folder of the scene to write.")]),
            ("cfg", Annotated[cfg, tyro.conf.OmitArgPrefixes], field(default_factory=cfg)),
            (
                "max_disagreement_m",
                Annotated[float, tyro.conf.arg(help=limit)],
                ImportSceneCfg.max_disagreement_m,
            ),
        ],
        namespace={"__doc__": cfg.__doc__},
    )
