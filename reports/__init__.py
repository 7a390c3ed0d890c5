"""Reports in five formats out of one snapshot."""
