"""Splat files: round trips within each format's own steps, hand-made bytes, a second reader, and ten thousand damaged files."""

import gzip
import io
import json
import struct
import time
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from gaussgym_scene.errors import InputError
from gaussgym_scene.formats import SUFFIXES, load_splats, save_splats
from gaussgym_scene.formats.packing import from_smallest_three, smallest_three
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.splats import Splats
from PIL import Image

C0 = 0.28209479177387814


def make(n=600, degree=2, seed=0):
    """A cloud without symmetry: rotations of every kind, scales over three decades."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4))
    sh = np.clip(rng.normal(scale=0.3, size=(n, (degree + 1) ** 2, 3)), -0.9, 0.9)
    sh[:, 0] = (rng.uniform(0.05, 0.95, (n, 3)) - 0.5) / C0
    return Splats(
        rng.uniform((-3, 20, -1), (12, 30, 4), (n, 3)),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.exp(rng.uniform(np.log(0.002), np.log(0.8), (n, 3))),
        rng.uniform(0.05, 1.0, n),
        sh,
    )


def aligned(read, truth):
    """Indices that pair each splat read with the nearest of the truth: formats may change the order."""
    distance = ((read.means[:, None] - truth.means[None]) ** 2).sum(-1)
    pairs = distance.argmin(1)
    assert len(set(pairs.tolist())) == len(truth)
    return pairs


# Steps of each format: mean [m], log scale, rotation [rad], opacity, first coefficient, higher ones; None: none kept.
TOLERANCE = {
    ".ply": (1e-6, 1e-5, 1e-3, 1e-5, 1e-6, 1e-6),
    ".compressed.ply": (0.006, 0.004, 0.006, 0.003, 0.008, 0.02),
    ".spz": (2e-4, 0.032, 0.006, 0.003, 0.014, 0.0045),
    ".splat": (1e-6, 1e-5, 0.03, 0.003, 0.008, None),
    ".sog": (4e-4, 0.03, 0.015, 0.003, 0.03, 0.06),  # the tails of a distribution share few of 256 numbers
}


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix, degree):
    splats = make(degree=degree)
    path = tmp_path / f"scene{suffix}"
    save_splats(splats, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing temporary is left
    read = load_splats(path)
    mean, log_scale, angle, opacity, first, higher = TOLERANCE[suffix]
    truth = splats.subset(aligned(read, splats))
    assert np.abs(read.means - truth.means).max() <= mean
    assert np.abs(np.log(read.scales) - np.log(truth.scales)).max() <= log_scale
    dots = np.abs((read.quats_wxyz.astype(float) * truth.quats_wxyz).sum(1))
    assert 2 * np.arccos(np.minimum(dots, 1)).max() <= angle
    assert np.abs(read.opacities - truth.opacities).max() <= opacity
    assert np.abs(read.sh[:, 0] - truth.sh[:, 0]).max() <= first
    if higher is None:
        assert read.sh.shape[1] == 1
    else:
        assert read.sh.shape == truth.sh.shape
        assert np.abs(read.sh[:, 1:] - truth.sh[:, 1:]).max(initial=0) <= higher


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("n", [0, 1, 257])
def test_any_number_of_splats(tmp_path, suffix, n):
    path = tmp_path / f"a{suffix}"
    save_splats(make(n, degree=1), path)
    assert len(load_splats(path)) == n


def test_splat_bytes_by_hand(tmp_path):
    half = np.sqrt(0.5)
    row = struct.pack("<6f", 1, 2, 3, 0.1, 0.2, 0.3) + bytes([255, 0, 128, 51, 128 + 91, 128, 128, 128 - 91])
    (tmp_path / "a.splat").write_bytes(row)
    splats = load_splats(tmp_path / "a.splat")
    np.testing.assert_allclose(splats.means, [[1, 2, 3]])
    np.testing.assert_allclose(splats.scales, [[0.1, 0.2, 0.3]], rtol=1e-6)
    np.testing.assert_allclose(0.5 + C0 * splats.sh[0, 0], [1, 0, 128 / 255], atol=1e-6)
    np.testing.assert_allclose(splats.opacities, [0.2])
    np.testing.assert_allclose(splats.quats_wxyz, [[half, 0, 0, -half]], atol=1e-6)
    # A quarter turn about -z takes the x axis to -y, not to +y.
    np.testing.assert_allclose(matrix_from_quat_wxyz(splats.quats_wxyz)[0] @ [1, 0, 0], [0, -1, 0], atol=1e-6)


def test_spz_bytes_by_hand(tmp_path):
    """Version 2, one splat: fixed point with 4 bits behind the point, w from the other three."""
    body = struct.pack("<4sIIBBBB", b"NGSP", 2, 1, 1, 4, 0, 0)
    body += (24).to_bytes(3, "little") + (-40 & 0xFFFFFF).to_bytes(3, "little") + (1).to_bytes(3, "little")
    body += bytes([204]) + bytes([255, 128, 0]) + bytes([160, 128, 144]) + bytes([255, 128, 128])
    body += bytes([128 + 64, 128, 128 - 64, 128, 128, 128, 128, 128, 255])
    (tmp_path / "a.spz").write_bytes(gzip.compress(body))
    splats = load_splats(tmp_path / "a.spz")
    np.testing.assert_allclose(splats.means, [[1.5, -2.5, 0.0625]])
    np.testing.assert_allclose(splats.opacities, [0.8])
    np.testing.assert_allclose(splats.sh[0, 0], (np.array([255, 128, 0]) / 255 - 0.5) / 0.15, atol=1e-6)
    np.testing.assert_allclose(np.log(splats.scales), [[0, -2, -1]], atol=1e-6)
    np.testing.assert_allclose(splats.quats_wxyz, [[0, 1, 0, 0]], atol=0.006)
    np.testing.assert_allclose(splats.sh[0, 1], [0.5, 0, -0.5])  # first coefficient of the three colours
    np.testing.assert_allclose(splats.sh[0, 3], [0, 0, 127 / 128])


def test_smallest_three_is_its_own_inverse_up_to_sign():
    quats = make(500).quats_wxyz
    back = from_smallest_three(*smallest_three(quats))
    np.testing.assert_allclose(np.abs((back * quats).sum(1)), 1, atol=1e-6)
    assert set(smallest_three(quats)[0].tolist()) == {0, 1, 2, 3}


def test_sog_folder_reads_like_its_bundle(tmp_path):
    save_splats(make(degree=1), tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as bundle:
        bundle.extractall(tmp_path / "folder")
    whole, parts = load_splats(tmp_path / "a.sog"), load_splats(tmp_path / "folder")
    np.testing.assert_array_equal(whole.means, parts.means)
    np.testing.assert_array_equal(whole.sh, load_splats(tmp_path / "folder" / "meta.json").sh)


def test_many_different_colours_share_a_palette(tmp_path):
    """More sets of higher coefficients than the palette holds: the nearest of it stands for each."""
    rng = np.random.default_rng(3)
    splats = make(17000, degree=1)
    groups = rng.normal(scale=0.3, size=(40, 3, 3))
    splats.sh[:, 1:] = groups[rng.integers(0, 40, len(splats))] + rng.normal(
        scale=0.002, size=(len(splats), 3, 3)
    )
    save_splats(splats, tmp_path / "a.sog")
    read = load_splats(tmp_path / "a.sog")
    order = np.lexsort(splats.means.T), np.lexsort(read.means.T)
    assert len(order[0]) == len(order[1])
    nearest = np.abs(read.sh[:200, None, 1:] - groups[None]).max((2, 3)).min(1)
    assert nearest.max() < 0.06


# --------------------------------------------------------------------------- a second opinion


def same_as_gsply(read, other, *, atol=2e-5):
    """Compare with what gsply read: log scales, logit opacities, quaternions wxyz of either sign."""
    np.testing.assert_allclose(read.means, other.means, atol=1e-5)
    np.testing.assert_allclose(np.log(read.scales), other.scales, atol=atol)
    quats = other.quats / np.linalg.norm(other.quats, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs((read.quats_wxyz * quats).sum(1)), 1, atol=1e-5)
    np.testing.assert_allclose(read.opacities, 1 / (1 + np.exp(-other.opacities)), atol=2e-3)
    np.testing.assert_allclose(read.sh[:, 0], other.sh0, atol=atol)
    if read.sh.shape[1] > 1:
        np.testing.assert_allclose(read.sh[:, 1:], np.asarray(other.shN).reshape(len(read), -1, 3), atol=0.02)


@pytest.mark.parametrize("degree", [0, 3])
def test_gsply_reads_what_we_write(tmp_path, monkeypatch, degree):
    gsply = pytest.importorskip("gsply")
    decoder = SimpleNamespace(
        webp_decode=lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    )
    monkeypatch.setattr("gsply.sog_reader.imagecodecs", decoder)  # an optional codec of its own
    splats = make(700, degree=degree)
    for suffix in (".ply", ".compressed.ply"):
        save_splats(splats, tmp_path / f"a{suffix}")
        same_as_gsply(load_splats(tmp_path / f"a{suffix}"), gsply.plyread(str(tmp_path / f"a{suffix}")))
    save_splats(splats, tmp_path / "a.spz")
    same_as_gsply(load_splats(tmp_path / "a.spz"), gsply.read_spz(str(tmp_path / "a.spz")))
    save_splats(splats, tmp_path / "a.sog")
    same_as_gsply(load_splats(tmp_path / "a.sog"), gsply.sogread(str(tmp_path / "a.sog")))


@pytest.mark.parametrize("degree", [0, 3])
def test_we_read_what_gsply_writes(tmp_path, degree):
    gsply = pytest.importorskip("gsply")
    save_splats(make(700, degree=degree), tmp_path / "a.ply")
    data = gsply.plyread(str(tmp_path / "a.ply"))
    for version in (3, 4):
        path = tmp_path / f"v{version}.spz"
        gsply.write_spz(str(path), data, version=version)
        same_as_gsply(load_splats(path), gsply.read_spz(str(path)))
    data.save(str(tmp_path / "b.compressed.ply"), compressed=True)
    path = next(tmp_path.glob("b.*"))
    same_as_gsply(load_splats(path), gsply.plyread(str(path)))


# --------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.splat", b"x" * 33, "33 bytes, expected a multiple of 32"),
        ("a.spz", gzip.compress(b"hello" * 10), "gzipped, but no SPZ"),
        ("a.spz", gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 9, 1, 0, 12, 0, 0)), "version 9"),
        ("a.spz", gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 2**32 - 1, 3, 12, 0, 0)), "cut short"),
        ("a.sog", b"PK\x03\x04 no bundle", "not readable as SOG"),
        ("a.bin", b"what", "not a splat file"),
        (
            "a.ply",
            b"ply\nformat binary_little_endian 1.0\nelement vertex -1\nproperty float x\nend_header\n",
            "-1",
        ),
    ],
)
def test_bad_files_get_one_clear_line(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=words) as error:
        load_splats(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_missing_file_and_unknown_name(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_splats(tmp_path / "no.spz")
    with pytest.raises(InputError, match=r"ends in none of: \.compressed\.ply"):
        save_splats(make(3), tmp_path / "a.xyz")


def test_scene_too_wide_for_spz(tmp_path):
    splats = make(3)
    splats.means[0, 0] = 1e8
    with pytest.raises(InputError, match="SPZ reaches"):
        save_splats(splats, tmp_path / "a.spz")


COUNTS = (0, 1, 255, 256, 2**16, 2**31 - 1, 2**32 - 1)
WORDS = (
    b"-1",
    b"0",
    b"999999999999",
    b"nan",
    b"float",
    b"uchar",
    b"list",
    b"[]",
    b"null",
    b"1e400",
    b'"x"',
    b"{}",
)


def mutate(data, rng):
    """Damage a file: flipped bits, cut ends, absurd numbers, NaN, words of another kind, pieces swapped or repeated."""
    data = bytearray(data)
    kind = rng.integers(0, 7)
    at = int(rng.integers(0, len(data)))
    if kind == 0:
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at : at + 4] = struct.pack("<I", COUNTS[rng.integers(0, len(COUNTS))])
    elif kind == 3:
        data[at : at + 4] = struct.pack("<f", (np.nan, np.inf, -np.inf, 1e38)[rng.integers(0, 4)])
    elif kind == 4:  # in the head, where the words and counts are
        at = int(rng.integers(0, min(len(data), 600)))
        word = WORDS[rng.integers(0, len(WORDS))]
        data[at : at + len(word)] = word
    elif kind == 5:
        piece = data[at : at + int(rng.integers(1, 200))]
        to = int(rng.integers(0, len(data)))
        data[to:to] = piece
    else:
        data[at : at + int(rng.integers(1, 64))] = rng.bytes(int(rng.integers(0, 64)))
    return bytes(data)


def inside(suffix, data, rng):
    """Damage what is inside a packed file, which flipped bits of the packed bytes rarely reach."""
    if suffix == ".spz":
        return gzip.compress(mutate(gzip.decompress(data), rng), 1)
    source, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    victim = rng.choice(source.namelist())
    if rng.random() < 0.5:
        victim = "meta.json"
    with zipfile.ZipFile(out, "w") as bundle:
        for name in source.namelist():
            content = source.read(name)
            if name == victim:
                content = (
                    retyped(content, rng)
                    if name == "meta.json" and rng.random() < 0.6
                    else mutate(content, rng)
                )
            bundle.writestr(name, content)
    return out.getvalue()


def retyped(content, rng):
    """A meta.json in which one value has another type, is absurd, or is gone."""
    meta = json.loads(content)
    node = meta
    while True:
        key = rng.choice(list(node)) if isinstance(node, dict) else int(rng.integers(0, len(node)))
        key = str(key) if isinstance(node, dict) else key
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
            node = node[key]
            continue
        if rng.random() < 0.2:
            del node[key]
        else:
            choices = (None, -1, 0, 2**40, 1e300, "x", [], {}, [1], True, float("nan"), "../../etc/passwd")
            node[key] = choices[int(rng.integers(0, len(choices)))]
        return json.dumps(meta).encode()


def try_damaged(suffix, tmp_path, rounds, seed):
    """Each damaged file loads or is refused in one line, within a second and ten times its size."""
    splats = make(300, degree=1)
    save_splats(splats, tmp_path / f"good{suffix}")
    good = (tmp_path / f"good{suffix}").read_bytes()
    packed = suffix in (".spz", ".sog")
    unpacked = 300 * (14 + 9) * 4 if packed else 0  # what a packed file honestly unpacks to
    rng = np.random.default_rng(seed)
    path = tmp_path / f"bad{suffix}"
    refused = 0
    tracemalloc.start()
    try:
        for index in range(rounds):
            data = inside(suffix, good, rng) if packed and index % 2 else mutate(good, rng)
            path.write_bytes(data)
            tracemalloc.reset_peak()
            before, begin = tracemalloc.get_traced_memory()[0], time.process_time()
            text = ""
            try:
                load_splats(path)
            except InputError as error:
                refused += 1
                text = str(error)
            assert "\n" not in text, text
            assert time.process_time() - begin < 1.0, index
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak <= 10 * max(len(data), unpacked) + 300_000, (index, peak, len(data))
    finally:
        tracemalloc.stop()
    assert 0.1 * rounds < refused < rounds


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_refused_or_read(tmp_path, suffix):
    try_damaged(suffix, tmp_path, 400, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ten_thousand_damaged_files(tmp_path, suffix):
    try_damaged(suffix, tmp_path, 10_000, seed=2)
