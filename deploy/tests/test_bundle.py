"""Every way in which a bundle can be wrong is one clear error."""

import json

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError, ObservationTerm, PolicyBundle
from gaussgym_deploy.bundle.reading import sha256_of
from gaussgym_deploy.testing import DEFAULT_POSE, JOINT_NAMES, make_bundle


@pytest.fixture
def bundle_dir(tmp_path):
    return make_bundle(tmp_path / "policy", steps=12)


def edit(directory, change):
    path = directory / "policy.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def put(key, value):
    return lambda fields: fields.__setitem__(key, value)


def replace_golden(directory, change):
    """Rewrite golden.npz and make the manifest's hash agree, so that only the contents are wrong."""
    path = directory / "golden.npz"
    with np.load(path) as arrays:
        golden = dict(arrays)
    change(golden)
    np.savez_compressed(path, **golden)
    record = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    edit(directory, lambda fields: fields["files"].__setitem__("golden.npz", record))


def test_loads_what_was_written(bundle_dir):
    bundle = PolicyBundle.load(bundle_dir)
    assert bundle.robot == "bench"
    assert bundle.joint_names == JOINT_NAMES
    assert bundle.proprio_size == 45
    assert bundle.control_dt_s == pytest.approx(0.02)
    np.testing.assert_array_equal(bundle.default_joint_pos, DEFAULT_POSE)
    assert bundle.observation[2] == ObservationTerm("command", 3, (2.0, 2.0, 0.25))
    assert bundle.observation[4].clip == 5.0
    assert bundle.camera is not None
    assert (bundle.camera.width, bundle.camera.height) == (12, 8)
    assert bundle.action_clip == np.inf
    assert PolicyBundle.load(bundle_dir / "policy.json").robot == "bench"
    assert not bundle.kp.flags.writeable


def test_blind_bundle_has_no_encoder(tmp_path):
    bundle = PolicyBundle.load(make_bundle(tmp_path / "blind", vision=False, steps=4))
    assert bundle.camera is None
    assert bundle.encoder_file is None
    assert not (tmp_path / "blind" / "encoder.onnx").exists()


@pytest.mark.parametrize("name", ["policy.onnx", "encoder.onnx", "golden.npz"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_changed_file_is_refused(bundle_dir, name, damage):
    path = bundle_dir / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    expected = {"flip": "sha256", "cut": "bytes", "remove": "missing"}[damage]
    with pytest.raises(BundleError, match=expected) as caught:
        PolicyBundle.load(bundle_dir)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


KEYS = [
    "format", "version", "robot", "joint_names", "observation", "default_joint_pos_rad", "kp_nm_per_rad",
    "kd_nms_per_rad", "action_scale_rad", "action_clip", "torque_limit_nm", "joint_pos_limit_rad", "joint_vel_limit_rad_s",
    "control_hz", "camera_hz", "camera", "feature_size", "recurrent", "guards", "training", "licence", "files",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_field_is_refused(bundle_dir, key):
    edit(bundle_dir, lambda fields: fields.pop(key))
    with pytest.raises(BundleError, match=key):
        PolicyBundle.load(bundle_dir)


def test_the_list_of_keys_above_is_complete(bundle_dir):
    fields = json.loads((bundle_dir / "policy.json").read_text())
    assert set(fields) == {*KEYS, "normalization", "networks", "conventions"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put("format", "gaussgym-scene"), "format"),
        (put("version", 2), "version 2 is unknown"),
        (put("robot", 7), "robot"),
        (put("joint_names", list(JOINT_NAMES[:11])), "default_joint_pos_rad"),
        (put("joint_names", ["a"] * 12), "differ from each other"),
        (put("observation", []), "observation"),
        (put("observation", [{"name": "command", "size": 3}]), "scale"),
        (put("observation", [{"name": "command", "size": 0, "scale": 1}]), "size"),
        (put("observation", [{"name": "command", "size": 3, "scale": [1, 2]}]), "scale"),
        (lambda f: f["observation"].pop(), "proprio"),
        (put("default_joint_pos_rad", [0.0] * 11), r"shape \[12\]"),
        (put("default_joint_pos_rad", ["0"] * 12), r"default_joint_pos_rad\[0\]' is '0', expected a number"),
        (put("default_joint_pos_rad", [5.0] * 12), "outside"),
        (put("kp_nm_per_rad", [-1.0] * 12), "kp_nm_per_rad"),
        (put("kd_nms_per_rad", [[1.0]] * 12), "kd_nms_per_rad"),
        (put("action_scale_rad", None), "action_scale_rad"),
        (put("action_clip", 0.0), "action_clip"),
        (put("torque_limit_nm", [0.0] * 12), "torque_limit_nm"),
        (put("joint_pos_limit_rad", [[1.0, -1.0]] * 12), "lower limit"),
        (put("joint_vel_limit_rad_s", [1.0] * 13), "joint_vel_limit_rad_s"),
        (put("control_hz", 0), "control_hz"),
        (put("control_hz", "fast"), "control_hz"),
        (put("camera_hz", 200.0), "camera_hz"),
        (lambda f: f["camera"].pop("fx"), "camera"),
        (lambda f: f["camera"].__setitem__("width", 13), "rgb"),
        (lambda f: f["camera"].__setitem__("quat_b_c_wxyz", [1, 1, 0, 0]), "unit quaternion"),
        (put("feature_size", -3), "feature_size"),
        (put("recurrent", {"layers": 1}), "recurrent"),
        (put("guards", {"tilt_rad": "much"}), "guards.tilt_rad"),
        (put("files", {}), "policy.onnx"),
        (lambda f: f["files"].__setitem__("../x", f["files"]["policy.onnx"]), "stays inside the folder"),
        (lambda f: f["files"].__setitem__("policy.onnx", 5), "expected an object"),
        (lambda f: f["files"]["policy.onnx"].__setitem__("sha256", "12"), "64 hexadecimal digits"),
        (put("kp_nm_per_rad", [1e300 * 1e300] * 12), "Infinity"),
    ],
)
def test_a_wrong_field_is_refused(bundle_dir, change, expected):
    edit(bundle_dir, change)
    with pytest.raises(BundleError, match=expected) as caught:
        PolicyBundle.load(bundle_dir)
    assert "\n" not in str(caught.value)


def test_a_number_too_large_for_a_float_is_refused(bundle_dir):
    path = bundle_dir / "policy.json"
    path.write_text(path.read_text().replace('"control_hz": 50.0', '"control_hz": 1e999'))
    with pytest.raises(BundleError, match="'control_hz' is inf, expected a finite number"):
        PolicyBundle.load(bundle_dir)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "gaussgym-policy", "version": 1, "robot": NaN}'])
def test_a_broken_manifest_is_refused(bundle_dir, text):
    (bundle_dir / "policy.json").write_text(text)
    with pytest.raises(BundleError, match=r"policy\.json"):
        PolicyBundle.load(bundle_dir)


def test_no_bundle_there(tmp_path):
    with pytest.raises(BundleError, match="expected the manifest"):
        PolicyBundle.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda g: g.pop("proprio"), "proprio"),
        (lambda g: g.pop("actions"), "actions"),
        (lambda g: g.pop("rgb"), "rgb"),
        (lambda g: g.pop("raw_quat_wxyz"), "raw_quat_wxyz"),
        (lambda g: g.__setitem__("actions", g["actions"][:, :11]), "shape"),
        (lambda g: g.__setitem__("proprio", g["proprio"][:, :44]), "shape"),
        (lambda g: g.__setitem__("actions", g["actions"] * np.nan), "NaN"),
        (lambda g: g.__setitem__("rgb", g["rgb"].astype(np.float32)), "float32"),
        (lambda g: g.__setitem__("frame", g["frame"] + 99), "frame"),
        (lambda g: g.__setitem__("reset", np.zeros(12, dtype=bool)), "reset"),
        (lambda g: g.__setitem__("proprio", np.zeros((0, 45), dtype=np.float32)), "at least one step"),
    ],
)
def test_a_wrong_golden_trace_is_refused(bundle_dir, change, expected):
    replace_golden(bundle_dir, change)
    with pytest.raises(BundleError, match=expected):
        PolicyBundle.load(bundle_dir)


def test_pickled_arrays_are_never_loaded(bundle_dir):
    replace_golden(bundle_dir, lambda g: g.__setitem__("actions", np.array([{"a": 1}], dtype=object)))
    with pytest.raises(BundleError, match="not a readable npz"):
        PolicyBundle.load(bundle_dir)


def test_writing_nan_leaves_nothing_behind(tmp_path):
    with pytest.raises(BundleError, match="kp_nm_per_rad"):
        make_bundle(tmp_path / "policy", steps=4, kp=np.nan)
    assert list(tmp_path.iterdir()) == []


def test_writing_networks_that_disagree_with_the_trace_is_refused_and_keeps_the_old_bundle(tmp_path):
    directory = make_bundle(tmp_path / "policy", steps=8)
    other = PolicyBundle.load(make_bundle(tmp_path / "other", steps=8, seed=1))
    with pytest.raises(BundleError, match="differ from the golden trace"):
        make_bundle(directory, steps=8, golden=dict(other.golden))
    assert PolicyBundle.load(directory).training["seed"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "policy"]


def test_a_bundle_is_replaced_whole(tmp_path):
    directory = make_bundle(tmp_path / "policy", steps=8, vision=True)
    make_bundle(directory, steps=8, vision=False, seed=3)
    assert sorted(path.name for path in directory.iterdir()) == ["golden.npz", "policy.json", "policy.onnx"]
    assert PolicyBundle.load(directory).training["seed"] == 3
