"""Timings, outside the tests: each prints one line of JSON."""
