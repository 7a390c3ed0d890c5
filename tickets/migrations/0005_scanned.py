from django.db import migrations, models

# What analytics/recount counts, as the tables were at this time. Slot 16: of what was counted afterwards.
COUNT = """
UPDATE ticket
   SET scanned = TRUE
 WHERE EXISTS (SELECT FROM ticket_scans AS scan WHERE scan.event_id = ticket.event_id AND scan.ticket_id = ticket.id);

INSERT INTO event_counts
     SELECT event_id, gate, span_min,
            CASE span_min WHEN 0 THEN TIMESTAMPTZ '1970-01-01 00:00Z'
                          ELSE date_bin(make_interval(mins => span_min), minute, TIMESTAMPTZ '1970-01-01 00:00Z') END,
            16, 1, now(), sum(entries), sum(exits), sum(admitted), sum(refused), 0, 0, 0, 0, 0, 0, 0
       FROM (SELECT event_id, gate_id, date_trunc('minute', happened_at) AS minute,
                    count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'entry' AND annulled_at IS NULL) AS entries,
                    count(*) FILTER (WHERE verdict = 'admitted' AND direction = 'exit' AND annulled_at IS NULL) AS exits,
                    0 AS admitted, count(*) FILTER (WHERE verdict = 'refused') AS refused
               FROM ticket_scans
           GROUP BY 1, 2, 3
          UNION ALL
             SELECT event_id, coalesce(admitted_gate_id, -1), date_trunc('minute', admitted_at), 0, 0, count(*), 0
               FROM ticket
              WHERE admitted_at IS NOT NULL
           GROUP BY 1, 2, 3) AS moment
 CROSS JOIN (VALUES (0), (1), (15)) AS length (span_min)
 CROSS JOIN LATERAL (VALUES (0), (moment.gate_id)) AS place (gate)
   GROUP BY 1, 2, 3, 4;

INSERT INTO event_counts AS kept
     SELECT event.id, 0, 0, TIMESTAMPTZ '1970-01-01 00:00Z', 16, 1, now(), 0, 0, 0, 0, issued, void, transferred, missing, inside,
            scanned, annulled
       FROM event
 CROSS JOIN LATERAL (SELECT count(*) AS issued, count(voided_at) AS void, count(transferred_at) AS transferred,
                            count(*) FILTER (WHERE coalesce(voided_at, transferred_at, admitted_at) IS NULL) AS missing,
                            count(*) FILTER (WHERE inside) AS inside, count(*) FILTER (WHERE scanned) AS scanned
                       FROM ticket
                      WHERE event_id = event.id) AS tickets
 CROSS JOIN LATERAL (SELECT count(annulled_at) AS annulled FROM ticket_scans WHERE event_id = event.id) AS log
ON CONFLICT (event_id, gate_id, span_min, since, slot) DO UPDATE
        SET issued = EXCLUDED.issued,
            void = EXCLUDED.void,
            transferred = EXCLUDED.transferred,
            missing = EXCLUDED.missing,
            inside = EXCLUDED.inside,
            scanned = EXCLUDED.scanned,
            annulled = EXCLUDED.annulled;

INSERT INTO refusal_counts
     SELECT event_id, gate_id, coalesce(device_id, 0), reason, 16, count(*)
       FROM ticket_scans
      WHERE verdict = 'refused'
   GROUP BY 1, 2, 3, 4;

INSERT INTO refused_codes
     SELECT event_id, coalesce(ticket_id, 0), CASE WHEN ticket_id IS NULL THEN coalesce(code, '') ELSE '' END, count(*),
            max(happened_at), (array_agg(reason ORDER BY happened_at DESC, id DESC))[1]
       FROM ticket_scans
      WHERE verdict = 'refused'
   GROUP BY 1, 2, 3;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('tickets', '0004_rules'),
        ('analytics', '0003_counters'),
    ]

    operations = [
        migrations.AddField(
            model_name='ticket',
            name='scanned',
            field=models.BooleanField(db_default=False, default=False, editable=False, help_text='presented at a gate, whatever the verdict'),
        ),
        migrations.RunSQL(COUNT, "DELETE FROM event_counts; DELETE FROM refusal_counts; DELETE FROM refused_codes"),
    ]
