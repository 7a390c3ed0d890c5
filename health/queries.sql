-- name: fleet
-- One row: allowed int, what ordinary roles may hold together; processes bigint that serve the site and hold any, place
-- bigint of this one among them by age (0: it is none), others bigint connections of anybody else, our commands too.
-- Binds: process text. Where one may not look, backend_type is NULL.
-- Index: none; pg_stat_activity. `reserved_connections` came with PostgreSQL 16.
  WITH client AS (
         SELECT application_name, backend_start
           FROM pg_stat_activity
          WHERE datid IS NOT NULL
            AND coalesce(backend_type, 'client backend') = 'client backend'
       ),
       process AS (
         SELECT split_part(application_name, ':', 2) AS name, min(backend_start) AS since
           FROM client
          WHERE application_name LIKE 'qrsite:%'
            AND application_name NOT LIKE 'qrsite:command-%'
          GROUP BY split_part(application_name, ':', 2)
       )
SELECT CAST(current_setting('max_connections') AS integer)
       - CAST(current_setting('superuser_reserved_connections') AS integer)
       - CAST(coalesce(current_setting('reserved_connections', TRUE), '0') AS integer) AS allowed,
       (SELECT count(*) FROM process) AS processes,
       (SELECT count(*)
          FROM process AS older
          JOIN process AS own ON own.name = CAST(:process AS text)
         WHERE (older.since, older.name) <= (own.since, own.name)) AS place,
       (SELECT count(*)
          FROM client
         WHERE application_name NOT LIKE 'qrsite:%'
            OR application_name LIKE 'qrsite:command-%') AS others;

-- name: lock_timeout
-- One row: lock_timeout text, with its unit; 0 means none.
-- Binds: none.
-- Index: none.
SELECT current_setting('lock_timeout') AS lock_timeout;

-- name: connections_by_process
-- One row per process of the site: process text, connections bigint (how many it holds).
-- Binds: none.
-- Index: none; pg_stat_activity.
SELECT split_part(application_name, ':', 2) AS process, count(*) AS connections
  FROM pg_stat_activity
 WHERE application_name LIKE 'qrsite:%'
 GROUP BY split_part(application_name, ':', 2)
 ORDER BY process;

-- name: backends
-- One row per connection of a process: pid int of the server's process.
-- Binds: process text.
-- Index: none; pg_stat_activity.
SELECT pid
  FROM pg_stat_activity
 WHERE application_name LIKE 'qrsite:%'
   AND split_part(application_name, ':', 2) = CAST(:process AS text)
 ORDER BY pid;

-- name: kill_idle
-- One row per connection of a process that was idle: killed bool.
-- Binds: process text.
-- Index: none; pg_stat_activity.
SELECT pg_terminate_backend(pid, 2000) AS killed
  FROM pg_stat_activity
 WHERE application_name LIKE 'qrsite:%'
   AND split_part(application_name, ':', 2) = CAST(:process AS text)
   AND state = 'idle'
 ORDER BY pid;
