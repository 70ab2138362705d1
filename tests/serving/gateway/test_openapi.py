"""The document says what the gateway does: every path, every status, every key of an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from http import HTTPStatus
from pathlib import Path
from typing import Any

from decentral.serving.gateway import app
from decentral.serving.gateway.app import Gateway
from decentral.serving.gateway.openapi import PROBLEMS, SCHEMAS, document
from decentral.trust.policy import REQUIRABLE, Policy


def inside(value: Any) -> Iterator[dict[str, Any]]:
    """All objects of a document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from inside(each)


def test_every_reference_leads_somewhere() -> None:
    written = document(1)
    references = {each["$ref"] for each in inside(written) if "$ref" in each}
    assert references
    for reference in references:
        found = written
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_the_paths_are_those_that_are_answered() -> None:
    app = Gateway(None, "").app()  # type: ignore[arg-type]
    routes = {re.sub(r"\{.*\}", "{}", route.path) for route in app.routes}  # type: ignore[attr-defined]
    written = {re.sub(r"\{.*\}", "{}", path) for path in document(1)["paths"]}
    assert written | {"/openapi.json"} == routes


def test_every_problem_that_the_gateway_makes_is_written_down() -> None:
    source = Path(app.__file__).read_text()
    made = {HTTPStatus[name].value for name in re.findall(r"HTTPStatus\.([A-Z_]+)", source)} - {500}
    assert {int(status) for status in PROBLEMS} == made
    told = {status for each in inside(document(1)["paths"]) for status in each.get("responses", ())} - {"200"}
    assert told == PROBLEMS.keys()


def test_a_policy_has_the_keys_that_policies_have() -> None:
    assert SCHEMAS["Policy"]["properties"].keys() == {each.name for each in fields(Policy)}
    assert SCHEMAS["Policy"]["properties"]["require"]["items"]["enum"] == list(REQUIRABLE)


def test_the_limit_of_bodies_is_told() -> None:
    assert "At most 12345 bytes" in document(12345)["paths"]["/v1/predict"]["post"]["requestBody"]["description"]
