"""Policy bundles on robots: check a bundle, run it against a simulated robot, run it in real time."""

from __future__ import annotations

from .commands.check import check
from .commands.drive import checklist, run
from .commands.output import finish
from .commands.sim2sim import run_sim2sim

COMMANDS = {"check": check, "sim2sim": run_sim2sim, "run": run, "checklist": checklist}


def main() -> None:
    """Entry point."""
    import tyro

    raise SystemExit(
        finish(
            lambda: tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="gaussgym-deploy", description=__doc__
            )
        )
    )


if __name__ == "__main__":
    main()
