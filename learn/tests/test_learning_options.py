"""The update and the teacher's schedules from the command line."""

import pytest
from gaussgym_learn.cli.learning import ImitationOptions, LearningOptions
from gaussgym_learn.recipes import SymmetryCfg, get_recipe


def test_nothing_given_changes_nothing():
    recipe = get_recipe("pixels")
    assert ImitationOptions().applied(LearningOptions().applied(recipe)) == recipe


def test_what_is_given_arrives():
    recipe = get_recipe("pixels")
    options = LearningOptions(
        algorithm="mine", symmetry="both", mirror_coef=0.3, losses=["action_smoothness=0.2"], aux_coef=0.5,
        critic_warmup=7, mixed_precision=True,
    )  # fmt: skip
    found = options.applied(recipe)
    assert (found.algorithm, found.mixed_precision) == ("mine", True)
    assert found.symmetry == SymmetryCfg(augment=True, mirror_coef=0.3)
    assert found.losses == (("action_smoothness", 0.2),)
    assert (found.ppo.aux_coef, found.ppo.aux_epochs, found.ppo.critic_warmup) == (0.5, 0, 7)
    assert LearningOptions(symmetry="augment").applied(recipe).symmetry == SymmetryCfg(augment=True)
    assert LearningOptions(symmetry="mirror").applied(recipe).symmetry == SymmetryCfg(mirror_coef=0.1)
    assert LearningOptions(symmetry="swap").applied(recipe).symmetry == SymmetryCfg(swap=0.5)
    said = ImitationOptions(beta="0", coef="1->0@0.7", ppo_coef="0, 1@0.6", latent_coef=0.1).applied(recipe)
    distill = said.distill
    assert (distill.beta, distill.coef, distill.ppo_coef) == ("0", "1->0@0.7", "0, 1@0.6")
    assert distill.latent_coef == 0.1
    assert distill.huber_delta == recipe.distill.huber_delta


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "pixels", "--minutes", "1", "--losses", "action_smoothness"], "expected NAME=WEIGHT"),
        (["train", "pixels", "--minutes", "1", "--losses", "nothing=1"], "unknown loss 'nothing'"),
        (["distill", "/nowhere", "--minutes", "1", "--ppo-coef", "1->0"], "schedule '1->0'"),
    ],
)
def test_commands_end_with_one_line_and_status_2(words, line, capsys, monkeypatch):
    from gaussgym_learn.__main__ import main

    monkeypatch.setattr("sys.argv", ["gaussgym-learn", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert line in error
    assert error.count("\n") == 0
