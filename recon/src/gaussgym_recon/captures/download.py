"""Files of a published capture over HTTP: one after the other, each checked, going on where an earlier run stopped."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from gaussgym_scene.artifact import sha256_of
from gaussgym_scene.errors import InputError, StageError

from gaussgym_recon.captures import PublishedCapture, RemoteFile

Progress = Callable[[str, float, str], None]

TIMEOUT_S = 30.0
ATTEMPTS = 3
WAIT_S = 1.0
"""Before the second attempt; twice as long before each further one [s]."""
SPARE_BYTES = 50_000_000
_BLOCK = 1 << 16
_FOR_GOOD = (400, 401, 403, 404, 410, 451)


def download(
    capture: PublishedCapture, folder: Path, *, source: str | None = None, progress: Progress | None = None
) -> Path:
    """Bring a capture's files into a folder.

    Files that are there already and right are kept; one that came in part goes on where it stopped (`<name>.part`).

    Args:
        capture: Which.
        folder: For the files, under their own names.
        source: Address of a mirror that holds the repository's files under their paths; None: the repository itself.
        progress: Told the fraction of bytes that are there.

    Returns:
        The folder.

    Raises:
        InputError: The address is none, a file is not there, or is another one than expected.
        StageError: No network, or the server keeps failing.
        OSError: The disk is full, or the folder cannot be written.
    """
    base = _address(capture.address if source is None else source)
    folder.mkdir(parents=True, exist_ok=True)
    targets = [(file, folder / PurePosixPath(file.path).name) for file in capture.files]
    missing = [(file, target) for file, target in targets if not _is_whole(target, file)]
    check_room(folder, sum(file.bytes for file, _ in missing))
    done = capture.bytes - sum(file.bytes for file, _ in missing)
    for file, target in missing:
        _fetch(f"{base}/{urllib.parse.quote(file.path)}", file, target, capture)
        done += file.bytes
        if progress is not None:
            progress("download", done / capture.bytes, f"{done / 1e6:.1f} of {capture.bytes / 1e6:.1f} MB")
    return folder


def check_room(folder: Path, needed: int) -> None:
    """Look whether a disk has room, with some to spare.

    Raises:
        InputError: It has not.
    """
    free = shutil.disk_usage(folder).free
    if needed and free < needed + SPARE_BYTES:
        raise InputError(
            f"{folder}: its disk has {free / 1e6:.0f} MB free, expected {(needed + SPARE_BYTES) / 1e6:.0f} MB; "
            "make room, or choose another --output"
        )


def _address(source: str) -> str:
    parts = urllib.parse.urlsplit(source)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(
            f"--source {source!r} is no address, expected one that begins with https:// or http://"
        )
    return source.rstrip("/")


def _is_whole(target: Path, file: RemoteFile) -> bool:
    return target.is_file() and target.stat().st_size == file.bytes and sha256_of(target) == file.sha256


def _fetch(url: str, file: RemoteFile, target: Path, capture: PublishedCapture) -> None:
    """Bring one file, with a few attempts."""
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        try:
            resumed = part.exists() and part.stat().st_size > 0
            _transfer(url, part, file.bytes)
        except urllib.error.HTTPError as error:
            if error.code in _FOR_GOOD or last:
                raise InputError(
                    f"{url}: the server answers {error.code} {error.reason}; check the address, or give a mirror with "
                    "--source URL"
                ) from None
        except (urllib.error.URLError, TimeoutError, http.client.HTTPException, ConnectionError) as error:
            if last:
                reason = getattr(error, "reason", None) or error or type(error).__name__
                raise StageError(
                    f"{urllib.parse.urlsplit(url).netloc}: not reached or lost ({reason}); check the network, or give a mirror "
                    f"with --source URL; what has come is kept in {target.parent}, the same command goes on"
                ) from None
        else:
            if _is_whole(part, file):
                part.replace(target)
                return
            found = f"{part.stat().st_size} bytes with sha256 {sha256_of(part)[:12]}…"
            short = part.stat().st_size < file.bytes
            if not short:
                part.unlink()
            if not (short or resumed) or last:
                part.unlink(missing_ok=True)
                raise InputError(
                    f"{url}: came as {found}, expected {file.bytes} bytes with {file.sha256[:12]}… "
                    f"(commit {capture.commit[:12]}); the server holds another file, try another --source"
                )
        time.sleep(WAIT_S * 2**attempt)


def _transfer(url: str, part: Path, size: int) -> None:
    """Append to a part what is missing of it, or write it anew where the server sends everything."""
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        part.unlink(missing_ok=True)
        have = 0
    headers = {"User-Agent": "gaussgym-recon"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        with part.open("ab" if goes_on else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
