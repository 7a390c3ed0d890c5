"""What operators may see and do; there is no table."""

from __future__ import annotations

from django.db import models


class PoolConnection(models.Model):
    """A connection of the pool: something to have permissions for."""

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = [("cancel_poolconnection", "Can cancel the statement that a connection runs")]
        verbose_name = "connection"
        verbose_name_plural = "connections"

    def __str__(self) -> str:
        return "a connection"
