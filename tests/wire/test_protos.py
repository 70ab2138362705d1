"""The schema and what was generated from it belong together."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from grpc_tools import protoc

from decentral.errors import Refusal
from decentral.wire.authority import ANNOUNCE, ENROL, INVITE
from decentral.wire.authority import SERVICE as AUTHORITY
from decentral.wire.meeting import JOIN
from decentral.wire.meeting import SERVICE as MEETING
from decentral.wire.messages import PROTOCOL_VERSION
from decentral.wire.rpc import EXCHANGE, METHODS, PEER
from decentral.wire.v1 import authority_pb2, exchange_pb2, meeting_pb2, messages_pb2, peer_pb2


def test_the_generated_code_is_what_the_schema_generates(root: Path, tmp_path: Path) -> None:
    sources = sorted((root / "protos").rglob("*.proto"))
    bundled = Path(sys.modules["grpc_tools"].__path__[0]) / "_proto"
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{root / 'protos'}", f"-I{bundled}", *outputs, *map(str, sources)]) == 0
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "decentral/wire/v1").iterdir()}
    kept = {path.name: path.read_bytes() for path in (root / "decentral/wire/v1").glob("*_pb2*.py*")}
    assert fresh == kept, "run `make protos`"


def test_every_field_value_and_call_is_commented(root: Path) -> None:
    declaration = re.compile(r"^\s+(?:(?:repeated )?[\w.]+ \w+ = \d+;|[A-Z_0-9]+ = \d+;|rpc )")
    for source in (root / "protos").rglob("*.proto"):
        lines = source.read_text().splitlines()
        for above, line in zip(["", *lines], lines, strict=False):
            if declaration.match(line):
                assert "//" in line or above.strip().startswith("//"), f"{source.name}: {line.strip()}"


def test_refusals_have_the_numbers_of_the_schema() -> None:
    schema = {value.name.removeprefix("REFUSAL_"): value.number for value in messages_pb2.Refusal.DESCRIPTOR.values}
    assert schema == {refusal.name: refusal.value for refusal in Refusal}


@pytest.mark.parametrize(
    ("file", "service", "methods"),
    [
        (peer_pb2, PEER, set(METHODS.values())),
        (exchange_pb2, EXCHANGE, {"Push"}),
        (authority_pb2, AUTHORITY, {path.rpartition("/")[2] for path in (ANNOUNCE, ENROL, INVITE)}),
        (meeting_pb2, MEETING, {JOIN.rpartition("/")[2]}),
    ],
    ids=["peer", "exchange", "authority", "meeting"],
)
def test_what_is_served_is_what_the_schema_declares(file: object, service: str, methods: set[str]) -> None:
    (declared,) = file.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
    assert declared.full_name == service
    assert {method.name for method in declared.methods} == methods


def test_the_protocol_version_is_that_of_the_package() -> None:
    assert messages_pb2.DESCRIPTOR.package == f"decentral.wire.v{PROTOCOL_VERSION}"
