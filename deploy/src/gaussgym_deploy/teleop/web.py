"""A web page as operator: a phone or laptop on the same network drives, and sees what the robot says of itself.

The page sends its sticks every 50 ms as JSON; the server counts an operator as alive when such a message came from the one page
that holds the wheel. Whoever opens the link (it holds a random token) may drive; the second one only watches until the first is
silent for a second. The emergency stop is for everybody with the link.
"""

from __future__ import annotations

import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional
from urllib.parse import parse_qs, urlsplit

import numpy as np

from ..bundle import BundleError
from ..observation import gravity_b_from_quat
from ..operator import OperatorCommand
from ..robot_io import RobotState
from .drive import Drive, DriveCfg
from .png import png

__all__ = ["WebOperator"]

_MODES = ("damp", "stand", "run")
_LET_GO_S = 1.0
_MAX_BODY_BYTES = 4096
_PAGE = Path(__file__).with_name("page.html")


class WebOperator:
    """Serves the page from a thread of its own.

    Args:
        drive: Speeds.
        host: Address to serve on; the default is this machine alone, ``0.0.0.0`` is everybody on the network.
        port: 0: a free one.
        camera_hz: How often the page may fetch the robot's picture [1/s]; 0: never.

    Attributes:
        url: What to open, token included.
        status: Gives what else the page shows (``mode``, ``fault``), plain JSON; called from the server's threads.

    Raises:
        BundleError: When the port is taken.
    """

    def __init__(
        self, drive: DriveCfg, *, host: str = "127.0.0.1", port: int = 8042, camera_hz: float = 5.0
    ) -> None:
        self._drive = Drive(drive)
        self._command = OperatorCommand(velocity=self._drive.velocity)
        self._lock = threading.Lock()
        self._token = secrets.token_urlsafe(9)
        self._wheel: Optional[str] = None  # the page that drives
        self._fresh = False  # a message of that page came since the last read
        self._last_fresh_s = -np.inf
        self._number = -1
        self._deflection: List[float] = [0.0, 0.0, 0.0]
        self._stop: Optional[str] = None
        self._mode: Optional[str] = None
        self._shown: Dict[str, Any] = {}
        self._rgb: Optional[np.ndarray] = None
        self._rgb_t_s = -np.inf
        self._camera_period_s = 1.0 / camera_hz if camera_hz > 0 else np.inf
        self._gravity_b = np.zeros(3)
        self.status: Callable[[], Dict[str, Any]] = dict
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(self))
        except OSError as error:
            raise BundleError(
                f"cannot serve on {host}:{port}: {error.strerror}; choose another port"
            ) from None
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}/?token={self._token}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """The newest message of the page that drives."""
        command = self._command
        with self._lock:
            if self._fresh:
                self._fresh, self._last_fresh_s = False, now_s
                command.alive_s = now_s
            elif now_s - self._last_fresh_s > _LET_GO_S:
                self._wheel, self._deflection = None, [0.0, 0.0, 0.0]
            command.stop, self._stop = self._stop, None
            command.mode, self._mode = self._mode, None
            deflection = self._deflection
            self._show(state)
        self._drive.update(deflection, now_s)
        return command

    def close(self) -> None:
        """End the server."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(2.0)
        self._server.server_close()

    def _show(self, state: RobotState) -> None:
        gravity_b_from_quat(state.quat_wxyz, self._gravity_b)
        battery = state.battery_fraction
        self._shown = {
            "robot_t_s": round(float(state.t_s), 2) if np.isfinite(state.t_s) else None,
            "tilt_deg": _finite(np.degrees(np.arccos(np.clip(-self._gravity_b[2], -1.0, 1.0)))),
            "velocity": [round(float(value), 2) for value in self._drive.velocity],
            "battery": None if not np.isfinite(battery) else round(float(battery), 2),
            "hottest_c": None
            if state.motor_temperature_c is None
            else _finite(np.max(state.motor_temperature_c)),
        }
        if state.rgb is not None and state.rgb_t_s - self._rgb_t_s >= self._camera_period_s:
            # Copied: the link reuses its arrays.
            self._rgb, self._rgb_t_s = np.array(state.rgb), state.rgb_t_s

    # ---------------------------------------------------------------- the server's threads

    def allows(self, query: Dict[str, List[str]]) -> bool:
        """Whether a request carries the token."""
        return secrets.compare_digest(query.get("token", [""])[0], self._token)

    def take(self, message: Any) -> Dict[str, Any]:
        """A message of a page.

        Args:
            message: ``page`` (its random name), ``number`` (counts up), ``sticks`` ``[3]`` in -1 ... 1, optional ``mode``,
                ``stop`` and ``watch`` (never takes the wheel).

        Returns:
            What the page shows.

        Raises:
            ValueError: When the message is not of that form.
        """
        if not isinstance(message, dict):
            raise ValueError("expected an object")
        page, number, sticks = message.get("page"), message.get("number"), message.get("sticks")
        mode = message.get("mode")
        if not isinstance(page, str) or not isinstance(number, int):
            raise ValueError("expected a page (text) and a number (integer)")
        if not isinstance(sticks, list) or len(sticks) != 3 or not all(_is_number(value) for value in sticks):
            raise ValueError("expected sticks, three numbers")
        if mode is not None and mode not in _MODES:
            raise ValueError(f"expected mode of {', '.join(_MODES)}")
        with self._lock:
            if message.get("stop"):
                self._stop = "the operator pressed the page's emergency stop"
            if self._wheel is None and not message.get("watch"):
                self._wheel, self._number = page, -1
            drives = self._wheel == page
            if drives and number > self._number:  # late messages say nothing new
                self._number, self._fresh = number, True
                self._deflection = [float(value) for value in sticks]
                if mode is not None:
                    self._mode = mode
            return {"drives": drives, **self._shown, **self.status()}

    def picture(self) -> Optional[bytes]:
        """The robot's newest picture as PNG."""
        with self._lock:
            rgb = self._rgb
        return None if rgb is None else png(rgb)


def _handler(operator: WebOperator) -> Any:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if not operator.allows(parse_qs(parts.query)):
                self._answer(403, b"open the link with its token", "text/plain")
            elif parts.path == "/":
                self._answer(200, _PAGE.read_bytes(), "text/html; charset=utf-8")
            elif parts.path == "/camera.png":
                picture = operator.picture()
                self._answer(200 if picture else 404, picture or b"", "image/png")
            else:
                self._answer(404, b"no such page", "text/plain")

        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            try:
                length = int(self.headers.get("Content-Length", ""))
            except ValueError:
                length = -1
            if not 0 < length <= _MAX_BODY_BYTES:
                self.close_connection = True
                self._answer(400, b"expected a short JSON message", "text/plain")
                return
            body = self.rfile.read(length)
            if parts.path != "/drive" or not operator.allows(parse_qs(parts.query)):
                self._answer(403, b"open the link with its token", "text/plain")
                return
            try:
                answer = operator.take(json.loads(body.decode("utf-8")))
            except ValueError as error:
                self._answer(400, str(error).encode("utf-8"), "text/plain")
                return
            self._answer(200, json.dumps(answer).encode("utf-8"), "application/json")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """20 messages a second are not worth a line each."""

    return Handler


def _finite(value: Any) -> Optional[float]:
    return round(float(value), 1) if np.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
