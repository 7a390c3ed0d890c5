-- name: record_scans
-- No rows. A nonce that is already there adds nothing.
-- Binds: event_id int, recorded_at timestamptz; per scan, in arrays of one length: nonces, ticket_ids (or NULL),
--        gate_ids, device_ids, directions, verdicts, reasons (or NULL), codes (or NULL), scanned_ats.
-- Index: ticket_scans_nonce_once. In nonce order, so that two batches can't wait for each other.
INSERT INTO ticket_scans
            (event_id, nonce, ticket_id, gate_id, device_id, direction, verdict, reason, code,
             scanned_at, recorded_at, offline)
     SELECT CAST(:event_id AS integer), nonce, ticket_id, gate_id, device_id, direction, verdict, reason, code,
            scanned_at, CAST(:recorded_at AS timestamptz), FALSE
       FROM unnest(CAST(:nonces AS text[]), CAST(:ticket_ids AS bigint[]), CAST(:gate_ids AS integer[]),
                   CAST(:device_ids AS integer[]), CAST(:directions AS text[]), CAST(:verdicts AS text[]),
                   CAST(:reasons AS text[]), CAST(:codes AS text[]), CAST(:scanned_ats AS timestamptz[]))
            AS scan (nonce, ticket_id, gate_id, device_id, direction, verdict, reason, code, scanned_at)
   ORDER BY nonce
ON CONFLICT (event_id, nonce) DO NOTHING;

-- name: event_totals
-- One row: issued, void, admitted, inside, scans, entries, exits, refused: bigint (counts), refused_by_reason jsonb
-- (counts by reason). One statement, so that they are of one snapshot and add up.
-- Binds: event_id int.
-- Index: any that begins with event_id: it reads the event's rows.
SELECT issued, void, admitted, inside, scans, entries, exits, refused, refused_by_reason
  FROM (SELECT count(*) AS issued,
               count(voided_at) AS void,
               count(admitted_at) AS admitted,
               count(*) FILTER (WHERE inside) AS inside
          FROM ticket
         WHERE event_id = :event_id) AS tickets
 CROSS JOIN
       (SELECT count(*) AS scans,
               count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'entry'
                                  AND annulled_at IS NULL) AS entries,
               count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'exit'
                                  AND annulled_at IS NULL) AS exits,
               count(*) FILTER (WHERE verdict = 'refused') AS refused
          FROM ticket_scans
         WHERE event_id = :event_id) AS log
 CROSS JOIN
       (SELECT coalesce(jsonb_object_agg(reason, times), '{}') AS refused_by_reason
          FROM (SELECT reason, count(*) AS times
                  FROM ticket_scans
                 WHERE event_id = :event_id
                   AND verdict = 'refused'
              GROUP BY reason) AS reasons) AS refusals;

-- name: event_by_slug
-- One row or none: id int, slug text, name text, time_zone text, capacity int or NULL.
-- Binds: slug text.
-- Index: event_slug_once.
SELECT id, slug, name, time_zone, capacity
  FROM event
 WHERE slug = :slug;
