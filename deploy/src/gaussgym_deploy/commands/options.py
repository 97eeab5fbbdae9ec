"""``--option NAME=VALUE``: what a robot link, a camera or an operator takes, on the command line."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Tuple

import tyro
from typing_extensions import Annotated  # tyro's own need; typing has it from Python 3.9 on

from ..bundle import BundleError

__all__ = ["NamedValues", "Words", "link_options", "listed"]

# Without it tyro, like argparse, silently keeps the last of several `--option`s alone.
Words = Annotated[Tuple[Tuple[str, ...], ...], tyro.conf.UseAppendAction]
"""Words of an option that may be given several times, with one or more words each time."""
NamedValues = Words
"""Words of the form NAME=VALUE."""


def listed(words: Tuple[Tuple[str, ...], ...]) -> Tuple[str, ...]:
    """All words, in the order given."""
    return tuple(word for given in words for word in given)


def link_options(words: Tuple[Tuple[str, ...], ...]) -> Dict[str, Any]:
    """Values by name; a value that is JSON (a number, true, null, a list) is what it says, anything else is text.

    Args:
        words: ``NAME=VALUE``.

    Raises:
        BundleError: For another form, or a name given twice.
    """
    options: Dict[str, Any] = {}
    for pair in listed(words):
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
