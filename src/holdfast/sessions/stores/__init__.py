"""Where sessions are kept: the stores, what they send to Redis, and what seals it.

The contract is ``sessions/store.py``; what serves while Redis is away is ``sessions/outage/``.
"""
