from django.db import migrations, models

from core.models import move_primary_key_sql


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Scan',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('event_id', models.IntegerField()),
                ('ticket_id', models.BigIntegerField(help_text='the ticket, where the code names one of this event', null=True)),
                ('gate_id', models.IntegerField()),
                ('device_id', models.IntegerField()),
                ('nonce', models.TextField(help_text="the client's name for this attempt; the same again gets the same verdict")),
                ('direction', models.TextField(choices=[('entry', 'Entry'), ('exit', 'Exit')])),
                ('verdict', models.TextField(choices=[('admitted', 'Admitted'), ('refused', 'Refused')])),
                ('reason', models.TextField(help_text='why it was refused', null=True)),
                ('code', models.TextField(help_text='what was read, where it names no ticket of this event; cut', null=True)),
                ('scanned_at', models.DateTimeField(help_text="by the client's clock")),
                ('recorded_at', models.DateTimeField(help_text="by the server's clock")),
                ('offline', models.BooleanField(default=False)),
                ('annulled_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': 'ticket_scans',
                'indexes': [models.Index(fields=['id'], name='ticket_scans_id_idx')],
                'constraints': [models.UniqueConstraint(fields=('event_id', 'nonce'), name='ticket_scans_nonce_once'), models.UniqueConstraint(condition=models.Q(('annulled_at', None), ('direction', 'entry'), ('verdict', 'admitted')), fields=('event_id', 'ticket_id'), name='ticket_scans_admitted_once'), models.CheckConstraint(condition=models.Q(models.Q(('reason', None), ('ticket_id__isnull', False), ('verdict', 'admitted')), models.Q(('annulled_at', None), ('reason__isnull', False), ('verdict', 'refused')), _connector='OR'), name='ticket_scans_verdict_has_reason'), models.CheckConstraint(condition=models.Q(('direction__in', ['entry', 'exit'])), name='ticket_scans_direction_known')],
            },
        ),
        migrations.RunSQL(*move_primary_key_sql("ticket_scans")),
    ]
