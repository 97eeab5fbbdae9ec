"""The manifest's JSON Schema, and a validator that knows as much of JSON Schema (draft 2020-12) as it uses.

The robot's computer has no ``jsonschema``; a test holds this validator's verdicts equal to that library's.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional

__all__ = ["SCHEMA_FILE", "Problem", "first_problem", "load_schema"]

SCHEMA_FILE = Path(__file__).with_name("policy.schema.json")


class Problem(NamedTuple):
    """Where a value departs from its schema.

    Attributes:
        where: Path of the value, ``observation[0].size``; empty for the whole.
        found: The value; None where something is missing.
        expected: What the schema asks for, in words.
        missing: Whether ``where`` is not there at all.
    """

    where: str
    found: Any
    expected: str
    missing: bool = False


def load_schema() -> Dict[str, Any]:
    """The schema of ``policy.json``."""
    with open(str(SCHEMA_FILE), encoding="utf-8") as file:
        return json.load(file)


def first_problem(
    value: Any, schema: Any, *, root: Optional[Mapping[str, Any]] = None, where: str = ""
) -> Optional[Problem]:
    """The first way in which a JSON value departs from a schema.

    Args:
        value: As ``json.load`` gives it.
        schema: An object with the keywords of :data:`KEYWORDS`, or a boolean.
        root: The schema that ``$ref`` points into; default: ``schema``.
        where: Path of ``value``, for the problem.

    Returns:
        The problem, or None.

    Raises:
        KeyError: For a keyword that this validator does not know: better than to pass what it does not understand.
    """
    whole: Any = schema if root is None else root
    if isinstance(schema, bool):
        return None if schema else Problem(where, value, "nothing by this name")
    if "$ref" in schema:
        named = schema["$ref"].rpartition("/")[2]
        problem = first_problem(value, whole["$defs"][named], root=whole, where=where)
        if problem is not None:
            return problem
    for keyword, argument in schema.items():
        problem = KEYWORDS[keyword](value, argument, schema, whole, where)
        if problem is not None:
            return problem
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    """JSON Schema counts 3.0 as an integer."""
    return _is_number(value) and math.isfinite(value) and value == int(value)


_TYPES: Dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": _is_integer,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
_WORDS = {
    "object": "an object", "array": "a list", "string": "text", "number": "a number", "integer": "a whole number",
    "boolean": "true or false", "null": "null",
}  # fmt: skip


def _type(value: Any, names: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
    names = [names] if isinstance(names, str) else names
    if any(_TYPES[name](value) for name in names):
        return None
    return Problem(where, value, " or ".join(_WORDS[name] for name in names))


def _const(value: Any, argument: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
    same = value == argument and isinstance(value, bool) == isinstance(argument, bool)
    return None if same else Problem(where, value, repr(argument))


def _required(value: Any, names: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
    if isinstance(value, dict):
        for name in names:
            if name not in value:
                return Problem(_inside(where, name), None, "to be there", missing=True)
    return None


def _properties(value: Any, schemas: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
    if isinstance(value, dict):
        for name, inner in schemas.items():
            if name in value:
                problem = first_problem(value[name], inner, root=root, where=_inside(where, name))
                if problem is not None:
                    return problem
    return None


def _additional(value: Any, inner: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
    if isinstance(value, dict):
        for name in value:
            if name not in schema.get("properties", {}):
                problem = first_problem(value[name], inner, root=root, where=_inside(where, name))
                if problem is not None:
                    return problem
    return None


def _names(value: Any, inner: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
    if isinstance(value, dict):
        for name in value:
            problem = first_problem(name, inner, root=root, where=_inside(where, name))
            if problem is not None:
                return Problem(problem.where, name, problem.expected)
    return None


def _items(value: Any, inner: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            problem = first_problem(item, inner, root=root, where=f"{where}[{index}]")
            if problem is not None:
                return problem
    return None


def _count(kind: Any, least: bool, what: str) -> Callable[..., Optional[Problem]]:
    def check(value: Any, limit: int, schema: Any, root: Any, where: str) -> Optional[Problem]:
        if not isinstance(value, kind) or (len(value) >= limit if least else len(value) <= limit):
            return None
        return Problem(where, value, f"{'at least' if least else 'at most'} {limit} {what}")

    return check


def _unique(value: Any, wanted: bool, schema: Any, root: Any, where: str) -> Optional[Problem]:
    if not wanted or not isinstance(value, list):
        return None
    seen: List[str] = [json.dumps(item, sort_keys=True) for item in value]
    return (
        None if len(set(seen)) == len(seen) else Problem(where, value, "entries that differ from each other")
    )


def _limit(holds: Callable[[Any, Any], bool], words: str) -> Callable[..., Optional[Problem]]:
    def check(value: Any, limit: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
        if not _is_number(value) or holds(value, limit):
            return None
        return Problem(where, value, f"a number {words} {limit:g}")

    return check


def _pattern(value: Any, pattern: str, schema: Any, root: Any, where: str) -> Optional[Problem]:
    if not isinstance(value, str) or re.search(pattern, value):
        return None
    return Problem(where, value, schema.get("description", f"text like {pattern}"))


def _any_of(value: Any, schemas: Any, schema: Any, root: Any, where: str) -> Optional[Problem]:
    problems = [first_problem(value, inner, root=root, where=where) for inner in schemas]
    if any(problem is None for problem in problems):
        return None
    # The alternative that fits best is the one whose problem lies deepest inside the value.
    inside = [problem for problem in problems if problem is not None and problem.where != where]
    if inside:
        return inside[0]
    return Problem(where, value, " or ".join(problem.expected for problem in problems if problem is not None))


def _nothing(*_: Any) -> Optional[Problem]:
    return None


KEYWORDS: Dict[str, Callable[..., Optional[Problem]]] = {
    "type": _type, "const": _const, "required": _required, "properties": _properties, "propertyNames": _names,
    "additionalProperties": _additional, "items": _items, "uniqueItems": _unique, "pattern": _pattern, "anyOf": _any_of,
    "minItems": _count(list, True, "entries"), "maxItems": _count(list, False, "entries"),
    "minLength": _count(str, True, "character"),
    "minimum": _limit(lambda value, limit: value >= limit, ">="), "maximum": _limit(lambda value, limit: value <= limit, "<="),
    "exclusiveMinimum": _limit(lambda value, limit: value > limit, ">"),
    **{name: _nothing for name in ("$ref", "$defs", "$id", "$schema", "title", "description", "default")},
}  # fmt: skip
"""What each keyword that the schema uses means: (value, the keyword's argument, its schema, root, where) to a problem."""


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
