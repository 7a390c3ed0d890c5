-- name: connection_limit
-- One row: connections int, how many an ordinary role may hold at once.
-- Binds: none.
-- Index: none. `reserved_connections` came with PostgreSQL 16.
SELECT CAST(current_setting('max_connections') AS integer)
       - CAST(current_setting('superuser_reserved_connections') AS integer)
       - CAST(coalesce(current_setting('reserved_connections', TRUE), '0') AS integer) AS connections;
