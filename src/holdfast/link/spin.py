"""Whether to look for a reply before going to sleep for it.

No clock and no socket in here: what became of the last looks comes in, a verdict goes out.
"""

from __future__ import annotations

from dataclasses import dataclass

#: For how long one look lasts at least: about what it costs a thread to fall asleep and to be
#: woken. A competitive bet (Karlin et al., 1991): it never costs more than twice what would have
#: been best.
LEAST_SECONDS = 0.0001
#: And at most, where replies take longer, as those of scripts do. A look that ends just before its
#: reply comes is the worst of both.
MOST_SECONDS = 0.0003
# A look lasts for so many times what replies take: those of one Redis differ by its commands.
_MARGIN = 3
# How many replies it takes to narrow a look down.
_MEMORY = 16
#: What passes between two looks only where there are more threads to run than processors. The first
#: look takes up to 20 us on a slow one, which has just been elsewhere; whoever is given it, longer.
CROWDED_SECONDS = 0.00005
# Powers of two: a Redis that is far away is looked for at one command in 256.
MOST_REST = 8
#: How many have to be caught in a row for one that was missed. Where more than a few in a hundred
#: are late, the processor is wanted by others, and each look takes it from them.
FORGIVEN_AFTER = 16


@dataclass(slots=True)
class Spin:
    """Learns of one connection whether its replies come before a thread could fall asleep.

    Attributes:
        seconds: for how long to look.
    """

    seconds: float = MOST_SECONDS
    _misses: int = 0
    _rest: int = 0
    _caught: int = 0

    def worth(self) -> bool:
        """Whether to look this time; what is not worth it is tried again now and then."""
        if self._rest:
            self._rest -= 1
            return False
        return True

    def caught(self, took: float = 0.0) -> None:
        """Note that the reply came while it was looked for, after *took* seconds."""
        enough = min(max(_MARGIN * took, LEAST_SECONDS), MOST_SECONDS)
        self.seconds += (enough - self.seconds) / _MEMORY
        self._caught += 1
        if self._caught == FORGIVEN_AFTER:
            self._caught, self._misses = 0, max(self._misses - 1, 0)

    def missed(self) -> None:
        """Note that it did not."""
        self.seconds = MOST_SECONDS
        self._caught, self._misses = 0, min(self._misses + 1, MOST_REST)
        self._rest = (1 << self._misses) - 1
