"""The cores that this process may use."""

from __future__ import annotations

import os


def numbered() -> tuple[int, ...]:
    """By their numbers, so that a process can be put on one; none where the system does not tell (macOS)."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def count() -> int:
    """At least one."""
    return len(numbered()) or os.cpu_count() or 1
