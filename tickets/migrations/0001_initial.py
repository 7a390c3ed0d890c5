import django.contrib.postgres.fields
import django.db.models.deletion
import django.utils.timezone
import tickets.models
from django.db import migrations, models

from core.models import move_primary_key_sql


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='ServiceToken',
            fields=[
                ('id', models.AutoField(primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=100)),
                ('scopes', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(choices=[('tickets:write', 'tickets:write'), ('tickets:read', 'tickets:read'), ('stats:read', 'stats:read'), ('reports:write', 'reports:write'), ('reports:read', 'reports:read')]), size=None)),
                ('token_hash', models.BinaryField(max_length=32, unique=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('revoked_at', models.DateTimeField(blank=True, editable=False, null=True)),
            ],
            options={
                'db_table': 'service_token',
                'ordering': ('name',),
            },
        ),
        migrations.CreateModel(
            name='Event',
            fields=[
                ('id', models.AutoField(primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=200)),
                ('slug', models.SlugField(db_index=False, help_text='its name in addresses', max_length=80)),
                ('time_zone', models.CharField(help_text='of the venue, e.g. Europe/Berlin', max_length=64, validators=[tickets.models.validate_time_zone])),
                ('doors_at', models.DateTimeField(help_text='venue time; tickets are admitted from here on', verbose_name='doors open')),
                ('starts_at', models.DateTimeField(help_text='venue time', verbose_name='starts')),
                ('ends_at', models.DateTimeField(help_text='venue time; nobody is admitted after this', verbose_name='ends')),
                ('capacity', models.PositiveIntegerField(blank=True, help_text='how many valid tickets there may be; empty = no limit', null=True)),
            ],
            options={
                'db_table': 'event',
                'ordering': ('-starts_at',),
                'constraints': [models.UniqueConstraint(fields=('slug',), name='event_slug_once'), models.CheckConstraint(condition=models.Q(('doors_at__lte', models.F('starts_at')), ('starts_at__lt', models.F('ends_at'))), name='event_doors_start_end_in_order', violation_error_message='Doors open first, then it starts, then it ends.')],
            },
        ),
        migrations.CreateModel(
            name='Gate',
            fields=[
                ('id', models.AutoField(primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=100)),
                ('event', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, to='tickets.event')),
            ],
            options={
                'db_table': 'gate',
                'ordering': ('name',),
            },
        ),
        migrations.CreateModel(
            name='Device',
            fields=[
                ('id', models.AutoField(primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=100)),
                ('token_hash', models.BinaryField(max_length=32, unique=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('revoked_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('gate', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, to='tickets.gate')),
            ],
            options={
                'db_table': 'device',
                'ordering': ('name',),
            },
        ),
        migrations.CreateModel(
            name='Ticket',
            fields=[
                ('id', models.BigIntegerField(default=tickets.models.random_ticket_id, editable=False, primary_key=True, serialize=False)),
                ('holder', models.CharField(max_length=200, validators=[tickets.models.validate_line])),
                ('email', models.EmailField(blank=True, max_length=254)),
                ('kind', models.CharField(blank=True, max_length=100, validators=[tickets.models.validate_line])),
                ('reference', models.CharField(blank=True, help_text="the seller's key; issuing it again returns this ticket", max_length=200, null=True, validators=[tickets.models.validate_line])),
                ('issued_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('voided_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('transferred_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('admitted_at', models.DateTimeField(editable=False, null=True)),
                ('admitted_gate_id', models.IntegerField(editable=False, null=True)),
                ('inside', models.BooleanField(default=False, editable=False)),
                ('event', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, to='tickets.event')),
            ],
            options={
                'db_table': 'ticket',
                'ordering': ('-issued_at',),
            },
        ),
        migrations.AddConstraint(
            model_name='gate',
            constraint=models.UniqueConstraint(fields=('event', 'name'), name='gate_name_once_per_event'),
        ),
        migrations.AddIndex(
            model_name='ticket',
            index=models.Index(fields=['id'], name='ticket_id_idx'),
        ),
        migrations.AddConstraint(
            model_name='ticket',
            constraint=models.UniqueConstraint(fields=('event', 'reference'), name='ticket_reference_once_per_event'),
        ),
        migrations.RunSQL(*move_primary_key_sql("ticket")),
    ]
