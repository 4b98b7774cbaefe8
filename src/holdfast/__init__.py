"""holdfast: server-side sessions and resumable event streams for any Python web app."""

__version__ = "0.1.0.dev0"
