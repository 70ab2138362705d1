"""One small proof tells how fast a machine proves, and the store remembers."""

from __future__ import annotations

import pytest

from decentral.zk.machine import FILE, measure_machine, recorded_machine
from decentral.zk.store import Store


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_what_a_small_proof_took_is_recorded(tmp_path):
    store = Store(tmp_path)
    assert recorded_machine(store) is None
    said: list[str] = []
    found = await measure_machine(store, say=said.append)
    assert recorded_machine(store) == pytest.approx(found, abs=1e-3)
    assert 0.05 < found < 50 and "a small proof" in said


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"factor": 2.0, "ezkl": "1.0"}', '{"factor": -1, "ezkl": "23.0.5"}', '{"factor": "x"}']
)
def test_a_record_that_cannot_be_used_is_none(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert recorded_machine(Store(tmp_path)) is None


def test_a_record_is_read_again(tmp_path):
    (tmp_path / FILE).write_text('{"factor": 1.5, "ezkl": "23.0.5"}')
    assert recorded_machine(Store(tmp_path)) == 1.5
