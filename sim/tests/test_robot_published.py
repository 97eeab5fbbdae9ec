"""Our robots against the published models, link by link. Opt-in: these are not ours to ship.

`pip download --no-deps example-robot-data==6.0.0 mjlab==1.6.0 playground==0.2.0`, unzip the wheels into one folder each, and set
GAUSSGYM_PUBLISHED_ROBOTS to the folder above them; `pytest -s` prints what was compared.
"""

import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import pytest
from gaussgym_sim.robot import get_robot

VARIABLE = "GAUSSGYM_PUBLISHED_ROBOTS"
FILES = {
    "a1": "a1_description/urdf/a1.urdf",
    "anymal_c": "anymal_c_simple_description/urdf/anymal.urdf",
    "go1": "unitree_go1/xmls/go1.xml",
    "go2": "go2_description/urdf/go2.urdf",
    "t1": "t1/xmls/t1_mjx_feetonly.xml",
}
SAME_ORDER = ("a1", "go1", "t1")
"""Published files of the others list their legs left first."""


@dataclass
class Link:
    """What one joint carries, at zero angles, in the base frame; the base itself has neither joint nor limits."""

    mass: float
    com: np.ndarray
    inertia: np.ndarray
    anchor: np.ndarray
    axis: np.ndarray
    limit: tuple[float, float]
    effort: float | None


def rpy(text):
    roll, pitch, yaw = (float(t) for t in text.split())
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
    x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return z @ y @ x


def origin(element):
    pose = np.eye(4)
    found = None if element is None else element.find("origin")
    if found is not None:
        pose[:3, :3] = rpy(found.get("rpy", "0 0 0"))
        pose[:3, 3] = [float(t) for t in found.get("xyz", "0 0 0").split()]
    return pose


def gather(parts):
    """Mass, centre and inertia about it of rigid parts (mass, centre, inertia), all in one frame."""
    mass = sum(m for m, _, _ in parts)
    com = sum(m * c for m, c, _ in parts) / mass
    total = np.zeros((3, 3))
    for m, c, inertia in parts:
        d = c - com
        total += inertia + m * (d @ d * np.eye(3) - np.outer(d, d))
    return mass, com, total


def read_urdf(path):
    """Joint name → link, "" → base; links on fixed joints belong to what carries them."""
    root = ET.parse(path).getroot()
    joints = list(root.iter("joint"))
    children = {j.find("child").get("link") for j in joints}
    base = next(link.get("name") for link in root.iter("link") if link.get("name") not in children)
    links = {link.get("name"): link for link in root.iter("link")}
    parts, frames = {"": []}, {}

    def walk(name, pose, owner):
        inertial = links[name].find("inertial")
        if inertial is not None:
            at = pose @ origin(inertial)
            i = {k: float(v) for k, v in inertial.find("inertia").attrib.items()}
            local = np.array(
                [
                    [i["ixx"], i["ixy"], i["ixz"]],
                    [i["ixy"], i["iyy"], i["iyz"]],
                    [i["ixz"], i["iyz"], i["izz"]],
                ]
            )
            mass = float(inertial.find("mass").get("value"))
            parts[owner].append((mass, at[:3, 3], at[:3, :3] @ local @ at[:3, :3].T))
        for joint in joints:
            if joint.find("parent").get("link") != name:
                continue
            there, moving = pose @ origin(joint), joint.get("type") != "fixed"
            if moving:
                axis = there[:3, :3] @ [float(t) for t in joint.find("axis").get("xyz").split()]
                limit = {k: float(v) for k, v in joint.find("limit").attrib.items()}
                frames[joint.get("name")] = (
                    there[:3, 3],
                    axis,
                    (limit["lower"], limit["upper"]),
                    limit["effort"],
                )
                parts[joint.get("name")] = []
            walk(joint.find("child").get("link"), there, joint.get("name") if moving else owner)

    walk(base, np.eye(4), "")
    nothing = (np.zeros(3), np.zeros(3), (0.0, 0.0), None)
    return {name: Link(*gather(part), *frames.get(name, nothing)) for name, part in parts.items()}


def read_model(model):
    """The same of a compiled model, all joints at zero."""
    data = mujoco.MjData(model)
    data.qpos[:] = 0.0
    data.qpos[3] = 1.0
    mujoco.mj_kinematics(model, data)
    links = {}
    for joint in range(model.njnt):
        body = model.jnt_bodyid[joint]
        turn = data.ximat[body].reshape(3, 3)
        motor = [i for i in range(model.nu) if model.actuator_trnid[i, 0] == joint]
        force = model.jnt_actfrcrange[joint][1] or (model.actuator_ctrlrange[motor[0]][1] if motor else None)
        links["" if joint == 0 else model.joint(joint).name] = Link(
            model.body_mass[body],
            data.xipos[body].copy(),
            turn @ np.diag(model.body_inertia[body]) @ turn.T,
            data.xanchor[joint].copy(),
            data.xaxis[joint].copy(),
            tuple(model.jnt_range[joint]),
            force,
        )
    return links


def read_mjcf(path):
    """A published MJCF without what needs its meshes or its scripts."""
    root = ET.parse(path).getroot()
    for tag in ("asset", "actuator", "sensor", "keyframe", "contact"):
        for element in root.findall(tag):
            root.remove(element)
    for parent in root.iter():
        for geom in parent.findall("geom") if parent.tag in ("body", "worldbody") else ():
            parent.remove(geom)
        parent.attrib.pop("material", None)
    return read_model(mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode")))


@pytest.fixture(scope="module")
def folder():
    if VARIABLE not in os.environ:
        pytest.skip(
            f"{VARIABLE} is not set: no published models to compare with (see this file's first lines)"
        )
    return Path(os.environ[VARIABLE])


@pytest.mark.parametrize("name", FILES)
def test_links_equal_the_published_ones(name, folder):
    found = sorted(folder.rglob(FILES[name]))
    if not found:
        pytest.skip(f"{folder}: holds no {FILES[name]}")
    published = (read_urdf if found[0].suffix == ".urdf" else read_mjcf)(found[0])
    published = {joint.removesuffix("_joint"): link for joint, link in published.items()}
    robot = get_robot(name)
    ours = read_model(mujoco.MjModel.from_xml_path(str(robot.mjcf)))
    assert set(ours) == set(published)
    if name in SAME_ORDER:
        assert [joint for joint in published if joint] == list(robot.joint_names)
    for leg in robot.leg_names:
        mine, theirs = (
            [j for j in order if j.startswith(f"{leg}_")] for order in (robot.joint_names, published)
        )
        assert mine == theirs
    for joint, link in ours.items():
        other = published[joint]
        assert link.mass == pytest.approx(other.mass, abs=1e-6)
        np.testing.assert_allclose(link.com, other.com, atol=2e-6, err_msg=joint)
        scale = np.abs(other.inertia).max()
        np.testing.assert_allclose(link.inertia, other.inertia, atol=2e-3 * scale, err_msg=joint)
        if joint:
            np.testing.assert_allclose(link.anchor, other.anchor, atol=1e-6, err_msg=joint)
            np.testing.assert_allclose(link.axis, other.axis, atol=1e-6, err_msg=joint)
            np.testing.assert_allclose(link.limit, other.limit, atol=1e-6, err_msg=joint)
        if joint and other.effort is not None:
            assert link.effort == pytest.approx(other.effort)
    efforts = sum(link.effort is not None for link in published.values())
    print(
        f"\n{name}: {len(ours)} links, {sum(link.mass for link in ours.values()):.4f} kg; masses, centres, inertias, anchors, "
        f"axes and limits equal {found[0].name}'s; {efforts} efforts compared"
    )


@pytest.mark.parametrize("name", ["a1", "anymal_c", "go1", "go2"])
def test_motors_equal_the_published_ones(name, folder):
    path = "go1_description/urdf/go1.urdf" if name == "go1" else FILES[name]
    found = sorted(folder.rglob(path))
    if not found:
        pytest.skip(f"{folder}: holds no {path}")
    robot = get_robot(name)
    joints = [j for j in ET.parse(found[0]).getroot().iter("joint") if j.find("limit") is not None]
    limits = {j.get("name").removesuffix("_joint"): j.find("limit") for j in joints}
    for joint, torque, speed in zip(
        robot.joint_names, robot.torque_limit_nm, robot.speed_limit_rad_s, strict=True
    ):
        assert (float(limits[joint].get("effort")), float(limits[joint].get("velocity"))) == (torque, speed)
    print(f"\n{name}: efforts and speeds of {robot.num_joints} joints equal {found[0].name}'s")
