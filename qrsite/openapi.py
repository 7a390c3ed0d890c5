"""What OpenAPI says of the API: what ninja makes of the code, and the errors that each call may answer with."""

from __future__ import annotations

from http.client import responses
from typing import Any

from ninja import NinjaAPI, Schema
from ninja.openapi.schema import REF_TEMPLATE, OpenAPISchema

from core.errors import RAISES, NotFound
from tickets.auth import Forbidden, Unauthorized
from tickets.rate import TooManyCalls
from tickets.schemas import Problem

Errors = dict[int, set[str]]  # by status, the codes


class WrongField(Schema):
    """A field and what is wrong with it."""

    field: str
    message: str


class ErrorDetail(Problem):
    """A stable code, a sentence for a person, and where that helps, more.

    With `invalid` come all wrong `fields`, with `unknown_kind` the one `field`, with `capacity_exceeded` how many are
    `left`, with `ticket_transferred` the id of the ticket that it was passed on `to`.
    """

    fields: list[WrongField] | None = None
    field: str | None = None
    left: int | None = None
    to: str | None = None


class ErrorOut(Schema):
    """What every error looks like."""

    error: ErrorDetail


class DocumentedAPI(NinjaAPI):
    """Say of each operation which errors it may answer with.

    Most follow from what it takes and who may call it; an operation names the others by `core.errors.raises`.
    """

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """Return the description, with errors."""
        schema = super().get_openapi_schema(**options)
        shapes = ErrorOut.model_json_schema(ref_template=REF_TEMPLATE)
        schema["components"]["schemas"] |= shapes.pop("$defs") | {"ErrorOut": shapes}
        for operations in schema["paths"].values():
            for method, operation in operations.items():
                for status, codes in sorted(_errors(method, operation).items()):
                    operation["responses"][status] = _documented(status, sorted(codes))
        return schema


def _errors(method: str, operation: dict[str, Any]) -> Errors:
    """Return what an operation may answer with; every call may find us overloaded or without a database."""
    callers = {name for way in operation.get("security", ()) for name in way}
    places = {parameter["in"] for parameter in operation["parameters"]}
    found: Errors = {503: {"overloaded", "database_unavailable"}}
    if method == "post":
        found |= {408: {"timeout"}, 413: {"too_large"}}
    if "requestBody" in operation:
        found |= {400: {"malformed"}, 422: {"invalid"}}
    if "query" in places or any("pattern" in parameter["schema"] for parameter in operation["parameters"]):
        found |= {422: {"invalid"}}
    raised = [*operation.pop(RAISES, ())]
    raised += [Unauthorized, Forbidden] if callers else []
    raised += [TooManyCalls] if "DeviceToken" in callers else []
    raised += [NotFound] if "path" in places else []
    for error in raised:
        found.setdefault(error.status, set()).add(error.code)
    return found


def _documented(status: int, codes: list[str]) -> dict[str, Any]:
    code = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    shape = {"allOf": [{"$ref": REF_TEMPLATE.format(model="ErrorOut")}, code]}
    words = " or ".join(f"`{code}`" for code in codes)
    return {
        "description": f"{responses[status]}: {words}",
        "content": {"application/json": {"schema": shape}},
    }
