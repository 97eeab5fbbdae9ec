"""Things by name: our own, and those that other packages declare by Python entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from gaussgym_scene.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing.

    To add one from a package of your own, without a fork, name it in its ``pyproject.toml``::

        [project.entry-points."gaussgym.encoders"]
        mine = "my_package.encoder:MyEncoder"

    Nothing of it is imported until somebody asks for that name. Within a process, `register` does the same.

    Args:
        kind: what the things are called in messages, such as `encoder`.
        group: of the entry points.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._own: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers what it decorates, unchanged.

        Raises:
            ValueError: the name is taken.
        """

        def add(thing: T) -> T:
            if self._own.get(name, thing) is not thing:
                raise ValueError(f"{self.kind} {name!r} is registered already, as {self._own[name]!r}")
            self._own[name] = thing
            return thing

        return add

    def get(self, name: str) -> T:
        """The thing of a name: one registered in this process, else that of an entry point.

        Raises:
            InputError: no such name (the message lists those that exist), two packages that claim it, or one that
                does not import.
        """
        if name in self._own:
            return self._own[name]
        found = [point for point in entry_points(group=self.group) if point.name == name]
        if not found:
            raise InputError(
                f"unknown {self.kind} {name!r}; choose one of: {', '.join(self.names()) or '(none)'}"
            )
        if len({point.value for point in found}) > 1:
            owners = " and ".join(f"{_package(point)} ({point.value})" for point in found)
            raise InputError(
                f"{self.kind} {name!r} is declared by {owners}; expected one, uninstall the other"
            )
        try:
            return found[0].load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{self.kind} {name!r} of package {_package(found[0])} does not import ({found[0].value}: {error}); "
                "mend or uninstall that package"
            ) from error

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._own, *(point.name for point in entry_points(group=self.group))})


def _package(point: EntryPoint) -> str:
    return "(unknown)" if point.dist is None else str(point.dist.name)
