from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tickets', '0004_rules'),
    ]

    operations = [
        migrations.AddField(
            model_name='ticket',
            name='scanned',
            field=models.BooleanField(db_default=False, default=False, editable=False, help_text='presented at a gate, whatever the verdict'),
        ),
    ]
