"""The worst captures and arguments one can think of: each ends with its own clear line and exit status 2, and harms nothing."""

import json
import re
import shutil
import struct
import sys

import numpy as np
import pytest
from gaussgym_recon import __main__ as command
from gaussgym_scene.artifact import write_manifest
from gaussgym_scene.testing import random_splats
from PIL import Image

SIZE = (64, 48)


def photograph(path, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def photos(folder, count=4, suffix=".jpg"):
    folder.mkdir(parents=True)
    for n in range(count):
        photograph(folder / f"{n}{suffix}", n)
    return folder


def capture(folder, count=4, camera=None, more=None, fields=None, image=photograph):
    """A capture's folder, its manifest written by hand; `camera` and `more` change each image's entry."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for n in range(count):
        image(folder / "images" / f"{n}.png", n)
        intrinsics = {
            "width": SIZE[0], "height": SIZE[1], "fx": 50.0, "fy": 50.0, "cx": 32.0, "cy": 24.0,
            "distortion_k1_k2_p1_p2": [0.0] * 4, "focal_source": "guess", **(camera or {}),
        }  # fmt: skip
        entry = {
            "file": f"images/{n}.png",
            "intrinsics": intrinsics,
            "gps_lat_deg_lon_deg_alt_m": None,
            "c2w": None,
            "timestamp_s": None,
        }
        entries.append({**entry, **(more(n) if more else {})})
    head = {
        "format": "gaussgym-capture",
        "version": 1,
        "metadata": {"source": "images", "ordered": True},
        "images": entries,
    }
    write_manifest(folder, "capture.json", {**head, **(fields or {})})
    return folder


def changed(folder, **fields):
    """The capture with other entries in its manifest."""
    manifest = folder / "capture.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **fields}))
    return folder


def splat_folder(scene, scale=1.0, transform=None):
    folder = scene / "splatfacto"
    folder.mkdir(parents=True)
    random_splats(50).save_ply(folder / "splat.ply")
    rows = np.eye(4)[:3] if transform is None else transform
    (folder / "dataparser_transforms.json").write_text(
        json.dumps({"transform": np.asarray(rows).tolist(), "scale": scale})
    )
    return scene


def plane_obj(path):
    path.write_text("v -5 -5 0\nv 5 -5 0\nv 5 5 0\nv -5 5 0\nf 1 2 3\nf 1 3 4\n")
    return path


def black(path, seed):
    Image.new("RGB", SIZE).save(path)


def broken_jpeg(tmp):
    folder = photos(tmp / "p")
    data = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(data[: len(data) // 3])
    return folder


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def without(folder, name):
    (folder / name).unlink()
    return folder


def png_of_other_size(tmp):
    return capture(tmp / "c", image=lambda path, n: Image.new("RGB", (32, 24)).save(path))


def swapped_bytes(tmp):
    folder = capture(tmp / "c")
    file = folder / "images" / "1.png"
    data = bytearray(file.read_bytes())
    data[-20] ^= 0xFF
    file.write_bytes(data)
    return folder


def draco_glb(tmp):
    scene = splat_folder(tmp / "s")
    text = json.dumps(
        {"asset": {"version": "2.0"}, "extensionsRequired": ["KHR_draco_mesh_compression"]}
    ).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    (scene / "dense_mesh.glb").write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body)
    pose = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}
    (scene / "transforms.json").write_text(json.dumps({"frames": [pose] * 20}))
    return scene


def pickled_slice(tmp):
    scene = splat_folder(tmp / "s")
    (scene / "meshes").mkdir()
    np.savez(scene / "meshes" / "slice_0000.npz", vertices=np.array([{"a": 1}], dtype=object))
    return scene


def arkit_with_traj(tmp, text):
    scene = splat_folder(tmp / "s")
    plane_obj(scene / "m.obj")
    (scene / "7_3dod_mesh_filled_decimated.ply").write_bytes(
        b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n"
    )
    import open3d as o3d

    mesh = o3d.io.read_triangle_mesh(str(scene / "m.obj"))
    o3d.io.write_triangle_mesh(str(scene / "7_3dod_mesh_filled_decimated.ply"), mesh)
    (scene / "lowres_wide.traj").write_text(text)
    return scene


def two_scenes(tmp):
    for name in ("Bridge", "Night"):
        (splat_folder(tmp / "d" / name) / "meshes").mkdir()
    return tmp / "d"


def nan_splats(tmp):
    path = tmp / "n.ply"
    random_splats(50).save_ply(path)
    data = bytearray(path.read_bytes())
    data[-248:-244] = struct.pack("<f", float("nan"))  # the last splat's x
    path.write_bytes(data)
    return path


def splats_args(tmp, *words):
    random_splats(50).save_ply(tmp / "a.ply")
    plane_obj(tmp / "a.obj")
    return ["import-scene", "splats", str(tmp / "a.ply"), "--output", str(tmp / "out"), *words]


def given(tmp, verb, path, *words):
    return [*verb.split(), str(path), "--output", str(tmp / "out"), *words]


CASES = {
    # photographs
    "photographs that are not there": (lambda t: given(t, "import images", t / "no"), "no: not a folder"),
    "an empty folder": (lambda t: given(t, "import images", photos(t / "p", 0)), "holds no images"),
    "one photograph": (lambda t: given(t, "import images", photos(t / "p", 1)), "holds one image, 0.jpg"),
    "a photograph cut short": (
        lambda t: given(t, "import images", broken_jpeg(t)),
        r"1\.jpg: .*(truncated|decode|read)",
    ),
    "a text called jpg": (
        lambda t: given(t, "import images", written(photos(t / "p") / "9.jpg", b"hello").parent),
        r"9\.jpg: ",
    ),
    "an empty file called jpg": (
        lambda t: given(t, "import images", written(photos(t / "p") / "9.jpg", b"").parent),
        r"9\.jpg: ",
    ),
    "no frames": (lambda t: given(t, "import images", photos(t / "p"), "--frames", "0"), "frames"),
    "a redactor that nobody knows": (
        lambda t: given(t, "import images", photos(t / "p"), "--redact", "blur"),
        "blur",
    ),
    "a film that is not there": (lambda t: given(t, "import video", t / "a.mp4"), r"a\.mp4"),
    "a film that is none": (lambda t: given(t, "import video", written(t / "a.mp4", b"hello")), r"a\.mp4"),
    # captures
    "a capture that is not there": (lambda t: given(t, "build", t / "no"), r"capture\.json: not found"),
    "photographs in place of a capture": (
        lambda t: given(t, "build", photos(t / "p")),
        r"capture\.json: not found",
    ),
    "a scene in place of a capture": (
        lambda t: given(t, "build", changed(capture(t / "c"), format="gaussgym-scene")),
        "format is 'gaussgym-scene', expected 'gaussgym-capture'",
    ),
    "a capture of the future": (
        lambda t: given(t, "build", changed(capture(t / "c"), version=99)),
        "version 99 is unknown",
    ),
    "a manifest cut short": (
        lambda t: given(t, "build", written(capture(t / "c") / "capture.json", b'{"format": "gauss').parent),
        "not valid JSON",
    ),
    "a manifest that is a list": (
        lambda t: given(t, "build", written(capture(t / "c") / "capture.json", b"[1, 2]").parent),
        "holds a list, expected an object",
    ),
    "a manifest without images": (
        lambda t: given(t, "build", changed(capture(t / "c"), images="none")),
        "image",
    ),
    "no images in it": (lambda t: given(t, "build", capture(t / "c", 0), "--camera-height", "1.5"), "image"),
    "an image that was removed": (
        lambda t: given(t, "build", without(capture(t / "c"), "images/2.png")),
        r"2\.png: missing",
    ),
    "an image that was changed": (
        lambda t: given(t, "build", swapped_bytes(t)),
        r"1\.png: sha256 .* differs",
    ),
    "a path out of the folder": (
        lambda t: given(
            t, "build", changed(capture(t / "c"), files={"../../x": {"bytes": 1, "sha256": "0"}})
        ),
        "leaves the folder",
    ),
    "a camera behind itself": (
        lambda t: given(t, "build", capture(t / "c", camera={"fx": -50.0})),
        "not a camera",
    ),
    "a camera without sizes": (
        lambda t: given(t, "build", capture(t / "c", camera={"width": None})),
        "camera intrinsics .* misuse",
    ),
    "GPS of three words": (
        lambda t: given(
            t, "build", capture(t / "c", more=lambda n: {"gps_lat_deg_lon_deg_alt_m": ["a", "b", "c"]})
        ),
        "image entry 0 .*could not convert string to float",
    ),
    "a pose of two rows": (
        lambda t: given(t, "build", capture(t / "c", more=lambda n: {"c2w": [[1, 0, 0, 0], [0, 1, 0, 0]]})),
        "image entry 0 .*cannot reshape array of size 8",
    ),
    "no scale at all": (lambda t: given(t, "build", capture(t / "c")), r"--camera-height|--scale-from"),
    "black photographs": (
        lambda t: given(t, "build", capture(t / "c", image=black), "--camera-height", "1.5"),
        r"overlap|features|registered|posed",
    ),
    "photographs of nothing in common": (
        lambda t: given(t, "build", capture(t / "c", 6), "--camera-height", "1.5"),
        r"overlap|registered|posed",
    ),
    "images of another size than said": (
        lambda t: given(t, "build", png_of_other_size(t), "--camera-height", "1.5"),
        r"0\.png: is 32x24, its camera 64x48",
    ),
    "a camera carried below the ground": (
        lambda t: given(t, "build", capture(t / "c"), "--camera-height", "-1.5"),
        r"camera height -1\.5 m, expected 0\.05 to 1000 m",
    ),
    "no time to train": (
        lambda t: given(t, "build", capture(t / "c"), "--camera-height", "1.5", "--minutes", "0"),
        "0 seconds to train the splats",
    ),
    "no splats to train": (
        lambda t: given(t, "build", capture(t / "c"), "--camera-height", "1.5", "--max-splats", "0"),
        "max_splats is 0, expected at least 100",
    ),
    # published scenes
    "a published scene that is not there": (
        lambda t: given(t, "import-scene arkit", t / "no" / "43895956"),
        "'no' not found in .*, which holds: nothing",
    ),
    "no splats beside the mesh": (
        lambda t: given(t, "import-scene veo", photos(t / "p")),
        "found no scene in it, expected a folder with splatfacto/, transforms.json and dense_mesh.glb",
    ),
    "two scenes and no word which": (
        lambda t: given(t, "import-scene iphone", two_scenes(t)),
        "holds 2 scenes, choose one with --scene: Bridge, Night",
    ),
    "a scene that is none of them": (
        lambda t: given(t, "import-scene iphone", two_scenes(t), "--scene", "day"),
        "'day' is none of the scenes",
    ),
    "a slice of pickled objects": (
        lambda t: given(t, "import-scene iphone", pickled_slice(t)),
        r"slice_0000\.npz: lacks triangles",
    ),
    "a scene without slices": (
        lambda t: given(t, "import-scene iphone", two_scenes(t), "--scene", "night"),
        "holds no .npz",
    ),
    "a splat frame of size zero": (
        lambda t: given(t, "import-scene arkit", splat_scale(t, 0.0)),
        "scale: found 0.0, expected a positive number",
    ),
    "a mirrored splat frame": (
        lambda t: given(t, "import-scene arkit", splat_mirror(t)),
        "transform: found a reflection, expected a rotation",
    ),
    "a camera path of words": (
        lambda t: given(t, "import-scene arkit", arkit_with_traj(t, "0.1 a b c d e f\n")),
        "line 1 is '0.1 a b c d e f', expected 7 numbers",
    ),
    "cameras far from the mesh": (
        lambda t: given(t, "import-scene arkit", arkit_with_traj(t, "0 0 0 0 99 0 0\n1 0 0 0 98 0 0\n")),
        "0 of 2 cameras have the mesh less than 4 m below them",
    ),
    "a compressed GLB": (
        lambda t: given(t, "import-scene veo", draco_glb(t)),
        "needs KHR_draco_mesh_compression; export it without compression",
    ),
    "splats that are not numbers": (
        lambda t: given(
            t,
            "import-scene splats",
            nan_splats(t),
            "--mesh",
            str(plane_obj(t / "a.obj")),
            "--metres-per-unit",
            "1",
            "--up",
            "+z",
        ),
        "[0-9]+ of 50 splats have a NaN or infinite",
    ),
    "splats and no mesh": (lambda t: splats_args(t), "no mesh given, expected --mesh FILE"),
    "splats of no scale": (lambda t: splats_args(t, "--mesh", str(t / "a.obj")), "nobody knows its scale"),
    "splats with no up": (
        lambda t: splats_args(t, "--mesh", str(t / "a.obj"), "--metres-per-unit", "1"),
        r"--up is '', expected one of \+x",
    ),
    "a point cloud for a mesh": (
        lambda t: splats_args(t, "--mesh", str(t / "a.ply"), "--metres-per-unit", "1", "--up", "+z"),
        r"a\.ply: .*(expected vertex and face|not a point cloud|not readable as a mesh)",
    ),
    # the rest
    "a capture that nobody published": (lambda t: ["get", "bern"], "no published capture is called 'bern'"),
    "a fleet of nothing": (lambda t: given(t, "fleet", photos(t / "p")), "holds no capture"),
    "a fleet into its own capture": (
        lambda t: ["fleet", str(capture(t / "c")), "--output", str(t / "c" / "scenes")],
        "lies inside the capture",
    ),
    "a fleet of no workers": (
        lambda t: given(t, "fleet", capture(t / "c"), "--workers", "0"),
        "workers is 0, expected at least 1",
    ),
    "no scene to photograph": (lambda t: given(t, "synth", t / "no"), r"scene\.json: not found"),
}


def splat_scale(tmp, scale):
    scene = arkit_with_traj(tmp, "0 0 0 0 0 0 -1\n1 0 0 0 0 0 -1\n")
    shutil.rmtree(scene / "splatfacto")
    return splat_folder(scene, scale)


def splat_mirror(tmp):
    scene = arkit_with_traj(tmp, "0 0 0 0 0 0 -1\n1 0 0 0 0 0 -1\n")
    shutil.rmtree(scene / "splatfacto")
    return splat_folder(scene, 1.0, np.diag([1.0, 1.0, -1.0, 1.0])[:3])


def ends(words, monkeypatch, capsys):
    """Exit status of the command and the line that it ends with."""
    monkeypatch.setattr(sys, "argv", ["gaussgym-recon", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    out, err = capsys.readouterr()
    assert out == ""
    return ended.value.code, [line for line in re.split(r"[\r\n]+", err) if line.startswith("error: ")]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_with_one_clear_line(case, tmp_path, monkeypatch, capsys):
    prepare, words = CASES[case]
    status, lines = ends(prepare(tmp_path), monkeypatch, capsys)
    assert status == 2
    assert len(lines) == 1
    assert re.search(words, lines[0]), lines[0]
    assert len(lines[0]) < 600
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_there_are_thirty_and_more_and_no_two_alike(tmp_path, monkeypatch, capsys):
    assert len(CASES) >= 30
    assert len({words for _, words in CASES.values()}) > 30


@pytest.mark.parametrize("verb", ["import images", "build"])
def test_output_over_the_input_harms_nothing(verb, tmp_path, monkeypatch, capsys):
    folder = photos(tmp_path / "p") if verb == "import images" else capture(tmp_path / "p")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for output in (folder, tmp_path):
        status, lines = ends([*verb.split(), str(folder), "--output", str(output)], monkeypatch, capsys)
        assert (status, len(lines)) == (2, 1)
        assert "would be lost" in lines[0]
        assert all(file.read_bytes() == data for file, data in before.items())


def test_an_output_that_is_a_file(tmp_path, monkeypatch, capsys):
    file = written(tmp_path / "notes.txt", b"mine")
    for words in (["import", "images", str(photos(tmp_path / "p"))], ["build", str(capture(tmp_path / "c"))]):
        status, lines = ends([*words, "--output", str(file)], monkeypatch, capsys)
        assert (status, len(lines)) == (2, 1)
        assert file.read_bytes() == b"mine"
