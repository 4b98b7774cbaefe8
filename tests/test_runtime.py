"""The one default of each thing: what closing it promises."""

from __future__ import annotations

import pytest

from holdfast.runtime import Runtime, aclose, runtime
from holdfast.settings import Settings

pytestmark = pytest.mark.anyio


class Steps:
    """Closers that note that they were called, and raise what they are told to."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def add(self, to: Runtime, name: str, error: BaseException | None = None) -> None:
        async def close() -> None:
            self.taken.append(name)
            if error is not None:
                raise error

        (to.on_flush if name.startswith("flush") else to.on_close)(close)


async def test_everything_is_closed_even_if_one_raises_and_the_first_error_is_told() -> None:
    steps, one = Steps(), Runtime(Settings())
    steps.add(one, "made first")
    steps.add(one, "in between", ValueError("second"))
    steps.add(one, "made last", OSError("first"))
    steps.add(one, "flush", None)
    with pytest.raises(OSError, match="first"):
        await one.aclose()
    assert steps.taken == ["flush", "made last", "in between", "made first"]
    await one.aclose()
    assert len(steps.taken) == 4


async def test_every_runtime_is_closed_even_if_one_raises() -> None:
    steps = Steps()
    for number in range(3):
        each = runtime(Settings(session_max_age=1000 + number))
        steps.add(each, str(number), OSError("first") if number == 0 else None)
    with pytest.raises(OSError, match="first"):
        await aclose()
    assert steps.taken == ["0", "1", "2"]


async def test_a_flush_writes_and_closes_nothing() -> None:
    steps, one = Steps(), Runtime(Settings())
    thing = one.once("thing", object)
    steps.add(one, "closed")
    steps.add(one, "flush 1", OSError("first"))
    steps.add(one, "flush 2")
    for _ in range(2):
        with pytest.raises(OSError, match="first"):
            await one.flush()
    assert steps.taken == ["flush 1", "flush 2"] * 2
    assert one.once("thing", object) is thing
