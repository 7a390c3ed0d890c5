"""Every address but /health/*, which answers before anything else (health.views)."""

from django.contrib import admin
from django.urls import path

from qrsite.api import api

admin.site.site_header = admin.site.site_title = "qrsite"
admin.site.index_title = "Events and gates"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
]
handler404 = "core.errors.not_found"
handler500 = "core.errors.server_error"
