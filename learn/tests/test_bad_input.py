"""What can go wrong around a run ends it with one clear line, status 2 and the last good checkpoint."""

import errno
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.metrics import EpisodeStatistics, MetricWriter, read_curve
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe
from gaussgym_learn.run_folder import available_bytes, check_memory, explained_errors
from gaussgym_learn.testing import ToyEnv
from gaussgym_learn.train import train
from gaussgym_scene.errors import InputError, StageError

BLIND = NetworkCfg(actor_groups=("proprio",), critic_groups=("scan",), actor_hidden=(8,), critic_hidden=(8,))
TINY = Recipe("tiny", network=BLIND, ppo=PPOCfg(num_envs=8, steps=4, mini_batches=2, epochs=1))


SETUP = """
import signal, sys, time
from pathlib import Path
from gaussgym_learn.recipes import NetworkCfg, PPOCfg, Recipe
from gaussgym_learn.run_folder import RunLock
from gaussgym_learn.testing import ToyEnv
from gaussgym_learn.train import train
from gaussgym_scene import command

sys.stderr = open(errors, "w", buffering=1)
signal.signal(signal.SIGINT, signal.default_int_handler)
network = NetworkCfg(actor_groups=("proprio",), critic_groups=("scan",), actor_hidden=(8,), critic_hidden=(8,))
recipe = Recipe("tiny", network=network, ppo=PPOCfg(num_envs=8, steps=4, mini_batches=2, epochs=1))

def tiny(**options):
    options = {"iterations": 6, "save_iterations": 2, **options}
    return train(recipe, None, out, make=lambda: ToyEnv(8), renderer=None, **options)
"""
ENDING = """
sys.exit(command.run(body))
"""


class Separate:
    """A process of its own that runs a command's body, forked from one that has done the imports and nothing else.

    Args:
        body: code of a function ``body()``; it finds ``out``, ``tiny(**options)`` and ``tell(value)``.
        out: the run's folder.
        errors: file for its stderr.
    """

    def __init__(self, body, out, errors):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gaussgym_learn.train", "gaussgym_learn.testing"])
        self._errors = errors
        self._told, telling = context.Pipe(duplex=False)
        names = {"out": Path(out), "errors": errors, "telling": telling}
        code = f"{SETUP}\ntell = telling.send\n{body}\n{ENDING}"
        self.process = context.Process(target=exec, args=(code, names))
        self.process.start()
        telling.close()

    def told(self):
        """The next value, waited for; None at the end."""
        try:
            return self._told.recv()
        except EOFError:
            return None

    def ended(self):
        """Exit status and what was said on stderr."""
        self.process.join(100)
        return self.process.exitcode, self._errors.read_text().strip()


def tiny(out, **options):
    options = {"iterations": 6, "save_iterations": 2, "make": lambda: ToyEnv(8), **options}
    return train(options.pop("recipe", TINY), None, out, renderer=None, **options)


class NanEnv(ToyEnv):
    """Its third update has a reward that is no number."""

    def step(self, actions):
        obs, rewards, dones, extras = super().step(actions)
        if self._step == 10:
            rewards[3] = float("nan")
        return obs, rewards, dones, extras


def test_a_reward_that_is_no_number_ends_the_run_before_it_is_learned_from(tmp_path):
    with pytest.raises(InputError) as caught:
        tiny(tmp_path, make=lambda: NanEnv(8))
    said = str(caught.value)
    assert "rewards that are not finite in 1 of 8 environments, first in number 3" in said
    assert "the checkpoint of update 2 is whole" in said
    assert "\n" not in said
    kept = load_checkpoint(tmp_path)
    assert kept.fields["iteration"] == 2
    assert all(torch.isfinite(value).all() for value in kept.state["actor_state_dict"].values())


def test_the_reward_term_that_is_no_number_is_named():
    stats = EpisodeStatistics(2)
    rewards, dones = torch.tensor([1.0, torch.inf]), torch.tensor([0, 1])
    stats.add(rewards, dones, {"log": {"reward/torque": torch.tensor(torch.nan), "reward/height": 1.0}})
    with pytest.raises(
        InputError, match=r"not finite \(Reward/torque\) in 1 of 2 environments, first in number 1"
    ):
        stats.check_rewards()
    stats.check_rewards()  # said once


def test_an_empty_list_of_scenes_is_refused(tmp_path):
    recipe = replace(TINY, network=replace(BLIND, critic_groups=("proprio",)))
    with pytest.raises(InputError, match="found an empty list of scenes; expected at least one"):
        train(recipe, [], tmp_path, iterations=1)


@pytest.mark.parametrize("when", ["model", "manifest", "curve"])
def test_a_full_disk_ends_the_run_with_the_checkpoint_before(tmp_path, monkeypatch, when):
    """Writing fails as on a full disk from update 4 on."""

    def fill(trainer, _):
        if trainer.iteration == 3:
            monkeypatch.setattr(f"gaussgym_learn.{place[when]}", full)

    def full(*args, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / when))

    place = {
        "model": "checkpoint.write_bytes", "manifest": "checkpoint.write_json", "curve": "metrics.MetricWriter.write",
    }  # fmt: skip
    with pytest.raises(StageError) as caught:
        tiny(tmp_path, on_iteration=fill)
    monkeypatch.undo()
    assert (
        f"{tmp_path / when}: No space left on device at update 4; the checkpoint of update 2 is whole"
        in str(caught.value)
    )
    assert load_checkpoint(tmp_path).fields["iteration"] == 2
    assert not list(tmp_path.glob("*.tmp"))
    tiny(tmp_path, resume=True)
    assert [row["iteration"] for row in read_curve(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_file_that_cannot_grow_ends_the_command_with_status_2(tmp_path):
    pytest.importorskip("resource")
    body = """
import resource

def fill(trainer, _):
    if trainer.iteration == 3:  # writing beyond then fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))

def body():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return tiny(on_iteration=fill)
"""
    status, error = Separate(body, tmp_path / "run", tmp_path / "said").ended()
    assert status == 2, error
    assert error.count("\n") == 0
    assert "File too large at update" in error
    assert "the checkpoint of update 2 is whole" in error
    assert load_checkpoint(tmp_path / "run").fields["iteration"] == 2


def test_torchs_and_pythons_words_for_too_little_memory_become_one_line(tmp_path):
    with (
        pytest.raises(StageError, match=r"out of memory \(.*allocate.*\); take fewer"),
        explained_errors(tmp_path),
    ):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(StageError, match="out of memory; take fewer"), explained_errors(tmp_path):
        raise MemoryError
    with pytest.raises(RuntimeError, match="something else"), explained_errors(tmp_path):
        raise RuntimeError("something else")


def test_what_cannot_fit_is_refused_before_it_is_allocated():
    available = available_bytes()
    assert available is not None
    assert 1e6 < available < 1e15
    check_memory(1000, "little")
    with pytest.raises(
        InputError, match=r"rollouts take 1e\+06 GB of memory, found .* GB; take fewer environments"
    ):
        check_memory(10**15, "rollouts")


def test_a_run_whose_rollouts_cannot_fit_ends_before_it_begins(tmp_path, monkeypatch):
    from gaussgym_learn.ppo_trainer import rollout_layout
    from gaussgym_learn.rollout import rollout_bytes

    tiny(tmp_path, iterations=2)
    needed = rollout_bytes(8, 4, rollout_layout(TINY.network, ToyEnv(8)))
    monkeypatch.setattr("gaussgym_learn.run_folder.available_bytes", lambda: needed - 1)
    with pytest.raises(InputError, match=r"rollouts of 8 environments x 4 steps take .* GB of memory, found"):
        tiny(tmp_path, resume=True)
    assert load_checkpoint(tmp_path).fields["iteration"] == 2
    monkeypatch.setattr("gaussgym_learn.run_folder.available_bytes", lambda: needed)
    tiny(tmp_path, resume=True)


def test_a_limit_on_the_address_space_counts():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    try:
        resource.setrlimit(resource.RLIMIT_AS, (now + 64_000_000, before[1]))
        # The process may map or give back a few megabytes between the two readings.
        assert 32_000_000 < available_bytes() < 96_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_folder_that_another_process_writes_to_is_refused(tmp_path):
    hold = """
def body():
    with RunLock(out):
        tell("held")
        time.sleep(100)
"""
    holder = Separate(hold, tmp_path, tmp_path / "said")
    assert holder.told() == "held"
    with pytest.raises(
        InputError, match=f"in use by process {holder.process.pid}; wait for its end, or give another"
    ):
        tiny(tmp_path)
    holder.process.kill()
    holder.ended()
    tiny(tmp_path, iterations=1)  # a lock dies with its process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_update_finish_and_saves(tmp_path, number):
    body = """
def body():
    return tiny(iterations=None, minutes=5, on_iteration=lambda trainer, _: tell(trainer.iteration))
"""
    run = Separate(body, tmp_path, tmp_path / "said")
    assert run.told() == 1
    os.kill(run.process.pid, number)
    last = 1
    while (reached := run.told()) is not None:
        last = reached
    status, error = run.ended()
    assert status == 130, error
    assert error.count("\n") == 0
    assert load_checkpoint(tmp_path).fields["iteration"] == last == read_curve(tmp_path)[-1]["iteration"]


def test_wandb_and_tensorboard_that_fail_do_not_end_a_run(tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("gaussgym_learn.metrics._start_wandb", broken)
    writer = MetricWriter(tmp_path, wandb=True)
    assert "wandb failed (no route to host); the run goes on without it" in caplog.text
    monkeypatch.setattr(writer._tensorboard, "add_scalar", broken)
    for iteration in (1, 2):
        writer.write({"x": 1.0}, iteration=iteration, minutes=0.0, steps=iteration)
    writer.close()
    assert caplog.text.count("tensorboard failed") == 1
    assert [row["iteration"] for row in read_curve(tmp_path)] == [1, 2]


def test_a_checkpoint_of_another_robot_ends_the_command(tmp_path, capsys, monkeypatch):
    from gaussgym_learn.__main__ import main

    tiny(tmp_path / "toy", iterations=1)
    words = [
        "train",
        "teacher_flat",
        "--iterations",
        "1",
        "--num-envs",
        "4",
        "--output",
        str(tmp_path / "new"),
    ]
    monkeypatch.setattr("sys.argv", ["gaussgym-learn", *words, "--init-from", str(tmp_path / "toy")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert "made for robot 'toy', expected 'go1'; give a checkpoint of this robot" in error[-1]


def test_a_checkpoint_of_another_task_ends_the_command(tmp_path, capsys, monkeypatch):
    from gaussgym_learn.__main__ import main

    tiny(tmp_path, iterations=1)
    before = json.loads((tmp_path / "checkpoint.json").read_text())
    words = ["train", "teacher_flat", "--iterations", "1", "--output", str(tmp_path), "--resume"]
    monkeypatch.setattr("sys.argv", ["gaussgym-learn", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert (
        "a run of recipe 'tiny', expected 'teacher_flat'; resume it with its own" in capsys.readouterr().err
    )
    assert json.loads((tmp_path / "checkpoint.json").read_text()) == before
