"""No request waits long for a Redis that is away: ``scripts/bench outages`` says how long exactly.

The bounds are those of a machine with much else to do; what they would miss is a wait for each
request, or one that outlasts the outage.
"""

from __future__ import annotations

import pytest
from tests.benchmarks.outages import MEASURED, measure
from tests.matrix.faults import FAULTS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["refused", "black-hole", "oom"])
async def test_an_outage_costs_one_wait_and_its_end_is_noticed(name: str) -> None:
    assert name in MEASURED
    found = await measure(FAULTS[name], waves=5)
    assert found.first < 5.0
    assert found.added < 1.0
    assert found.noticed is not None
    assert found.noticed < 30.0
