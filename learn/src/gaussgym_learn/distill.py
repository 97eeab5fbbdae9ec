"""DAgger: a teacher that knows the terrain shows a student that sees pixels what to do, and PPO may go on from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaussgym_scene.errors import InputError

from gaussgym_learn.checkpoint import (
    check_compatible,
    check_same_run,
    copy_checkpoint,
    load_checkpoint,
)
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.ppo_trainer import ALGORITHMS
from gaussgym_learn.recipes import Recipe
from gaussgym_learn.resume import process_seed
from gaussgym_learn.rotation import ScenesCfg


def distill(
    teacher: Path | str,
    scenes: Any,
    out: Path | str,
    *,
    recipe: Recipe | None = None,
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
    """Distill a teacher into a student that sees.

    Args:
        teacher: run folder of the privileged teacher.
        scenes: `Scene`s or folders; environments are split over them evenly.
        out: run folder.
        recipe: default `recipes.distill`.
        minutes: see `gaussgym_learn.train.train`.
        iterations: see there.
        init_from: run folder of a student to start from; the teacher then never acts (no beta schedule).
        resume: see there.
        seed: see there.
        robot: see there.
        sim: see there.
        renderer: backend of the camera; None for a student that does not see.
        save_minutes: see there.
        save_iterations: see there.
        wandb: see there.
        wandb_group: see there.
        memory: see there.
        progress: see there.
        on_iteration: see there.
        make: makes the environment instead of `make_env`.
        lod: see `gaussgym_learn.train.train`.
        threads: see there.

    Returns:
        The path of `checkpoint.json`.

    Raises:
        InputError: nothing to bound the run, or a teacher or student that does not fit.
    """
    from gaussgym_learn.acting import CheckpointPolicy
    from gaussgym_learn.commanding import make_policy_env
    from gaussgym_learn.recipes import get_recipe
    from gaussgym_learn.run import Budget, clear_run, open_run, own_part, run_fields, run_training
    from gaussgym_learn.scene_list import listed

    if minutes is None and iterations is None:
        raise InputError("distillation is unbounded: give minutes or iterations")
    recipe = recipe or get_recipe("distill")
    if init_from is not None:
        recipe = replace(recipe, distill=replace(recipe.distill, beta="0"))
    acting = CheckpointPolicy(load_checkpoint(teacher))
    with open_run(out, resume=resume) as run:
        world, previous = run.world, run.previous
        initial = load_checkpoint(init_from) if init_from is not None and previous is None else None
        if previous is not None:
            check_same_run(previous, recipe.to_dict())
        if make is not None:
            env = make()
        else:
            env = make_policy_env(
                recipe.commanding,
                recipe.task,
                world.part_of(listed(scenes)),
                world.share_of(recipe.distill.num_envs),
                robot=robot,
                sim=sim,
                renderer=renderer,
                seed=process_seed(seed, 0, world.rank),
                cfg=recipe.env_cfg(),
                num_threads=threads,
                lod=None if lod is None else world.part_of(lod),
                **recipe.camera_options(),
                memory=None if memory is None else memory.shared(world),
                update_steps=recipe.distill.steps,
            )
        acting.check(env)
        new = recipe if previous is None and initial is None else recipe.without_weights()
        trainer = ALGORITHMS.get(recipe.algorithm)(new, env, seed=seed, teacher=acting.model, world=world)
        trainer.take_critic(acting.checkpoint)
        if previous is not None:
            previous = own_part(previous, world, env.num_envs)
        for checkpoint, action in ((initial, trainer.warm_start), (previous, trainer.restore)):
            if checkpoint is not None:
                groups = recipe.network.actor_groups
                check_compatible(checkpoint, robot=env.robot, layout=env.layout, groups=groups)
                action(checkpoint)
        if previous is None and world.writes:
            clear_run(run.out)
        fields = run_fields(recipe, env, seed=seed, init_from=initial, lod=lod)
        fields["teacher"] = {
            "name": acting.checkpoint.directory.name,
            "model_sha256": acting.checkpoint.fields["files"][acting.checkpoint.fields["model"]]["sha256"],
        }
        if previous is not None:
            fields["initialized_from"] = previous.fields.get("initialized_from")
        budget = Budget(minutes, iterations, save_minutes, save_iterations, run.elapsed_s)
        return run_training(
            trainer,
            run,
            fields,
            budget,
            wandb=wandb,
            group=wandb_group,
            progress=progress,
            on_iteration=on_iteration,
        )


def finetune(
    student: Path | str,
    teacher: Path | str,
    scene: Any,
    out: Path | str,
    *,
    training_scenes: Sequence[Any] = (),
    recipe: Recipe | None = None,
    minutes: float,
    episodes: int = 64,
    resume: bool = False,
    seed: int = 0,
    renderer: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Adapt a student to a new scene, and keep it only if it then does better there.

    The new scene is mixed with the scenes of the student's training, so that it forgets nothing; student before and after are
    evaluated from the same starts in the new scene, and the better one ends up in `out`.

    Args:
        student: run folder of the student.
        teacher: run folder of the teacher.
        scene: the new scene.
        out: run folder of the result.
        training_scenes: scenes of the student's training.
        recipe: default `recipes.distill`.
        minutes: of distillation [min].
        episodes: of each evaluation.
        resume: go on from an interrupted fine-tuning.
        seed: of training.
        renderer: backend of the camera.
        progress: show bars on stderr.

    Returns:
        `{"success_before", "success_trained", "success_after", "kept", "before", "trained"}`; `kept` is `student` or `finetuned`,
        `success_after` that of what was kept. Also written to `<out>/finetune.json`.
    """
    from gaussgym_scene.artifact import write_json

    from gaussgym_learn.evaluate import evaluate

    out = Path(out)
    options: dict[str, Any] = {"episodes": episodes, "renderer": renderer, "progress": progress}
    if recipe is not None:
        options |= recipe.camera_options()
    before = evaluate(student, scene, **options)
    trained_dir = out.with_name(out.name + "_trained")
    # The new scene counts as much as all the old ones together: the environments are split evenly over this list.
    scenes = [scene] * max(1, len(training_scenes)) + list(training_scenes)
    distill(
        teacher,
        scenes,
        trained_dir,
        recipe=recipe,
        minutes=minutes,
        init_from=student,
        resume=resume,
        seed=seed,
        renderer=renderer,
        progress=progress,
    )
    trained = evaluate(trained_dir, scene, **options)
    kept = "finetuned" if trained["success"] > before["success"] else "student"
    copy_checkpoint(trained_dir if kept == "finetuned" else Path(student), out)
    result = {
        "success_before": before["success"],
        "success_trained": trained["success"],
        "success_after": max(before["success"], trained["success"]),
        "kept": kept,
        "before": before,
        "trained": trained,
    }
    write_json(out / "finetune.json", result)
    return result
