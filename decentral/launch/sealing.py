"""What attested nodes keep sealed: identity, TLS key and checkpoints, under keys of their machine.

The launcher makes a node's identity, because others have to know it before the node starts; the node seals it at its
first start and removes the plain file. From then on the launcher knows the public half alone.

A simulated machine has a secret to derive keys from. Of real ones TDX has none, and that of SEV-SNP is not asked for:
there files stay plain, and it is said.
"""

from __future__ import annotations

import logging
from pathlib import Path

from decentral.attestation.host.keys import quoted_keys
from decentral.attestation.vault import Closed, SealedVault
from decentral.errors import UserError
from decentral.files import Vault, write_atomic
from decentral.launch.attesting import simulates
from decentral.run.attesting import Attesting
from decentral.run.directory import AnyDirectory
from decentral.wire.certificate import TLS
from decentral.wire.identity import IDENTITY, PEER_ID, Identity
from decentral.wire.messages import PeerId

_LOG = logging.getLogger(__name__)
PUBLIC = "identity.pub"
"""The id that others know a node by, where its key is sealed."""
PLAIN = (
    "keys and checkpoints of nodes are not sealed: Intel TDX has no key for that, and AMD SEV-SNP is not asked for its "
    "own; encrypt this machine's disk"
)


def vault_for(directory: AnyDirectory, name: str) -> Vault | None:
    """Of a node that runs in this process; None where files stay as they are. Blocking. Raises Unattested."""
    attesting = directory.recipe.attestation
    if simulates(attesting):
        return SealedVault(quoted_keys(directory.path), name)
    if attesting.shown:
        _LOG.warning(PLAIN)
    return None


def closed_vault(attesting: Attesting) -> Vault | None:
    """The same for a launcher, which can tell whether files are there and whole."""
    return Closed() if simulates(attesting) else None


def identity_of(folder: Path, member: PeerId, vault: Vault | None) -> Identity:
    """A node's own, sealed from its first start on; `member`: whom others expect. Blocking. Raises UserError."""
    file = folder / IDENTITY
    sealed = Closed().place(file)
    if vault is None:
        if sealed.exists():
            raise UserError(f"{sealed}: is sealed, and this node seals nothing; start it as it was started before")
        return Identity.load(file)
    if sealed.exists():
        identity = Identity.load(file, vault)
    else:
        identity = Identity.load(file)
        Closed().place(folder / TLS).unlink(missing_ok=True)  # of whoever was here before
        write_atomic(folder / PUBLIC, identity.id.encode())  # before it is sealed: the launcher needs it then
        identity.save(file, vault)
    if identity.id != member:
        raise UserError(f"{sealed}: is the key of {identity.id}, and the cluster expects {member}")
    for plain in (file, folder / TLS):
        plain.unlink(missing_ok=True)
    return identity


def known_as(folder: Path) -> PeerId:
    """A node's id, for the launcher, which makes its identity where there is none yet. Blocking. Raises UserError."""
    file = folder / IDENTITY
    if not Closed().place(file).exists():
        return Identity.open(file).id
    try:
        found = (folder / PUBLIC).read_text()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / PUBLIC}: cannot be read ({error})") from error
    if not PEER_ID.match(found):
        raise UserError(f"{folder / PUBLIC}: is no peer's id; put back what was there")
    return PeerId(found)
