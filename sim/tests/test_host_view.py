"""A sim on another device, as checks see it."""

import torch
from gaussgym_sim.engines.host_view import HostView
from gaussgym_sim.testing import check_kick, check_scan, flat_scene
from gaussgym_sim.testing_contract import check_resume, check_set_scene
from gaussgym_sim.vecsim import make_sim


class Recorder:
    """Tells where its arguments live."""

    num_envs = 3

    def where(self, first, *, second):
        return {"first": first.device.type, "second": second["a"].device.type, "value": torch.ones(2)}


def test_tensors_travel_to_the_device_and_back():
    view = HostView(Recorder(), torch.device("meta"))
    got = view.where(torch.zeros(1), second={"a": torch.zeros(2)})
    assert (got["first"], got["second"], got["value"].device.type) == ("meta", "meta", "cpu")
    assert view.num_envs == 3


def test_checks_run_through_it():
    def make(scenes, num_envs, *, num_threads=None):
        sim = make_sim("mujoco", "go1", scenes, num_envs, num_threads=num_threads)
        return HostView(sim, sim.device)

    for check in (check_kick, check_scan, check_set_scene, check_resume):
        assert all(result.passed for result in check(make)), check.__name__


def test_state_stays_a_state():
    sim = make_sim("mujoco", "go1", [flat_scene()], 1)
    state = HostView(sim, torch.device("cpu")).state
    assert type(state) is type(sim.state)
    assert vars(state).keys() == vars(sim.state).keys()
