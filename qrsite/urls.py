"""Every address but /health/*, which answers before anything else (health.views)."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from health.metrics import metrics
from qrsite.api import api

admin.site.site_header = admin.site.site_title = "qrsite"
admin.site.index_title = "Events and gates"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
    path("metrics", metrics),
]
handler400 = "core.errors.bad_request"
handler404 = "core.errors.not_found"
handler500 = "core.errors.server_error"
