"""The search that follows every test: it finds a secret of a session wherever a log tells one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from holdfast.sessions.cookie import CookieSigner, new_credential

if TYPE_CHECKING:
    from tests.support.secrecy import Ear


@pytest.mark.parametrize("wrapped", ["{}", "cookie=session={}; path=/", "prefix-{}_suffix"])
def test_a_secret_in_the_log_is_found(ear: Ear, wrapped: str) -> None:
    logger = logging.getLogger("holdfast.sessions")
    credential = new_credential()
    logger.debug("a session %s", credential.key.id_hash)
    assert ear.told() == []
    for planted in (credential.locator, credential.secret):
        logger.debug("%s", wrapped.format(planted))
        assert ear.told() == [planted]
    logger.debug(wrapped.format(CookieSigner(["a key"]).sign(credential)))
    assert ear.told() == [credential.locator, credential.secret]
    try:
        raise LookupError(wrapped.format(credential.secret))
    except LookupError:
        logger.exception("as in a traceback")
    assert credential.secret in ear.told()
