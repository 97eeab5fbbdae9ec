"""Policy bundles on robots: check a bundle, run it against a simulated robot, run it in real time."""

from __future__ import annotations

from .bundle.command import check, describe, schema
from .commands.compare import compare
from .commands.drive import checklist, run
from .commands.envelope import envelope
from .commands.faults import faults
from .commands.finish import finish
from .commands.flights import replay_flight, run_endurance
from .commands.sim2sim import run_sim2sim

COMMANDS = {
    "check": check,
    "schema": schema,
    "describe": describe,
    "sim2sim": run_sim2sim,
    "envelope": envelope,
    "run": run,
    "checklist": checklist,
    "faults": faults,
    "endurance": run_endurance,
    "replay": replay_flight,
    "compare": compare,
}


def main() -> None:
    """Entry point."""
    import tyro

    raise SystemExit(
        finish(
            lambda: tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="gaussgym-deploy",
                description=__doc__,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        )
    )


if __name__ == "__main__":
    main()
