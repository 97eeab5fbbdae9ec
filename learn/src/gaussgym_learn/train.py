"""PPO training of a recipe: time-boxed, resumable, quiet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gaussgym_scene.errors import InputError

from gaussgym_learn.checkpoint import check_compatible, check_same_run, load_checkpoint
from gaussgym_learn.distributed import World
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.models import image_groups
from gaussgym_learn.ppo_trainer import ALGORITHMS
from gaussgym_learn.recipes import Recipe
from gaussgym_learn.resume import process_seed
from gaussgym_learn.rotation import ScenesCfg
from gaussgym_learn.run import Budget, clear_run, open_run, own_part, run_fields, run_training


def train(
    recipe: Recipe,
    scenes: Any,
    out: Path | str,
    *,
    minutes: float | None = None,
    iterations: int | None = None,
    init_from: Path | str | None = None,
    resume: bool = False,
    seed: int = 0,
    robot: str = "go1",
    sim: str = "mujoco",
    renderer: str | None = "auto",
    save_minutes: float = 2.0,
    save_iterations: int | None = None,
    wandb: bool = False,
    wandb_group: str | None = None,
    memory: ScenesCfg | None = None,
    progress: bool = False,
    on_iteration: Callable[[Any, dict[str, float]], None] | None = None,
    make: Callable[[], LearnEnv] | None = None,
    lod: Sequence[Path | str] | None = None,
    threads: int | None = None,
) -> Path:
    """Train a recipe with PPO.

    Args:
        recipe: see `gaussgym_learn.recipes`.
        scenes: `Scene`s, or folders of scenes.
        out: run folder; `checkpoint.json`, `model_<iteration>.pt`, `curve.jsonl` and TensorBoard files go there.
        minutes: stop after this much training time, of all resumed parts together [min].
        iterations: stop after this many updates in all.
        init_from: checkpoint to warm-start the networks from.
        resume: go on from the checkpoint in `out` if there is one.
        seed: of everything random.
        robot: registry name.
        sim: physics backend.
        renderer: backend of the camera, for recipes that see; None for none.
        save_minutes: time between checkpoints [min].
        save_iterations: updates between checkpoints, instead of `save_minutes`.
        wandb: also log to Weights & Biases (offline-safe).
        wandb_group: group of its runs there.
        memory: which scenes are held at a time, and how they take turns; None: all of them.
        progress: show a progress bar on stderr.
        on_iteration: called after every update with the trainer and its scalars.
        make: makes the environment instead of `make_env` (tests, own tasks).
        lod: folders of levels of detail to render instead of the scenes, see `gaussgym_learn.env.make_env`.
        threads: of physics and rendering, in each process; None: as many as there are CPUs for it.

    Returns:
        The path of `checkpoint.json`.

    Raises:
        InputError: nothing to bound the run, or a checkpoint that does not fit.
        StageError: training diverged; the last checkpoint is kept.
    """
    if minutes is None and iterations is None:
        raise InputError("training is unbounded: give minutes or iterations")
    with open_run(out, resume=resume) as run:
        world, previous = run.world, run.previous
        initial = load_checkpoint(init_from) if init_from is not None and previous is None else None
        if previous is not None:
            check_same_run(previous, recipe.to_dict())
        env = (
            make()
            if make
            else _make_env(recipe, scenes, robot, sim, renderer, seed, lod, memory, world, threads)
        )
        new = recipe if previous is None and initial is None else recipe.without_weights()
        trainer = ALGORITHMS.get(recipe.algorithm)(new, env, seed=seed, world=world)
        if previous is not None:
            previous = own_part(previous, world, env.num_envs)
        for checkpoint, action in ((initial, trainer.warm_start), (previous, trainer.restore)):
            if checkpoint is not None:
                check_compatible(
                    checkpoint, robot=env.robot, layout=env.layout, groups=recipe.network.actor_groups
                )
                action(checkpoint)
        if previous is None and world.writes:
            clear_run(run.out)
        fields = run_fields(recipe, env, seed=seed, init_from=initial, lod=lod)
        if previous is not None:
            fields["initialized_from"] = previous.fields.get("initialized_from")
        return run_training(
            trainer,
            run,
            fields,
            Budget(minutes, iterations, save_minutes, save_iterations, run.elapsed_s),
            wandb=wandb,
            group=wandb_group,
            progress=progress,
            on_iteration=on_iteration,
        )


def _make_env(
    recipe: Recipe,
    scenes: Any,
    robot: str,
    sim: str,
    renderer: str | None,
    seed: int,
    lod: Sequence[Path | str] | None,
    memory: ScenesCfg | None,
    world: World,
    threads: int | None,
) -> LearnEnv:
    from gaussgym_learn.commanding import make_policy_env
    from gaussgym_learn.courses import flat_course
    from gaussgym_learn.scene_list import listed

    sees = bool(image_groups(recipe.network.actor_groups))
    return make_policy_env(
        recipe.commanding,
        recipe.task,
        world.part_of(listed(scenes)),
        world.share_of(recipe.ppo.num_envs),
        robot=robot,
        sim=sim,
        renderer=renderer if sees else None,
        seed=process_seed(seed, 0, world.rank),
        cfg=recipe.env_cfg(),
        clearance=recipe.clearance,
        num_threads=threads,
        lod=None if lod is None else world.part_of(lod),
        **recipe.camera_options(),
        memory=None if memory is None else memory.shared(world),
        update_steps=recipe.ppo.steps,
        warm_up=(flat_course(), recipe.flat_steps) if recipe.flat_steps else None,
    )
