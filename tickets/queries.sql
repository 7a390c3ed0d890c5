-- name: stored_verdicts
-- One row per nonce that was answered before: nonce text, scan_id bigint, direction, verdict text, reason text or
-- NULL, ticket_id bigint or else code text, device_id int or else user_id int, forced_over text or NULL, annulled_at
-- timestamptz or NULL, and the ticket as it is now, or NULLs: holder text, kind text, admitted_at timestamptz, gate text.
-- Binds: event_id int, nonces text[].
-- Index: ticket_scans_nonce_once, ticket_pkey.
   SELECT scan.nonce, scan.id AS scan_id, scan.direction, scan.verdict, scan.reason, scan.ticket_id, scan.code,
          scan.device_id, scan.user_id, scan.forced_over, scan.annulled_at, ticket.holder, ticket.kind, ticket.admitted_at, gate.name AS gate
     FROM ticket_scans AS scan
LEFT JOIN ticket
       ON ticket.event_id = :event_id
      AND ticket.id = scan.ticket_id
LEFT JOIN gate
       ON gate.id = ticket.admitted_gate_id
    WHERE scan.event_id = :event_id
      AND scan.nonce = ANY(CAST(:nonces AS text[]))
 ORDER BY scan.nonce;

-- name: devices_by_token
-- One row per token that is valid: token_hash bytea, device_id int, gate_id int, event_id int, is_supervisor boolean,
-- rate_per_s int or NULL (no limit).
-- Binds: token_hashes bytea[].
-- Index: device_token_hash_key, gate_pkey.
  SELECT device.token_hash, device.id AS device_id, gate.id AS gate_id, gate.event_id, device.is_supervisor,
         device.rate_per_s
    FROM device
    JOIN gate
      ON gate.id = device.gate_id
   WHERE device.token_hash = ANY(CAST(:token_hashes AS bytea[]))
     AND device.revoked_at IS NULL
ORDER BY device.id;

-- name: event_rules
-- One row: doors_at, ends_at timestamptz, time_zone text, reentry text.
-- Binds: event_id int.
-- Index: event_pkey.
SELECT doors_at, ends_at, time_zone, reentry
  FROM event
 WHERE id = :event_id;

-- name: kind_rules
-- One row per kind of the event: name text, admits_from, admits_until timestamptz or NULL, capacity int or NULL.
-- Binds: event_id int.
-- Index: kind_name_once_per_event.
  SELECT name, admits_from, admits_until, capacity
    FROM ticket_kind
   WHERE event_id = :event_id
ORDER BY name;

-- name: gate_rules
-- One row per gate of the event: gate_id int, name text, kinds varchar[] (the only ones that it admits) or NULL (all).
-- Binds: event_id int.
-- Index: gate's on event_id, gate_kind's on gate_id, ticket_kind_pkey.
   SELECT gate.id AS gate_id, gate.name, array_agg(kind.name) FILTER (WHERE kind.id IS NOT NULL) AS kinds
     FROM gate
LEFT JOIN gate_kind
       ON gate_kind.gate_id = gate.id
LEFT JOIN ticket_kind AS kind
       ON kind.id = gate_kind.kind_id
    WHERE gate.event_id = :event_id
 GROUP BY gate.id, gate.name
 ORDER BY gate.id;

-- name: lock_tickets
-- One row per ticket found, locked until the transaction ends: ticket_id bigint, holder text, kind text,
-- voided_at, transferred_at, admitted_at timestamptz or NULL, admitted_gate_id int or NULL, inside boolean, passed_at
-- timestamptz or NULL, scanned boolean.
-- Binds: event_id int, ticket_ids bigint[].
-- Index: ticket_pkey. In id order, so that two batches can't wait for each other.
  SELECT id AS ticket_id, holder, kind, voided_at, transferred_at, admitted_at, admitted_gate_id, inside,
         passed_at, scanned
    FROM ticket
   WHERE event_id = :event_id
     AND id = ANY(CAST(:ticket_ids AS bigint[]))
ORDER BY id
     FOR UPDATE;

-- name: existing_tickets
-- One row per ticket of this event among those asked for: ticket_id bigint.
-- Binds: event_id int, ticket_ids bigint[].
-- Index: ticket_pkey.
  SELECT id AS ticket_id
    FROM ticket
   WHERE event_id = :event_id
     AND id = ANY(CAST(:ticket_ids AS bigint[]))
ORDER BY id;

-- name: save_states
-- No rows. Writes what the scans of one batch made of tickets that lock_tickets holds.
-- Binds: event_id int; per ticket, in arrays of one length: ticket_ids, admitted_ats, admitted_gate_ids, insides,
--        passed_ats, scanneds.
-- Index: ticket_pkey.
UPDATE ticket
   SET admitted_at = state.admitted_at,
       admitted_gate_id = state.admitted_gate_id,
       inside = state.inside,
       passed_at = state.passed_at,
       scanned = state.scanned
  FROM unnest(CAST(:ticket_ids AS bigint[]), CAST(:admitted_ats AS timestamptz[]),
              CAST(:admitted_gate_ids AS integer[]), CAST(:insides AS boolean[]), CAST(:passed_ats AS timestamptz[]),
              CAST(:scanneds AS boolean[]))
       AS state (ticket_id, admitted_at, admitted_gate_id, inside, passed_at, scanned)
 WHERE ticket.event_id = :event_id
   AND ticket.id = state.ticket_id;

-- name: restate
-- One row per ticket, as lock_tickets. Writes of tickets that lock_tickets holds what the log says: the first entry, and
-- whether the last one who went through went in. What was annulled never happened.
-- Binds: event_id int, ticket_ids bigint[].
-- Index: ticket_pkey, ticket_scans_ticket_idx.
UPDATE ticket
   SET admitted_at = state.admitted_at,
       admitted_gate_id = state.admitted_gate_id,
       inside = state.inside,
       passed_at = state.passed_at
  FROM (SELECT wanted.id,
               max(scan.happened_at) AS passed_at,
               min(scan.happened_at) FILTER (WHERE scan.direction = 'entry') AS admitted_at,
               (array_agg(scan.gate_id ORDER BY scan.happened_at, scan.id)
                FILTER (WHERE scan.direction = 'entry'))[1] AS admitted_gate_id,
               coalesce((array_agg(scan.direction ORDER BY scan.happened_at DESC, scan.id DESC))[1] = 'entry',
                        FALSE) AS inside
          FROM unnest(CAST(:ticket_ids AS bigint[])) AS wanted (id)
     LEFT JOIN ticket_scans AS scan
            ON scan.event_id = :event_id
           AND scan.ticket_id = wanted.id
           AND (scan.verdict = 'admitted' AND scan.annulled_at IS NULL
                OR scan.offline AND scan.direction = 'exit' AND scan.reason = 'not_inside')
      GROUP BY wanted.id) AS state
 WHERE ticket.event_id = :event_id
   AND ticket.id = state.id
RETURNING ticket.id AS ticket_id, ticket.holder, ticket.kind, ticket.voided_at, ticket.transferred_at, ticket.admitted_at,
          ticket.admitted_gate_id, ticket.inside, ticket.passed_at, ticket.scanned;

-- name: passages
-- One row per passage: ticket_id bigint, at timestamptz, direction text, gate_id int; what restate counts.
-- Binds: event_id int, ticket_ids bigint[].
-- Index: ticket_scans_ticket_idx.
  SELECT ticket_id, happened_at AS at, direction, gate_id
    FROM ticket_scans
   WHERE event_id = :event_id
     AND ticket_id = ANY(CAST(:ticket_ids AS bigint[]))
     AND (verdict = 'admitted' AND annulled_at IS NULL
          OR offline AND direction = 'exit' AND reason = 'not_inside')
ORDER BY ticket_id, happened_at, id;

-- name: lock_event
-- One row: capacity int or NULL. Tickets of one event are counted and issued one call after the other.
-- Binds: event_id int.
-- Index: event_pkey.
SELECT capacity
  FROM event
 WHERE id = :event_id
   FOR UPDATE;

-- name: insert_tickets
-- One row per ticket added: ticket_id bigint. A reference that is already there adds nothing.
-- Binds: event_id int, issued_at timestamptz; per ticket, in arrays of one length: ticket_ids, holders, emails,
--        kinds, references (or NULL).
-- Index: ticket_reference_once_per_event. In reference order.
INSERT INTO ticket (event_id, id, holder, email, kind, reference, issued_at, inside)
     SELECT CAST(:event_id AS integer), id, holder, email, kind, reference,
            CAST(:issued_at AS timestamptz), FALSE
       FROM unnest(CAST(:ticket_ids AS bigint[]), CAST(:holders AS text[]), CAST(:emails AS text[]),
                   CAST(:kinds AS text[]), CAST(:references AS text[]))
            AS ticket (id, holder, email, kind, reference)
   ORDER BY reference, id
ON CONFLICT (event_id, reference) DO NOTHING
  RETURNING id AS ticket_id;

-- name: tickets_by_reference
-- One row per ticket that has one of these references: ticket_id bigint, holder, email, kind, reference text.
-- Binds: event_id int, references text[].
-- Index: ticket_reference_once_per_event.
  SELECT id AS ticket_id, holder, email, kind, reference
    FROM ticket
   WHERE event_id = :event_id
     AND reference = ANY(CAST(:references AS text[]))
ORDER BY id;

-- name: valid_tickets
-- One row per kind: kind text, tickets bigint (count), those that are neither void nor transferred.
-- Binds: event_id int.
-- Index: any that begins with event_id: it reads the event's rows.
  SELECT kind, count(*) AS tickets
    FROM ticket
   WHERE event_id = :event_id
     AND voided_at IS NULL
     AND transferred_at IS NULL
GROUP BY kind
ORDER BY kind;

-- name: devices_seen
-- No rows. Notes that devices were seen, at most once a minute for each; one that somebody else is writing to is left out,
-- so that this never waits.
-- Binds: device_ids int[], seen_at timestamptz.
-- Index: device_pkey.
UPDATE device
   SET last_seen_at = CAST(:seen_at AS timestamptz)
 WHERE id = ANY(ARRAY(SELECT id
                        FROM device
                       WHERE id = ANY(CAST(:device_ids AS integer[]))
                         AND (last_seen_at IS NULL
                              OR last_seen_at <= CAST(:seen_at AS timestamptz) - INTERVAL '1 minute')
                    ORDER BY id
                         FOR UPDATE SKIP LOCKED));

-- name: note_clock
-- No rows. Notes how far ahead of ours a device's clock is.
-- Binds: device_id int, offset_ms bigint, measured_at timestamptz.
-- Index: device_pkey.
UPDATE device
   SET clock_offset_ms = :offset_ms,
       clock_measured_at = CAST(:measured_at AS timestamptz)
 WHERE id = :device_id;
