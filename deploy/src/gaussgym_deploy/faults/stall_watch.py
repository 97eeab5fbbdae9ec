"""A bare loop in an ordinary process that tells when the machine itself stood still.

Started as ``python -m gaussgym_deploy.faults.stall_watch``. Nothing of the package is under test here: sleep 2 ms, look at the
clock, print a JSON line when the wake-up was late.
"""

from __future__ import annotations

import json
import os
import time

__all__ = ["LATE_S"]

PERIOD_S = 0.002
LATE_S = 0.01
"""A wake-up that is later than this is told [s]."""


def main() -> None:
    """Watch until the parent is gone."""
    parent = os.getppid()
    print(json.dumps({"up": True}), flush=True)
    while os.getppid() == parent:
        due_s = time.monotonic() + PERIOD_S
        time.sleep(PERIOD_S)
        late_s = time.monotonic() - due_s
        if late_s > LATE_S:
            print(json.dumps({"at_s": due_s, "late_s": late_s}), flush=True)


if __name__ == "__main__":
    main()
