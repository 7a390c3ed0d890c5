from django.db import migrations, models
from django.db.models.functions import Now

from core.models import move_primary_key_sql


def refuse_what_the_older_tables_cannot_hold(apps, schema_editor):
    scan = apps.get_model("analytics", "Scan")
    held = scan.objects.filter(models.Q(device_id=None) | models.Q(reentry=True, verdict="admitted", direction="entry"))
    if held.exists():
        raise RuntimeError("The scan log has check-ins by hand or re-entries, which the older tables can't hold: stay.")


class Migration(migrations.Migration):

    dependencies = [
        ('analytics', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Conflict',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('event_id', models.IntegerField()),
                ('scan_id', models.BigIntegerField(help_text='the offline entry')),
                ('ticket_id', models.BigIntegerField()),
                ('reason', models.TextField(help_text='why it should have been refused')),
                ('earlier_scan_id', models.BigIntegerField(help_text='another entry with the ticket, if there is one', null=True)),
                ('noticed_at', models.DateTimeField()),
                ('signed_off_at', models.DateTimeField(blank=True, null=True)),
                ('signed_off_by', models.TextField(blank=True, default='')),
                ('note', models.TextField(blank=True, default='', help_text='what the person who signed it off says of it')),
            ],
            options={
                'db_table': 'scan_conflicts',
                'permissions': (('sign_off_conflict', 'Can sign off conflicts'),),
            },
        ),
        migrations.RemoveConstraint(
            model_name='scan',
            name='ticket_scans_admitted_once',
        ),
        migrations.AddField(
            model_name='scan',
            name='force_reason',
            field=models.TextField(help_text="the supervisor's words", null=True),
        ),
        migrations.AddField(
            model_name='scan',
            name='forced_over',
            field=models.TextField(help_text='the refusal that a supervisor overrode', null=True),
        ),
        migrations.AddField(
            model_name='scan',
            name='happened_at',
            field=models.DateTimeField(db_default=Now(), help_text="the moment that was judged: the server's; offline the client's, put right by its clock's offset"),
        ),
        # So far every scan was judged when it came.
        migrations.RunSQL("UPDATE ticket_scans SET happened_at = recorded_at", migrations.RunSQL.noop),
        migrations.AddField(
            model_name='scan',
            name='reentry',
            field=models.BooleanField(db_default=False, default=False, help_text='the ticket had been admitted before'),
        ),
        migrations.AddField(
            model_name='scan',
            name='user_id',
            field=models.IntegerField(help_text='who checked in by hand, where no device did', null=True),
        ),
        migrations.AlterField(
            model_name='scan',
            name='device_id',
            field=models.IntegerField(null=True),
        ),
        migrations.AddIndex(
            model_name='scan',
            index=models.Index(condition=models.Q(('ticket_id__isnull', False)), fields=['event_id', 'ticket_id'], name='ticket_scans_ticket_idx'),
        ),
        migrations.AddConstraint(
            model_name='scan',
            constraint=models.UniqueConstraint(condition=models.Q(('annulled_at', None), ('direction', 'entry'), ('reentry', False), ('verdict', 'admitted')), fields=('event_id', 'ticket_id'), name='ticket_scans_admitted_once'),
        ),
        migrations.AddConstraint(
            model_name='scan',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('device_id__isnull', False), ('user_id', None)), models.Q(('device_id', None), ('user_id__isnull', False)), _connector='OR'), name='ticket_scans_by_a_device_or_a_person'),
        ),
        migrations.AddConstraint(
            model_name='scan',
            constraint=models.CheckConstraint(condition=models.Q(('forced_over', None), models.Q(('force_reason__isnull', False), ('verdict', 'admitted')), _connector='OR'), name='ticket_scans_forced_says_why'),
        ),
        migrations.AddIndex(
            model_name='conflict',
            index=models.Index(fields=['id'], name='scan_conflicts_id_idx'),
        ),
        migrations.AddConstraint(
            model_name='conflict',
            constraint=models.UniqueConstraint(fields=('event_id', 'scan_id'), name='scan_conflicts_once_per_scan'),
        ),
        migrations.RunSQL(*move_primary_key_sql("scan_conflicts")),
        migrations.RunPython(migrations.RunPython.noop, refuse_what_the_older_tables_cannot_hold),
    ]
