"""`check`: what a bundle is held against before a robot moves."""

import json
from pathlib import Path

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, PolicyBundle
from gaussgym_deploy.bundle.checks import check_bundle
from gaussgym_deploy.bundle.onnx_header import read_onnx_header
from gaussgym_deploy.robot_description import described_robots, find_description, misfits, read_description
from gaussgym_deploy.robot_io import ROBOT_LINKS, open_robot
from gaussgym_deploy.testing import JOINT_NAMES, POSITION_LIMIT, make_bundle


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("b") / "policy", steps=30)


def description(path, **changes):
    fields = {
        "format": "gaussgym-robot-description",
        "version": 1,
        "name": "bench",
        "joint_names": list(JOINT_NAMES),
        "joint_pos_limit_rad": POSITION_LIMIT.tolist(),
        "torque_limit_nm": [23.7] * 12,
        "joint_vel_limit_rad_s": [30.0] * 12,
        "camera": {"position_b_m": [0.28, 0.0, 0.05], "quat_b_c_wxyz": [0.5, -0.5, 0.5, -0.5], "fx": 10.1, "width": 12},
        **changes,
    }  # fmt: skip
    path.write_text(json.dumps(fields))
    return str(path)


def test_a_good_bundle_on_the_robot_that_it_is_for(directory, tmp_path):
    report = check_bundle(directory, robot=description(tmp_path / "bench.json"))
    assert report.problems == []
    report.require_usable()
    assert report.onnx == {
        "policy.onnx": {"ir_version": 9, "opset": 18},
        "encoder.onnx": {"ir_version": 9, "opset": 18},
    }
    assert report.timed_steps >= 1000
    assert 0 < report.inference_ms["p50"] <= report.inference_ms["p99"] <= report.inference_ms["max"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "go9"}, "the policy is for 'bench'"),
        ({"joint_names": [*JOINT_NAMES[3:], *JOINT_NAMES[:3]]}, "joint 0 is 'FR_hip_joint', on bench it is 'FL_hip_joint'"),
        ({"joint_names": [*JOINT_NAMES, "tail"], "joint_pos_limit_rad": [[0, 1]] * 13, "torque_limit_nm": [1] * 13,
          "joint_vel_limit_rad_s": [1] * 13}, "12 joints, bench has 13"),
        ({"joint_pos_limit_rad": (POSITION_LIMIT * 0.9).tolist()}, "'joint_pos_limit_rad' of FR_thigh_joint is 0.45 rad beyond"),
        ({"torque_limit_nm": [23.7] * 11 + [20.0]}, "'torque_limit_nm' of RL_calf_joint is 3.7"),
        ({"joint_vel_limit_rad_s": [20.0] + [30.0] * 11}, "'joint_vel_limit_rad_s' of FR_hip_joint is 10"),
        ({"camera": {"position_b_m": [0.28, 0.05, 0.05]}}, "sits 0.050 m from"),
        # 10 deg about the camera's x axis: q * (cos 5 deg, sin 5 deg, 0, 0), worked out by hand below
        ({"camera": {"quat_b_c_wxyz": [0.541676, -0.454519, 0.454519, -0.541676]}}, "turned by 0.175 rad"),
        ({"camera": {"width": 24}}, "width is 24 px, trained with 12"),
        ({"camera": {"fx": 11.0}}, "fx is 11.00 px"),
        ({"torque_limit_nm": [1.0]}, r"torque_limit_nm' has shape \[1\]"),
        ({"version": 2}, "'version' is 2, expected 1"),
    ],
)  # fmt: skip
def test_a_robot_that_it_does_not_fit(directory, tmp_path, changes, expected):
    report = check_bundle(directory, robot=description(tmp_path / "bench.json", **changes))
    with pytest.raises(BundleError, match=expected):
        report.require_usable()


def test_a_more_careful_bundle_fits(directory, tmp_path):
    robot = read_description(Path(description(tmp_path / "bench.json", torque_limit_nm=[40.0] * 12)))
    assert misfits(PolicyBundle.load(directory), robot) == []


def test_a_quaternion_and_its_negative_are_the_same_mount(directory, tmp_path):
    negative = {"camera": {"quat_b_c_wxyz": [-0.5, 0.5, -0.5, 0.5]}}
    robot = read_description(Path(description(tmp_path / "bench.json", **negative)))
    assert misfits(PolicyBundle.load(directory), robot) == []


def test_joint_names_with_and_without_joint_are_the_same(directory, tmp_path):
    plain = [name[: -len("_joint")] for name in JOINT_NAMES]
    robot = read_description(Path(description(tmp_path / "bench.json", joint_names=plain)))
    assert misfits(PolicyBundle.load(directory), robot) == []


def test_a_link_to_a_robot_refuses_a_bundle_that_does_not_fit_it(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setitem(ROBOT_LINKS, "go2", opened.append)
    bundle = PolicyBundle.load(make_bundle(tmp_path / "policy", steps=4, robot="go2"))
    with pytest.raises(BundleError, match=r"'joint_pos_limit_rad' of FR_thigh_joint is 1.009 rad beyond"):
        open_robot("go2", bundle)
    assert opened == []
    robot = find_description("go2")
    fits = {
        "joint_pos_limit": robot.joint_pos_limit,
        "joint_vel_limit": robot.joint_vel_limit,
        "vision": False,
    }
    bundle = PolicyBundle.load(make_bundle(tmp_path / "policy", steps=4, robot="go2", **fits))
    open_robot("go2", bundle)
    assert opened == [bundle]


def test_an_imported_robot_is_read(tmp_path):
    path = tmp_path / "robot.json"
    robot = {
        "name": "bench",
        "joint_names": list(JOINT_NAMES),
        "torque_limit_nm": [1.0] * 12,
        "speed_limit_rad_s": [],
    }
    path.write_text(json.dumps({"format": "gaussgym-robot", "version": 1, "robot": robot}))
    found = read_description(path)
    assert found.joint_names == JOINT_NAMES
    assert found.joint_vel_limit is None
    assert found.joint_pos_limit is None


def test_descriptions_that_come_along():
    assert described_robots() == ["a1", "anymal_c", "go1", "go2", "t1"]
    for name in described_robots():
        robot = find_description(name)
        assert robot is not None
        assert robot.name == name
        assert (robot.joint_pos_limit[:, 0] < robot.joint_pos_limit[:, 1]).all()
        assert np.linalg.norm(robot.camera["quat_b_c_wxyz"]) == pytest.approx(1.0, abs=1e-5)
    assert find_description("bench") is None


def test_all_problems_are_listed(directory, tmp_path):
    robot = description(tmp_path / "bench.json", torque_limit_nm=[1.0] * 12, camera={"width": 5})
    report = check_bundle(directory, robot=robot)
    assert len(report.problems) == 2
    with pytest.raises(BundleError, match=r"\(and 1 more\)$"):
        report.require_usable()


def test_header_of_a_network_without_the_onnx_package(directory):
    import onnx

    data = (directory / "policy.onnx").read_bytes()
    model = onnx.load_model_from_string(data)
    assert read_onnx_header(data, "x") == (model.ir_version, model.opset_import[0].version)


@pytest.mark.parametrize("data", [b"", b"not a network", b"\x08", b"\x08\x80", b"\x42\xff\xff"])
def test_what_is_no_network_is_refused(data):
    with pytest.raises(BundleError, match="not an ONNX file"):
        read_onnx_header(data, "x")


@pytest.mark.parametrize(
    ("ir_version", "opset", "domain"), [(10, 18, ""), (9, 20, ""), (9, 18, "com.microsoft")]
)
def test_networks_that_old_runtimes_do_not_open_are_refused_when_written(
    tmp_path, directory, ir_version, opset, domain
):
    import onnx

    model = onnx.load(directory / "policy.onnx")
    model.ir_version = ir_version
    model.opset_import[0].version = opset
    if domain:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    with pytest.raises(BundleError, match=r"policy\.onnx: (ONNX format|needs operators)"):
        make_bundle(tmp_path / "new", steps=4, policy_onnx=model.SerializeToString())
    assert list(tmp_path.iterdir()) == []


def test_what_other_runtimes_need_stands_in_the_manifest(directory):
    fields = json.loads((directory / "policy.json").read_text())
    assert fields["networks"]["policy"] == {
        "file": "policy.onnx",
        "ir_version": 9,
        "opset": 18,
        "inputs": {"proprio": [1, 45], "feature": [1, 8], "h_in": [1, 1, 16]},
        "outputs": {"actions": [1, 12], "h_out": [1, 1, 16]},
    }
    assert fields["networks"]["encoder"]["inputs"] == {"rgb": [1, 3, 8, 12]}
    assert {term["name"] for term in fields["observation"]} <= set(fields["conventions"])


def test_bundles_of_before_networks_and_conventions_are_still_read(directory, tmp_path):
    import shutil

    old = tmp_path / "old"
    shutil.copytree(directory, old)
    fields = json.loads((old / "policy.json").read_text())
    del fields["networks"], fields["conventions"]
    (old / "policy.json").write_text(json.dumps(fields))
    assert check_bundle(old).problems == []
