"""What dashboards are given: panels, groups, scenes and films, read back from an offline run's file."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_learn.env import make_env
from gaussgym_learn.pictures import FOLDER, CameraTape, RunPictures, scene_thumbnails
from gaussgym_learn.recipes import NetworkCfg, get_recipe
from gaussgym_learn.train import train
from gaussgym_scene import synthesize
from gaussgym_scene.scene import Scene
from PIL import Image

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes():
    return [synthesize("corridor", i, max_splats=4000) for i in (1, 2)]


def test_each_scene_is_drawn_along_its_path(scenes, tmp_path):
    blind = Scene("blind", heightfield=scenes[0].heightfield, paths=scenes[0].paths)
    files = scene_thumbnails([*scenes, scenes[0], blind], tmp_path / "pictures")
    assert list(files) == [scene.name for scene in scenes]
    pictures = [np.asarray(Image.open(file)).astype(float) for file in files.values()]
    assert pictures[0].shape == (144, 256, 3)
    assert all(picture.std() > 10 for picture in pictures)  # the corridor's walls, not the sky
    assert np.abs(pictures[0] - pictures[1]).mean() > 3


def test_a_tape_keeps_the_newest_frames_of_the_first_robots():
    tape = CameraTape(envs=2, frames=3)
    for step in range(10):
        images = (
            torch.full((4, 3, 2, 5), step, dtype=torch.uint8)
            + torch.arange(4, dtype=torch.uint8)[:, None, None, None]
        )
        new = torch.tensor([[step % 2 == 0], [False], [True], [True]])
        tape.add(images, new)
    shown = tape.images()
    assert len(shown) == len(tape) == 3
    assert [image[0, 0, 0] for image in shown] == [4, 6, 8]
    assert shown[0].shape == (2, 10, 3)
    assert shown[0][0, 5:, 0].tolist() == [5] * 5  # the second robot beside the first
    tape = CameraTape(envs=1)
    tape.add(torch.full((2, 1, 2, 4), 7, dtype=torch.uint8), torch.ones(2, 1))
    assert tape.images()[0].tolist() == [[[7] * 3] * 4] * 2  # depth in grey


NET = NetworkCfg(
    actor_groups=("proprio", "rgb"),
    critic_groups=("proprio",),
    actor_hidden=(8,),
    critic_hidden=(8,),
    rnn_hidden=8,
)


def test_an_offline_run_holds_panels_pictures_and_films(scenes, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is needed to write films")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ppo = replace(get_recipe("pixels").ppo, num_envs=4, steps=15, mini_batches=1, epochs=1)
    recipe = replace(get_recipe("pixels"), network=NET, ppo=ppo)
    recipe = replace(recipe, env=replace(recipe.env, episode_s=0.2))  # episodes end within the rollout
    run = tmp_path / "run"
    train(
        recipe,
        scenes,
        run,
        iterations=2,
        save_iterations=1,
        wandb=True,
        wandb_group="corridors",
        renderer="cpu",
    )
    written = sorted(file.name for file in (run / FOLDER).iterdir())
    assert written == sorted([*(f"{scene.name}.png" for scene in scenes), "seen_1.mp4", "seen_2.mp4"])
    probe = [
        "ffprobe",
        "-v",
        "error",
        "-count_frames",
        "-show_entries",
        "stream=width,nb_read_frames",
        "-of",
        "csv=p=0",
    ]
    if shutil.which("ffprobe") is not None:
        width, frames = subprocess.run(
            [*probe, run / FOLDER / "seen_1.mp4"], capture_output=True, text=True
        ).stdout.split(",")
        assert int(width) % 4 == 0
        assert int(frames) >= 3
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", str(file)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for name in (
        "Train/mean_reward",
        "Loss/",
        "Policy/",
        "Perf/total_fps",
        "Reward/",
        "Gradient/",
        "Episode/fell",
        "steps",
    ):
        assert name in said, name
    assert "Videos/seen" in said
    assert f"Scenes/{scenes[0].name}" in said


def test_what_cannot_be_drawn_is_said_once(scenes, tmp_path, caplog, monkeypatch):
    class Trainer:
        iteration = 3
        env = make_env("velocity", scenes[:1], 2, renderer="cpu", num_threads=1)

    class Writer:
        def add_picture(self, *_):
            raise OSError("no space left")

    pictures = RunPictures(tmp_path)
    for _ in range(3):
        pictures(Trainer, Writer())
    assert [record.getMessage() for record in caplog.records] == [
        "no pictures of this run any more: no space left"
    ]
    assert Trainer.env.tape is None
