"""Policy bundles on robots: check a bundle, run it against a simulated robot, run it in real time."""

from __future__ import annotations

import sys
from typing import List

from .bundle.command import check, describe, schema
from .commands.calibrate import calibrate_camera, calibrate_camera_latency, calibrate_camera_mount
from .commands.compare import compare
from .commands.drive import checklist, run
from .commands.envelope import envelope
from .commands.faults import faults
from .commands.finish import finish
from .commands.flights import replay_flight, run_endurance
from .commands.options import merged
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
    "calibrate-camera": calibrate_camera,
    "calibrate-mount": calibrate_camera_mount,
    "calibrate-latency": calibrate_camera_latency,
}


def joined(words: List[str]) -> List[str]:
    """``calibrate camera`` as the one word ``calibrate-camera`` that the table has; other words as they are."""
    if words[:1] == ["calibrate"] and len(words) > 1 and f"calibrate-{words[1]}" in COMMANDS:
        return [f"calibrate-{words[1]}", *words[2:]]
    return words


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
                args=merged(joined(sys.argv[1:])),
            )
        )
    )


if __name__ == "__main__":
    main()
