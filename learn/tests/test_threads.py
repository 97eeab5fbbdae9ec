"""How many threads physics has is said where training and evaluation are started."""

from dataclasses import replace

import pytest
import torch
from gaussgym_learn import commanding
from gaussgym_learn.courses import flat_course
from gaussgym_learn.evaluate import evaluate
from gaussgym_learn.recipes import PPOCfg, get_recipe
from gaussgym_learn.train import train
from gaussgym_scene.errors import InputError

torch.set_num_threads(1)
TINY = replace(get_recipe("teacher_flat"), ppo=PPOCfg(num_envs=4, steps=2, epochs=1, mini_batches=1))


@pytest.fixture
def made(monkeypatch):
    """Environments that are made."""
    found, make = [], commanding.make_env

    def kept(*arguments, **options):
        found.append(make(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(commanding, "make_env", kept)
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_training_and_evaluation_have_the_threads_that_were_asked_for(made, tmp_path, threads):
    train(TINY, [flat_course()], tmp_path, iterations=1, threads=threads)
    evaluate(
        tmp_path, [flat_course()], task="velocity", episodes=2, threads=threads,
        cfg=replace(TINY.env, episode_s=0.04),
    )  # fmt: skip
    assert [env.sim.num_threads for env in made] == [threads, threads]


def test_no_thread_is_refused(tmp_path):
    with pytest.raises(InputError, match="0 threads; expected at least 1"):
        train(TINY, [flat_course()], tmp_path, iterations=1, threads=0)
