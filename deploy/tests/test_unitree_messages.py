"""Unitree's messages: layout, bytes and checksum against published formats, written-out vectors and slow twins."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from gaussgym_deploy.robot_io import LinkError
from gaussgym_deploy.unitree.layout import Fields, offsets
from gaussgym_deploy.unitree.messages import (
    LOW_CMD_FIELDS,
    LOW_STATE_FIELDS,
    MOTOR_NAMES,
    POSITION_STOP,
    SPORT_MODE_STATE_FIELDS,
    VELOCITY_STOP,
    WIRELESS_CONTROLLER_FIELDS,
    LowCmdFrame,
    LowStateFrame,
    crc32,
    motor_index,
)

# Formats of the C structs as the maker's SDK packs them for the checksum.
LOW_CMD_STRUCT = "<4B4IH2x" + "B3x5f3I" * 20 + "4B" + "55Bx2I"
LOW_STATE_STRUCT = "<4B4IH2x" + "13fB3x" + "B3x7fB3x3I" * 20 + "4BiH4B15H" + "8hI41B3xf2B2x2f4H2I"


def bitwise_crc(data: bytes) -> int:
    """The definition, one bit at a time."""
    crc = 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", data):
        for bit in range(31, -1, -1):
            top = crc >> 31
            crc = (crc << 1) & 0xFFFFFFFF
            if top:
                crc ^= 0x04C11DB7
            if word >> bit & 1:
                crc ^= 0x04C11DB7
    return crc


def random_values(fields: Fields, generator: random.Random) -> list[Any]:
    """All numbers of a message in order."""
    values: list[Any] = []
    ranges = {
        "B": (0, 255),
        "H": (0, 65535),
        "h": (-32768, 32767),
        "I": (0, 2**32 - 1),
        "i": (-(2**31), 2**31 - 1),
    }
    for _, code, count in fields:
        for _ in range(count):
            if not isinstance(code, str):
                values += random_values(code, generator)
            elif code == "f":
                values.append(float(np.float32(generator.uniform(-9.0, 9.0))))
            else:
                values.append(generator.randint(*ranges[code]))
    return values


def slow_cdr(fields: Fields, values: list[Any]) -> bytes:
    """A CDR body, number by number: each aligned to its own size."""
    out = bytearray()

    def put(fields: Fields) -> None:
        for _, code, count in fields:
            for _ in range(count):
                if isinstance(code, str):
                    out.extend(b"\0" * (-len(out) % struct.calcsize(code)))
                    out.extend(struct.pack("<" + code, values.pop(0)))
                else:
                    put(code)

    values = list(values)
    put(fields)
    return bytes(out)


def idl_object(name: str, fields: Fields, values: list[Any]) -> Any:
    """The cyclonedds object with these numbers."""
    from gaussgym_deploy.unitree import idl

    members: dict[str, Any] = {}
    for field, code, count in fields:
        items = [
            values.pop(0) if isinstance(code, str) else idl_object(idl._NESTED[field], code, values)
            for _ in range(count)
        ]
        members[field] = items[0] if count == 1 else items
    made = idl.dds_type(name) if name in idl._MESSAGES else idl._nested(idl.MODULE, name, fields)
    return made(**members)


@pytest.mark.parametrize(("length", "seed"), [(0, 0), (4, 1), (808, 2), (1176, 3), (1612, 4)])
def test_checksum_is_its_bitwise_definition(length: int, seed: int) -> None:
    data = bytes(np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8))
    assert crc32(data) == bitwise_crc(data)


def test_checksum_of_the_published_vectors() -> None:
    assert crc32(bytes(808)) == 0x4B5A4880
    frame = LowCmdFrame()
    frame.q[:] = 0.0
    frame.dq[:] = 0.0
    assert frame.computed_crc() == 0x57ECF19D
    frame.q[:] = POSITION_STOP
    frame.dq[:] = VELOCITY_STOP
    assert frame.computed_crc() == 0x06E577CD


def test_a_fresh_command_written_out() -> None:
    """Byte for byte: header, head, the first motor (whose mode follows the bandwidth without a gap), the second, the end."""
    wire = LowCmdFrame().seal()
    assert len(wire) == 812
    assert wire[:4].hex() == "00010000"
    assert wire[4:28].hex() == "feefff00" + "00" * 16 + "0000" + "01" + "00"
    # 2.146e9 = 0xFFD2B9 * 2^7 as a float32: exponent 127 + 30, mantissa 0x7FD2B9
    motor = "b9d2ff4e" + "00007a46" + "00000000" * 3 + "00000000" * 3  # q, dq, tau, kp, kd, reserve
    assert wire[28:60].hex() == motor
    assert wire[60:64].hex() == "01000000"
    assert wire[64:96].hex() == motor
    assert wire[804:].hex() == "00000000" + "cd77e506"
    # and as the C struct, where the first motor is aligned like the others
    assert LowCmdFrame().c_struct()[20:28].hex() == "00000000" + "01000000"


@pytest.mark.parametrize(
    ("frame", "fields", "layout", "size"),
    [
        (LowCmdFrame, LOW_CMD_FIELDS, LOW_CMD_STRUCT, 812),
        (LowStateFrame, LOW_STATE_FIELDS, LOW_STATE_STRUCT, 1180),
    ],
)
def test_frames_are_the_published_structs(frame: Any, fields: Fields, layout: str, size: int) -> None:
    assert struct.calcsize(layout) == size
    generator = random.Random(5)
    for _ in range(10):
        values = random_values(fields, generator)
        made = frame()
        assert made.load(b"\0\1\0\0" + slow_cdr(fields, values))
        packed = struct.pack(layout, *values)
        assert made.c_struct() == packed
        assert made.computed_crc() == bitwise_crc(packed[:-4])
        assert not made.intact
        sealed = made.seal()
        assert made.intact
        assert sealed[:-4] == (b"\0\1\0\0" + slow_cdr(fields, values))[:-4]


def test_padding_from_the_wire_is_not_part_of_the_checksum() -> None:
    frame = LowStateFrame()
    sealed = bytearray(frame.seal())
    used = {
        place + 4 + byte
        for name, places in offsets(LOW_STATE_FIELDS, c_struct=False)[0].items()
        for place in places
        for byte in range(1 if name.endswith(("mode", "temperature")) else 0)
    }
    mode_of_second_motor = 4 + offsets(LOW_STATE_FIELDS, c_struct=False)[0]["motor_state.mode"][1]
    assert mode_of_second_motor in used
    sealed[mode_of_second_motor + 1] = 0xAB  # padding in front of q
    assert frame.load(bytes(sealed))
    assert frame.intact
    sealed[mode_of_second_motor] = 0xAB
    assert frame.load(bytes(sealed))
    assert not frame.intact


@pytest.mark.parametrize("flip", [4, 10, 500, 900, 1179])
def test_any_flipped_byte_is_seen(flip: int) -> None:
    frame = LowStateFrame()
    frame.tick[0], frame.q[:] = 77, 0.5
    data = bytearray(frame.seal())
    data[flip] ^= 0x10
    assert frame.load(bytes(data))
    assert not frame.intact


def test_what_is_no_such_frame_is_not_taken() -> None:
    frame = LowStateFrame()
    good = frame.seal()
    for bad in (good[:-4], good + b"\0\0\0\0", b"\0\0\0\0" + good[4:], b"\0\7\0\0" + good[4:], b""):
        assert not frame.load(bad)
    assert frame.intact


def test_views_read_what_was_sent() -> None:
    state = LowStateFrame()
    state.q[:] = np.arange(20) * 0.1
    state.temperature[:3] = (-5, 40, 85)
    state.soc[0], state.tick[0], state.reserve[0] = 87, 123456, 9
    other = LowStateFrame()
    assert other.load(state.seal())
    np.testing.assert_array_equal(other.q, np.float32(np.arange(20) * 0.1))
    assert other.temperature[:3].tolist() == [-5, 40, 85]
    assert (other.soc[0], other.tick[0], other.reserve[0]) == (87, 123456, 9)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("LowCmd_", LOW_CMD_FIELDS),
        ("LowState_", LOW_STATE_FIELDS),
        ("SportModeState_", SPORT_MODE_STATE_FIELDS),
        ("WirelessController_", WIRELESS_CONTROLLER_FIELDS),
    ],
)
def test_bytes_are_those_of_cyclonedds(name: str, fields: Fields) -> None:
    pytest.importorskip("cyclonedds")
    from gaussgym_deploy.unitree.idl import dds_type

    assert dds_type(name).__idl_typename__ == f"unitree_go.msg.dds_.{name}"
    generator = random.Random(6)
    for _ in range(3):
        values = random_values(fields, generator)
        serialized = idl_object(name, fields, list(values)).serialize()
        assert serialized == b"\0\1\0\0" + slow_cdr(fields, values)


def test_motor_order() -> None:
    assert MOTOR_NAMES[:4] == ("FR_hip", "FR_thigh", "FR_calf", "FL_hip")
    names = [name + "_joint" for name in reversed(MOTOR_NAMES)]
    assert motor_index(names).tolist() == list(range(11, -1, -1))
    with pytest.raises(LinkError, match="Unitree quadruped has"):
        motor_index(["knee"] * 12)
