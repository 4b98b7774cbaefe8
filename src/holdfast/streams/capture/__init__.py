"""Capture: an endpoint's own event stream, recorded as a run while it passes."""
