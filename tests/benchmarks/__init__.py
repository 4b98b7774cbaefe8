"""Measurements, each a module to be run; none is a test."""
