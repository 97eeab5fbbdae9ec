"""Settings of a recipe by dotted name, such as `ppo.learning_rate`: to set, and to search."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaussgym_scene.errors import InputError

from gaussgym_learn.recipes import Recipe

_RANGE = re.compile(r"(log:)?([^,]+?)\.\.([^,]+)")


def get_setting(recipe: Recipe, name: str) -> Any:
    """The value of a setting.

    Raises:
        InputError: no such setting; the message lists those at its place.
    """
    found: Any = recipe
    for depth, part in enumerate(name.split(".")):
        names = [field.name for field in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
        if part not in names:
            raise InputError(_unknown(name, ".".join(name.split(".")[:depth]), part, names))
        found = getattr(found, part)
    if dataclasses.is_dataclass(found):
        names = ", ".join(f"{name}.{field.name}" for field in dataclasses.fields(found))
        raise InputError(f"setting {name!r} holds others, expected one of them: {names}")
    return found


def _unknown(name: str, place: str, part: str, names: Sequence[str]) -> str:
    where = f"{place!r} has" if place else "a recipe has"
    near = difflib.get_close_matches(part, names, 1, 0.5)
    prefix = f"{place}." if place else ""
    hint = f", perhaps {prefix}{near[0]}" if near else ""
    return f"unknown setting {name!r}{hint}; {where}: {', '.join(names) or 'no settings'}"


def parse_value(text: str, current: Any, name: str) -> Any:
    """A value in words, of the kind of the current one; several numbers of one setting are joined by ``x``, such as 256x128.

    Raises:
        InputError: of another kind.
    """
    text = text.strip()
    if text == "none" and (current is None or isinstance(current, str)):
        return None
    try:
        if isinstance(current, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(current, int):
            if not float(text).is_integer():
                raise ValueError(text)
            return int(float(text))
        if isinstance(current, float):
            value = float(text)
            if not math.isfinite(value):
                raise ValueError(text)
            return value
        if isinstance(current, tuple):
            kind = type(current[0]) if current else int
            return tuple(kind(item) for item in text.split("x"))
    except (KeyError, ValueError, OverflowError):
        kind = type(current).__name__
        shown = "x".join(map(str, current)) if isinstance(current, tuple) else current
        raise InputError(
            f"setting {name}: found {text!r}, expected a value of kind {kind} such as {shown}"
        ) from None
    if current is None:
        return _guessed(text)
    if not isinstance(current, str):
        raise InputError(f"setting {name}: a {type(current).__name__} cannot be given in words")
    return text


def _guessed(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def worded(value: Any) -> Any:
    """A value as `parse_value` takes it, and JSON."""
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else value


def with_settings(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with some settings replaced.

    Raises:
        InputError: no such setting.
    """
    for name, value in values.items():
        get_setting(recipe, name)
        recipe = _replaced(recipe, name.split("."), value)
    return recipe


def _replaced(cfg: Any, path: Sequence[str], value: Any) -> Any:
    inner = value if len(path) == 1 else _replaced(getattr(cfg, path[0]), path[1:], value)
    return dataclasses.replace(cfg, **{path[0]: inner})


def settings_of(recipe: Recipe, texts: Sequence[str]) -> dict[str, Any]:
    """Values from words such as ``ppo.learning_rate=3e-4``.

    Raises:
        InputError: not of this form, no such setting, a value of another kind, or one twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise InputError(f"setting {text!r}, expected name=value, such as ppo.learning_rate=3e-4")
        if name in values:
            raise InputError(f"setting {name} is given twice")
        values[name] = parse_value(value, get_setting(recipe, name), name)
    return values


@dataclass(frozen=True)
class Search:
    """What to try for a setting.

    Attributes:
        name: of the setting.
        choices: values to choose from, or None.
        low: least value of a range.
        high: greatest.
        log: whether to draw its logarithm evenly.
        whole: whether its values are whole numbers.
    """

    name: str
    choices: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False


def parse_search(recipe: Recipe, text: str) -> Search:
    """What to try, from words: ``name=a..b``, ``name=log:a..b`` or ``name=a,b,c``.

    Raises:
        InputError: not of this form, no such setting, or a range that cannot be.
    """
    name, _, values = text.partition("=")
    if not name or not values:
        raise InputError(f"parameter {text!r}, expected name=low..high, name=log:low..high or name=a,b,c")
    current = get_setting(recipe, name)
    found = _RANGE.fullmatch(values)
    if found is None:
        choices = tuple(parse_value(item, current, name) for item in values.split(","))
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise InputError(f"parameter {text!r}: expected at least two different values to choose from")
        return Search(name, choices)
    if isinstance(current, bool) or not isinstance(current, int | float):
        raise InputError(
            f"parameter {text!r}: a range is for numbers, {name} is {current!r}; give values, such as {name}=a,b"
        )
    low, high = (parse_value(found[group], current, name) for group in (2, 3))
    if low >= high or (found[1] and low <= 0):
        least = "0 < low < high" if found[1] else "low < high"
        raise InputError(f"parameter {text!r}: found {low}..{high}, expected {least}")
    return Search(name, None, low, high, bool(found[1]), isinstance(current, int))


def parse_searches(recipe: Recipe, texts: Sequence[str]) -> list[Search]:
    """See `parse_search`.

    Raises:
        InputError: nothing to search, or a setting twice.
    """
    if not texts:
        raise InputError(
            "found no parameter to search; add --param ppo.learning_rate=log:1e-4..1e-2 or the like"
        )
    searches = [parse_search(recipe, text) for text in texts]
    names = [search.name for search in searches]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"parameter {twice[0]} is given twice")
    return searches
