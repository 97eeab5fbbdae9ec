"""The commands of ``gaussgym-deploy``, one file a group."""

from __future__ import annotations
