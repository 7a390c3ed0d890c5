"""Wiring only: settings, URLs, the front door and the command that serves it."""
