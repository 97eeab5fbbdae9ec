import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.mdp.commands import PathNetwork
from gaussgym_sim.mdp.starts import FixedStarts, Starts, sample_starts
from gaussgym_sim.testing import flat_scene, wavy_scene

CPU = torch.device("cpu")
SCENES = [flat_scene(), wavy_scene()]


def test_goals_are_ten_metres_along_the_path_where_it_reaches():
    starts = sample_starts(SCENES, 40, seed=1)
    assert starts.scene_id.tolist() == [0] * 20 + [1] * 20
    for n in range(40):
        paths = SCENES[starts.scene_id[n]].paths
        arc = paths.arc_length_m()
        along = starts.direction[n] * (arc[starts.goal_point[n]] - arc[starts.point[n]])
        assert along == pytest.approx(min(10.0, arc[-1]), abs=1e-3)  # the second path is 10 m long in all
        offset = starts.xy_m[n] - paths.points[starts.point[n], :2]
        assert np.abs(offset[0]) < 1e-5
        assert np.abs(offset[1]) <= 0.26
        heading = starts.yaw_rad[n] - (0 if starts.direction[n] > 0 else np.pi)
        assert np.abs((heading + np.pi) % (2 * np.pi) - np.pi) <= 0.41
        assert 0.6 <= starts.speed_m_s[n] <= 0.9


def test_seeds_and_json():
    a, b, c = (
        sample_starts(SCENES, 9, seed=5),
        sample_starts(SCENES, 9, seed=5),
        sample_starts(SCENES, 9, seed=6),
    )
    assert a.to_dict() == b.to_dict() != c.to_dict()
    assert Starts.from_dict(json.loads(json.dumps(a.to_dict()))).to_dict() == a.to_dict()


def test_dealing():
    """Three starts of scene 1 on two envs: one runs two of them in turn; an env too many repeats."""
    starts = sample_starts(SCENES[:1], 3, seed=0)
    net = PathNetwork(SCENES[:1], device=CPU)
    dealt = FixedStarts(starts, net, torch.zeros(2, dtype=torch.long))
    ids = torch.arange(2)
    rounds = [dealt.next(ids)[0].tolist() for _ in range(3)]
    assert rounds == [[0, 1], [2, 1], [0, 1]]
    number, start = FixedStarts(starts, net, torch.zeros(5, dtype=torch.long)).next(torch.arange(5))
    assert number.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(start.xy, torch.from_numpy(starts.xy_m)[number])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(scene_id=np.array([0, 2])), "scene ids that must lie in 0..1"),
        (dict(point=np.array([0, 9999])), "a point lies outside"),
        (dict(scene_id=np.array([0, 0])), "none for scene 1"),
    ],
)
def test_starts_for_other_scenes(change, message):
    starts = replace(sample_starts(SCENES, 2, seed=0), **change)
    with pytest.raises(InputError, match=message):
        FixedStarts(starts, PathNetwork(SCENES, device=CPU), torch.tensor([0, 1]))


def test_bad_fields():
    fields = sample_starts(SCENES, 2, seed=0).to_dict()
    with pytest.raises(InputError, match="missing field"):
        Starts.from_dict({k: v for k, v in fields.items() if k != "xy_m"})
    with pytest.raises(InputError, match=r"point of shape \(1,\), expected \(2,\)"):
        Starts.from_dict(fields | {"point": [1]})
