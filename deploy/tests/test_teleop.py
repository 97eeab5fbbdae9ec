"""Operators: what they command, how they show that somebody is there, and what ends it."""

import contextlib
import http.client
import json
import os
import pty
import struct
import time
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest
from gaussgym_deploy.bundle import BundleError
from gaussgym_deploy.robot_io import RobotState
from gaussgym_deploy.teleop import DriveCfg, open_operator
from gaussgym_deploy.teleop.drive import Drive
from gaussgym_deploy.teleop.gamepad import GamepadOperator
from gaussgym_deploy.teleop.keyboard import KeyboardOperator
from gaussgym_deploy.teleop.png import png
from gaussgym_deploy.teleop.web import WebOperator

STATE = RobotState.zeros(12)


# ------------------------------------------------------------------ drive


def settle(drive, deflection, seconds=3.0):
    for step in range(int(seconds / 0.02)):
        velocity = drive.update(deflection, 0.02 * step)
    return velocity.copy()


def test_drive_reaches_the_full_speeds():
    cfg = DriveCfg(forward_m_s=0.8, backward_m_s=0.4, sideways_m_s=0.3, turn_rad_s=0.9)
    np.testing.assert_allclose(settle(Drive(cfg), (1.0, 1.0, -1.0)), (0.8, 0.3, -0.9))
    np.testing.assert_allclose(settle(Drive(cfg), (-1.0, 0.0, 0.0)), (-0.4, 0.0, 0.0))


def test_dead_zone_has_no_step_at_its_edge():
    cfg = DriveCfg(dead_zone=0.1)
    assert settle(Drive(cfg), (0.1, -0.09, 0.1)).tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(settle(Drive(cfg), (0.55, 0.0, 0.0))[0], 0.5 * cfg.forward_m_s)


def test_velocity_changes_no_faster_than_the_slew_rate():
    drive = Drive(DriveCfg(forward_m_s=1.0, slew_per_s=2.0))
    drive.update((0.0, 0.0, 0.0), 10.0)
    assert drive.update((1.0, 0.0, 0.0), 10.05)[0] == pytest.approx(0.1)
    # After a pause of a minute it moves by 0.1 s worth, not all the way.
    assert drive.update((1.0, 0.0, 0.0), 70.0)[0] == pytest.approx(0.3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_deflections_that_are_not_finite_count_as_none(bad):
    assert settle(Drive(DriveCfg()), (bad, 0.0, bad)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("field", ["forward_m_s", "slew_per_s", "dead_zone"])
def test_speeds_that_make_no_sense_are_refused(field):
    with pytest.raises(BundleError, match=field):
        DriveCfg(**{field: -1.0})


def test_unknown_operators_and_options_are_refused():
    with pytest.raises(
        BundleError, match="no operator named 'mouse'; there is: gamepad, keyboard, remote, web"
    ):
        open_operator("mouse", DriveCfg())
    with pytest.raises(BundleError, match=r"operator 'gamepad'.*colour"):
        open_operator("gamepad", DriveCfg(), colour="red")


# ------------------------------------------------------------------ keyboard


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    yield master, slave
    for fd in (master, slave):
        with contextlib.suppress(OSError):
            os.close(fd)


def typed(master, text):
    os.write(master, text.encode())
    time.sleep(0.02)  # the terminal's line discipline is another process's business


def test_keyboard_drives_while_a_key_repeats_and_halts_after(terminal):
    master, slave = terminal
    operator = KeyboardOperator(DriveCfg(forward_m_s=0.5), fd=slave, hold_s=0.6)
    now = 0.0
    for _ in range(20):
        typed(master, "w")
        now += 0.1
        command = operator.read(STATE, now)
    assert command.velocity[0] == pytest.approx(0.5)
    assert command.alive_s == now
    for _ in range(100):
        now += 0.02
        command = operator.read(STATE, now)
    assert command.velocity.tolist() == [0.0, 0.0, 0.0]
    assert command.alive_s == now
    operator.close()


def test_keyboard_opposite_keys_cancel_and_arrows_drive(terminal):
    master, slave = terminal
    operator = KeyboardOperator(DriveCfg(), fd=slave)
    typed(master, "ad")
    assert operator.read(STATE, 1.0).velocity.tolist() == [0.0, 0.0, 0.0]
    typed(master, "\x1b[A")
    command = operator.read(STATE, 1.02)
    assert command.velocity[0] > 0.0
    assert command.stop is None
    operator.close()


@pytest.mark.parametrize("key", [" ", "x", "\x1b"])
def test_keyboard_stop_is_said_once(terminal, key):
    master, slave = terminal
    operator = KeyboardOperator(DriveCfg(), fd=slave)
    typed(master, key)
    assert "emergency stop" in operator.read(STATE, 1.0).stop
    assert operator.read(STATE, 1.02).stop is None
    operator.close()


def test_keyboard_modes(terminal):
    master, slave = terminal
    operator = KeyboardOperator(DriveCfg(), fd=slave)
    for key, mode in (("1", "damp"), ("2", "stand"), ("3", "run")):
        typed(master, key)
        assert operator.read(STATE, 1.0).mode == mode
    assert operator.read(STATE, 1.0).mode is None
    operator.close()


def test_a_closed_terminal_is_a_lost_operator(terminal):
    master, slave = terminal
    operator = KeyboardOperator(DriveCfg(), fd=slave)
    assert operator.read(STATE, 5.0).alive_s == 5.0
    os.close(master)
    assert operator.read(STATE, 5.1).alive_s == 5.0
    assert operator.read(STATE, 9.0).alive_s == 5.0
    operator.close()


def test_keyboard_dead_man(terminal):
    master, slave = terminal
    operator = KeyboardOperator(DriveCfg(), fd=slave, dead_man_s=1.0)
    assert operator.read(STATE, 5.0).alive_s == 5.0
    assert operator.read(STATE, 6.0).alive_s == 6.0
    assert operator.read(STATE, 6.1).alive_s == 6.0
    typed(master, "w")
    assert operator.read(STATE, 6.2).alive_s == 6.2
    operator.close()


def test_keyboard_gives_the_terminal_back(terminal):
    import termios

    _, slave = terminal
    before = termios.tcgetattr(slave)
    operator = KeyboardOperator(DriveCfg(), fd=slave)
    assert not termios.tcgetattr(slave)[3] & termios.ECHO
    operator.close()
    operator.close()
    assert termios.tcgetattr(slave) == before


def test_keyboard_wants_a_terminal():
    read, write = os.pipe()
    with pytest.raises(BundleError, match="needs a terminal"):
        KeyboardOperator(DriveCfg(), fd=read)
    os.close(read)
    os.close(write)


# ------------------------------------------------------------------ gamepad


def js_event(value, kind, number):
    return struct.pack("=IhBB", 1234, value, kind, number)


@pytest.fixture
def pad(tmp_path):
    """A named pipe in the device's place: (operator, write(bytes), unplug())."""
    device = tmp_path / "js0"
    os.mkfifo(device)
    operator = GamepadOperator(DriveCfg(forward_m_s=1.0, dead_zone=0.0), device=str(device))
    write = os.open(device, os.O_WRONLY)
    closed = []

    def unplug():
        if not closed:
            closed.append(True)
            os.close(write)

    yield operator, lambda data: os.write(write, data), unplug
    unplug()
    operator.close()


HOLD, LET_GO = js_event(1, 1, 4), js_event(0, 1, 4)


def test_gamepad_drives_while_the_dead_man_is_held(pad):
    operator, write, _ = pad
    write(js_event(-32767, 2, 1))  # left stick all the way up
    command = operator.read(STATE, 1.0)
    assert command.alive_s == -np.inf
    assert command.velocity.tolist() == [0.0, 0.0, 0.0]
    write(HOLD)
    for step in range(100):
        command = operator.read(STATE, 1.0 + 0.02 * step)
    assert command.velocity[0] == pytest.approx(1.0)
    assert command.alive_s == pytest.approx(2.98)
    write(LET_GO)
    command = operator.read(STATE, 3.0)
    assert command.velocity.tolist() == [0.0, 0.0, 0.0]
    assert command.alive_s == pytest.approx(2.98)


def test_gamepad_axes_turn_left_for_left(pad):
    operator, write, _ = pad
    write(HOLD + js_event(-16384, 2, 0) + js_event(-32767, 2, 3))
    for step in range(100):
        command = operator.read(STATE, 0.02 * step)
    assert command.velocity[1] == pytest.approx(0.5 * 0.3, rel=1e-3)
    assert command.velocity[2] == pytest.approx(0.8)


def test_gamepad_events_cut_in_the_middle_are_put_together(pad):
    operator, write, _ = pad
    event = js_event(1, 1, 1)
    write(event[:5])
    assert operator.read(STATE, 1.0).stop is None
    write(event[5:])
    assert "emergency stop" in operator.read(STATE, 1.02).stop


def test_gamepad_buttons_and_what_the_kernel_reports_first(pad):
    operator, write, _ = pad
    write(js_event(1, 1 | 0x80, 1))  # "button 1 is down", not "was pressed"
    assert operator.read(STATE, 1.0).stop is None
    for button, mode in ((2, "damp"), (3, "stand"), (0, "run")):
        write(js_event(1, 1, button))
        assert operator.read(STATE, 1.0).mode == mode


def test_an_unplugged_gamepad_is_a_lost_operator(pad):
    operator, write, unplug = pad
    write(HOLD)
    assert operator.read(STATE, 1.0).alive_s == 1.0
    unplug()
    assert operator.read(STATE, 1.1).alive_s == 1.0
    assert operator.read(STATE, 2.0).alive_s == 1.0


def test_no_gamepad_is_a_clear_error(tmp_path):
    with pytest.raises(BundleError, match=r"js7: No such file.*plug the gamepad in"):
        GamepadOperator(DriveCfg(), device=str(tmp_path / "js7"))


# ------------------------------------------------------------------ web page


@pytest.fixture
def web():
    operator = WebOperator(DriveCfg(dead_zone=0.0), port=0)
    yield operator
    operator.close()


def drive(operator, page="one", number=0, sticks=(0, 0, 0), **more):
    body = json.dumps({"page": page, "number": number, "sticks": list(sticks), **more}).encode()
    url = operator.url.replace("/?", "/drive?")
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method="POST"), timeout=5) as answer:
        return json.loads(answer.read())


def test_the_page_drives(web):
    with urllib.request.urlopen(web.url, timeout=5) as answer:
        page = answer.read().decode()
    assert "STOP" in page
    assert "/drive" in page
    assert web.read(STATE, 1.0).alive_s == -np.inf
    for number in range(100):
        assert drive(web, number=number, sticks=(1, 0, -1))["drives"]
        command = web.read(STATE, 1.0 + 0.05 * number)
    np.testing.assert_allclose(command.velocity, (0.8, 0.0, -0.8))
    assert command.alive_s == pytest.approx(5.95)


def test_silence_is_a_lost_operator_and_lets_go_of_the_wheel(web):
    drive(web, page="one", sticks=(1, 0, 0))
    assert web.read(STATE, 1.0).alive_s == 1.0
    assert web.read(STATE, 1.5).alive_s == 1.0
    assert not drive(web, page="two")["drives"]
    web.read(STATE, 2.5)
    assert drive(web, page="two")["drives"]
    assert web.read(STATE, 2.6).alive_s == 2.6


def test_everybody_may_stop(web):
    drive(web, page="one")
    assert not drive(web, page="two", stop=True)["drives"]
    assert "emergency stop" in web.read(STATE, 1.0).stop
    assert web.read(STATE, 1.02).stop is None


def test_late_messages_say_nothing_new(web):
    drive(web, number=5, sticks=(0, 0, 0))
    web.read(STATE, 1.0)
    drive(web, number=4, sticks=(1, 0, 0), mode="run")
    command = web.read(STATE, 2.0)
    assert command.alive_s == 1.0
    assert command.mode is None
    assert command.velocity[0] == 0.0


def test_modes_of_the_page(web):
    drive(web, mode="stand")
    assert web.read(STATE, 1.0).mode == "stand"
    assert web.read(STATE, 1.02).mode is None


def refused(call):
    with pytest.raises(urllib.error.HTTPError) as caught:
        call()
    return caught.value.code, caught.value.read().decode()


def test_without_the_token_nobody_drives(web):
    base = web.url.split("?")[0]
    assert refused(lambda: urllib.request.urlopen(base, timeout=5))[0] == 403
    request = urllib.request.Request(base + "drive?token=guess", data=b"{}", method="POST")
    assert refused(lambda: urllib.request.urlopen(request, timeout=5))[0] == 403
    assert web.read(STATE, 1.0).alive_s == -np.inf


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"{}", b'{"page": "a", "number": 1, "sticks": [0, 0]}',
        b'{"page": "a", "number": 1, "sticks": [0, 0, NaN]}', b'{"page": "a", "number": 1, "sticks": [0, 0, true]}',
        b'{"page": "a", "number": "1", "sticks": [0, 0, 0]}', b'{"page": "a", "number": 1, "sticks": [0, 0, 0], "mode": "fly"}',
        b"\xff\xfe", b"x" * 5000,
    ],
)  # fmt: skip
def test_messages_of_another_form_are_refused(web, body):
    url = web.url.replace("/?", "/drive?")
    request = urllib.request.Request(url, data=body, method="POST")
    assert refused(lambda: urllib.request.urlopen(request, timeout=5))[0] == 400
    command = web.read(STATE, 1.0)
    assert command.alive_s == -np.inf
    assert command.stop is None


def test_a_message_without_length_is_refused(web):
    host, port = web.url.split("//")[1].split("/")[0].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.putrequest("POST", "/drive?" + web.url.split("?")[1])
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


def test_the_page_sees_what_the_robot_sees(web):
    state = RobotState.zeros(12)
    assert refused(lambda: urllib.request.urlopen(web.url.replace("/?", "/camera.png?"), timeout=5))[0] == 404
    state.rgb, state.rgb_t_s = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3), 1.0
    state.battery_fraction, state.motor_temperature_c = 0.5, np.full(12, 41.0)
    web.read(state, 1.0)
    with urllib.request.urlopen(web.url.replace("/?", "/camera.png?"), timeout=5) as answer:
        np.testing.assert_array_equal(decoded(answer.read()), state.rgb)
    web.status = lambda: {"mode": "run"}
    shown = drive(web)
    assert shown["mode"] == "run"
    assert shown["battery"] == 0.5
    assert shown["hottest_c"] == 41.0
    assert shown["tilt_deg"] == 0.0


def decoded(data):
    """An independent reader of unfiltered 8-bit RGB PNGs."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, body, size = 8, b"", None
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + chunk)
        size = struct.unpack(">II", chunk[:8]) if kind == b"IHDR" else size
        body += chunk if kind == b"IDAT" else b""
        at += 12 + length
    width, height = size
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_png_of_a_view_that_is_not_contiguous():
    rgb = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)[:, ::-1]
    np.testing.assert_array_equal(decoded(png(rgb)), rgb)


def test_a_taken_port_is_a_clear_error(web):
    port = int(web.url.split(":")[2].split("/")[0])
    with pytest.raises(BundleError, match=r"cannot serve on 127.0.0.1.*choose another port"):
        WebOperator(DriveCfg(), port=port)
