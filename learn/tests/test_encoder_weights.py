"""Weights of encoders: from files, from a server, and those that do not fit."""

import functools
import hashlib
import http.server
import json
import struct
import threading

import pytest
import torch
from gaussgym_learn.encoders import build_encoder, load_encoder_weights, weights
from gaussgym_learn.encoders.dinov2 import DinoV2Encoder
from gaussgym_learn.encoders.resnet import ResNet18Encoder
from gaussgym_learn.encoders.weights import PublishedWeights, fetch_published, read_weights
from gaussgym_scene.errors import InputError


def write_safetensors(path, state):
    header, blob = {"__metadata__": {"format": "pt"}}, b""
    for name, value in state.items():
        data = value.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
        header[name] = {
            "dtype": kind,
            "shape": list(value.shape),
            "data_offsets": [len(blob), len(blob) + len(data)],
        }
        blob += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + blob)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_of_a_file_arrive(tmp_path, suffix):
    source = build_encoder("small_cnn", (3, 48, 64), 8)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        write_safetensors(path, source.state_dict())
    else:
        torch.save(source.state_dict(), path)
    target = build_encoder("small_cnn", (3, 48, 64), 8)
    load_encoder_weights(target, "small_cnn", str(path))
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


def test_old_files_without_batch_counters_load():
    encoder = ResNet18Encoder(3, 48, 64)
    state = {k: v for k, v in encoder.backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    encoder.load_published(state, "file")
    assert torch.equal(encoder.backbone.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bn1.bias"), r"w\.pth: lacks bn1\.bias; expected the weights of ResNet18"),
        (lambda s: s.update(nonsense=torch.zeros(1)), r"has unknown nonsense;"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}),
            r"has shapes conv1\.weight \[64, 3, 3, 3\] instead of \[64, 3, 7, 7\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, message):
    encoder = build_encoder("resnet18", (3, 48, 64), 8)
    state = encoder.backbone.state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        load_encoder_weights(encoder, "resnet18", str(tmp_path / "w.pth"))


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"\.npz file, expected \.pt"):
        read_weights(tmp_path / "w.npz")
    (tmp_path / "w.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match="not a plain tensor file"):
        read_weights(tmp_path / "w.pth")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "nested.pth")
    with pytest.raises(InputError, match="expected tensors by name"):
        read_weights(tmp_path / "nested.pth")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="not a readable safetensors"):
        read_weights(tmp_path / "w.safetensors")


class Server:
    """Serves a folder over HTTP and counts requests."""

    def __init__(self, folder):
        outer, self.requests = self, 0

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                outer.requests += 1

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def served(tmp_path):
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    yield tmp_path / "served", server
    server.server.shutdown()
    server.server.server_close()


def test_hub_downloads_the_published_file_once_and_checks_it(tmp_path, served, monkeypatch):
    folder, server = served
    source = build_encoder("small_cnn", (3, 48, 64), 8)
    torch.save(source.state_dict(), folder / "small.pth")
    data = (folder / "small.pth").read_bytes()
    published = PublishedWeights(
        f"{server.url}/small.pth", hashlib.sha256(data).hexdigest(), len(data), "Apache-2.0"
    )
    monkeypatch.setattr(type(source), "published", published)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        target = build_encoder("small_cnn", (3, 48, 64), 8)
        load_encoder_weights(target, "small_cnn", "hub")
        assert torch.equal(target.net[1].weight, source.net[1].weight)
    assert server.requests == 1
    cached = tmp_path / "cache/gaussgym/weights/small.pth"
    cached.write_bytes(data[:-1])  # a damaged copy is fetched again
    assert fetch_published(published).read_bytes() == data
    assert server.requests == 2


def test_a_file_that_is_not_the_published_one_is_not_kept(tmp_path, served):
    folder, server = served
    (folder / "w.pth").write_bytes(b"something else")
    published = PublishedWeights(f"{server.url}/w.pth", "0" * 64, 10, "Apache-2.0")
    with pytest.raises(InputError, match=r"sha256 [0-9a-f]{12} of 14 bytes, expected 000000000000 of 10"):
        fetch_published(published, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_connection_that_breaks_and_a_full_disk_leave_nothing(tmp_path, served, monkeypatch):
    folder, server = served
    (folder / "w.pth").write_bytes(b"x" * 100)
    published = PublishedWeights(f"{server.url}/w.pth", "0" * 64, 100, "Apache-2.0")

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gaussgym_learn.encoders.weights.Path.open", no_space)
    with pytest.raises(InputError, match=r"cannot be downloaded \(No space left on device\)"):
        fetch_published(published, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_says_what_to_do(tmp_path, served):
    _, server = served
    with pytest.raises(InputError, match=r"cannot be downloaded .* give the path"):
        fetch_published(PublishedWeights(f"{server.url}/absent.pth", "0" * 64, 1, ""), tmp_path)


def test_the_published_hashes_are_those_that_file_names_and_pages_state():
    resnet, dino = ResNet18Encoder.published, DinoV2Encoder.published
    assert resnet.filename == f"resnet18-{resnet.sha256[:8]}.pth"
    assert dino.filename == "dinov2_vits14_pretrain.pth"
    assert all(len(p.sha256) == 64 and p.url.startswith("https://") for p in (resnet, dino))


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.weights_cache() == tmp_path / ".cache/gaussgym/weights"
