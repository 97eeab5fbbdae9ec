"""Numbers that change over a run, written as text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gaussgym_scene.errors import InputError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PART = re.compile(
    rf"\s*({_NUMBER})\s*(?:->\s*({_NUMBER})\s*)?(?:@\s*({_NUMBER}?)\s*(?:\.\.\s*({_NUMBER}))?)?\s*"
)
_FORMS = "0.5 (constant), 1->0@0.15 (linear, 0 from 15 % of the run on), 0->1@0.5..0.7, or steps such as 0, 1@0.6, 0.5@0.8"


@dataclass(frozen=True)
class Schedule:
    """A piecewise linear function of the run's progress.

    Attributes:
        knots: (progress, value), progress not falling; two at one progress are a jump, whose second value holds there.
    """

    knots: tuple[tuple[float, float], ...]

    @staticmethod
    def parse(text: str | float) -> Schedule:
        """From text: parts with commas between them, each in force from its progress on.

        `V` is a constant, `V@P` steps to V at P, `A->B@P` is linear from A at the start of the run to B at P, `A->B@P..Q` from
        A at P to B at Q.

        Raises:
            InputError: not of this form, or parts that are not in order within 0..1.
        """
        knots: list[tuple[float, float]] = []
        for number, part in enumerate(str(text).split(",")):
            match = _PART.fullmatch(part)
            if match is None:
                raise InputError(f"schedule {text!r}: {part.strip()!r} is not understood; expected {_FORMS}")
            knots += _knots(text, number, *match.groups(), before=knots)
        places = [progress for progress, _ in knots]
        if places != sorted(places) or places[0] < 0.0 or places[-1] > 1.0:
            raise InputError(
                f"schedule {text!r}: progress {places} is not in order within 0..1; expected {_FORMS}"
            )
        return Schedule(tuple(knots))

    def value(self, progress: float) -> float:
        """The value at a progress of 0..1."""
        past = [i for i, (place, _) in enumerate(self.knots) if place <= progress]
        if not past:
            return self.knots[0][1]
        first, before = self.knots[past[-1]]
        if past[-1] + 1 == len(self.knots):
            return before
        last, after = self.knots[past[-1] + 1]
        return before + (after - before) * (progress - first) / (last - first)

    @property
    def highest(self) -> float:
        """The greatest value it takes."""
        return max(value for _, value in self.knots)


def _knots(
    text: str | float,
    number: int,
    value: str,
    target: str | None,
    place: str | None,
    end: str | None,
    *,
    before: list[tuple[float, float]],
) -> list[tuple[float, float]]:
    """The knots of one part."""
    if target is None:
        if (place is None) != (number == 0) or end is not None:
            raise InputError(f"schedule {text!r}: steps are V, then V@P; expected {_FORMS}")
        step = (0.0 if place is None else float(place), float(value))
        return [step] if not before else [(step[0], before[-1][1]), step]
    if not place:
        raise InputError(
            f"schedule {text!r}: {value}->{target} without @ and where it ends; expected {_FORMS}"
        )
    first, last = (0.0, float(place)) if end is None else (float(place), float(end))
    hold = [] if not before else [(first, before[-1][1])]
    return [*hold, (first, float(value)), (last, float(target))]


@dataclass(frozen=True)
class Objective:
    """What counts in an update.

    Attributes:
        ppo: weight of PPO's loss.
        imitation: weight of the losses against the teacher.
        beta: probability that the teacher acts.
        critic_only: only the critic learns (warm-up before PPO).
    """

    ppo: float = 1.0
    imitation: float = 0.0
    beta: float = 0.0
    critic_only: bool = False

    @property
    def explores(self) -> bool:
        """Whether the actor acts by its own distribution, with what PPO and the critic need recorded."""
        return self.ppo > 0.0 or self.critic_only
