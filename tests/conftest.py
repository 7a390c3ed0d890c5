import pytest
from django.db import connection


@pytest.fixture(params=["plain tables", "hash partitions"])
def either_layout(request, db):
    """The hot tables as migrated, and again partitioned by event: what one machine and many have in common."""
    if request.param == "hash partitions":
        with connection.cursor() as cursor:
            for table in ("ticket", "ticket_scans"):
                cursor.execute(f"ALTER TABLE {table} RENAME TO {table}_plain")
                cursor.execute(
                    f"CREATE TABLE {table} (LIKE {table}_plain INCLUDING ALL) PARTITION BY HASH (event_id)"
                )
                for part in range(4):
                    cursor.execute(
                        f"CREATE TABLE {table}_{part} PARTITION OF {table} "
                        f"FOR VALUES WITH (MODULUS 4, REMAINDER {part})"
                    )
    return request.param
