-- One event's tickets and its log, drawn at random: eight hours from when the doors opened, most people in the first of them.
-- Binds: event_id int, scans int (how many), doors_at timestamptz. One ticket for 1.15 scans; of 100 scans 8 are refused,
-- and 5 to 6 are exits, most of which come back.
  WITH place AS MATERIALIZED (
         SELECT array_agg(device.id ORDER BY device.id) AS device_ids, array_agg(gate_id ORDER BY device.id) AS gate_ids
           FROM gate
           JOIN device
             ON device.gate_id = gate.id
          WHERE gate.event_id = %(event_id)s
       ),
       guest AS MATERIALIZED (
         SELECT n, id, n <= 0.94 * tickets AS comes, came_at, device_id, gate_id,
                CASE WHEN n <= 0.055 * %(scans)s THEN left_at END AS left_at,
                CASE WHEN n <= 0.045 * %(scans)s THEN left_at + (ends_at - left_at) * random() END AS back_at,
                -- Of those who don't come, some are void; and 16 were passed on, each second one for the second time.
                n > tickets - 24 AND (tickets - n) %% 3 > 0 AS is_transferred,
                n <= tickets - 24 AND n > 0.96 * tickets AS is_void,
                ends_at
           FROM (SELECT n, random(1, 9223372036854775807) AS id, tickets, came_at, ends_at,
                        came_at + (ends_at - came_at) * random() AS left_at,
                        device_ids[draw] AS device_id, gate_ids[draw] AS gate_id
                   FROM (SELECT n, CAST(%(scans)s / 1.15 AS integer) AS tickets,
                                %(doors_at)s + INTERVAL '8 hours' * power(random(), 2) AS came_at,
                                %(doors_at)s + INTERVAL '8 hours' AS ends_at,
                                1 + CAST(floor(cardinality(device_ids) * power(random(), 1.3)) AS integer) AS draw,
                                device_ids, gate_ids
                           FROM place, generate_series(1, CAST(%(scans)s / 1.15 AS integer)) AS n) AS arrival) AS person
       ),
       refusal AS MATERIALIZED (
         SELECT at, device_ids[draw] AS device_id, gate_ids[draw] AS gate_id, whose,
                CASE WHEN luck < 0.50 THEN 'already_admitted'
                     WHEN luck < 0.62 THEN 'wrong_gate'
                     WHEN luck < 0.70 THEN 'too_early'
                     WHEN luck < 0.85 THEN 'unreadable'
                     WHEN luck < 0.95 THEN 'wrong_event'
                     ELSE 'bad_signature'
                     END AS reason,
                luck < 0.70 AS names_ticket,
                CASE WHEN luck < 0.70 THEN NULL
                     WHEN random() < 0.5 THEN 'https://example.org/poster-' || CAST(floor(50 * random()) AS integer)
                     ELSE md5(CAST(random() AS text))
                     END AS code
           FROM (SELECT %(doors_at)s + INTERVAL '8 hours' * power(random(), 2) AS at, random() AS luck,
                        1 + CAST(floor(cardinality(device_ids) * power(random(), 1.3)) AS integer) AS draw,
                        1 + CAST(floor(0.8 * %(scans)s * power(random(), 1.5)) AS integer) AS whose,
                        device_ids, gate_ids
                   FROM place, generate_series(1, CAST(0.08 * %(scans)s AS integer))) AS attempt
       ),
       issued AS (
         INSERT INTO ticket (event_id, id, holder, email, kind, reference, issued_at, voided_at, transferred_at,
                             admitted_at, admitted_gate_id, inside, passed_at, scanned)
              SELECT %(event_id)s, id, 'Guest ' || n, 'guest-' || n || '@example.org', 'standard', 'order-' || n,
                     %(doors_at)s - INTERVAL '30 days',
                     CASE WHEN is_void THEN %(doors_at)s END, CASE WHEN is_transferred THEN %(doors_at)s END,
                     CASE WHEN comes THEN came_at END, CASE WHEN comes THEN gate_id END,
                     comes AND (left_at IS NULL OR back_at IS NOT NULL), CASE WHEN comes THEN coalesce(back_at, left_at, came_at) END,
                     comes
                FROM guest
       ),
       passed_on AS (
         INSERT INTO ticket_transfers (event_id, from_ticket_id, to_ticket_id, transferred_at, transferred_by)
              SELECT %(event_id)s, giver.id, taker.id, %(doors_at)s, 'shop'
                FROM guest AS giver
                JOIN guest AS taker
                  ON taker.n = giver.n + 1
               WHERE giver.is_transferred
            ORDER BY giver.n
       )
INSERT INTO ticket_scans (event_id, nonce, ticket_id, gate_id, device_id, direction, verdict, reason, code,
                          scanned_at, recorded_at, happened_at, offline, reentry, annulled_at)
     SELECT %(event_id)s, 'fill-' || row_number() OVER (ORDER BY at), ticket_id, gate_id, device_id, direction, verdict, reason,
            code, at, at, at, FALSE, reentry, annulled_at
       FROM (SELECT came_at AS at, id AS ticket_id, gate_id, device_id, 'entry' AS direction, 'admitted' AS verdict,
                    NULL AS reason, NULL AS code, FALSE AS reentry, CAST(NULL AS timestamptz) AS annulled_at
               FROM guest
              WHERE comes
          UNION ALL
             SELECT left_at, id, gate_id, device_id, 'exit', 'admitted', NULL, NULL, FALSE, NULL
               FROM guest
              WHERE left_at IS NOT NULL
          UNION ALL
             SELECT back_at, id, gate_id, device_id, 'entry', 'admitted', NULL, NULL, TRUE, NULL
               FROM guest
              WHERE back_at IS NOT NULL
          UNION ALL -- the turnstile did not turn
             SELECT came_at - INTERVAL '20 seconds', id, gate_id, device_id, 'entry', 'admitted', NULL, NULL, FALSE, came_at
               FROM guest
              WHERE comes
                AND n %% 300 = 0
          UNION ALL
             SELECT at, guest.id, refusal.gate_id, refusal.device_id, 'entry', 'refused', reason, code, FALSE, NULL
               FROM refusal
          LEFT JOIN guest
                 ON guest.n = refusal.whose
                AND names_ticket) AS scan
   ORDER BY at
