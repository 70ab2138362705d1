"""Refusals as messages: why something was not taken, for a program and for a person."""

from __future__ import annotations

from decentral.errors import Refusal, Refused
from decentral.wire.v1 import messages_pb2 as pb

DETAIL_CHARACTERS = 200
"""Of a refusal's detail, at most."""
KNOWN = {reason.value for reason in Refusal}


def refused_out(refused: Refused) -> pb.Refused:
    return pb.Refused(reason=f"REFUSAL_{refused.reason.name}", detail=refused.detail[:DETAIL_CHARACTERS])


def refused_in(message: pb.Refused) -> Refused:
    """A reason of a later version of the protocol is read as unspecified."""
    reason = Refusal(message.reason) if message.reason in KNOWN else Refusal.UNSPECIFIED
    shown = (each if each.isprintable() else "?" for each in message.detail[:DETAIL_CHARACTERS])  # terminals read it
    return Refused(reason, "".join(shown))
