"""The names of all keys, at one server and at every master of a Cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast import Settings
from holdfast.errors import RedisUnavailable
from holdfast.link import Link
from holdfast.link.scan import literal, scan
from holdfast.testing import redis_cluster

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

ODD = r"a*b?c[d]e^f-g\h"


def link_to(url: str) -> Link:
    return Link(Settings(redis_url=url, redis_timeout=5, secret_key="k" * 32))


def test_a_literal_matches_itself_alone(redis: RedisServer, key_prefix: str) -> None:
    for name in (ODD, "aXbYcdef-gh", "aXbYc[d]e^f-g\\h"):
        redis.execute("SET", f"{key_prefix}{name}", "1")
    link = link_to(redis.url)
    assert link.ready_sync()
    assert set(scan(link, literal(key_prefix + ODD))) == {f"{key_prefix}{ODD}".encode()}
    link.close()


def test_every_master_of_a_cluster_is_asked() -> None:
    with redis_cluster() as cluster:
        link = link_to(cluster.url)
        assert link.ready_sync()
        names = {f"key-{n}".encode() for n in range(100)}
        link.pipeline_sync([("SET", name, "1") for name in names])
        assert set(scan(link, "key-*")) == names
        link.close()


def test_a_refusal_and_an_outage_are_told(fresh_redis: RedisServer) -> None:
    fresh_redis.execute("ACL", "SETUSER", "few", "on", ">pw", "~*", "&*", "+@all", "-scan")
    few = link_to(fresh_redis.url.replace("://", "://few:pw@"))
    assert few.ready_sync()
    with pytest.raises(RedisUnavailable, match="may not do this"):
        list(scan(few, "*"))
    few.close()
    link = link_to(fresh_redis.url)
    assert link.ready_sync()
    fresh_redis.kill()
    with pytest.raises(RedisUnavailable):
        list(scan(link, "*"))
    link.close()
