"""Whom a peer counts on: what a join, and the signed record in it, have to be before either changes anything.

The same for fixed partners (`presence`) and where anybody may be drawn (`crowd`). That a record's signature is its
peer's was found when it was decoded.
"""

from __future__ import annotations

from decentral.errors import Refusal
from decentral.wire.messages import PROTOCOL_VERSION, Join, MembershipRecord, MembershipStatus, PeerId


def unlike_ours(join: Join, recipe_hash: str, schema_hash: str) -> Refusal | None:
    """Why who joins cannot train with us: another protocol, recipe or model, or a record that says goodbye."""
    if join.protocol_version != PROTOCOL_VERSION:
        return Refusal.PROTOCOL_VERSION
    if join.recipe_hash != recipe_hash:
        return Refusal.RECIPE
    if join.schema_hash != schema_hash:
        return Refusal.SCHEMA
    return None if join.record.status is MembershipStatus.JOIN else Refusal.MALFORMED


def unfit(record: MembershipRecord, sender: PeerId, known: MembershipRecord | None) -> Refusal | None:
    """Why a record is not taken: it is not the sender's own, or older than, and other than, the one that is `known`."""
    if record.peer != sender:
        return Refusal.SIGNATURE
    outdated = known is not None and known != record and record.counter <= known.counter
    return Refusal.STALE if outdated else None
