"""The demo: one page that logs in, watches an agent work and survives what a network does to it."""

from holdfast.demo.app import create_app as create_app

__all__ = ["create_app"]
