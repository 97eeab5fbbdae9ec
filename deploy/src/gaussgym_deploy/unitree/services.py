"""Unitree's services: a request on ``rt/api/<service>/request``, a response with the same id on ``.../response``.

Facts (topics, types, ids, codes) from unitree_sdk2_python (BSD-3-Clause). ``header.identity.id`` is the caller's monotonic time
in nanoseconds, ``api_id`` says what is asked; ``parameter`` and ``data`` are JSON text, ``binary`` octets, ``status.code`` 0 is
success.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Optional, Tuple

from ..robot_io import LinkError
from .idl import rpc_types
from .wire import Wire

__all__ = ["ServiceClient", "ServiceServer"]

_POLL_S = 0.001
_LATE_RESPONSES = 4


class ServiceClient:
    """Asks one service; one question at a time.

    Args:
        wire: The DDS domain.
        service: Name, e.g. ``motion_switcher``.
        discovery_timeout_s: How long to wait for the service to appear at the first question [s].
    """

    def __init__(self, wire: Wire, service: str, *, discovery_timeout_s: float = 3.0) -> None:
        from cyclonedds.pub import DataWriter

        self.service = service
        self._discovery_timeout_s = discovery_timeout_s
        self._make, _ = rpc_types()
        request, response = _topics(wire, service)
        self._reader: Any
        self._reader, self._servers = _reader(wire, response)
        listener, self._readers = wire.matches("publication")
        self._writer: Any = DataWriter(wire.participant, request, listener=listener)

    def call(
        self, api_id: int, parameter: str = "", *, timeout_s: float = 1.0, what: Optional[str] = None
    ) -> Tuple[str, bytes]:
        """Ask and wait for the answer.

        Args:
            api_id: What is asked.
            parameter: JSON text.
            timeout_s: How long to wait [s].
            what: The question in words, for messages.

        Returns:
            ``data`` and ``binary`` of the response.

        Raises:
            LinkError: Without a service, without an answer in time, or when the answer is an error code.
        """
        name = f"service {self.service!r} ({what or f'api {api_id}'})"
        self._wait_for_service(name)
        number = time.monotonic_ns()
        self._writer.write(self._request(number, api_id, parameter))
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            for response in self._reader.take(_LATE_RESPONSES):
                if not hasattr(response, "header") or response.header.identity.id != number:
                    continue  # a notice that the service left, or the answer to an earlier question
                if response.header.status.code != 0:
                    raise LinkError(f"{name} answers with error code {response.header.status.code}")
                return response.data, bytes(response.binary)
            time.sleep(_POLL_S)
        raise LinkError(f"{name} did not answer within {timeout_s:g} s")

    def close(self) -> None:
        """Leave the topics; may be called twice."""
        self._reader = self._writer = None

    def _wait_for_service(self, name: str) -> None:
        end_s = time.monotonic() + self._discovery_timeout_s
        while not (self._servers[0] and self._readers[0]):
            if time.monotonic() > end_s:
                raise LinkError(f"{name} is not there (waited {self._discovery_timeout_s:g} s)")
            time.sleep(_POLL_S)

    def _request(self, number: int, api_id: int, parameter: str) -> Any:
        fields = self._make.__annotations__["header"].__annotations__
        header = self._make.__annotations__["header"](
            identity=fields["identity"](id=number, api_id=api_id),
            lease=fields["lease"](id=0),
            policy=fields["policy"](priority=0, noreply=False),
        )
        return self._make(header=header, parameter=parameter, binary=[])


class ServiceServer:
    """Answers a service: what a simulated robot offers, and tests.

    Args:
        wire: The DDS domain.
        service: Name.
        answer: Called with api id and parameter; returns status code, data and binary, or None to stay silent.
    """

    def __init__(
        self, wire: Wire, service: str, answer: Callable[[int, str], Optional[Tuple[int, str, bytes]]]
    ) -> None:
        from cyclonedds.pub import DataWriter

        self._answer = answer
        _, self._make = rpc_types()
        request, response = _topics(wire, service)
        self._reader, _ = _reader(wire, request)
        self._writer = DataWriter(wire.participant, response)

    def step(self) -> None:
        """Answer what has come; never waits."""
        for request in self._reader.take(_LATE_RESPONSES):
            if not hasattr(request, "header"):
                continue
            identity = request.header.identity
            answer = self._answer(identity.api_id, request.parameter)
            if answer is not None:
                self._writer.write(self._response(identity, *answer))

    def _response(self, identity: Any, code: int, data: str, binary: bytes) -> Any:
        make = self._make.__annotations__["header"]
        status = make.__annotations__["status"](code=code)
        return self._make(header=make(identity=identity, status=status), data=data, binary=list(binary))


def _topics(wire: Wire, service: str) -> Tuple[Any, Any]:
    from cyclonedds.topic import Topic

    request, response = rpc_types()
    name = f"rt/api/{service}"
    return (
        Topic(wire.participant, f"{name}/request", request),
        Topic(wire.participant, f"{name}/response", response),
    )


def _reader(wire: Wire, topic: Any) -> Tuple[Any, Any]:
    """A reliable reader and the number of writers that it has found (a list of one)."""
    from cyclonedds.qos import Policy, Qos
    from cyclonedds.sub import DataReader
    from cyclonedds.util import duration

    listener, found = wire.matches("subscription")
    qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(_LATE_RESPONSES))
    return DataReader(wire.participant, topic, qos=qos, listener=listener), found
