"""The supervisor's own way to Redis, whatever stands at the other end. It only chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from holdfast.link.cluster import ClusterConversation
from holdfast.link.sentinel import WatchedConversation
from holdfast.link.sync import SyncConversation

if TYPE_CHECKING:
    from holdfast.link.topology import Topology

AnyConversation: TypeAlias = SyncConversation | WatchedConversation | ClusterConversation


def converse(topology: Topology, timeout: float) -> AnyConversation:
    """Find Redis and open a blocking connection to it, or the way to its several nodes.

    Args:
        topology: where it is; brought up to date here and by what is returned.
        timeout: seconds for each step.

    Raises:
        RedisUnavailable: it could not be found or opened.
    """
    if topology.clustered:
        return ClusterConversation.open(topology, timeout)
    if topology.configured.service:
        return WatchedConversation(topology, timeout)
    return SyncConversation.open(topology.target, timeout)
