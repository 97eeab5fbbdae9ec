"""Downloads of published captures, against a server of this machine that fails in every way."""

import hashlib
import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from gaussgym_recon import captures
from gaussgym_recon.captures import PublishedCapture, RemoteFile, capture_names, download, published_capture
from gaussgym_recon.captures.get import estimate, get
from gaussgym_scene.capture import Capture
from gaussgym_scene.errors import GaussgymError, InputError, StageError
from PIL import Image


def photograph(seed):
    noise = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()


PHOTOS = {f"data/a place/images/{n:02d}.jpg": photograph(n) for n in range(4)}
LIST = PublishedCapture(
    "place", "a place", "github.com/owner/name", "c" * 40, "CC0",
    tuple(RemoteFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in PHOTOS.items()),
)  # fmt: skip


class Server(ThreadingHTTPServer):
    """Serves PHOTOS; `faults` maps a file's name to what goes wrong, once each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.asked, self.ranges = {}, [], True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}/raw"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        from urllib.parse import unquote

        path = unquote(self.path.removeprefix("/raw/"))
        name = path.rsplit("/", 1)[-1]
        asked = self.headers.get("Range")
        self.server.asked.append((name, asked))
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        data = PHOTOS[path] if fault != "other" else b"x" * len(PHOTOS[path])
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "WAIT_S", 0.01)
    monkeypatch.setattr(captures.get, "published_capture", lambda name: LIST)
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def test_files_arrive_and_make_a_capture(server, tmp_path):
    told = []
    get("place", tmp_path / "c", source=server.address, progress=lambda *words: told.append(words))
    capture = Capture.load(tmp_path / "c")
    assert len(capture.images) == 4
    assert capture.metadata["licence"] == "CC0, github.com/owner/name"
    for n, data in enumerate(PHOTOS.values()):
        assert (tmp_path / "c.originals" / f"{n:02d}.jpg").read_bytes() == data
    shares = [fraction for stage, fraction, _ in told if stage == "download"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert json.loads((tmp_path / "c.originals" / "origin.json").read_text())["commit"] == "c" * 40


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_file_goes_on_where_it_stopped(server, tmp_path, ranges):
    server.ranges = ranges
    server.faults = {"01.jpg": ["cut"]}
    download.download(LIST, tmp_path, source=server.address)
    size = len(PHOTOS["data/a place/images/01.jpg"])
    assert [asked for name, asked in server.asked if name == "01.jpg"] == [None, f"bytes={size // 2}-"]
    assert (tmp_path / "01.jpg").read_bytes() == PHOTOS["data/a place/images/01.jpg"]
    assert not list(tmp_path.glob("*.part"))


def test_an_interrupted_download_asks_only_for_what_is_missing(server, tmp_path):
    server.faults = {"02.jpg": [404]}
    with pytest.raises(InputError, match=r"02\.jpg: the server answers 404 Not Found"):
        download.download(LIST, tmp_path, source=server.address)
    first = [name for name, _ in server.asked]
    assert first == ["00.jpg", "01.jpg", "02.jpg"]
    server.asked.clear()
    download.download(LIST, tmp_path, source=server.address)
    assert [name for name, _ in server.asked] == ["02.jpg", "03.jpg"]


def test_damaged_files_of_an_earlier_run_are_fetched_again(server, tmp_path):
    (tmp_path / "00.jpg").write_bytes(b"\0" * len(PHOTOS["data/a place/images/00.jpg"]))
    (tmp_path / "01.jpg.part").write_bytes(b"nothing of it")  # continued, found wrong, fetched anew
    download.download(LIST, tmp_path, source=server.address)
    assert [name for name, _ in server.asked] == ["00.jpg", "01.jpg", "01.jpg", "02.jpg", "03.jpg"]
    assert (tmp_path / "00.jpg").read_bytes() == PHOTOS["data/a place/images/00.jpg"]


def test_a_server_that_is_busy_for_a_moment(server, tmp_path):
    server.faults = {"00.jpg": [503, 429]}
    download.download(LIST, tmp_path, source=server.address)
    assert len(list(tmp_path.glob("*.jpg"))) == 4


@pytest.mark.parametrize(
    ("faults", "kind", "words"),
    [
        ({"00.jpg": ["other"] * 3}, InputError, "sha256 .* expected .* the server holds another file"),
        ({"03.jpg": [500] * 3}, InputError, "answers 500"),
        ({"00.jpg": ["cut"] * 9}, InputError, "bytes with sha256"),
    ],
)
def test_what_goes_wrong_is_said(server, tmp_path, faults, kind, words):
    server.faults = faults
    with pytest.raises(kind, match=words) as caught:
        download.download(LIST, tmp_path, source=server.address)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / next(iter(faults))).exists()


def test_no_network(server, tmp_path):
    closed = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(StageError, match=r"not reached or lost .*--source URL.*the same command goes on"):
        download.download(LIST, tmp_path, source=closed)


def test_a_full_disk(server, tmp_path, monkeypatch):
    class Full:
        free = 1_000_000

    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: Full)
    with pytest.raises(InputError, match="1 MB free, expected 50 MB"):
        download.download(LIST, tmp_path, source=server.address)
    assert server.asked == []


def test_the_shipped_lists_are_whole():
    assert capture_names() == ["lund", "office_loop"]
    for name, count, megabytes in (("lund", 29, 8.2), ("office_loop", 237, 43.3)):
        capture = published_capture(name)
        assert len(capture.files) == len({file.path for file in capture.files}) == count
        assert capture.bytes / 1e6 == pytest.approx(megabytes, abs=0.05)
        assert all(
            len(file.sha256) == 64 and int(file.sha256, 16) and file.bytes > 1000 for file in capture.files
        )
        assert len(capture.commit) == 40
        assert capture.address.startswith("https://")
        assert f"{count} files" in estimate(capture).line(capture)


def test_unknown_names_and_addresses(tmp_path):
    with pytest.raises(GaussgymError, match="expected one of: lund, office_loop"):
        published_capture("bern")
    with pytest.raises(InputError, match="is no address"):
        download.download(LIST, tmp_path, source="/home/mirror")


def test_the_command_ends_with_one_line(tmp_path):
    words = [sys.executable, "-m", "gaussgym_recon", "get", "bern", "--output", str(tmp_path / "c")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert (
        ended.stderr == "error: no published capture is called 'bern', expected one of: lund, office_loop\n"
    )
