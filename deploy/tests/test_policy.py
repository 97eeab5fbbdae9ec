"""The networks: golden replay, recurrence, reset, and files that do not fit."""

import dataclasses
import json

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle, Recurrence
from gaussgym_deploy.bundle.reading import sha256_of
from gaussgym_deploy.policy import Policy, replay_golden
from gaussgym_deploy.runtime import Runtime
from gaussgym_deploy.testing import FakeClock, FaultyRobot, make_bundle


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=220)


def rehash(directory, name):
    fields = json.loads((directory / "policy.json").read_text())
    path = directory / name
    fields["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (directory / "policy.json").write_text(json.dumps(fields))


def test_replay_of_220_recurrent_steps_matches_an_independent_implementation(directory):
    bundle = PolicyBundle.load(directory)
    report = replay_golden(bundle, Policy(bundle))
    assert report.steps == 220
    assert report.max_abs_error < 1e-6
    assert report.max_abs_observation_error is not None
    assert report.max_abs_observation_error < 1e-6
    assert (report.inference_s > 0).all()
    assert np.abs(bundle.golden["actions"]).max() > 0.01  # actions that an error could show in


@pytest.mark.parametrize(("name", "tensor"), [("policy.onnx", "r_gates"), ("encoder.onnx", "w_image")])
def test_one_changed_weight_is_noticed(tmp_path, name, tensor):
    import onnx
    from onnx import numpy_helper

    directory = make_bundle(tmp_path / "policy", steps=40)
    model = onnx.load(directory / name)
    weights = next(entry for entry in model.graph.initializer if entry.name == tensor)
    values = numpy_helper.to_array(weights).copy()
    values.reshape(-1)[7] += 0.05
    weights.CopyFrom(numpy_helper.from_array(values, tensor))
    onnx.save(model, directory / name)
    rehash(directory, name)  # an attacker, or a helpful colleague, fixed the hash as well
    bundle = PolicyBundle.load(directory)
    assert replay_golden(bundle, Policy(bundle)).max_abs_error > 1e-5
    with pytest.raises(BundleError, match="actions differ from the golden trace"):
        Runtime(bundle, FaultyRobot(FakeClock()))


def test_a_changed_scale_is_noticed_by_the_observations(tmp_path):
    directory = make_bundle(tmp_path / "policy", steps=20)
    fields = json.loads((directory / "policy.json").read_text())
    fields["observation"][0]["scale"] = 0.26
    (directory / "policy.json").write_text(json.dumps(fields))
    bundle = PolicyBundle.load(directory)
    with pytest.raises(BundleError, match="observations differ"):
        replay_golden(bundle, Policy(bundle)).require_match(bundle)


def test_state_is_carried_and_reset(directory):
    bundle = PolicyBundle.load(directory)
    policy = Policy(bundle)
    proprio, rgb = bundle.golden["proprio"][:1], bundle.golden["rgb"][0]
    first = policy.act(proprio, rgb).copy()
    second = policy.act(proprio).copy()
    assert np.abs(first - second).max() > 1e-4
    policy.reset()
    np.testing.assert_array_equal(policy.act(proprio, rgb), first)


def test_a_policy_that_sees_needs_an_image_after_reset(directory):
    bundle = PolicyBundle.load(directory)
    with pytest.raises(ValueError, match="needs a camera image"):
        Policy(bundle).act(bundle.golden["proprio"][:1])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"recurrent": Recurrence(1, 17)}, "h_in"),
        ({"recurrent": Recurrence(2, 16)}, "h_in"),
        ({"recurrent": None}, "inputs are"),
        ({"feature_size": 9}, "feature"),
        ({"observation": ()}, "proprio"),
    ],
)
def test_networks_that_do_not_fit_the_manifest(directory, change, expected):
    bundle = dataclasses.replace(PolicyBundle.load(directory), **change)
    with pytest.raises(BundleError, match=expected):
        Policy(bundle)


def test_a_file_that_is_no_network(tmp_path):
    directory = make_bundle(tmp_path / "policy", steps=4)
    (directory / "policy.onnx").write_bytes(b"not a network")
    rehash(directory, "policy.onnx")
    with pytest.raises(BundleError, match="onnxruntime cannot open it"):
        Policy(PolicyBundle.load(directory))
