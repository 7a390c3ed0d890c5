"""Django's PostgreSQL backend, borrowing its connections from core.db.engine."""
