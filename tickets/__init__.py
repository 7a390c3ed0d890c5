"""Events, gates, devices and tickets: signed codes, admission, admin."""
