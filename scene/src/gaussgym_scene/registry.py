"""Things by name: our own, and those that other packages declare by Python entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

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
        own: ours by name; what is given as `module:attribute` is imported when somebody asks for it.
        expected: class that things of other packages must be of; None takes any.

    Attributes:
        own: ours, and those registered in this process.
    """

    def __init__(
        self, kind: str, group: str, own: Mapping[str, T | str] | None = None, expected: type | None = None
    ) -> None:
        self.kind, self.group = kind, group
        self.own: dict[str, T | str] = dict(own or {})
        self._expected = expected

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers what it decorates, unchanged.

        Raises:
            ValueError: the name is taken.
        """

        def add(thing: T) -> T:
            if self.own.get(name, thing) is not thing:
                raise ValueError(f"{self.kind} {name!r} is registered already, as {self.own[name]!r}")
            self.own[name] = thing
            return thing

        return add

    def get(self, name: str, *, otherwise: str = "") -> T:
        """The thing of a name: one of ours, else that of an entry point.

        Args:
            name: one of `names`.
            otherwise: what else the caller accepts; ends the message about an unknown name.

        Raises:
            InputError: no such name (the message lists those that exist), two packages that claim it, one that does
                not import, or something that is not of the expected class.
        """
        if name in self.own:
            mine = self.own[name]
            return cast("T", EntryPoint(name, mine, self.group).load() if isinstance(mine, str) else mine)
        found = [point for point in entry_points(group=self.group) if point.name == name]
        if not found:
            raise InputError(
                f"unknown {self.kind} {name!r}; choose one of: {', '.join(self.names()) or '(none)'}{otherwise}"
            )
        if len({point.value for point in found}) > 1:
            owners = " and ".join(f"{_package(point)} ({point.value})" for point in found)
            raise InputError(
                f"{self.kind} {name!r} is declared by {owners}; expected one, uninstall the other"
            )
        try:
            thing = found[0].load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{self.kind} {name!r} of package {_package(found[0])} does not import ({found[0].value}: {error}); "
                "mend or uninstall that package"
            ) from error
        if self._expected is not None and not isinstance(thing, self._expected):
            raise InputError(
                f"{self.kind} {name!r} of package {_package(found[0])}: {found[0].value} is a {type(thing).__name__}, "
                f"expected a {self._expected.__name__}"
            )
        return thing

    def names(self) -> list[str]:
        """All names: ours in their order, then those of other packages, sorted."""
        others = {point.name for point in entry_points(group=self.group)}
        return [*self.own, *sorted(others - set(self.own))]


def _package(point: EntryPoint) -> str:
    return "(unknown)" if point.dist is None else str(point.dist.name)
