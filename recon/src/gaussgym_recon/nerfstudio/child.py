"""Runs one of nerfstudio's programs: `python child.py train|exporter ARGUMENTS`, in nerfstudio's interpreter.

As `ns-train` and `ns-export` do, but it ends when its stdin is closed: a parent that is killed takes it along. Standard library
only, as nothing of this package is installed there.
"""

import importlib
import os
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    """Run the program."""
    program = sys.argv.pop(1)
    # Where this file lies are modules of ours whose names others may look for.
    sys.path = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    importlib.import_module(f"nerfstudio.scripts.{program}").entrypoint()


if __name__ == "__main__":
    main()
