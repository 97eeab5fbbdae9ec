"""What becomes of DDS entities and their callbacks, whoever forgets them."""

from __future__ import annotations

import gc
import importlib.util
import time
import weakref
from typing import Any

import pytest
from gaussgym_deploy.unitree.simulated import free_domain

pytestmark = pytest.mark.skipif(importlib.util.find_spec("cyclonedds") is None, reason="needs cyclonedds")


class Cycle:
    """Something that only the garbage collector frees."""

    def __init__(self, *kept: Any) -> None:
        self.kept = kept
        self.me = self


def exists(participant: Any, reference: int) -> bool:
    """Whether DDS itself still has an entity."""
    return participant._get_parent(reference) > 0


def test_a_forgotten_client_leaves_no_callback_that_is_gone() -> None:
    from gaussgym_deploy.unitree.services import ServiceClient
    from gaussgym_deploy.unitree.wire import Wire

    wire = Wire(free_domain(), "lo")
    client = ServiceClient(wire, "sport")
    reference, callback = client._reader._ref, weakref.ref(client._reader._listener)
    forgotten = Cycle(client)
    del client, forgotten
    gc.collect()
    assert exists(wire.participant, reference)  # cyclonedds's way; DDS would call back at the next match
    assert callback() is not None
    wire.close()
    gc.collect()
    assert callback() is None


@pytest.mark.parametrize("closed", [True, False])
def test_a_wire_leaves_the_domain_whatever_still_holds_its_ends(closed: bool) -> None:
    from gaussgym_deploy.unitree.services import ServiceClient
    from gaussgym_deploy.unitree.wire import Wire

    domain = free_domain()
    other = Wire(domain, "lo")
    wire = Wire(domain, "lo")
    ends = [wire.writer("rt/lowcmd", "LowCmd_"), wire.reader("rt/lowstate", "LowState_")]
    client = ServiceClient(wire, "sport")
    references = [wire.participant._ref, client._reader._ref, ends[0]._writer._ref, ends[1]._reader._ref]
    assert all(exists(other.participant, r) for r in references[1:])
    forgotten = Cycle(wire, client)
    if closed:
        wire.close()
    else:
        del wire, client, forgotten
        gc.collect()
    assert not any(exists(other.participant, r) for r in references)
    other.close()
    other.close()


def test_matches_are_counted_and_a_closed_end_is_told() -> None:
    from gaussgym_deploy.unitree.wire import Wire

    domain = free_domain()
    one, two = Wire(domain, "lo"), Wire(domain, "lo")
    writer, reader = one.writer("rt/lowcmd", "LowCmd_"), two.reader("rt/lowcmd", "LowCmd_")
    end_s = time.monotonic() + 5.0
    while (writer.readers, reader.writers) != (1, 1) and time.monotonic() < end_s:
        time.sleep(0.005)
    assert (writer.readers, reader.writers) == (1, 1)
    two.close()
    while writer.readers and time.monotonic() < end_s:
        time.sleep(0.005)
    assert writer.readers == 0
    one.close()
