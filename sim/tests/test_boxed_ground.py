"""Grounds out of boxes are bodies of the physics model, and no part of the robot."""

import numpy as np
import torch
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene
from gaussgym_sim.engines.mujoco_model import SOLVER_ITERATIONS, build_model, robot_bodies
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.grounds import flat_scene
from gaussgym_sim.robot import get_robot
from gaussgym_sim.vecsim import make_sim


def walled_scene():
    """Level ground with a wall 3 m high at y = 1."""
    flat = flat_scene()
    wall = np.array([(-3, 1, -0.3), (3, 1, -0.3), (3, 1, 3), (-3, 1, 3)], np.float32)
    mesh = Mesh(wall, np.array([(0, 1, 2), (0, 2, 3)], np.int32))
    return Scene("walled", mesh=mesh, heightfield=flat.heightfield, paths=flat.paths)


def test_links_mass_and_friction_are_the_robots_alone():
    model = build_model(get_robot("go1"), ground_of(walled_scene()))
    assert any(model.body(i).name.startswith("terrain") for i in range(model.nbody))
    names = [model.body(i).name for i in robot_bodies(model)]
    assert names[0] == "trunk"
    assert not [name for name in names if name.startswith("terrain")]
    plain = make_sim("mujoco", "go1", [flat_scene()], 1)
    for scenes in ([walled_scene(), flat_scene()], [flat_scene(), walled_scene()]):
        sim = make_sim("mujoco", "go1", scenes, 2)
        assert sim.link_names == plain.link_names == tuple(names[1:])
        assert sim.total_mass_kg == plain.total_mass_kg
        factors = torch.linspace(0.8, 1.2, len(sim.link_names)).repeat(2, 1)
        sim.set_params(torch.arange(2), link_mass_factor=factors, friction=torch.tensor([0.3, 0.3]))
        for slot in sim._slots:
            masses = slot._field("body_mass")[0]
            nominal = slot.model.body_mass
            robot = robot_bodies(slot.model)
            np.testing.assert_allclose(masses[robot[1:]], nominal[robot[1:]] * factors[0].numpy(), rtol=1e-6)
            others = np.setdiff1d(np.arange(slot.model.nbody), robot)
            np.testing.assert_array_equal(masses[others], nominal[others])
            changed = slot._field("geom_friction")[0, :, 0] != slot.model.geom_friction[:, 0]
            assert set(slot.model.geom_bodyid[changed].tolist()) <= set(robot)


def test_the_contact_solver_may_finish():
    model = build_model(get_robot("anymal_c"), ground_of(flat_scene()))
    assert model.opt.iterations >= SOLVER_ITERATIONS
