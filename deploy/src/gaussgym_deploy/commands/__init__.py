"""The bodies of `gaussgym-deploy`'s commands, one module a subject, and how they print."""

from __future__ import annotations
