"""Eyes and memory from the command line."""

import pytest
from gaussgym_learn.cli.network import NetworkOptions
from gaussgym_learn.cli.train import Train
from gaussgym_learn.photometric import PhotometricCfg
from gaussgym_learn.recipes import get_recipe
from gaussgym_scene.errors import InputError


def test_nothing_given_changes_nothing():
    recipe = get_recipe("teacher_flat")
    assert NetworkOptions().applied(recipe) is recipe


def test_what_is_given_arrives_and_the_rest_stays():
    recipe = get_recipe("pixels")
    options = NetworkOptions("rgbd", "resnet18", "hub", True, "lstm", "voxels", True)
    network = options.applied(recipe).network
    assert network.actor_groups == ("proprio", "rgb", "depth")
    assert (network.encoder, network.encoder_weights, network.encoder_freeze) == ("resnet18", "hub", True)
    assert (network.rnn_type, network.aux_kind, network.photometric) == ("lstm", "voxels", PhotometricCfg())
    assert (network.aux_group, network.rnn_hidden) == (recipe.network.aux_group, recipe.network.rnn_hidden)
    assert NetworkOptions("depth").applied(recipe).network.actor_groups == ("proprio", "depth")
    assert NetworkOptions("depth").applied(recipe).env_cfg().camera.images == ("depth",)


def test_blind_recipes_refuse_eyes():
    with pytest.raises(InputError, match=r"'teacher_flat' does not see; .* with --encoder, --encoder-freeze"):
        NetworkOptions(encoder="resnet18", encoder_freeze=True).applied(get_recipe("teacher_flat"))


def test_the_command_applies_them(tmp_path):
    command = Train("teacher_flat", output=tmp_path, network=NetworkOptions(rnn="lstm"))
    with pytest.raises(InputError, match=r"does not see; .* --rnn"):
        command.run()
