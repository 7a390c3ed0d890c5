"""What every app stands on: the one pool, raw SQL, the embedded database, errors."""
