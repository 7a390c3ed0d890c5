-- name: record_scans
-- One row per scan that was new: nonce text, scan_id bigint. A nonce that is already there adds nothing.
-- Binds: event_id int, recorded_at timestamptz; per scan, in arrays of one length: nonces, ticket_ids (or NULL),
--        gate_ids, device_ids (or NULL), user_ids (or NULL), directions, verdicts, reasons (or NULL), codes (or NULL),
--        scanned_ats, happened_ats, offlines, reentrys, forced_overs (or NULL), force_reasons (or NULL).
-- Index: ticket_scans_nonce_once. In nonce order, so that two batches can't wait for each other.
INSERT INTO ticket_scans
            (event_id, nonce, ticket_id, gate_id, device_id, user_id, direction, verdict, reason, code,
             scanned_at, recorded_at, happened_at, offline, reentry, forced_over, force_reason)
     SELECT CAST(:event_id AS integer), nonce, ticket_id, gate_id, device_id, user_id, direction, verdict, reason, code,
            scanned_at, CAST(:recorded_at AS timestamptz), happened_at, offline, reentry, forced_over, force_reason
       FROM unnest(CAST(:nonces AS text[]), CAST(:ticket_ids AS bigint[]), CAST(:gate_ids AS integer[]),
                   CAST(:device_ids AS integer[]), CAST(:user_ids AS integer[]), CAST(:directions AS text[]),
                   CAST(:verdicts AS text[]), CAST(:reasons AS text[]), CAST(:codes AS text[]),
                   CAST(:scanned_ats AS timestamptz[]), CAST(:happened_ats AS timestamptz[]),
                   CAST(:offlines AS boolean[]), CAST(:reentrys AS boolean[]), CAST(:forced_overs AS text[]),
                   CAST(:force_reasons AS text[]))
            AS scan (nonce, ticket_id, gate_id, device_id, user_id, direction, verdict, reason, code,
                     scanned_at, happened_at, offline, reentry, forced_over, force_reason)
   ORDER BY nonce
ON CONFLICT (event_id, nonce) DO NOTHING
  RETURNING nonce, id AS scan_id;

-- name: record_conflicts
-- No rows. Notes entries that were refused, though their devices let somebody in, each with the entry that had used the
-- ticket: the last one before it, or else the first. A device knows whom it admitted itself, so a ticket that this
-- very device had admitted is no conflict: it turned the holder away.
-- Binds: event_id int, nonces text[], noticed_at timestamptz.
-- Index: ticket_scans_nonce_once, ticket_scans_ticket_idx. In scan order.
INSERT INTO scan_conflicts
            (event_id, scan_id, ticket_id, reason, earlier_scan_id, noticed_at, signed_off_by, note)
     SELECT scan.event_id, scan.id, scan.ticket_id, scan.reason, earlier.id, CAST(:noticed_at AS timestamptz), '', ''
       FROM ticket_scans AS scan
  LEFT JOIN LATERAL (SELECT id, device_id
                       FROM ticket_scans
                      WHERE event_id = :event_id
                        AND ticket_id = scan.ticket_id
                        AND verdict = 'admitted'
                        AND direction = 'entry'
                        AND annulled_at IS NULL
                   ORDER BY happened_at > scan.happened_at, abs(extract(epoch FROM happened_at - scan.happened_at)), id
                      LIMIT 1) AS earlier
         ON TRUE
      WHERE scan.event_id = :event_id
        AND scan.nonce = ANY(CAST(:nonces AS text[]))
        AND scan.verdict = 'refused'
        AND scan.direction = 'entry'
        AND scan.ticket_id IS NOT NULL
        AND (scan.reason <> 'already_admitted' OR earlier.device_id IS DISTINCT FROM scan.device_id)
   ORDER BY scan.id
ON CONFLICT (event_id, scan_id) DO NOTHING;

-- name: event_totals
-- One row: issued, void, transferred, admitted, inside, scans, entries, exits, refused: bigint (counts), refused_by_reason jsonb
-- (counts by reason). One statement, so that they are of one snapshot and add up.
-- Binds: event_id int.
-- Index: any that begins with event_id: it reads the event's rows.
SELECT issued, void, transferred, admitted, inside, scans, entries, exits, refused, refused_by_reason
  FROM (SELECT count(*) AS issued,
               count(voided_at) AS void,
               count(transferred_at) AS transferred,
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

-- name: scan_page
-- One row per scan, newest first: scan_id bigint, nonce text, ticket_id bigint or NULL, gate text (NULL where it is gone),
-- device or user text (the other is NULL, both where whoever it was is gone), direction, verdict text, reason text or NULL,
-- code text or NULL (that of a wrong event would open its door), scanned_at, recorded_at, happened_at timestamptz,
-- offline boolean, forced_over, force_reason text or NULL, annulled_at timestamptz or NULL.
-- Binds: event_id int, before_id bigint (or NULL: from the newest on), verdict text or NULL, gate text or NULL,
--        page int.
-- Index: ticket_scans_pkey, backwards.
   SELECT scan.id AS scan_id, scan.nonce, scan.ticket_id, gate.name AS gate, device.name AS device,
          person.username AS "user", scan.direction, scan.verdict, scan.reason,
          CASE WHEN scan.reason <> 'wrong_event' THEN scan.code END AS code,
          scan.scanned_at, scan.recorded_at, scan.happened_at, scan.offline,
          scan.forced_over, scan.force_reason, scan.annulled_at
     FROM ticket_scans AS scan
LEFT JOIN gate
       ON gate.id = scan.gate_id
LEFT JOIN device
       ON device.id = scan.device_id
LEFT JOIN auth_user AS person
       ON person.id = scan.user_id
    WHERE scan.event_id = :event_id
      AND (CAST(:before_id AS bigint) IS NULL OR scan.id < CAST(:before_id AS bigint))
      AND (CAST(:verdict AS text) IS NULL OR scan.verdict = CAST(:verdict AS text))
      AND (CAST(:gate AS text) IS NULL
           OR scan.gate_id = (SELECT id FROM gate WHERE event_id = :event_id AND name = CAST(:gate AS text)))
 ORDER BY scan.id DESC
    LIMIT CAST(:page AS integer);

-- name: conflict_page
-- One row per conflict, newest first: id bigint, ticket_id bigint, holder text, reason text; of the offline entry
-- scan_id bigint, gate, device text (NULL where they are gone), happened_at timestamptz; of the one that had used the
-- ticket, or NULLs, earlier_scan_id bigint, earlier_gate text (NULL where it is gone), earlier_device or earlier_user text
-- (the other is NULL, both where whoever it was is gone), earlier_happened_at timestamptz, minutes_apart float8;
-- noticed_at timestamptz, signed_off_at timestamptz or NULL, signed_off_by, note text.
-- Binds: event_id int, before_id bigint (or NULL: from the newest on), open_only boolean, page int.
-- Index: scan_conflicts_pkey, backwards.
   SELECT conflict.id, conflict.ticket_id, coalesce(ticket.holder, '') AS holder, conflict.reason,
          conflict.scan_id, gate.name AS gate, device.name AS device, scan.happened_at,
          conflict.earlier_scan_id, earlier_gate.name AS earlier_gate, earlier_device.name AS earlier_device,
          earlier_person.username AS earlier_user, earlier.happened_at AS earlier_happened_at,
          CAST(round(abs(extract(epoch FROM scan.happened_at - earlier.happened_at)) / 60, 1) AS double precision)
          AS minutes_apart,
          conflict.noticed_at, conflict.signed_off_at, conflict.signed_off_by, conflict.note
     FROM scan_conflicts AS conflict
     JOIN ticket_scans AS scan
       ON scan.event_id = :event_id
      AND scan.id = conflict.scan_id
LEFT JOIN gate
       ON gate.id = scan.gate_id
LEFT JOIN device
       ON device.id = scan.device_id
LEFT JOIN ticket_scans AS earlier
       ON earlier.event_id = :event_id
      AND earlier.id = conflict.earlier_scan_id
LEFT JOIN gate AS earlier_gate
       ON earlier_gate.id = earlier.gate_id
LEFT JOIN device AS earlier_device
       ON earlier_device.id = earlier.device_id
LEFT JOIN auth_user AS earlier_person
       ON earlier_person.id = earlier.user_id
LEFT JOIN ticket
       ON ticket.event_id = :event_id
      AND ticket.id = conflict.ticket_id
    WHERE conflict.event_id = :event_id
      AND (CAST(:before_id AS bigint) IS NULL OR conflict.id < CAST(:before_id AS bigint))
      AND (NOT CAST(:open_only AS boolean) OR conflict.signed_off_at IS NULL)
 ORDER BY conflict.id DESC
    LIMIT CAST(:page AS integer);

-- name: sign_off_conflict
-- One row where the conflict is there: signed_off_at timestamptz, signed_off_by, note text. The first who signs it off stays.
-- Binds: event_id int, conflict_id bigint, signed_off_at timestamptz, signed_off_by text, note text.
-- Index: scan_conflicts_pkey.
UPDATE scan_conflicts
   SET signed_off_at = coalesce(signed_off_at, CAST(:signed_off_at AS timestamptz)),
       signed_off_by = CASE WHEN signed_off_at IS NULL THEN CAST(:signed_off_by AS text) ELSE signed_off_by END,
       note = CASE WHEN signed_off_at IS NULL THEN CAST(:note AS text) ELSE note END
 WHERE event_id = :event_id
   AND id = CAST(:conflict_id AS bigint)
RETURNING signed_off_at, signed_off_by, note;
