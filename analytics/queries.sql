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

-- name: add_event_counts
-- No rows. Adds to the counters of scans and tickets.
-- Binds: event_id, slot int, counted_at timestamptz; per counter, in arrays of one length and in key order: gate_ids,
--        span_mins, sinces, entries, exits, admitted, refused, issued, void, transferred, missing, inside, scanned,
--        annulled.
-- Index: event_counts_pkey.
INSERT INTO event_counts AS kept
            (event_id, gate_id, span_min, since, slot, changes, changed_at, entries, exits, admitted, refused, issued, void,
             transferred, missing, inside, scanned, annulled)
     SELECT CAST(:event_id AS integer), gate_id, span_min, since, CAST(:slot AS smallint), 1,
            CAST(:counted_at AS timestamptz), entries, exits, admitted, refused, issued, void, transferred, missing, inside,
            scanned, annulled
       FROM unnest(CAST(:gate_ids AS integer[]), CAST(:span_mins AS smallint[]), CAST(:sinces AS timestamptz[]),
                   CAST(:entries AS bigint[]), CAST(:exits AS bigint[]), CAST(:admitted AS bigint[]),
                   CAST(:refused AS bigint[]), CAST(:issued AS bigint[]), CAST(:void AS bigint[]),
                   CAST(:transferred AS bigint[]), CAST(:missing AS bigint[]), CAST(:inside AS bigint[]),
                   CAST(:scanned AS bigint[]), CAST(:annulled AS bigint[]))
            AS delta (gate_id, span_min, since, entries, exits, admitted, refused, issued, void, transferred, missing,
                      inside, scanned, annulled)
ON CONFLICT (event_id, gate_id, span_min, since, slot) DO UPDATE
        SET changes = kept.changes + 1,
            changed_at = greatest(kept.changed_at, EXCLUDED.changed_at),
            entries = kept.entries + EXCLUDED.entries,
            exits = kept.exits + EXCLUDED.exits,
            admitted = kept.admitted + EXCLUDED.admitted,
            refused = kept.refused + EXCLUDED.refused,
            issued = kept.issued + EXCLUDED.issued,
            void = kept.void + EXCLUDED.void,
            transferred = kept.transferred + EXCLUDED.transferred,
            missing = kept.missing + EXCLUDED.missing,
            inside = kept.inside + EXCLUDED.inside,
            scanned = kept.scanned + EXCLUDED.scanned,
            annulled = kept.annulled + EXCLUDED.annulled;

-- name: add_refusal_counts
-- No rows. Adds to the counters of refusals.
-- Binds: event_id, slot int; per counter, in arrays of one length and in key order: gate_ids, device_ids, reasons,
--        refused.
-- Index: refusal_counts_pkey.
INSERT INTO refusal_counts AS kept
            (event_id, gate_id, device_id, reason, slot, refused)
     SELECT CAST(:event_id AS integer), gate_id, device_id, reason, CAST(:slot AS smallint), refused
       FROM unnest(CAST(:gate_ids AS integer[]), CAST(:device_ids AS integer[]), CAST(:reasons AS text[]),
                   CAST(:refused AS bigint[]))
            AS delta (gate_id, device_id, reason, refused)
ON CONFLICT (event_id, gate_id, device_id, reason, slot) DO UPDATE
        SET refused = kept.refused + EXCLUDED.refused;

-- name: add_refused_codes
-- No rows. Adds to the counts of how often codes were refused.
-- Binds: event_id int; per code, in arrays of one length and in key order: ticket_ids, codes, refused, last_ats, reasons.
-- Index: refused_codes_pkey.
INSERT INTO refused_codes AS kept
            (event_id, ticket_id, code, refused, last_at, reason)
     SELECT CAST(:event_id AS integer), ticket_id, code, refused, last_at, reason
       FROM unnest(CAST(:ticket_ids AS bigint[]), CAST(:codes AS text[]), CAST(:refused AS bigint[]),
                   CAST(:last_ats AS timestamptz[]), CAST(:reasons AS text[]))
            AS delta (ticket_id, code, refused, last_at, reason)
ON CONFLICT (event_id, ticket_id, code) DO UPDATE
        SET refused = kept.refused + EXCLUDED.refused,
            last_at = greatest(kept.last_at, EXCLUDED.last_at),
            reason = CASE WHEN EXCLUDED.last_at >= kept.last_at THEN EXCLUDED.reason ELSE kept.reason END;

-- name: ticket_differences
-- One row if an event's tickets are not counted as they are: gate_id int, span_min int, since timestamptz, entries, exits,
-- admitted, refused int (all zero: which counter it is); what to add, issued, void, transferred, missing, inside,
-- scanned, annulled bigint.
-- Binds: event_id int.
-- Index: event_counts_pkey, and any that begins with event_id: it reads the event's rows.
SELECT 0 AS gate_id, 0 AS span_min, TIMESTAMPTZ '1970-01-01 00:00Z' AS since, 0 AS entries, 0 AS exits, 0 AS admitted,
       0 AS refused, issued, void, transferred, missing, inside, scanned, annulled
  FROM (SELECT CAST(ticket.issued - coalesce(sum(kept.issued), 0) AS bigint) AS issued,
               CAST(ticket.void - coalesce(sum(kept.void), 0) AS bigint) AS void,
               CAST(ticket.transferred - coalesce(sum(kept.transferred), 0) AS bigint) AS transferred,
               CAST(ticket.missing - coalesce(sum(kept.missing), 0) AS bigint) AS missing,
               CAST(ticket.inside - coalesce(sum(kept.inside), 0) AS bigint) AS inside,
               CAST(log.scanned - coalesce(sum(kept.scanned), 0) AS bigint) AS scanned,
               CAST(log.annulled - coalesce(sum(kept.annulled), 0) AS bigint) AS annulled
          FROM (SELECT count(*) AS issued, count(voided_at) AS void, count(transferred_at) AS transferred,
                       count(*) FILTER (WHERE coalesce(voided_at, transferred_at, admitted_at) IS NULL) AS missing,
                       count(*) FILTER (WHERE inside) AS inside
                  FROM ticket
                 WHERE event_id = :event_id) AS ticket
    CROSS JOIN (SELECT count(DISTINCT ticket_id) AS scanned, count(annulled_at) AS annulled
                  FROM ticket_scans
                 WHERE event_id = :event_id) AS log
     LEFT JOIN event_counts AS kept
            ON kept.event_id = :event_id
           AND kept.gate_id = 0
           AND kept.span_min = 0
      GROUP BY ticket.issued, ticket.void, ticket.transferred, ticket.missing, ticket.inside, log.scanned,
               log.annulled) AS difference
 WHERE (issued, void, transferred, missing, inside, scanned, annulled) <> (0, 0, 0, 0, 0, 0, 0);

-- name: scan_differences
-- One row per span that is not counted as the log has it, in key order: gate_id int, span_min smallint, since timestamptz;
-- what to add, entries, exits, admitted, refused bigint. The log is read once, by minute; the rest are sums of that.
-- By date_bin, which takes a third less time than date_trunc, and looks at no time zone.
-- Binds: event_id int.
-- Index: event_counts_pkey, and any that begins with event_id: it reads the event's rows.
  WITH moment AS (
         SELECT gate_id, date_bin('1 minute', happened_at, TIMESTAMPTZ '1970-01-01 00:00Z') AS minute,
                count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'entry' AND annulled_at IS NULL) AS entries,
                count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'exit' AND annulled_at IS NULL) AS exits,
                0 AS admitted,
                count(*) FILTER (WHERE verdict = 'refused') AS refused
           FROM ticket_scans
          WHERE event_id = :event_id
       GROUP BY gate_id, date_bin('1 minute', happened_at, TIMESTAMPTZ '1970-01-01 00:00Z')
      UNION ALL
         SELECT coalesce(admitted_gate_id, -1), date_bin('1 minute', admitted_at, TIMESTAMPTZ '1970-01-01 00:00Z'), 0, 0, count(*), 0
           FROM ticket
          WHERE event_id = :event_id
            AND admitted_at IS NOT NULL
       GROUP BY coalesce(admitted_gate_id, -1), date_bin('1 minute', admitted_at, TIMESTAMPTZ '1970-01-01 00:00Z')
       ),
       span AS (
         SELECT place.gate_id, length.span_min,
                CASE length.span_min
                     WHEN 0 THEN TIMESTAMPTZ '1970-01-01 00:00Z'
                     ELSE date_bin(make_interval(mins => length.span_min), minute, TIMESTAMPTZ '1970-01-01 00:00Z')
                     END AS since,
                entries, exits, admitted, refused
           FROM moment
     CROSS JOIN (VALUES (0), (1), (15)) AS length (span_min)
     CROSS JOIN LATERAL (VALUES (0), (moment.gate_id)) AS place (gate_id)
      UNION ALL
         SELECT gate_id, span_min, since, -entries, -exits, -admitted, -refused
           FROM event_counts
          WHERE event_id = :event_id
       )
  SELECT gate_id, span_min, since, CAST(sum(entries) AS bigint) AS entries, CAST(sum(exits) AS bigint) AS exits,
         CAST(sum(admitted) AS bigint) AS admitted, CAST(sum(refused) AS bigint) AS refused
    FROM span
GROUP BY gate_id, span_min, since
  HAVING (sum(entries), sum(exits), sum(admitted), sum(refused)) <> (0, 0, 0, 0)
ORDER BY gate_id, span_min, since;

-- name: refusal_differences
-- One row per counter of refusals that is not as the log has it, in key order: gate_id, device_id int, reason text, refused
-- bigint (what to add).
-- Binds: event_id int.
-- Index: refusal_counts_pkey, and any that begins with event_id: it reads the event's rows.
  SELECT gate_id, device_id, reason, CAST(sum(refused) AS bigint) AS refused
    FROM (SELECT gate_id, coalesce(device_id, 0) AS device_id, reason, count(*) AS refused
            FROM ticket_scans
           WHERE event_id = :event_id
             AND verdict = 'refused'
        GROUP BY gate_id, coalesce(device_id, 0), reason
       UNION ALL
          SELECT gate_id, device_id, reason, -refused
            FROM refusal_counts
           WHERE event_id = :event_id) AS counter
GROUP BY gate_id, device_id, reason
  HAVING sum(refused) <> 0
ORDER BY gate_id, device_id, reason;

-- name: code_differences
-- One row per code whose refusals are not counted as the log has them, in the order in which gates lock them: ticket_id bigint, code text, refused
-- bigint (what to add), last_at timestamptz, reason text (of the last refusal).
-- Binds: event_id int.
-- Index: any that begins with event_id: it reads the event's rows.
  SELECT ticket_id, code, CAST(sum(refused) AS bigint) AS refused, max(last_at) AS last_at,
         (array_agg(reason ORDER BY last_at DESC, id DESC))[1] AS reason
    FROM (SELECT coalesce(ticket_id, 0) AS ticket_id, CASE WHEN ticket_id IS NULL THEN coalesce(code, '') ELSE '' END AS code,
                 1 AS refused, happened_at AS last_at, reason, id
            FROM ticket_scans
           WHERE event_id = :event_id
             AND verdict = 'refused'
       UNION ALL
          SELECT ticket_id, code, -refused, last_at, reason, 0
            FROM refused_codes
           WHERE event_id = :event_id) AS counter
GROUP BY ticket_id, code
  HAVING sum(refused) <> 0
ORDER BY ticket_id, code COLLATE "C";

-- name: repairs
-- One row or none: changes bigint, how often anything was added in the slot.
-- Binds: event_id, slot int.
-- Index: event_counts_pkey.
SELECT changes
  FROM event_counts
 WHERE event_id = :event_id
   AND gate_id = 0
   AND span_min = 0
   AND slot = :slot;

-- name: unmarked_tickets
-- One row per ticket of which the log has scans, and the row says that it has none, in id order: ticket_id bigint.
-- Binds: event_id int.
-- Index: any that begins with event_id: it reads the event's rows.
  SELECT id AS ticket_id
    FROM ticket
   WHERE event_id = :event_id
     AND NOT scanned
     AND EXISTS (SELECT FROM ticket_scans WHERE event_id = :event_id AND ticket_id = ticket.id)
ORDER BY id;

-- name: mark_scanned
-- No rows. Notes of tickets that they were scanned; locked in id order first.
-- Binds: event_id int, ticket_ids bigint[].
-- Index: ticket_pkey.
UPDATE ticket
   SET scanned = TRUE
 WHERE event_id = :event_id
   AND id = ANY(ARRAY(SELECT id
                        FROM ticket
                       WHERE event_id = :event_id
                         AND id = ANY(CAST(:ticket_ids AS bigint[]))
                    ORDER BY id
                         FOR UPDATE));

-- name: event_slugs
-- One row per event, in id order: id int, slug text.
-- Binds: after_id int, page int.
-- Index: event_pkey.
  SELECT id, slug
    FROM event
   WHERE id > :after_id
ORDER BY id
   LIMIT :page;

-- name: event_totals
-- One row: issued, void, transferred, admitted, no_shows (valid, and nobody came in with it so far), inside, unique_tickets
-- (were presented), scans, entries, exits, refused, annulled, conflicts, open_conflicts: bigint (counts), refused_by_reason
-- jsonb (counts by reason). One statement, so that they are of one snapshot and add up.
-- Binds: event_id int.
-- Index: event_counts_pkey, refusal_counts_pkey, scan_conflicts_pkey.
SELECT issued, void, transferred, admitted, no_shows, inside, unique_tickets,
       entries + exits + refused + annulled AS scans, entries, exits, refused, annulled, conflicts, open_conflicts,
       refused_by_reason
  FROM (SELECT CAST(coalesce(sum(issued), 0) AS bigint) AS issued, CAST(coalesce(sum(void), 0) AS bigint) AS void,
               CAST(coalesce(sum(transferred), 0) AS bigint) AS transferred,
               CAST(coalesce(sum(admitted), 0) AS bigint) AS admitted,
               CAST(coalesce(sum(missing), 0) AS bigint) AS no_shows,
               CAST(coalesce(sum(inside), 0) AS bigint) AS inside,
               CAST(coalesce(sum(scanned), 0) AS bigint) AS unique_tickets,
               CAST(coalesce(sum(entries), 0) AS bigint) AS entries, CAST(coalesce(sum(exits), 0) AS bigint) AS exits,
               CAST(coalesce(sum(refused), 0) AS bigint) AS refused,
               CAST(coalesce(sum(annulled), 0) AS bigint) AS annulled
          FROM event_counts
         WHERE event_id = :event_id
           AND gate_id = 0
           AND span_min = 0) AS counted
 CROSS JOIN
       (SELECT coalesce(jsonb_object_agg(reason, times), '{}') AS refused_by_reason
          FROM (SELECT reason, sum(refused) AS times
                  FROM refusal_counts
                 WHERE event_id = :event_id
              GROUP BY reason
                HAVING sum(refused) <> 0) AS reasons) AS refusals
 CROSS JOIN
       (SELECT count(*) AS conflicts, count(*) FILTER (WHERE signed_off_at IS NULL) AS open_conflicts
          FROM scan_conflicts
         WHERE event_id = :event_id) AS ledger;

-- name: event_changes
-- One row: changes bigint, how often anything of the event was counted; changed_at timestamptz or NULL, when last.
-- Binds: event_id int.
-- Index: event_counts_pkey.
SELECT CAST(coalesce(sum(changes), 0) AS bigint) AS changes, max(changed_at) AS changed_at
  FROM event_counts
 WHERE event_id = :event_id
   AND gate_id = 0
   AND span_min = 0;

-- name: all_changes
-- One row, as event_changes, of all events; changes counts them, too.
-- Binds: none.
-- Index: none for event, of which it reads every row; event_counts_pkey.
SELECT CAST(coalesce(sum(counted.changes), 0) + count(*) AS bigint) AS changes, max(counted.changed_at) AS changed_at
  FROM event
 CROSS JOIN LATERAL
       (SELECT sum(changes) AS changes, max(changed_at) AS changed_at
          FROM event_counts
         WHERE event_id = event.id
           AND gate_id = 0
           AND span_min = 0) AS counted;

-- name: all_sums
-- One row, of all events: issued, void, transferred, admitted, no_shows, inside, unique_tickets, entries, exits, refused,
-- annulled, conflicts, open_conflicts bigint, refused_by_reason jsonb (counts by reason).
-- Binds: none.
-- Index: none for event, refusal_counts and scan_conflicts, of which it reads every row; event_counts_pkey.
SELECT issued, void, transferred, admitted, no_shows, inside, unique_tickets, entries, exits, refused, annulled, conflicts,
       open_conflicts, refused_by_reason
  FROM (SELECT CAST(coalesce(sum(issued), 0) AS bigint) AS issued, CAST(coalesce(sum(void), 0) AS bigint) AS void,
               CAST(coalesce(sum(transferred), 0) AS bigint) AS transferred,
               CAST(coalesce(sum(admitted), 0) AS bigint) AS admitted,
               CAST(coalesce(sum(missing), 0) AS bigint) AS no_shows,
               CAST(coalesce(sum(inside), 0) AS bigint) AS inside,
               CAST(coalesce(sum(scanned), 0) AS bigint) AS unique_tickets,
               CAST(coalesce(sum(entries), 0) AS bigint) AS entries, CAST(coalesce(sum(exits), 0) AS bigint) AS exits,
               CAST(coalesce(sum(refused), 0) AS bigint) AS refused,
               CAST(coalesce(sum(annulled), 0) AS bigint) AS annulled
          FROM event
         CROSS JOIN LATERAL
               (SELECT *
                  FROM event_counts
                 WHERE event_id = event.id
                   AND gate_id = 0
                   AND span_min = 0
                OFFSET 0) AS counter) AS counted
 CROSS JOIN
       (SELECT coalesce(jsonb_object_agg(reason, times), '{}') AS refused_by_reason
          FROM (SELECT reason, sum(refused) AS times
                  FROM refusal_counts
              GROUP BY reason
                HAVING sum(refused) <> 0) AS reasons) AS refusals
 CROSS JOIN
       (SELECT count(*) AS conflicts, count(*) FILTER (WHERE signed_off_at IS NULL) AS open_conflicts
          FROM scan_conflicts) AS ledger;

-- name: all_totals
-- One row per event before an id, the newest first: id int, slug, name, time_zone text, capacity int or NULL, issued, void,
-- transferred, admitted, no_shows, inside, unique_tickets, entries, exits, refused, annulled bigint.
-- Binds: before_id int (or NULL: from the newest on), page int.
-- Index: event_pkey, backwards; event_counts_pkey.
  SELECT event.id, event.slug, event.name, event.time_zone, event.capacity, counted.*
    FROM event
   CROSS JOIN LATERAL
         (SELECT CAST(coalesce(sum(issued), 0) AS bigint) AS issued, CAST(coalesce(sum(void), 0) AS bigint) AS void,
                 CAST(coalesce(sum(transferred), 0) AS bigint) AS transferred,
                 CAST(coalesce(sum(admitted), 0) AS bigint) AS admitted,
                 CAST(coalesce(sum(missing), 0) AS bigint) AS no_shows,
                 CAST(coalesce(sum(inside), 0) AS bigint) AS inside,
                 CAST(coalesce(sum(scanned), 0) AS bigint) AS unique_tickets,
                 CAST(coalesce(sum(entries), 0) AS bigint) AS entries, CAST(coalesce(sum(exits), 0) AS bigint) AS exits,
                 CAST(coalesce(sum(refused), 0) AS bigint) AS refused,
                 CAST(coalesce(sum(annulled), 0) AS bigint) AS annulled
            FROM event_counts
           WHERE event_id = event.id
             AND gate_id = 0
             AND span_min = 0) AS counted
   WHERE CAST(:before_id AS bigint) IS NULL
      OR event.id < CAST(:before_id AS bigint)
ORDER BY event.id DESC
   LIMIT :page;

-- name: gate_by_name
-- One row or none: id int.
-- Binds: event_id int, name text.
-- Index: gate's on event_id.
SELECT id
  FROM gate
 WHERE event_id = :event_id
   AND name = :name;

-- name: gate_totals
-- One row per gate, by name: gate_id int, gate text, entries, exits, admitted, refused, recent_entries, recent_exits bigint
-- (since a moment), last_minute timestamptz or NULL (the last in which anything was scanned that was not taken back).
-- Binds: event_id int, recent_from timestamptz.
-- Index: gate's on event_id, event_counts_pkey.
   SELECT gate.id AS gate_id, gate.name AS gate, total.entries, total.exits, total.admitted, total.refused,
          recent.entries AS recent_entries, recent.exits AS recent_exits, latest.last_minute
     FROM gate
    CROSS JOIN LATERAL
          (SELECT CAST(coalesce(sum(entries), 0) AS bigint) AS entries, CAST(coalesce(sum(exits), 0) AS bigint) AS exits,
                  CAST(coalesce(sum(admitted), 0) AS bigint) AS admitted,
                  CAST(coalesce(sum(refused), 0) AS bigint) AS refused
             FROM event_counts
            WHERE event_id = :event_id
              AND gate_id = gate.id
              AND span_min = 0) AS total
    CROSS JOIN LATERAL
          (SELECT CAST(coalesce(sum(entries), 0) AS bigint) AS entries, CAST(coalesce(sum(exits), 0) AS bigint) AS exits
             FROM event_counts
            WHERE event_id = :event_id
              AND gate_id = gate.id
              AND span_min = 1
              AND since >= CAST(:recent_from AS timestamptz)) AS recent
LEFT JOIN LATERAL
          (SELECT since AS last_minute
             FROM event_counts
            WHERE event_id = :event_id
              AND gate_id = gate.id
              AND span_min = 1
         GROUP BY since
           HAVING sum(entries + exits + refused) > 0
         ORDER BY since DESC
            LIMIT 1) AS latest
       ON TRUE
    WHERE gate.event_id = :event_id
 ORDER BY gate.name, gate.id;

-- name: timeline
-- One row per bucket that has anything, in order: place int (from 1), entries, exits, admitted, refused bigint.
-- Binds: event_id, gate_id int (0: all), span_min int (1 or 15), starts timestamptz[] (of the buckets, in order), until
--        timestamptz (the end of the last).
-- Index: event_counts_pkey.
  SELECT width_bucket(since, CAST(:starts AS timestamptz[])) AS place,
         CAST(sum(entries) AS bigint) AS entries, CAST(sum(exits) AS bigint) AS exits,
         CAST(sum(admitted) AS bigint) AS admitted, CAST(sum(refused) AS bigint) AS refused
    FROM event_counts
   WHERE event_id = :event_id
     AND gate_id = :gate_id
     AND span_min = :span_min
     AND since >= (CAST(:starts AS timestamptz[]))[1]
     AND since < CAST(:until AS timestamptz)
GROUP BY place
ORDER BY place;

-- name: active_range
-- One row: first_at, last_at timestamptz or NULL, when the first and the last quarter of an hour begins that has scans.
-- Binds: event_id, gate_id int (0: all).
-- Index: event_counts_pkey.
SELECT (SELECT since
          FROM event_counts
         WHERE event_id = :event_id
           AND gate_id = :gate_id
           AND span_min = 15
      GROUP BY since
        HAVING sum(entries + exits + refused) > 0
      ORDER BY since
         LIMIT 1) AS first_at,
       (SELECT since
          FROM event_counts
         WHERE event_id = :event_id
           AND gate_id = :gate_id
           AND span_min = 15
      GROUP BY since
        HAVING sum(entries + exits + refused) > 0
      ORDER BY since DESC
         LIMIT 1) AS last_at;

-- name: quarters
-- One row per quarter of an hour that has anything: since timestamptz, entries, exits, refused bigint.
-- Binds: event_id int, since, until timestamptz.
-- Index: event_counts_pkey.
  SELECT since, CAST(sum(entries) AS bigint) AS entries, CAST(sum(exits) AS bigint) AS exits,
         CAST(sum(refused) AS bigint) AS refused
    FROM event_counts
   WHERE event_id = :event_id
     AND gate_id = 0
     AND span_min = 15
     AND since >= CAST(:since AS timestamptz)
     AND since < CAST(:until AS timestamptz)
GROUP BY since
ORDER BY since;

-- name: throughput
-- One row: entries of the last 1, 5 and 15 whole minutes, entries_1, entries_5, entries_15 bigint; of the last 5 those with
-- tickets that had not been in, admitted_5 bigint; the minute with most
-- entries since a moment, the first of several, peak_minute timestamptz or NULL, peak_entries bigint.
-- Binds: event_id int, until timestamptz (the end of the last whole minute), peak_from timestamptz.
-- Index: event_counts_pkey.
  WITH minute AS (
         SELECT since, sum(entries) AS entries, sum(admitted) AS admitted
           FROM event_counts
          WHERE event_id = :event_id
            AND gate_id = 0
            AND span_min = 1
            AND since >= least(CAST(:peak_from AS timestamptz), CAST(:until AS timestamptz) - INTERVAL '15 minutes')
       GROUP BY since
       ),
       peak AS (
         SELECT since, entries
           FROM minute
          WHERE since >= CAST(:peak_from AS timestamptz)
            AND entries > 0
       ORDER BY entries DESC, since
          LIMIT 1
       )
  SELECT CAST(coalesce(sum(entries) FILTER (WHERE since >= CAST(:until AS timestamptz) - INTERVAL '1 minute'), 0) AS bigint)
         AS entries_1,
         CAST(coalesce(sum(admitted) FILTER (WHERE since >= CAST(:until AS timestamptz) - INTERVAL '5 minutes'), 0) AS bigint)
         AS admitted_5,
         CAST(coalesce(sum(entries) FILTER (WHERE since >= CAST(:until AS timestamptz) - INTERVAL '5 minutes'), 0) AS bigint)
         AS entries_5,
         CAST(coalesce(sum(entries), 0) AS bigint) AS entries_15,
         (SELECT since FROM peak) AS peak_minute, CAST(coalesce((SELECT entries FROM peak), 0) AS bigint) AS peak_entries
    FROM minute
   WHERE since >= CAST(:until AS timestamptz) - INTERVAL '15 minutes'
     AND since < CAST(:until AS timestamptz);

-- name: refusals
-- One row per gate, device and reason, most first: gate_id int, gate text or NULL (gone), device_id int (0: by hand), device
-- text or NULL (gone, or by hand), reason text, refused bigint.
-- Binds: event_id int.
-- Index: refusal_counts_pkey.
  SELECT gate_id, (SELECT name FROM gate WHERE id = gate_id) AS gate,
         device_id, (SELECT name FROM device WHERE id = device_id) AS device,
         reason, CAST(sum(refused) AS bigint) AS refused
    FROM refusal_counts
   WHERE event_id = :event_id
GROUP BY gate_id, device_id, reason
  HAVING sum(refused) <> 0
ORDER BY sum(refused) DESC, gate_id, device_id, reason;

-- name: refused_page
-- One row per refused scan, newest first: scan_id bigint, ticket_id bigint or NULL, gate, device, user text (as scan_page),
-- direction, reason text, code text or NULL (that of a wrong event would open its door), happened_at, recorded_at
-- timestamptz, offline boolean.
-- Binds: event_id int, before_id bigint (or NULL: from the newest on), page int.
-- Index: ticket_scans_refused_idx, backwards.
  SELECT id AS scan_id, ticket_id, (SELECT name FROM gate WHERE id = gate_id) AS gate,
         (SELECT name FROM device WHERE id = device_id) AS device,
         (SELECT username FROM auth_user WHERE id = user_id) AS "user",
         direction, reason, CASE WHEN reason <> 'wrong_event' THEN code END AS code, happened_at, recorded_at, offline
    FROM invalid_attempts
   WHERE event_id = :event_id
     AND (CAST(:before_id AS bigint) IS NULL OR id < CAST(:before_id AS bigint))
ORDER BY id DESC
   LIMIT CAST(:page AS integer);

-- name: repeated_codes
-- One row per code that was refused more than once, most first: ticket_id bigint or NULL, code text or NULL (as
-- refused_page), refused bigint, last_at timestamptz, reason text (the last).
-- Binds: event_id int, page int.
-- Index: refused_codes_most_idx, backwards.
  SELECT nullif(ticket_id, 0) AS ticket_id,
         CASE WHEN ticket_id = 0 AND reason <> 'wrong_event' THEN code END AS code, refused, last_at, reason
    FROM refused_codes
   WHERE event_id = :event_id
     AND refused > 1
ORDER BY refused DESC, refused_codes.ticket_id, refused_codes.code
   LIMIT CAST(:page AS integer);

-- name: transfer_page
-- One row per transfer, newest first: id bigint, from_ticket_id, to_ticket_id bigint, from_holder, to_holder text,
-- transferred_at timestamptz, transferred_by text.
-- Binds: event_id int, before_id bigint (or NULL: from the newest on), page int.
-- Index: ticket_transfers_pkey, backwards; ticket's by id.
   SELECT link.id, link.from_ticket_id, link.to_ticket_id, coalesce(giver.holder, '') AS from_holder,
          coalesce(taker.holder, '') AS to_holder, link.transferred_at, link.transferred_by
     FROM (SELECT *
             FROM ticket_transfers
            WHERE event_id = :event_id
              AND (CAST(:before_id AS bigint) IS NULL OR id < CAST(:before_id AS bigint))
         ORDER BY id DESC
            LIMIT CAST(:page AS integer)) AS link
LEFT JOIN ticket AS giver
       ON giver.event_id = :event_id
      AND giver.id = link.from_ticket_id
LEFT JOIN ticket AS taker
       ON taker.event_id = :event_id
      AND taker.id = link.to_ticket_id
 ORDER BY link.id DESC;

-- name: transfer_chain
-- One row per transfer of the chain that a ticket is in, the oldest first: as transfer_page. A hundred on either side.
-- Binds: event_id int, ticket_id bigint.
-- Index: ticket_transfers_from_once, ticket_transfers_to_once; ticket's by id.
WITH RECURSIVE back AS (
         SELECT link.*, 1 AS step
           FROM ticket_transfers AS link
          WHERE event_id = :event_id
            AND to_ticket_id = :ticket_id
      UNION ALL
         SELECT link.*, back.step + 1
           FROM back
           JOIN ticket_transfers AS link
             ON link.event_id = :event_id
            AND link.to_ticket_id = back.from_ticket_id
          WHERE back.step < 100
       ),
       forth AS (
         SELECT link.*, 1 AS step
           FROM ticket_transfers AS link
          WHERE event_id = :event_id
            AND from_ticket_id = :ticket_id
      UNION ALL
         SELECT link.*, forth.step + 1
           FROM forth
           JOIN ticket_transfers AS link
             ON link.event_id = :event_id
            AND link.from_ticket_id = forth.to_ticket_id
          WHERE forth.step < 100
       )
   SELECT link.id, link.from_ticket_id, link.to_ticket_id, coalesce(giver.holder, '') AS from_holder,
          coalesce(taker.holder, '') AS to_holder, link.transferred_at, link.transferred_by
     FROM (SELECT id, from_ticket_id, to_ticket_id, transferred_at, transferred_by, -step AS place FROM back
           UNION ALL
           SELECT id, from_ticket_id, to_ticket_id, transferred_at, transferred_by, step FROM forth) AS link
LEFT JOIN ticket AS giver
       ON giver.event_id = :event_id
      AND giver.id = link.from_ticket_id
LEFT JOIN ticket AS taker
       ON taker.event_id = :event_id
      AND taker.id = link.to_ticket_id
 ORDER BY link.place;

-- name: all_trends
-- One row per event that people entered lately, most first: id int, slug, name, time_zone text, score float8: entries, those of a
-- quarter of an hour counting half as much for each half-life since it began; entries bigint, of all that time.
-- Binds: now, since timestamptz, half_life_s int, page int.
-- Index: none for event, of which it reads every row; event_counts_pkey.
  SELECT event.id, event.slug, event.name, event.time_zone, trend.score, trend.entries
    FROM event
    CROSS JOIN LATERAL
         (SELECT sum(entries * power(CAST(0.5 AS double precision),
                                     extract(epoch FROM CAST(:now AS timestamptz) - since) / :half_life_s)) AS score,
                 CAST(sum(entries) AS bigint) AS entries
            FROM event_counts
           WHERE event_counts.event_id = event.id
             AND gate_id = 0
             AND span_min = 15
             AND since >= CAST(:since AS timestamptz)
             AND since <= CAST(:now AS timestamptz)) AS trend
   WHERE trend.entries > 0
ORDER BY trend.score DESC, event.id
   LIMIT :page;

-- name: devices
-- One row per device of the event that is in use, by name: device, gate text, last_seen_at timestamptz or NULL,
-- clock_offset_ms bigint or NULL.
-- Binds: event_id int.
-- Index: gate's on event_id, device's on gate_id.
  SELECT device.name AS device, gate.name AS gate, device.last_seen_at, device.clock_offset_ms
    FROM gate
    JOIN device
      ON device.gate_id = gate.id
   WHERE gate.event_id = :event_id
     AND device.revoked_at IS NULL
ORDER BY device.name, device.id;

-- name: event_by_slug
-- One row or none: id int, slug text, name text, time_zone text, capacity int or NULL, doors_at, ends_at timestamptz.
-- Binds: slug text.
-- Index: event_slug_once.
SELECT id, slug, name, time_zone, capacity, doors_at, ends_at
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
