"""Robots under their own gains: a slope, the air, and how long a humanoid stays up."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gaussgym_sim.robot import get_robot
from gaussgym_sim.testing_robots import check_holds_pose_hung, check_stands_on_slope, time_to_fall
from gaussgym_sim.vecsim import make_sim

QUADRUPEDS = ("a1", "anymal_c", "go1", "go2")


def maker(robot, backend="mujoco"):
    return lambda scenes, num_envs, **options: make_sim(backend, robot, scenes, num_envs, num_threads=1)


def failures(results):
    return [f"{r.name}: {r.measured:.4g} {r.unit}" for r in results if not r.passed]


@pytest.mark.parametrize("name", QUADRUPEDS)
def test_stands_on_a_slope(name):
    assert failures(check_stands_on_slope(maker(name))) == []


@pytest.fixture
def backend(request, monkeypatch):
    """A backend's name; Isaac Gym is its stand-in (tests/isaacgym_stand_in)."""
    if request.param == "mjwarp":
        pytest.importorskip("mujoco_warp")
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PYTHON", sys.executable)
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PYTHONPATH", str(Path(__file__).with_name("isaacgym_stand_in")))
    return request.param


OTHERS = ["bridge:mujoco", "isaacgym", "mjwarp"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS, indirect=True)
@pytest.mark.parametrize("name", QUADRUPEDS)
def test_stands_on_a_slope_on_every_backend(name, backend):
    assert failures(check_stands_on_slope(maker(name, backend))) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS, indirect=True)
def test_t1_falls_at_the_same_time_on_every_backend(backend):
    assert time_to_fall(maker("t1", backend)) == pytest.approx(time_to_fall(maker("t1")), abs=0.1)


def test_slope_check_sees_weak_gains_and_weak_motors():
    go1 = get_robot("go1")
    limp = failures(check_stands_on_slope(maker(replace(go1, kp=(4.0,) * 12)), seconds=2.0))
    assert any("touching" in line for line in limp)
    weak = failures(check_stands_on_slope(maker(replace(go1, torque_limit_nm=(6.0,) * 12)), seconds=2.0))
    assert any("torque" in line for line in weak)


def test_slope_check_sees_slipping(tmp_path: Path):
    go1 = get_robot("go1")
    slippery = tmp_path / "slippery.xml"
    slippery.write_text(go1.mjcf.read_text().replace('friction="1 ', 'friction="0.12 '))
    robot = replace(go1, mjcf=slippery)
    assert any("creep" in line for line in failures(check_stands_on_slope(maker(robot), seconds=2.0)))


@pytest.mark.parametrize("name", [*QUADRUPEDS, "t1"])
def test_holds_its_pose_hung(name):
    assert failures(check_holds_pose_hung(get_robot(name), seconds=5.0)) == []


def test_hung_check_sees_gains_too_high_for_the_substep():
    t1 = get_robot("t1")
    lines = failures(check_holds_pose_hung(replace(t1, kd=tuple(8.0 * kd for kd in t1.kd)), seconds=3.0))
    assert any("speed" in line for line in lines)


def test_t1_falls_and_quadrupeds_do_not():
    """T1's ankles give 2 x 50 Nm/rad, gravity at its height asks for m g h = 180 Nm/rad: it must fall, but not at once."""
    assert 0.8 < time_to_fall(maker("t1")) < 3.0
    assert time_to_fall(maker("go1"), most_s=3.0) == math.inf
