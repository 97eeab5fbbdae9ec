"""Names of one kind of thing, ours and those of other packages."""

import sys

import pytest
from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry
from gaussgym_scene.testing import install_package

GROUP = "gaussgym.test_things"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs packages in a folder on the path; their modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda *words, **points: install_package(tmp_path, *words, **points)
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
    assert things.names() == ["ours", "far"]
    assert things.get("ours")() == 1  # what is registered here comes first
    assert not hasattr(sys, "outside_was_imported")
    assert things.get("far")() == 3
    del sys.outside_was_imported


def test_an_unknown_name_lists_all(things, install):
    install("outside_a", "far = 3\n", GROUP, far="outside_a:far")
    with pytest.raises(InputError, match=r"^unknown thing 'near'; choose one of: ours, far$"):
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


def test_our_own_are_imported_when_asked_for(install):
    install("outside_a", "far = 3\n", "gaussgym.nothing_at_all")
    registry = Registry("thing", GROUP, {"near": "outside_a:far"})
    assert "outside_a" not in sys.modules
    assert registry.get("near") == 3
    with pytest.raises(InputError, match=r"choose one of: near, or nothing$"):
        registry.get("far", otherwise=", or nothing")


def test_things_of_another_class_are_refused(install):
    install("outside_a", "far = 3\n", GROUP, far="outside_a:far")
    registry = Registry("thing", GROUP, expected=str)
    with pytest.raises(
        InputError, match="thing 'far' of package outside_a: outside_a:far is a int, expected a str"
    ):
        registry.get("far")
