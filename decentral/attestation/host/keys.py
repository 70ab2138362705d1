"""Keys of a process, which the quoting process derives from what it has measured of it: nobody gets another's."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from decentral import canonical
from decentral.attestation.attester import Unattested
from decentral.attestation.host.quoting import ADDRESS, DEADLINE, MOST_BYTES, answered, read_reply
from decentral.attestation.sealing import KEY_BYTES, GivenKeys, KeyPolicy


def quoted_keys(folder: Path) -> GivenKeys:
    """Of this process, from the simulated machine of a cluster. Blocking. Raises Unattested."""

    def given(policy: KeyPolicy, version: int) -> bytes:
        reply = _asked(folder, {"key": policy.value, "version": version})
        return read_reply(lambda: canonical.data(reply["key"], KEY_BYTES))

    reply = _asked(folder, {"sealing": True})
    tag = read_reply(lambda: canonical.data(reply["machine"], KEY_BYTES))
    keys = read_reply(lambda: GivenKeys(int(reply["version"]), bool(reply["signed"]), tag, given))
    for policy in (KeyPolicy.SIGNER,) if keys.signed else (KeyPolicy.MEASUREMENT,):
        for version in {0, keys.version}:  # what sealing needs: from then on the quoting process may be gone
            keys.key(policy, version, bytes(KEY_BYTES))
    return keys


def _asked(folder: Path, request: dict[str, object]) -> Any:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE)
            connection.connect((folder / ADDRESS).read_text())
            connection.sendall(canonical.encode(request) + b"\n")
            with connection.makefile("rb") as replies:
                line = replies.readline(MOST_BYTES)
    except OSError as error:
        raise Unattested(f"the quoting process does not answer ({error})") from error
    if not line.endswith(b"\n"):
        raise Unattested("the quoting process does not answer (it ended)")
    return answered(line)
