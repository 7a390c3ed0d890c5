from django.db import migrations, models

VIEW = """
CREATE VIEW invalid_attempts AS
     SELECT event_id, id, ticket_id, gate_id, device_id, user_id, nonce, direction, reason, code, scanned_at, recorded_at,
            happened_at, offline
       FROM ticket_scans
      WHERE verdict = 'refused'
"""


class Migration(migrations.Migration):

    dependencies = [
        ('analytics', '0002_rules'),
    ]

    operations = [
        migrations.CreateModel(
            name='EventCount',
            fields=[
                ('pk', models.CompositePrimaryKey('event_id', 'gate_id', 'span_min', 'since', 'slot', blank=True, editable=False, primary_key=True, serialize=False)),
                ('event_id', models.IntegerField()),
                ('gate_id', models.IntegerField(help_text='0: all gates')),
                ('span_min', models.SmallIntegerField(help_text='1, 15, or 0: all time')),
                ('since', models.DateTimeField()),
                ('slot', models.SmallIntegerField()),
                ('changes', models.BigIntegerField(help_text='how often anything was added')),
                ('changed_at', models.DateTimeField()),
                ('entries', models.BigIntegerField()),
                ('exits', models.BigIntegerField()),
                ('admitted', models.BigIntegerField(help_text='tickets that came in for the first time')),
                ('refused', models.BigIntegerField()),
                ('issued', models.BigIntegerField()),
                ('void', models.BigIntegerField()),
                ('transferred', models.BigIntegerField()),
                ('missing', models.BigIntegerField(help_text='valid and not admitted')),
                ('inside', models.BigIntegerField()),
                ('scanned', models.BigIntegerField(help_text='were presented at a gate, whatever the verdict')),
                ('annulled', models.BigIntegerField(help_text='scans, not tickets')),
            ],
            options={
                'db_table': 'event_counts',
            },
        ),
        migrations.CreateModel(
            name='RefusalCount',
            fields=[
                ('pk', models.CompositePrimaryKey('event_id', 'gate_id', 'device_id', 'reason', 'slot', blank=True, editable=False, primary_key=True, serialize=False)),
                ('event_id', models.IntegerField()),
                ('gate_id', models.IntegerField()),
                ('device_id', models.IntegerField(help_text='0: by hand')),
                ('reason', models.TextField()),
                ('slot', models.SmallIntegerField()),
                ('refused', models.BigIntegerField()),
            ],
            options={
                'db_table': 'refusal_counts',
            },
        ),
        migrations.CreateModel(
            name='RefusedCode',
            fields=[
                ('pk', models.CompositePrimaryKey('event_id', 'ticket_id', 'code', blank=True, editable=False, primary_key=True, serialize=False)),
                ('event_id', models.IntegerField()),
                ('ticket_id', models.BigIntegerField(help_text='0: the code names no ticket of the event')),
                ('code', models.TextField()),
                ('refused', models.BigIntegerField()),
                ('last_at', models.DateTimeField()),
                ('reason', models.TextField(help_text='the last one')),
            ],
            options={
                'db_table': 'refused_codes',
            },
        ),
        migrations.AddIndex(
            model_name='refusedcode',
            index=models.Index(fields=['event_id', 'refused'], name='refused_codes_most_idx'),
        ),
        migrations.RunSQL(VIEW, "DROP VIEW invalid_attempts"),
    ]
