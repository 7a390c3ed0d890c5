from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):

    # While gates scan.
    atomic = False

    dependencies = [
        ('analytics', '0003_counters'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='scan',
            index=models.Index(condition=models.Q(('verdict', 'refused')), fields=['event_id', 'id'], name='ticket_scans_refused_idx'),
        ),
    ]
