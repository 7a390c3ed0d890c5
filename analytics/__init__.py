"""The scan log and the statistics that are counted from it."""
