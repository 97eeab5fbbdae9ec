"""The manifest's schema: valid itself, and our validator gives the verdicts of the reference implementation."""

import copy
import json
import random

import pytest
from gaussgym_deploy.bundle.schema import KEYWORDS, first_problem, load_schema
from gaussgym_deploy.testing import make_bundle
from jsonschema import Draft202012Validator

SCHEMA = load_schema()
REFERENCE = Draft202012Validator(SCHEMA)
ODD = [
    None, True, False, 0, -1, 1, 1.0, 2.5, -0.5, 1e300, "", "a", "policy.onnx", "../x", [], [1], [0.5, -0.5], ["a", "a"], [[1, 2]],
    {}, {"a": 1}, {"layers": 1, "hidden": 2}, {"layers": 1, "hidden": 2, "more": 3}, {"bytes": 1, "sha256": "0" * 64},
    [{"name": "command", "size": 3, "scale": [1, 2, 3]}], [{"name": "command", "size": 3.0, "scale": 1, "clip": 0}],
]  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["vision", "blind"])
def manifest(request, tmp_path_factory):
    directory = make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=4, vision=request.param)
    return json.loads((directory / "policy.json").read_text())


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == 1
    assert SCHEMA["$id"] == "urn:gaussgym:policy:1"


def test_what_is_written_follows_it(manifest):
    REFERENCE.validate(manifest)
    assert first_problem(manifest, SCHEMA) is None


def test_every_property_that_is_written_is_described(manifest):
    assert set(manifest) <= set(SCHEMA["properties"])
    assert set(SCHEMA["required"]) <= set(manifest)


def places(value, at=()):
    """Paths of everything inside a JSON value."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*at, key))


def spoiled(manifest, generator):
    """The manifest with one to three places removed, replaced or added to."""
    value = copy.deepcopy(manifest)
    for _ in range(generator.randint(1, 3)):
        path = generator.choice([path for path in places(value) if path])
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        action = generator.random()
        if action < 0.2:
            del parent[path[-1]]
        elif action < 0.3 and isinstance(parent, dict):
            parent[generator.choice(["extra", "clip", "a/../b", "x.onnx"])] = generator.choice(ODD)
        elif action < 0.4 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[0]))
        else:
            parent[path[-1]] = copy.deepcopy(generator.choice(ODD))
    return value


def test_verdicts_equal_the_reference_on_spoiled_manifests(manifest):
    generator, verdicts = random.Random(0), []
    for _ in range(1500):
        value = spoiled(manifest, generator)
        found = first_problem(value, SCHEMA)
        assert (found is None) == REFERENCE.is_valid(value), (found, REFERENCE.is_valid(value))
        verdicts.append(found is None)
    assert 50 < sum(verdicts) < 1450  # both verdicts are met


def test_problems_name_the_place():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "integer", "minimum": 2}}},
    }
    problem = first_problem({"a": [2, 1]}, schema)
    assert problem is not None
    assert (problem.where, problem.found, problem.expected) == ("a[1]", 1, "a number >= 2")
    missing = first_problem({}, {"required": ["b"]})
    assert missing is not None
    assert (missing.where, missing.missing) == ("b", True)


def test_an_unknown_keyword_is_not_passed_over():
    with pytest.raises(KeyError, match="oneOf"):
        first_problem(1, {"oneOf": []})
    used = set()

    def collect(schema):
        for key, value in schema.items() if isinstance(schema, dict) else ():
            used.add(key)
            if key in ("properties", "$defs"):
                for inner in value.values():
                    collect(inner)
            elif key == "anyOf":
                for inner in value:
                    collect(inner)
            elif key in ("items", "additionalProperties", "propertyNames"):
                collect(value)

    collect(SCHEMA)
    assert used <= set(KEYWORDS)
