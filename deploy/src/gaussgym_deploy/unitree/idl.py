"""Unitree's DDS types for cyclonedds, built when first asked for (cyclonedds is an optional dependency).

Field names, types, order, names of the types and their extensibility are those of the IDL files of unitree_sdk2_python
(BSD-3-Clause): all final, member ids sequential. Peers compare them, so the octet that is a signed temperature stays an octet.
"""

from __future__ import annotations

import functools
from typing import Any, Dict, Tuple

from ..robot_io import LinkError
from .layout import Fields
from .messages import (
    LOW_CMD_FIELDS,
    LOW_STATE_FIELDS,
    SPORT_MODE_STATE_FIELDS,
    WIRELESS_CONTROLLER_FIELDS,
)

__all__ = ["dds_type", "require_cyclonedds", "rpc_types"]

MODULE = "unitree_go.msg.dds_"
_MESSAGES: Dict[str, Fields] = {
    "LowCmd_": LOW_CMD_FIELDS,
    "LowState_": LOW_STATE_FIELDS,
    "SportModeState_": SPORT_MODE_STATE_FIELDS,
    "WirelessController_": WIRELESS_CONTROLLER_FIELDS,
}
_NESTED = {
    "motor_cmd": "MotorCmd_",
    "bms_cmd": "BmsCmd_",
    "imu_state": "IMUState_",
    "motor_state": "MotorState_",
    "bms_state": "BmsState_",
    "stamp": "TimeSpec_",
    "path_point": "PathPoint_",
}


def require_cyclonedds() -> None:
    """Raise the message that says how to get cyclonedds, where it is not installed.

    Raises:
        LinkError: When cyclonedds cannot be imported.
    """
    try:
        import cyclonedds.core  # noqa: F401
    except ImportError as error:
        raise LinkError(
            f"DDS links need the package cyclonedds ({error}); on a desk: pip install 'gaussgym-deploy[dds]',"
            " on a robot's network: pip install 'cyclonedds==0.10.2' (wheels up to Python 3.10)"
        ) from None


@functools.lru_cache(maxsize=None)
def dds_type(name: str) -> Any:
    """The cyclonedds type of a message.

    Args:
        name: ``LowCmd_``, ``LowState_``, ``SportModeState_`` or ``WirelessController_``.

    Returns:
        A dataclass; nested messages are dataclasses in it.
    """
    return _struct(MODULE, name, _MESSAGES[name])


def _struct(module: str, name: str, fields: Fields) -> Any:
    from cyclonedds.idl import types

    codes = {
        "B": types.uint8,
        "H": types.uint16,
        "h": types.int16,
        "I": types.uint32,
        "i": types.int32,
        "f": types.float32,
    }
    members = {}
    for field, code, count in fields:
        kind = codes[code] if isinstance(code, str) else _nested(module, _NESTED[field], code)
        members[field] = kind if count == 1 else types.array[kind, count]
    return _final(module, name, members)


@functools.lru_cache(maxsize=None)
def _nested(module: str, name: str, fields: Fields) -> Any:
    return _struct(module, name, fields)


def _final(module: str, name: str, members: Dict[str, Any]) -> Any:
    """A final struct with sequential member ids."""
    from cyclonedds.idl import annotations, make_idl_struct

    made = make_idl_struct(name, f"{module}.{name}", members)
    return annotations.autoid("sequential")(annotations.final(made))


@functools.lru_cache(maxsize=None)
def rpc_types() -> Tuple[Any, Any]:
    """``Request_`` and ``Response_`` of Unitree's services (module ``unitree_api.msg.dds_``)."""
    from cyclonedds.idl import types

    module = "unitree_api.msg.dds_"
    identity = _final(module, "RequestIdentity_", {"id": types.int64, "api_id": types.int64})
    lease = _final(module, "RequestLease_", {"id": types.int64})
    policy = _final(module, "RequestPolicy_", {"priority": types.int32, "noreply": bool})
    status = _final(module, "ResponseStatus_", {"code": types.int32})
    request_header = _final(
        module, "RequestHeader_", {"identity": identity, "lease": lease, "policy": policy}
    )
    response_header = _final(module, "ResponseHeader_", {"identity": identity, "status": status})
    octets = types.sequence[types.uint8]
    request = _final(module, "Request_", {"header": request_header, "parameter": str, "binary": octets})
    response = _final(module, "Response_", {"header": response_header, "data": str, "binary": octets})
    return request, response
