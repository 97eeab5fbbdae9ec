"""Recipes of other packages."""

import sys

import pytest
from gaussgym_learn.recipes import RECIPES, get_recipe
from gaussgym_scene.errors import InputError
from gaussgym_scene.testing import install_package


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs packages in a folder on the path; their modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda *words, **points: install_package(tmp_path, *words, **points)
    for name in [n for n in sys.modules if n.startswith("outside_")]:
        del sys.modules[name]


def test_recipes_are_a_registry(install):
    code = (
        "from dataclasses import replace\nfrom gaussgym_learn.recipes import teacher_flat\n"
        "def brisk():\n    return replace(teacher_flat(), name='brisk')\ndef wrong():\n    return 5\n"
    )
    with pytest.raises(
        InputError,
        match=r"^unknown recipe 'brisk'; choose one of: velocity, teacher_flat, teacher_rough, .*distill, pixels",
    ):
        get_recipe("brisk")
    install("outside_a", code, RECIPES.group, brisk="outside_a:brisk", wrong="outside_a:wrong")
    assert get_recipe("brisk").name == "brisk"
    assert get_recipe("brisk").clearance == get_recipe("teacher_flat").clearance
    assert "brisk" in RECIPES.names()
    with pytest.raises(
        InputError, match="recipe 'wrong': found a function that returns int, expected a Recipe"
    ):
        get_recipe("wrong")
