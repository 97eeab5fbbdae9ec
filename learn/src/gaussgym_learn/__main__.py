"""Command `gaussgym-learn`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import tyro
from gaussgym_deploy.bundle import BundleError
from gaussgym_scene import command
from gaussgym_scene.errors import InputError

from gaussgym_learn.cli.collection import MakeCollection
from gaussgym_learn.cli.compare import Compare
from gaussgym_learn.cli.distill import Distill
from gaussgym_learn.cli.evaluate import Evaluate
from gaussgym_learn.cli.export import Export
from gaussgym_learn.cli.robot import Robot
from gaussgym_learn.cli.sweep import Sweep
from gaussgym_learn.cli.train import Train

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[MakeCollection, tyro.conf.subcommand("collection")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Robot, tyro.conf.subcommand("robot")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
)


def main() -> None:
    """Entry point."""

    def chosen() -> Path | None:
        try:
            written = tyro.cli(Command, prog="gaussgym-learn", description=__doc__).run()  # type: ignore[arg-type]
            return (
                written if os.environ.get("RANK", "0") == "0" else None
            )  # one of torchrun's processes says it
        except BundleError as error:  # of options that deploy defines, and its links
            raise InputError(str(error)) from None

    sys.exit(command.run(chosen))


if __name__ == "__main__":
    main()
