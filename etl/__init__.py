"""Extract, transform and load events and ticket sales."""
