"""What a process may use is what it was put on; where the system does not say, it is what the machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from decentral import cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system puts no process on a core")
def test_a_process_on_one_core_counts_one() -> None:
    one = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); from decentral.cores import *; print(numbered(), count())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == f"({one},) 1\n"


def test_where_nobody_says_which_they_are_the_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert (cores.numbered(), cores.count()) == ((), 7)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.count() == 1
