"""Real answers held against what OpenAPI says of them."""

import functools
import json
import re

from jsonschema import Draft202012Validator

from qrsite.api import api


@functools.cache
def description():
    """What OpenAPI says, and that there is nothing else in an answer."""
    schema = api.get_openapi_schema()
    for shape in schema["components"]["schemas"].values():
        if "properties" in shape:
            shape.setdefault("additionalProperties", False)
    return schema


@functools.cache
def operations():
    """By method and path template."""
    return {
        (method, path): operation
        for path, methods in description()["paths"].items()
        for method, operation in methods.items()
    }


@functools.cache
def _validator(schema):
    return Draft202012Validator({**json.loads(schema), "components": description()["components"]})


def validate(schema, instance):
    _validator(json.dumps(schema, sort_keys=True)).validate(instance)


def operation_at(method, path):
    """None where the API has none there, which is a 404 or 405 of its own."""
    for (its_method, template), operation in operations().items():
        if its_method == method.lower() and re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            return operation
    return None


def assert_agrees(method, path, status, content_type, body):
    """The status is documented, and the body is what was said of it; `body` is called where it is JSON."""
    operation = operation_at(method, path)
    if operation is None or status == 500:  # what nobody anticipated; some tests see to it that it happens
        return
    assert status in operation["responses"], f"{method} {path}: {status} is documented nowhere"
    content = operation["responses"][status].get("content", {})
    assert not content or content_type in content, f"{method} {path}: {status} as {content_type}"
    if "schema" in content.get(content_type, {}):
        validate(content[content_type]["schema"], body())
