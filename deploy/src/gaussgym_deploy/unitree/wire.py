"""DDS topics as raw frames: what goes over the wire goes in and comes out as bytes.

cyclonedds' own Python serializer takes a millisecond for a ``LowState_``; :mod:`.messages` reads the same bytes in microseconds.
So topics are announced with their proper types, and samples cross as they are. This is the only module that opens DDS.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, Dict, Iterator, List, Literal, Optional, Tuple

from ..robot_io import LinkError
from ..scheduler import SUPERVISOR_PRIORITY
from .idl import dds_type, require_cyclonedds
from .versions import check_versions, cyclonedds_version, is_loopback

__all__ = ["FrameReader", "FrameWriter", "Wire"]

_LOOPBACK = """<CycloneDDS><Domain Id="any">
<General><Interfaces><NetworkInterface name="{interface}" multicast="false"/></Interfaces>
<AllowMulticast>false</AllowMulticast></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>20</MaxAutoParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers></Discovery>
</Domain></CycloneDDS>"""
_NETWORK = """<CycloneDDS><Domain Id="any">
<General><Interfaces><NetworkInterface name="{interface}" priority="default" multicast="default"/></Interfaces></General>
</Domain></CycloneDDS>"""

# A process can open a domain once only; all wires into it share it, and it lives as long as the process.
_DOMAINS: Dict[int, Tuple[str, Any]] = {}


class RawSample:
    """Stands in for a topic's data type: a sample whose serialized form is already there.

    Attributes:
        data: CDR frame, header included.
        sample_info: Set by the reader.
    """

    __slots__ = ("data", "sample_info")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sample_info: Any = None

    def serialize(self, **_: Any) -> bytes:
        """What the writer sends."""
        return self.data

    @classmethod
    def deserialize(cls, data: bytes, **_: Any) -> RawSample:
        """What the reader makes of a sample."""
        return cls(data)

    @classmethod
    def deserialize_key(cls, data: bytes, **_: Any) -> bytes:
        """What the reader makes of the notice that a writer went away."""
        return data


class FrameWriter:
    """Sends frames to a topic; made by :meth:`Wire.writer`.

    Args:
        writer: A cyclonedds ``DataWriter`` of raw samples.
        matched: How many readers it has, kept by :meth:`Wire.matches`.
    """

    def __init__(self, writer: Any, matched: List[int]) -> None:
        self._writer = writer
        self._matched_readers = matched

    @property
    def readers(self) -> int:
        """Readers that DDS has matched with this writer now."""
        return self._matched_readers[0]

    def write(self, frame: bytes) -> None:
        """Send one frame; does not wait.

        Raises:
            LinkError: When the link was closed or DDS refuses.
        """
        if self._writer is None:
            raise LinkError("the DDS link is closed")
        try:
            self._writer.write(RawSample(frame))
        except Exception as error:  # DDSException exists only where cyclonedds is installed
            raise LinkError(f"DDS refused to send: {error}") from None

    def close(self) -> None:
        """Leave the topic."""
        self._writer = None


class FrameReader:
    """Takes frames from a topic; made by :meth:`Wire.reader`.

    Args:
        reader: A cyclonedds ``DataReader`` of raw samples.
        matched: How many writers it has, kept by :meth:`Wire.matches`.
        depth: How many samples :meth:`take` takes at most.
    """

    def __init__(self, reader: Any, matched: List[int], depth: int) -> None:
        self._reader = reader
        self._matched_writers = matched
        self._depth = depth

    @property
    def writers(self) -> int:
        """Writers that DDS has matched with this reader now."""
        return self._matched_writers[0]

    def take(self) -> Tuple[List[bytes], bool]:
        """The frames that came since the last call, oldest first (at most ``depth``), and whether a writer went away.

        Raises:
            LinkError: When the link was closed or DDS refuses.
        """
        if self._reader is None:
            raise LinkError("the DDS link is closed")
        try:
            samples = self._reader.take(self._depth)
        except Exception as error:
            raise LinkError(f"DDS refused to read: {error}") from None
        frames = [sample.data for sample in samples if type(sample) is RawSample]
        return frames, len(frames) != len(samples)

    def close(self) -> None:
        """Leave the topic."""
        self._reader = None


class Wire:
    """A participant in a DDS domain.

    Args:
        domain: DDS domain, 0 ... 230.
        interface: Network interface; the loopback one is used without multicast.

    Raises:
        LinkError: When cyclonedds is missing, is a version that must not speak there, or does not come up.
    """

    def __init__(self, domain: int, interface: str) -> None:
        check_versions(cyclonedds_version(), interface, domain)
        require_cyclonedds()
        from cyclonedds.domain import DomainParticipant

        with _prompt_threads():
            _open_domain(domain, interface)
            self._participant: Optional[Any] = DomainParticipant(domain)
        self._topics: Dict[str, Any] = {}
        self._ends: List[Any] = []
        self._listeners: List[Any] = []
        # Also when a wire is forgotten instead of closed, see `_leave`.
        self._leave = weakref.finalize(self, _leave, self._participant, self._listeners)

    def writer(self, topic: str, type_name: str) -> FrameWriter:
        """A writer with DDS's default quality of service, as Unitree's SDK uses it (reliable, keeps the last sample).

        Args:
            topic: E.g. ``rt/lowcmd``.
            type_name: See :func:`gaussgym_deploy.unitree.idl.dds_type`.
        """
        from cyclonedds.pub import DataWriter

        found = self._topic(topic, type_name)
        listener, matched = self.matches("publication")
        made = FrameWriter(DataWriter(self.participant, found, listener=listener), matched)
        self._ends.append(made)
        return made

    def reader(self, topic: str, type_name: str, *, depth: int = 8, ignore_own: bool = False) -> FrameReader:
        """A best-effort reader.

        Args:
            topic: E.g. ``rt/lowstate``.
            type_name: See :func:`gaussgym_deploy.unitree.idl.dds_type`.
            depth: How many samples may wait.
            ignore_own: Do not see the writers of this wire.
        """
        from cyclonedds.qos import Policy, Qos
        from cyclonedds.sub import DataReader

        policies = [Policy.Reliability.BestEffort, Policy.History.KeepLast(depth)]
        if ignore_own:
            policies.append(Policy.IgnoreLocal.Participant)
        found = self._topic(topic, type_name)
        listener, matched = self.matches("subscription")
        made = FrameReader(
            DataReader(self.participant, found, qos=Qos(*policies), listener=listener), matched, depth
        )
        self._ends.append(made)
        return made

    def matches(self, kind: Literal["publication", "subscription"]) -> Tuple[Any, List[int]]:
        """A listener for one writer ("publication") or reader ("subscription") of this wire.

        Returns:
            The cyclonedds listener and the number of ends matched now, a list of one that the listener keeps.
        """
        from cyclonedds.core import Listener

        matched = [0]

        def count(_: Any, status: Any) -> None:
            matched[0] = status.current_count

        listener = Listener(**{f"on_{kind}_matched": count})
        self._listeners.append(listener)
        return listener, matched

    @property
    def participant(self) -> Any:
        """The cyclonedds participant, for typed topics (services)."""
        if self._participant is None:
            raise LinkError("the DDS link is closed")
        return self._participant

    def close(self) -> None:
        """Leave the domain; peers are told. May be called twice."""
        for end in self._ends:
            end.close()
        self._ends.clear()
        self._topics.clear()
        self._participant = None
        self._leave()

    def _topic(self, name: str, type_name: str) -> Any:
        from cyclonedds.topic import Topic

        if name not in self._topics:
            topic = Topic(self.participant, name, dds_type(type_name))
            topic.data_type = (
                RawSample  # after the announcement: readers and writers only ask it to (de)serialize
            )
            self._topics[name] = topic
        return self._topics[name]


def _leave(participant: Any, listeners: List[Any]) -> None:
    """Delete a participant and all that hangs on it, then the callbacks.

    cyclonedds deletes an entity when its Python object's last reference goes, but not when the garbage collector finds the object
    (its own table of entities has lost it by then). The entity then stays in the domain, its callbacks are freed, and the next
    match crashes the process. So the entities go by name, and before their callbacks.
    """
    participant.__del__()
    listeners.clear()


@contextlib.contextmanager
def _prompt_threads() -> Iterator[None]:
    """Threads that are started inside (DDS receives in its own) are scheduled in real time, where the system allows it.

    Otherwise they would wait behind every other process of a busy machine, whatever the priority of who reads.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(SUPERVISOR_PRIORITY))
    except (AttributeError, OSError):
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _open_domain(domain: int, interface: str) -> None:
    from cyclonedds.core import DDSException
    from cyclonedds.domain import Domain

    if domain in _DOMAINS:
        if _DOMAINS[domain][0] != interface:
            raise LinkError(
                f"this process has DDS domain {domain} open on {_DOMAINS[domain][0]!r} and cannot open it on {interface!r} too"
            )
        return
    text = (_LOOPBACK if is_loopback(interface) else _NETWORK).format(interface=interface)
    try:
        # An explicit configuration: CYCLONEDDS_URI could name further interfaces.
        _DOMAINS[domain] = (interface, Domain(domain, text))
    except DDSException as error:
        raise LinkError(
            f"DDS does not come up on interface {interface!r}, domain {domain}: {error} (is the interface up?)"
        ) from None
