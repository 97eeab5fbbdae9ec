"""Fault injection: every fault of the table, on every link, at random moments; how long until the robot is damped."""

from __future__ import annotations
