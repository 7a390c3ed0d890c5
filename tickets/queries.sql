-- name: stored_verdicts
-- One row per nonce that was answered before: nonce text, scan_id bigint, direction, verdict text, reason text or
-- NULL, ticket_id bigint or else code text, and the ticket as it is now, or NULLs: holder text, kind text,
-- admitted_at timestamptz, gate text.
-- Binds: event_id int, nonces text[].
-- Index: ticket_scans_nonce_once, ticket_pkey.
   SELECT scan.nonce, scan.id AS scan_id, scan.direction, scan.verdict, scan.reason, scan.ticket_id, scan.code,
          ticket.holder, ticket.kind, ticket.admitted_at, gate.name AS gate
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
-- One row per token that is valid: token_hash bytea, device_id int, gate_id int, event_id int, and of the event
-- doors_at, ends_at timestamptz, time_zone text.
-- Binds: token_hashes bytea[].
-- Index: device_token_hash_key, gate_pkey, event_pkey.
  SELECT device.token_hash, device.id AS device_id, gate.id AS gate_id, event.id AS event_id,
         event.doors_at, event.ends_at, event.time_zone
    FROM device
    JOIN gate
      ON gate.id = device.gate_id
    JOIN event
      ON event.id = gate.event_id
   WHERE device.token_hash = ANY(CAST(:token_hashes AS bytea[]))
     AND device.revoked_at IS NULL
ORDER BY device.id;

-- name: lock_tickets
-- One row per ticket found, locked until the transaction ends: ticket_id bigint, holder text, kind text,
-- voided_at, transferred_at, admitted_at timestamptz or NULL, admitted_gate_id int or NULL, inside boolean.
-- Binds: event_id int, ticket_ids bigint[].
-- Index: ticket_pkey. In id order, so that two batches can't wait for each other.
  SELECT id AS ticket_id, holder, kind, voided_at, transferred_at, admitted_at, admitted_gate_id, inside
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
-- Binds: event_id int; per ticket, in arrays of one length: ticket_ids, admitted_ats, admitted_gate_ids, insides.
-- Index: ticket_pkey.
UPDATE ticket
   SET admitted_at = state.admitted_at,
       admitted_gate_id = state.admitted_gate_id,
       inside = state.inside
  FROM unnest(CAST(:ticket_ids AS bigint[]), CAST(:admitted_ats AS timestamptz[]),
              CAST(:admitted_gate_ids AS integer[]), CAST(:insides AS boolean[]))
       AS state (ticket_id, admitted_at, admitted_gate_id, inside)
 WHERE ticket.event_id = :event_id
   AND ticket.id = state.ticket_id;

-- name: restore_states
-- No rows. Writes the admission that the log has of tickets whose row has none; whoever is restored counts as inside.
-- Binds: event_id int, ticket_ids bigint[].
-- Index: ticket_pkey, ticket_scans_admitted_once.
UPDATE ticket
   SET admitted_at = scan.recorded_at,
       admitted_gate_id = scan.gate_id,
       inside = TRUE
  FROM ticket_scans AS scan
 WHERE scan.event_id = :event_id
   AND scan.ticket_id = ANY(CAST(:ticket_ids AS bigint[]))
   AND scan.verdict = 'admitted'
   AND scan.direction = 'entry'
   AND scan.annulled_at IS NULL
   AND ticket.event_id = :event_id
   AND ticket.id = scan.ticket_id
   AND ticket.admitted_at IS NULL;

-- name: lock_event
-- One row: capacity int or NULL. Tickets of one event are counted and issued one call after the other.
-- Binds: event_id int.
-- Index: event_pkey.
SELECT capacity
  FROM event
 WHERE id = :event_id
   FOR UPDATE;

-- name: insert_tickets
-- No rows. A reference that is already there adds nothing.
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
ON CONFLICT (event_id, reference) DO NOTHING;

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
-- One row: tickets bigint (count), those that are neither void nor transferred.
-- Binds: event_id int.
-- Index: any that begins with event_id: it reads the event's rows.
SELECT count(*) AS tickets
  FROM ticket
 WHERE event_id = :event_id
   AND voided_at IS NULL
   AND transferred_at IS NULL;

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
