"""Importing robots: what is refused, what is guessed, and that nothing of the physics changes on the way."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import mujoco
import numpy as np
import pytest
from gaussgym_scene.errors import InputError
from gaussgym_sim.__main__ import main
from gaussgym_sim.mdp.symmetry import Symmetry
from gaussgym_sim.robot import get_robot, with_dc_motors
from gaussgym_sim.robot_import.import_robot import check_inertial, import_robot, notes_of
from gaussgym_sim.robot_import.robot_file import load_robot, save_robot
from gaussgym_sim.robot_import.urdf_tree import read_urdf, urdf_spec
from gaussgym_sim.robot_import.visuals import MENAGERIE_NAMES, visual_model
from gaussgym_sim.testing_robots import check_holds_pose_hung, check_stands_on_slope
from gaussgym_sim.vecsim import make_sim

BALL = 'ixx="{i}" iyy="{i}" izz="{i}" ixy="0" ixz="0" iyz="0"'
LEG = (
    """
  <link name="{leg}_hip">
    <inertial><origin xyz="0 {y:.3f} 0" rpy="0.3 0.2 0.1"/><mass value="0.5"/>
      <inertia ixx="0.0004" iyy="0.0006" izz="0.0005" ixy="0.00002" ixz="0" iyz="0"/></inertial>
    <collision><geometry><sphere radius="0.04"/></geometry></collision>
  </link>
  <joint name="{leg}_hip_joint" type="revolute">
    <origin xyz="{x} {side} 0"/><parent link="body"/><child link="{leg}_hip"/><axis xyz="1 0 0"/>
    <limit lower="-0.7" upper="0.7" effort="25" velocity="20"/>
  </joint>
  <link name="{leg}_thigh">
    <inertial><origin xyz="0 0 -0.05"/><mass value="0.9"/><inertia ixx="0.004" iyy="0.004" izz="0.0008" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><origin xyz="0 0 -0.1"/><geometry><box size="0.04 0.03 0.16"/></geometry></collision>
  </link>
  <joint name="{leg}_thigh_joint" type="revolute">
    <origin xyz="0 {y2:.3f} 0"/><parent link="{leg}_hip"/><child link="{leg}_thigh"/><axis xyz="0 1 0"/>
    <limit lower="-0.5" upper="3.0" effort="25" velocity="20"/>
  </joint>
  <link name="{leg}_calf">
    <inertial><origin xyz="0 0 -0.1"/><mass value="0.15"/><inertia ixx="0.001" iyy="0.001" izz="0.0001" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><origin xyz="0 0 -0.09"/><geometry><cylinder radius="0.012" length="0.16"/></geometry></collision>
  </link>
  <joint name="{leg}_calf_joint" type="revolute">
    <origin xyz="0 0 -0.2"/><parent link="{leg}_thigh"/><child link="{leg}_calf"/><axis xyz="0 1 0"/>
    <limit lower="-2.6" upper="-0.8" effort="30" velocity="15"/>
  </joint>
  <link name="{leg}_foot">
    <inertial><mass value="0.05"/><inertia """
    + BALL.format(i="0.00001")
    + """/></inertial>
    <collision><geometry><sphere radius="0.02"/></geometry></collision>
  </link>
  <joint name="{leg}_foot_joint" type="fixed">
    <origin xyz="0 0 -0.2" rpy="0 0.4 0"/><parent link="{leg}_calf"/><child link="{leg}_foot"/>
  </joint>"""
)
BODY = """
  <link name="dummy"/>
  <joint name="floating" type="fixed"><parent link="dummy"/><child link="body"/></joint>
  <link name="body">
    <visual><geometry><mesh filename="package://nowhere/body.dae"/></geometry></visual>
    <inertial><origin xyz="0.01 0 0"/><mass value="6.0"/><inertia ixx="0.02" iyy="0.06" izz="0.07" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><geometry><box size="0.36 0.16 0.1"/></geometry></collision>
  </link>"""


def quadruped_urdf():
    legs = ""
    for leg, x, side in (("FL", 0.18, 1), ("FR", 0.18, -1), ("RL", -0.18, 1), ("RR", -0.18, -1)):
        legs += LEG.format(leg=leg, x=x, side=0.05 * side, y=0.01 * side, y2=0.08 * side)
    return f'<robot name="dog">{BODY}{legs}\n</robot>'


def imported(tmp_path, text, suffix=".urdf", **options):
    path = tmp_path / f"dog{suffix}"
    path.write_text(text)
    return import_robot(path, name="dog", output=tmp_path / "robots", **options)


def test_urdf_becomes_a_robot_that_stands(tmp_path):
    path = imported(tmp_path, quadruped_urdf())
    robot = get_robot(str(path))
    assert robot.name == str(path)
    assert robot.leg_names == ("FR", "FL", "RR", "RL")
    assert robot.joint_names[:3] == ("FR_hip_joint", "FR_thigh_joint", "FR_calf_joint")
    assert robot.torque_limit_nm == (25.0, 25.0, 30.0) * 4
    assert robot.speed_limit_rad_s == (20.0, 20.0, 15.0) * 4
    assert robot.mirror_joints == get_robot("go1").mirror_joints
    assert robot.mirror_signs == get_robot("go1").mirror_signs
    assert robot.mirror_legs == (1, 0, 3, 2)
    assert robot.foot_geoms == ("FR_foot", "FL_foot", "RR_foot", "RL_foot")
    assert robot.foot_radius_m == pytest.approx(0.02)
    assert 0.25 < robot.base_height_m < 0.4
    hip, thigh, calf = robot.default_joint_pos[:3]
    assert hip == 0.0
    ahead = -0.2 * np.sin(thigh) - 0.2 * np.sin(thigh + calf)
    assert ahead == pytest.approx(
        0.25 * 0.18, abs=0.02
    )  # foot a little before the hip, which is 0.18 m ahead
    assert with_dc_motors(robot).actuator.kind == "dc"

    def make(scenes, num_envs, **options):
        return make_sim("mujoco", robot, scenes, num_envs, num_threads=1)

    results = check_stands_on_slope(make, seconds=4.0) + check_holds_pose_hung(robot, seconds=4.0)
    assert [r.name for r in results if not r.passed] == []
    notes = notes_of(path)
    assert any("rotor inertia" in n for n in notes)
    assert any("a cylinder became a capsule" in n for n in notes)
    model = mujoco.MjModel.from_xml_path(str(robot.mjcf))
    capsule = int(model.body("FR_calf").geomadr[0])
    assert model.geom_size[capsule][:2] == pytest.approx([0.012, 0.08 - 0.012])
    assert model.dof_armature[6:] == pytest.approx(0.01)


def test_urdf_has_the_mass_matrix_that_mujoco_reads(tmp_path):
    """MuJoCo's own importer as independent twin, on turned inertials and fixed links."""
    text = quadruped_urdf()
    path = tmp_path / "dog.urdf"
    path.write_text(text)
    ours = urdf_spec(read_urdf(path), armature=0.0).compile()
    extension = '<mujoco><compiler discardvisual="true" fusestatic="true" inertiafromgeom="false" strippath="false"/></mujoco>'
    bare = text.replace(
        '<visual><geometry><mesh filename="package://nowhere/body.dae"/></geometry></visual>', ""
    )
    spec = mujoco.MjSpec.from_string(bare.replace('<robot name="dog">', f'<robot name="dog">{extension}'))
    spec.worldbody.first_body().add_freejoint()
    theirs = spec.compile()
    assert ours.body_mass.sum() == pytest.approx(theirs.body_mass.sum(), rel=1e-12)
    random = np.random.default_rng(0)
    for _ in range(3):
        matrices = []
        angles = {ours.joint(i).name: random.uniform(-1, 1) for i in range(1, ours.njnt)}
        for model in (ours, theirs):
            data = mujoco.MjData(model)
            data.qpos[:7] = [0, 0, 0, 1, 0, 0, 0]
            for name, angle in angles.items():
                data.joint(name).qpos[0] = angle
            mujoco.mj_forward(model, data)
            full = np.zeros((model.nv, model.nv))
            mujoco.mj_fullM(model, data, full)
            order = [*range(6), *(int(model.joint(name).dofadr[0]) for name in angles)]
            matrices.append(full[np.ix_(order, order)])
        np.testing.assert_allclose(*matrices, atol=1e-9)


@pytest.mark.parametrize("name", ["go1", "t1"])
def test_importing_our_own_model_keeps_its_dynamics(tmp_path, name):
    ours = get_robot(name)
    robot = load_robot(import_robot(ours.mjcf, name=name, output=tmp_path))
    assert robot.torque_limit_nm == ours.torque_limit_nm
    assert robot.trunk_mass_kg == pytest.approx(ours.trunk_mass_kg)
    end = []
    for mjcf in (ours.mjcf, robot.mjcf):
        spec = mujoco.MjSpec.from_file(str(mjcf))
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], contype=0, conaffinity=1)
        model = spec.compile()
        data, random = mujoco.MjData(model), np.random.default_rng(1)
        data.qpos[2] = ours.base_height_m
        for joint, angle in zip(ours.joint_names, ours.default_joint_pos):
            data.joint(joint).qpos[0] = angle
        for _ in range(200):
            for joint, limit in zip(ours.joint_names, ours.torque_limit_nm):
                data.actuator(joint).ctrl[0] = random.uniform(-0.2, 0.2) * limit
            mujoco.mj_step(model, data)
        assert data.ncon > 0
        end.append(data.qpos.copy())
    np.testing.assert_allclose(*end, atol=1e-7)


@pytest.mark.parametrize("name", ["a1", "anymal_c", "go1", "go2", "t1"])
def test_guesses_about_our_own_robots_are_what_we_wrote(tmp_path, name):
    """Legs, feet, thighs and mirror maps; T1's trunk is more than its base, and its file lists the left leg first, as we do."""
    ours, robot = get_robot(name), load_robot(import_robot(get_robot(name).mjcf, name=name, output=tmp_path))
    for field in (
        "joint_names", "foot_geoms", "thigh_geoms", "mirror_joints", "mirror_signs", "mirror_legs", "torque_limit_nm",
    ):  # fmt: skip
        assert getattr(robot, field) == getattr(ours, field), field
    assert [leg.lower() for leg in robot.leg_names] == [leg.lower() for leg in ours.leg_names]
    assert robot.foot_radius_m == pytest.approx(ours.foot_radius_m)
    assert robot.trunk_com_b == pytest.approx(ours.trunk_com_b, abs=1e-9)


def test_spheres_under_a_foot_become_one_box(tmp_path):
    """T1's soles as four spheres at their corners: the import gives the box back."""
    text = get_robot("t1").mjcf.read_text()
    for side in ("left", "right"):
        start = text.index(f'<geom name="{side}_foot"')
        end = text.index("/>", start) + 2
        corners = [(x, y) for x in (0.11, -0.09) for y in (0.035, -0.035)]
        spheres = [f'<geom type="sphere" size="0.01" pos="{x} {y} -0.02"/>' for x, y in corners]
        text = text[:start] + "".join(spheres) + text[end:]
    path = imported(tmp_path, text, ".xml")
    robot = load_robot(path)
    model = mujoco.MjModel.from_xml_path(str(robot.mjcf))
    for geom in robot.foot_geoms:
        sole = model.geom(geom)
        assert sole.type[0] == mujoco.mjtGeom.mjGEOM_BOX
        assert sole.size == pytest.approx([0.11, 0.045, 0.01])
        assert sole.pos == pytest.approx([0.01, 0.0, -0.02])
    assert robot.mirror_joints == get_robot("t1").mirror_joints
    assert any("4 spheres under the foot became one box" in n for n in notes_of(path))


def test_keyframe_gives_the_pose(tmp_path):
    go1 = get_robot("go1").mjcf.read_text()
    angles = [0.05, 0.7, -1.3] * 4
    key = f'<keyframe><key qpos="0 0 0.3 1 0 0 0 {" ".join(map(str, angles))}"/></keyframe></mujoco>'
    path = imported(tmp_path, go1.replace("</mujoco>", key), ".xml")
    assert load_robot(path).default_joint_pos == tuple(angles)
    assert "default pose: the file's first keyframe" in notes_of(path)


def test_lopsided_robot_has_no_mirror_maps(tmp_path):
    text = quadruped_urdf().replace('<origin xyz="0.18 0.05 0"/>', '<origin xyz="0.24 0.05 0"/>')
    path = imported(tmp_path, text)
    robot = load_robot(path)
    assert (robot.mirror_joints, robot.mirror_signs, robot.mirror_legs) == ((), (), (1, 0, 3, 2))
    with pytest.raises(InputError, match="not left-right symmetric"):
        Symmetry(robot)
    assert any("not left-right symmetric" in n for n in notes_of(path))


THIGH_INERTIA = 'ixx="0.004" iyy="0.004" izz="0.0008" ixy="0" ixz="0" iyz="0"'
HIP_SHAPE = '<collision><geometry><sphere radius="0.04"/></geometry></collision>'
CALF_SHAPE = '<collision><origin xyz="0 0 -0.09"/><geometry><cylinder radius="0.012" length="0.16"/></geometry></collision>'
BROKEN_URDFS = {
    "no XML": ("</robot>", "", "not readable as XML"),
    "not positive": (THIGH_INERTIA, THIGH_INERTIA.replace('ixy="0"', 'ixy="0.01"'), "'FL_thigh' has principal moments -0.006.*above 0"),
    "triangle": (THIGH_INERTIA, THIGH_INERTIA.replace('iyy="0.004"', 'iyy="0.02"'), "'FL_thigh'.*above the sum of the others"),
    "no mass": ('<mass value="0.9"/>', '<mass value="0"/>', "'FL_thigh' has mass 0 kg"),
    "negative mass": ('<mass value="0.9"/>', '<mass value="-1"/>', "'FL_thigh' has mass -1 kg"),
    "inertia in kg mm^2": (THIGH_INERTIA, THIGH_INERTIA.replace("0.004", "4000").replace("0.0008", "800"), "'FL_thigh'.*m wide.*check the units"),
    "mass in grams": ('<mass value="6.0"/>', '<mass value="6000"/>', r"weighs 600\d kg; expected 0.5 to 500"),
    "far centre": ('<origin xyz="0 0 -0.05"/><mass value="0.9"/>', '<origin xyz="0 0 -1.5"/><mass value="0.9"/>', r"'FL_thigh' has its centre of mass at \(0, 0, -1.5\) m, .* outside its shapes"),
    "no limits": ('<limit lower="-0.5" upper="3.0" effort="25" velocity="20"/>', "", "'FL_thigh_joint' has no limits"),
    "limits the wrong way": ('lower="-0.5" upper="3.0"', 'lower="3.0" upper="-0.5"', "'FL_thigh_joint': limits 3 to -0.5 rad leave no room"),
    "no effort": ('upper="3.0" effort="25"', 'upper="3.0"', "'FL_thigh_joint' has effort None"),
    "zero effort": ('upper="3.0" effort="25"', 'upper="3.0" effort="0"', "'FL_thigh_joint' has effort 0"),
    "continuous": ('name="FL_calf_joint" type="revolute"', 'name="FL_calf_joint" type="continuous"', "'FL_calf_joint' is a continuous joint"),
    "sliding": ('name="FL_calf_joint" type="revolute"', 'name="FL_calf_joint" type="prismatic"', "'FL_calf_joint' is a prismatic joint"),
    "mimic": ('<axis xyz="0 1 0"/>', '<axis xyz="0 1 0"/><mimic joint="FR_hip_joint"/>', "mimics another"),
    "two bases": ("</robot>", '<link name="box"/></robot>', r"has 2 base links \(dummy, box\)"),
    "a loop": ("</robot>", '<joint name="loop" type="fixed"><parent link="FL_calf"/><child link="RL_foot"/></joint></robot>', "'RL_foot' has two parents"),
    "no such link": ('<child link="FL_thigh"/>', '<child link="FL_tigh"/>', "names 'FL_tigh' as its child"),
    "not a number": ('<mass value="0.9"/>', '<mass value="much"/>', "value='much'; expected a number"),
    "no trunk shape": ('<collision><geometry><box size="0.36 0.16 0.1"/></geometry></collision>', "", "base 'body' has no collision shape"),
    "no foot shape": (
        '<collision><geometry><sphere radius="0.02"/></geometry></collision>', "", None,
    ),
    "no thigh shape": (
        '<collision><origin xyz="0 0 -0.1"/><geometry><box size="0.04 0.03 0.16"/></geometry></collision>', "", None,
    ),
    "lost mesh": ('<sphere radius="0.04"/>', '<mesh filename="package://dog/hip.stl"/>', r"mesh 'package://dog/hip.stl' not found"),
    "odd shape": ('<sphere radius="0.04"/>', '<cone radius="0.04"/>', "is a <cone>"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_URDFS)
def test_broken_urdf_is_refused_in_one_line(tmp_path, what):
    old, new, message = BROKEN_URDFS[what]
    text = quadruped_urdf()
    assert old in text
    if message is None:  # of all legs at once, and of the links beside, where shapes would be looked for next
        shapes = [HIP_SHAPE, CALF_SHAPE] if what == "no foot shape" else [HIP_SHAPE]
        for shape in (old, *shapes):
            text = text.replace(shape, "")
        message = {"no foot shape": "no limb has a collision shape on its last links"}.get(
            what, "no collision shape between hip and knee"
        )
    else:
        text = text.replace(old, new, 1)
    with pytest.raises(InputError, match=message) as error:
        imported(tmp_path, text)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "robots").exists()


def test_one_foot_without_a_shape_is_refused(tmp_path):
    """The calf's own shape is taken off too, so that the leg ends in nothing; the other three are fine."""
    start, end = (quadruped_urdf().index(f'<link name="{name}">') for name in ("FL_calf", "FR_hip"))
    text = quadruped_urdf()
    leg = text[start:end]
    while "<collision>" in leg:
        a, b = leg.index("<collision>"), leg.index("</collision>") + len("</collision>")
        leg = leg[:a] + leg[b:]
    with pytest.raises(InputError, match="link 'FL_calf' ends a leg without a collision shape"):
        imported(tmp_path, text[:start] + leg + text[end:])


BROKEN_MJCFS = {
    "no motor": ('<motor name="FR_calf" joint="FR_calf" class="knee"/>', "", "joint 'FR_calf' has no motor"),
    "no torque limit": ('<motor ctrlrange="-35.55 35.55"/>', "", "joint 'FR_calf': its motor has no torque limit"),
    "no limits": ('range="-2.818 -0.888"', "", "joint 'FR_calf' has no limits"),
    "triangle": (
        'fullinertia="0.0168128 0.0630095 0.0716547', 'fullinertia="0.0168128 0.0630095 0.1716547', "body 'trunk'.*sum of the others",
    ),
    "not positive": (
        'fullinertia="0.0168128 0.0630095 0.0716547', 'fullinertia="-0.0168128 0.0630095 0.0716547', "body 'trunk'.*expected all above 0",
    ),
    "slide": ('<joint name="FR_calf"/>', '<joint name="FR_calf" type="slide"/>', "joint 'FR_calf' is no hinge"),
    "two bases": ("</worldbody>", '<body name="box"><freejoint/><geom size="0.1" mass="1"/></body></worldbody>', "has 2 bodies on the world"),
    "closed loop": ("</mujoco>", '<equality><connect body1="FR_calf" body2="FL_calf" anchor="0 0 0"/></equality></mujoco>', "equality constraints"),
    "nonsense": ("<worldbody>", "<worldbody><bodyy/>", "MuJoCo cannot read it"),
    "no base": ("<mujoco model", "<mujo model", "not readable as XML"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_MJCFS)
def test_broken_mjcf_is_refused_in_one_line(tmp_path, what):
    old, new, message = BROKEN_MJCFS[what]
    text = get_robot("go1").mjcf.read_text()
    assert old in text
    with pytest.raises(InputError, match=message) as error:
        imported(tmp_path, text.replace(old, new, 1), ".xml")
    assert "\n" not in str(error.value)


def test_base_without_a_free_joint_gets_one(tmp_path):
    path = imported(
        tmp_path, get_robot("go1").mjcf.read_text().replace('<freejoint name="root"/>', ""), ".xml"
    )
    assert load_robot(path).num_joints == 12
    assert "the base had no free joint; it has one now" in notes_of(path)


def write_box(path, half):
    """A box as ASCII STL."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros(
        len(triangles), np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("pad", "<u2")])
    )
    data["corners"] = corners[np.array(triangles)]
    path.write_bytes(bytes(80) + np.uint32(len(triangles)).tobytes() + data.tobytes())


@pytest.mark.parametrize(
    ("half", "kind"),
    [((0.06, 0.03, 0.05), "box"), ((0.02, 0.02, 0.09), "capsule"), ((0.03, 0.03, 0.035), "sphere")],
)
def test_meshes_become_the_primitive_that_fits(tmp_path, half, kind):
    write_box(tmp_path / "dog_description" / "meshes" / "hip.stl", half)
    text = quadruped_urdf().replace(
        '<sphere radius="0.04"/>', '<mesh filename="package://dog_description/meshes/hip.stl"/>'
    )
    (tmp_path / "dog_description" / "urdf").mkdir()
    path = imported(tmp_path / "dog_description" / "urdf", text)
    model = mujoco.MjModel.from_xml_path(str(load_robot(path).mjcf))
    geom = int(model.body("FR_hip").geomadr[0])
    assert mujoco.mjtGeom(int(model.geom_type[geom])).name == f"mjGEOM_{kind.upper()}"
    if kind == "box":
        assert sorted(model.geom_size[geom]) == pytest.approx(sorted(half), rel=1e-3)
    assert any(f"mesh hip.stl became the {kind}" in n for n in notes_of(path))


def test_meshes_that_cannot_be_fitted_are_refused(tmp_path):
    (tmp_path / "hip.dae").write_text("<COLLADA/>")
    text = quadruped_urdf().replace('<sphere radius="0.04"/>', '<mesh filename="hip.dae"/>')
    with pytest.raises(InputError, match=r"hip\.dae is not one that can be fitted"):
        imported(tmp_path, text)


def test_check_inertial_by_hand():
    """A thin rod has moments (0, m l^2 / 12, the same): the triangle's limit. A disc has a, a, 2 a: just allowed."""
    check_inertial("disc", 1.0, np.diag([0.1, 0.1, 0.2]))
    with pytest.raises(InputError, match="sum of the others"):
        check_inertial("flatter", 1.0, np.diag([0.1, 0.1, 0.21]))
    with pytest.raises(InputError, match="above 0"):
        check_inertial("rod", 1.0, np.diag([0.0, 0.1, 0.1]))
    with pytest.raises(InputError, match="mass nan"):
        check_inertial("none", float("nan"), np.eye(3))


def test_robot_file_round_trip_and_damage(tmp_path):
    for name in ("go1", "t1"):
        robot = with_dc_motors(get_robot(name))
        path = save_robot(robot, robot.mjcf.read_text(), tmp_path / name)
        assert replace(load_robot(path), mjcf=robot.mjcf) == robot
        assert load_robot(path.parent) == load_robot(path)

    def damaged(change):
        values = json.loads((tmp_path / "go1" / "robot.json").read_text())
        change(values)
        folder = tmp_path / "damaged"
        folder.mkdir(exist_ok=True)
        (folder / "robot.xml").write_text((tmp_path / "go1" / "robot.xml").read_text())
        (folder / "robot.json").write_text(json.dumps(values))
        return folder

    for change, message in (
        (lambda v: v.update(format="else"), "format is 'else'"),
        (lambda v: v.update(version=9), "version 9"),
        (lambda v: v.update(robot=[]), "'robot' is list"),
        (lambda v: v["robot"].pop("kp"), "fields kp are missing or unknown"),
        (lambda v: v["robot"].update(kp=[1.0]), "'kp' has 1 entries, expected 12"),
        (lambda v: v["robot"].update(kp=["1"] * 12), "'kp' is .*expected numbers"),
        (lambda v: v["robot"].update(kp=3.0), "'kp' is 3.0"),
        (lambda v: v["robot"].update(action_scale=[0.25]), "'action_scale' is"),
        (lambda v: v["robot"].update(joint_names=[1] * 12), "'joint_names' is .*expected text"),
        (lambda v: v["robot"].update(mirror_legs=[0, 0, 1, 2]), "each of 0 to 3 once"),
        (lambda v: v["robot"].update(base_height_m=float("inf")), "finite"),
        (lambda v: v["robot"].update(actuator={"kind": "magic"}), "unknown kind of actuator 'magic'"),
        (lambda v: v["robot"].update(actuator={"net": "/tmp/x"}), "'actuator' is"),
    ):
        with pytest.raises(InputError, match=message):
            load_robot(damaged(change))
    edited = damaged(
        lambda v: v["robot"].update(kp=[55.0] * 12)
    )  # numbers may be edited by hand, the model may not
    assert load_robot(edited).kp == (55.0,) * 12
    (edited / "robot.xml").write_text("<mujoco/>")
    with pytest.raises(InputError, match=r"robot\.xml"):
        load_robot(edited)
    with pytest.raises(InputError, match="not found"):
        get_robot(str(tmp_path / "none" / "robot.json"))


def test_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "dog.urdf").write_text(quadruped_urdf())
    words = [
        "gaussgym-sim",
        "import-robot",
        str(tmp_path / "dog.urdf"),
        "--output",
        str(tmp_path / "robots"),
        "--name",
    ]
    monkeypatch.setattr(sys, "argv", [*words, "dog"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert capsys.readouterr().out.strip().endswith("robots/dog/robot.json")
    monkeypatch.setattr(sys, "argv", [*words, "../dog"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "robot name '../dog'" in error
    assert len(error.splitlines()) == 1


def test_visual_model(monkeypatch):
    """With a stand-in for mujoco-menagerie, which downloads its models."""
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", None)
    with pytest.raises(InputError, match="pip install mujoco-menagerie"):
        visual_model(get_robot("go1"))
    package = ModuleType("mujoco_menagerie")
    package.MenagerieError = type("MenagerieError", (Exception,), {})  # type: ignore[attr-defined]

    class Model:
        default_model = "only"

        def __init__(self, name):
            self.name = name

        def xml(self, entry):
            if self.name == "unitree_go2":
                raise package.MenagerieError("no network\nhere")  # type: ignore[attr-defined]
            return Path("/cache") / self.name / f"{entry}.xml"

    package.get = Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", package)
    assert visual_model(get_robot("t1")) == Path("/cache/booster_t1/only.xml")
    assert set(MENAGERIE_NAMES) == {"a1", "anymal_c", "go1", "go2", "t1"}
    with pytest.raises(InputError, match=r"'go2': no network here; .*MENAGERIE_ROOT"):
        visual_model(get_robot("go2"))
    with pytest.raises(InputError, match="'mine' has no visual model"):
        visual_model(replace(get_robot("go1"), name="mine"))
