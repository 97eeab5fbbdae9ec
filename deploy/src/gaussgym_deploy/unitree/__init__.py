"""Unitree's quadrupeds: messages, the DDS link of the Go2 and its simulated twin, the UDP link of the A1 and Go1."""

from __future__ import annotations
