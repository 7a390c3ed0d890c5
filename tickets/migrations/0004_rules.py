import django.core.validators
import django.db.models.deletion
import tickets.models
from django.db import migrations, models

from core.models import move_primary_key_sql


class Migration(migrations.Migration):

    dependencies = [
        ('tickets', '0003_device_enrolment'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='device',
            options={'ordering': ('name',), 'permissions': (('grant_supervisor', "Can make a device a supervisor's"),)},
        ),
        migrations.AlterModelOptions(
            name='ticket',
            options={'ordering': ('-issued_at',), 'permissions': (('check_in_ticket', 'Can check in by hand'), ('force_admission', 'Can admit by hand in spite of a refusal'))},
        ),
        migrations.AddField(
            model_name='device',
            name='clock_measured_at',
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name='device',
            name='clock_offset_ms',
            field=models.BigIntegerField(blank=True, editable=False, help_text='how far ahead of ours its clock was when it last sent its offline scans', null=True, verbose_name='clock is off by (ms)'),
        ),
        migrations.AddField(
            model_name='device',
            name='is_supervisor',
            field=models.BooleanField(db_default=False, default=False, help_text='may admit in spite of a refusal, with a reason', verbose_name="supervisor's"),
        ),
        migrations.AddField(
            model_name='device',
            name='rate_per_s',
            field=models.PositiveIntegerField(blank=True, db_default=50, default=50, help_text='what it may do in the long run; more is refused with 429; empty = no limit', null=True, validators=[django.core.validators.MinValueValidator(1)], verbose_name='calls a second'),
        ),
        migrations.AddField(
            model_name='event',
            name='reentry',
            field=models.CharField(choices=[('never', 'never'), ('after_exit', 'after an exit scan'), ('always', 'always')], db_default='never', default='never', help_text='whether a ticket that was admitted is admitted again', max_length=20, verbose_name='re-entry'),
        ),
        migrations.AddConstraint(
            model_name='device',
            constraint=models.CheckConstraint(condition=models.Q(('rate_per_s__gte', 1)), name='device_rate_positive'),
        ),
        migrations.AddField(
            model_name='ticket',
            name='passed_at',
            field=models.DateTimeField(editable=False, help_text='when somebody last went in or out with it', null=True),
        ),
        migrations.RunSQL("UPDATE ticket SET passed_at = admitted_at WHERE admitted_at IS NOT NULL", migrations.RunSQL.noop),
        migrations.CreateModel(
            name='Kind',
            fields=[
                ('id', models.AutoField(primary_key=True, serialize=False)),
                ('name', models.CharField(help_text='as the tickets say it; it stays', max_length=100, validators=[tickets.models.validate_line])),
                ('capacity', models.PositiveIntegerField(blank=True, help_text='how many valid tickets of it there may be; empty = no limit', null=True)),
                ('admits_from', models.DateTimeField(blank=True, help_text='venue time; empty: when the doors open', null=True)),
                ('admits_until', models.DateTimeField(blank=True, help_text='venue time; empty: when the event ends', null=True)),
                ('event', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, to='tickets.event')),
            ],
            options={
                'verbose_name': 'ticket kind',
                'db_table': 'ticket_kind',
                'ordering': ('name',),
            },
        ),
        migrations.AddField(
            model_name='gate',
            name='kinds',
            field=models.ManyToManyField(blank=True, db_table='gate_kind', help_text='the only kinds that it admits; none chosen = all tickets', to='tickets.kind'),
        ),
        migrations.CreateModel(
            name='Transfer',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('from_ticket_id', models.BigIntegerField()),
                ('to_ticket_id', models.BigIntegerField()),
                ('transferred_at', models.DateTimeField()),
                ('transferred_by', models.TextField(help_text='the service or the person')),
                ('event', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, to='tickets.event')),
            ],
            options={
                'db_table': 'ticket_transfers',
            },
        ),
        migrations.AddConstraint(
            model_name='kind',
            constraint=models.UniqueConstraint(fields=('event', 'name'), name='kind_name_once_per_event'),
        ),
        migrations.AddConstraint(
            model_name='kind',
            constraint=models.CheckConstraint(condition=models.Q(('admits_from', None), ('admits_until', None), ('admits_from__lt', models.F('admits_until')), _connector='OR'), name='kind_window_in_order', violation_error_message='Admission begins before it ends.'),
        ),
        migrations.AddIndex(
            model_name='transfer',
            index=models.Index(fields=['id'], name='ticket_transfers_id_idx'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.UniqueConstraint(fields=('event', 'from_ticket_id'), name='ticket_transfers_from_once'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.UniqueConstraint(fields=('event', 'to_ticket_id'), name='ticket_transfers_to_once'),
        ),
        migrations.RunSQL(*move_primary_key_sql("ticket_transfers")),
    ]
