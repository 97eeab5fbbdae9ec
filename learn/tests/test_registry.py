"""Names of one kind of thing, ours and those of other packages."""

import sys

import pytest
from gaussgym_learn.recipes import RECIPES, get_recipe
from gaussgym_learn.registry import Registry
from gaussgym_scene.errors import InputError

GROUP = "gaussgym.test_things"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs packages as pip leaves them: a module and its metadata with entry points, in a folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(package, code, group, **points):
        (tmp_path / f"{package}.py").write_text(code)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        monkeypatch.delitem(sys.modules, package, raising=False)

    yield put
    for name in [n for n in sys.modules if n.startswith("outside_")]:
        del sys.modules[name]


@pytest.fixture
def things():
    registry = Registry("thing", GROUP)

    @registry.register("ours")
    def ours():
        return 1

    return registry


def test_a_decorated_thing_is_itself(things):
    def two():
        return 2

    assert things.register("two")(two) is two
    assert things.get("two") is two
    assert things.names() == ["ours", "two"]
    assert things.register("two")(two) is two  # again, the same
    with pytest.raises(ValueError, match="thing 'ours' is registered already"):
        things.register("ours")(two)


def test_a_thing_of_another_package(things, install):
    code = (
        "import sys\nsys.outside_was_imported = True\ndef far():\n    return 3\ndef ours():\n    return 4\n"
    )
    install("outside_a", code, GROUP, far="outside_a:far", ours="outside_a:ours")
    assert things.names() == ["far", "ours"]
    assert things.get("ours")() == 1  # what is registered here comes first
    assert not hasattr(sys, "outside_was_imported")
    assert things.get("far")() == 3
    del sys.outside_was_imported


def test_an_unknown_name_lists_all(things, install):
    install("outside_a", "far = 3\n", GROUP, far="outside_a:far")
    with pytest.raises(InputError, match=r"^unknown thing 'near'; choose one of: far, ours$"):
        things.get("near")
    with pytest.raises(InputError, match=r"choose one of: \(none\)$"):
        Registry("thing", "gaussgym.nothing_at_all").get("near")


def test_two_packages_of_one_name(things, install):
    for package in ("outside_a", "outside_b"):
        install(package, "far = 3\n", GROUP, far=f"{package}:far")
    with pytest.raises(
        InputError, match=r"declared by outside_[ab] \(.*\) and outside_[ab] \(.*\); expected one"
    ):
        things.get("far")


@pytest.mark.parametrize(
    ("code", "why"), [("import no_such_module_at_all\n", "no_such_module_at_all"), ("near = 1\n", "far")]
)
def test_a_package_that_does_not_import(things, install, code, why):
    install("outside_a", code, GROUP, far="outside_a:far")
    with pytest.raises(
        InputError, match=rf"thing 'far' of package outside_a does not import .*{why}.*; mend or"
    ):
        things.get("far")


def test_recipes_are_a_registry(install):
    code = (
        "from dataclasses import replace\nfrom gaussgym_learn.recipes import teacher_flat\n"
        "def brisk():\n    return replace(teacher_flat(), name='brisk')\ndef wrong():\n    return 5\n"
    )
    with pytest.raises(
        InputError,
        match=r"^unknown recipe 'brisk'; choose one of: .*distill, .*pixels, .*teacher_flat, teacher_rough",
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
