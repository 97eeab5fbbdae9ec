"""Which of many scenes training runs on: a few at a time, exchanged one by one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gaussgym_render.arrays import version_of
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.ground.terrain import ground_of

from gaussgym_learn.distributed import World
from gaussgym_learn.frontier import Frontier, FrontierCfg

AHEAD = 2
"""Scenes that are read before their turn."""


@dataclass(frozen=True)
class ScenesCfg:
    """How many scenes are held at a time.

    Attributes:
        memory_gb: Most that the renderer's scenes may take in memory [GB]; None: all are in memory.
        cache: Folder for the renderer's packed scenes; None: the user's cache folder.
        at_once: Scenes in the simulator at a time; None: all.
        rotate_every: Updates after which the scene that has been there longest gives way to the next.
        weights: How often each scene is used, relative to the others; None: all alike.
        frontier: Use scenes at the edge of what is mastered more often; None: by their weights alone.
    """

    memory_gb: float | None = None
    cache: Path | None = None
    at_once: int | None = None
    rotate_every: int = 10
    weights: tuple[float, ...] | None = None
    frontier: FrontierCfg | None = None

    def shared(self, world: World) -> ScenesCfg:
        """The same for one process's part of the scenes."""
        return self if self.weights is None else replace(self, weights=tuple(world.part_of(self.weights)))

    @property
    def draws(self) -> bool:
        """Whether scenes are drawn, not taken in turn."""
        return self.weights is not None or self.frontier is not None


class SceneRotation:
    """Turns of scenes: a seeded shuffle, round and round, over a fixed number of slots.

    The scene at position p of the sequence goes into slot `p mod slots`, so that how many were exchanged says everything.

    Args:
        sources: All scenes, or folders of theirs, which are read when their turn comes.
        slots: How many are in use at a time.
        every_steps: Environment steps between exchanges.
        seed: Of the shuffle.

    Raises:
        InputError: More slots than scenes, or no slot or step.
    """

    def __init__(
        self, sources: Sequence[Scene | Path | str], slots: int, *, every_steps: int, seed: int
    ) -> None:
        if not 1 <= slots <= len(sources):
            raise InputError(f"{slots} scenes at once of {len(sources)} scenes; expected 1 to {len(sources)}")
        if every_steps < 1:
            raise InputError(f"scenes are exchanged every {every_steps} steps, expected at least 1")
        self.slots, self.every_steps = slots, every_steps
        self._sources = [source if isinstance(source, Scene) else Path(source) for source in sources]
        self._shuffle(seed)
        self._exchanged = self._steps = 0
        self._opened: dict[int, Future[Scene]] = {}
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="rotation")

    def _shuffle(self, seed: int) -> None:
        self._seed = seed
        order = torch.randperm(len(self._sources), generator=torch.Generator().manual_seed(seed))
        self._order: list[int] = order.tolist()

    def _at(self, position: int) -> int:
        return self._order[position % len(self._order)]

    @property
    def active(self) -> list[int]:
        """Number of the scene in each slot."""
        first = self._exchanged
        positions = range(first, first + self.slots)
        return [self._at(p) for p in sorted(positions, key=lambda p: p % self.slots)]

    @property
    def coming(self) -> list[int]:
        """Numbers of the scenes whose turn is next; none where all have a slot."""
        if self.slots == len(self._order):
            return []
        last = self._exchanged + self.slots
        return [self._at(p) for p in range(last, last + AHEAD)]

    def advance(self) -> tuple[int, int] | None:
        """Count an environment step that is about to begin.

        Returns:
            A slot and the number of the scene that must now go there, or None.
        """
        due = self._steps == self.every_steps and self.slots < len(self._order)
        if not due:
            self._steps = min(self._steps + 1, self.every_steps)
            return None
        slot = self._exchanged % self.slots
        self._steps = 1
        self._next_turn()
        return slot, self.active[slot]

    def _next_turn(self) -> None:
        self._exchanged += 1

    def scene(self, number: int) -> Scene:
        """Scene `number`, read ahead by `read_ahead` or now; its files' sizes are checked, its arrays carry checksums."""
        future = self._opened.pop(number, None)
        return self._open(number) if future is None else future.result()

    def read_ahead(self) -> None:
        """Start reading the scenes whose turn is next."""
        for number in self.coming:
            if number not in self._opened:
                self._opened[number] = self._opener.submit(self._open, number)

    def _open(self, number: int) -> Scene:
        source = self._sources[number]
        scene = source if isinstance(source, Scene) else Scene.load(source, verify=False)
        _ = scene.heightfield, scene.paths  # read here, not within a step, and so is what physics makes of it
        ground_of(scene)
        return scene

    def state(self) -> torch.Tensor:
        """What a checkpoint keeps, int64 `[5]` or more."""
        return torch.tensor([self._exchanged, self._steps, self._seed, len(self._order), self.slots])

    def load_state(self, state: torch.Tensor) -> None:
        """Go on where `state` was taken.

        Raises:
            InputError: It is of another number of scenes or slots.
        """
        exchanged, steps, seed, count, slots = state[:5].tolist()
        drawn, draws = len(state) > 5, len(self.state()) > 5
        if drawn != draws:
            ways = {True: "drawn by weight or success", False: "taken in turn"}
            raise InputError(
                f"the checkpoint's scenes are {ways[drawn]}, this run's {ways[draws]}; give the same options"
            )
        if (count, slots) != (len(self._order), self.slots):
            raise InputError(
                f"the checkpoint rotates {count} scenes, {slots} at once; this run has {len(self._order)}, "
                f"{self.slots} at once; give the same scenes"
            )
        self._shuffle(seed)
        self._exchanged, self._steps = exchanged, min(steps, self.every_steps)
        self._opened.clear()


class DrawnRotation(SceneRotation):
    """Turns of scenes that are drawn by a `Frontier`, each `AHEAD` turns before its own; none is in two slots at once.

    Draw p of a run depends on its seed, on p, and on the frontier as it is then, so that the coming scenes and the frontier's
    state are all that a checkpoint needs.

    Args:
        sources: See `SceneRotation`.
        slots: See there.
        every_steps: See there.
        seed: Of the draws.
        frontier: Of these scenes, in their order; whoever owns it keeps its state.

    Raises:
        InputError: See there.
    """

    def __init__(
        self,
        sources: Sequence[Scene | Path | str],
        slots: int,
        *,
        every_steps: int,
        seed: int,
        frontier: Frontier,
    ) -> None:
        self._frontier = frontier
        super().__init__(sources, slots, every_steps=every_steps, seed=seed)
        self._drawn: list[int] = []
        self._draw_ahead()

    def _draw_ahead(self) -> None:
        """Draw until all turns up to the last that is read ahead are known."""
        ahead = AHEAD if self.slots < len(self._order) else 0
        while len(self._drawn) < self.slots + ahead:
            self._drawn.append(self._draw(self._exchanged + len(self._drawn)))

    def _draw(self, position: int) -> int:
        room = len(self._order) - 1
        excluded = self._drawn[-min(self.slots, room) :] if self._drawn and room else []
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + position)
        number = torch.rand(1, generator=generator, dtype=torch.float64)
        return int(self._frontier.draw(number, excluded))

    def _at(self, position: int) -> int:
        return self._drawn[position - self._exchanged]

    def _next_turn(self) -> None:
        super()._next_turn()
        del self._drawn[0]
        self._draw_ahead()

    def state(self) -> torch.Tensor:
        """See `SceneRotation.state`; then the scenes of all turns that are known."""
        return torch.cat((super().state(), torch.tensor(self._drawn)))

    def load_state(self, state: torch.Tensor) -> None:
        """See `SceneRotation.load_state`."""
        super().load_state(state)
        self._drawn = state[5:].tolist()


class SlotRenderer:
    """A renderer whose cameras name slots: which scene each shows is looked up in a table.

    Args:
        renderer: Of all scenes.
        place: The renderer's number of each scene (a scene that is listed twice is rendered from one).
        shown: Scene of each slot, `[slots]`.
    """

    def __init__(self, renderer: Any, place: Sequence[int], shown: Sequence[int]) -> None:
        self._renderer, self._place = renderer, place
        self._shown = torch.tensor([place[scene] for scene in shown])
        self.takes_motion = bool(getattr(renderer, "takes_motion", False))
        self._last: tuple[Any, ...] = (None, None, None)

    def stays_on(self, device: torch.device) -> bool:
        """See `gaussgym_sim.sensors.camera.CameraRenderer`."""
        return hasattr(self._renderer, "stays_on") and self._renderer.stays_on(device)

    def show(self, slot: int, scene: int) -> None:
        """Another scene comes into a slot."""
        self._shown[slot] = self._place[scene]

    def render(self, c2w: Any, K: Any, scene_ids: Any, **options: Any) -> Any:
        """See `gaussgym_render.SplatRenderer.render`."""
        return self._renderer.render(c2w, K, self._scenes(scene_ids), **options)

    def _scenes(self, slots: torch.Tensor) -> torch.Tensor:
        """Scenes of slots `[C]`; the very tensor of the last call while nothing has changed, so that nobody looks at it again."""
        versions = version_of(slots), version_of(self._shown)
        if None in versions or self._last[0] is not slots or self._last[1] != versions:
            with torch.inference_mode(False):  # else nobody could tell whether it has changed
                self._last = slots, versions, self._shown.to(slots.device)[slots]
        return self._last[2]

    def prefetch(self, scenes: Sequence[int]) -> None:
        """Start reading scenes that slots will show."""
        self._renderer.prefetch([self._place[scene] for scene in scenes])


def slot_renderer(renderer: Any) -> SlotRenderer | None:
    """The `SlotRenderer` behind what else a renderer does (such as drawing robots), None if there is none."""
    while renderer is not None and not isinstance(renderer, SlotRenderer):
        renderer = getattr(renderer, "_renderer", None)
    return renderer
