"""``--option NAME=VALUE``: what a robot link, a camera or an operator takes, on the command line."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Sequence, Tuple

from ..bundle import BundleError

__all__ = ["LISTS", "link_options", "merged"]

LISTS = ("--option", "--camera-option", "--operator-option", "--sweep", "--links", "--kinds")
"""Options that take any number of words."""


def merged(words: Sequence[str]) -> List[str]:
    """The words with all of a list option's behind its first mention.

    Otherwise tyro, as argparse does, would silently keep the last of several ``--option``s alone.

    Args:
        words: Of the command line.
    """
    lists: Dict[str, List[str]] = {}
    rest: List[str] = []
    filling = rest
    for word in words:
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            filling.append(word)
        elif name in LISTS:
            filling = lists.setdefault(name, [])
            if equals:
                filling.append(value)
                filling = rest
        else:
            filling = rest
            rest.append(word)
    return rest + [word for name, values in lists.items() for word in (name, *values)]


def link_options(pairs: Tuple[str, ...]) -> Dict[str, Any]:
    """Values by name; a value that is JSON (a number, true, null, a list) is what it says, anything else is text.

    Args:
        pairs: ``NAME=VALUE``.

    Raises:
        BundleError: For another form, or a name given twice.
    """
    options: Dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.replace("-", "_")
        if not name or not equals:
            raise BundleError(f"option {pair!r} is not of the form NAME=VALUE")
        if name in options:
            raise BundleError(f"option {name} is given twice: {options[name]} and {value}; give it once")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = os.path.expanduser(value)
    return options
