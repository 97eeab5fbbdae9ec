"""What an ONNX file says of itself, read without the ``onnx`` package: format version and operator set.

An ONNX file is a protobuf message; field 1 is ``ir_version``, field 8 lists the operator sets (1: domain, 2: version).
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Tuple, Union

from .contents import BundleError

__all__ = ["MAX_IR_VERSION", "MAX_OPSET", "OnnxHeader", "read_onnx_header"]

MAX_IR_VERSION, MAX_OPSET = 9, 19
"""What onnxruntime 1.16, the oldest that a robot may have, opens (its release notes; 1.19 is the last for Python 3.8)."""

_IR_VERSION, _OPSET_IMPORT = 1, 8


class OnnxHeader(NamedTuple):
    """Versions of an ONNX file.

    Attributes:
        ir_version: Of the file format.
        opset: Of the standard operators.
    """

    ir_version: int
    opset: int


def read_onnx_header(data: bytes, name: str) -> OnnxHeader:
    """Read the versions.

    Args:
        data: The file's bytes.
        name: For errors.

    Raises:
        BundleError: When this is no ONNX file, or one that needs operators beyond the standard ones.
    """
    ir_version = opset = 0
    try:
        for field, value in _fields(data):
            if field == _IR_VERSION and isinstance(value, int):
                ir_version = value
            elif field == _OPSET_IMPORT and isinstance(value, bytes):
                imported = dict(_fields(value))
                domain = imported.get(1, b"")
                if domain not in (b"", b"ai.onnx"):
                    raise BundleError(f"{name}: needs operators of {domain!r}; export with the standard ones")
                version = imported.get(2, 0)
                opset = version if isinstance(version, int) else 0
    except (IndexError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        ir_version = 0
    if not ir_version or not opset:
        raise BundleError(f"{name}: not an ONNX file; export the policy again")
    return OnnxHeader(ir_version, opset)


def require_readable(header: OnnxHeader, name: str) -> None:
    """Refuse a file that an old onnxruntime would not open.

    Args:
        header: Of the file.
        name: For the error.

    Raises:
        BundleError: When a version is above the limits.
    """
    if header.ir_version > MAX_IR_VERSION or header.opset > MAX_OPSET:
        raise BundleError(
            f"{name}: ONNX format {header.ir_version} with opset {header.opset}, at most {MAX_IR_VERSION} and {MAX_OPSET}"
            " open on every robot (onnxruntime 1.16); export the policy again"
        )


def _fields(data: bytes) -> Iterator[Tuple[int, Union[int, bytes]]]:
    """Number and value of each field of a protobuf message (values of fixed size are left out)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield field, value
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("cut short")
            yield field, bytes(memoryview(data)[at : at + size])
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("no protobuf message")


def _varint(data: bytes, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if not byte & 128:
            return value, at
