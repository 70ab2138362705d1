"""`decentral attest sign`: who answers for what is installed, so that the next version reads what this one seals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, RunArgument, note, say, say_json
from decentral.errors import UserError


def sign(
    directory: RunArgument,
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="The signer's private key (Ed25519, PEM); made there if there is none.")
    ],
    version: Annotated[
        int, typer.Option("--security-version", metavar="N", min=0, help="Higher for each upgrade; it never goes back.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Sign the image and the code that are installed here, as what DIR's nodes may seal their files to.

    From their next start on they seal to the signer. What the same one signs later under a higher version reads that;
    what he signed under a lower one does not read what the higher one wrote. Keep the key elsewhere.
    """
    from decentral.attestation.host.configfs import Configfs
    from decentral.attestation.host.measuring import CODE, Measurer
    from decentral.attestation.host.processes import startable
    from decentral.attestation.host.release import FILE, Release
    from decentral.run.directory import open_cluster
    from decentral.wire.identity import Identity

    cluster = open_cluster(directory)
    if not cluster.recipe.attestation.shown:
        raise UserError(f"{cluster.recipe_file}: attestation: none, so that its nodes seal nothing")
    measured, file = Measurer(cluster.path).measure(startable()), cluster.attestation / FILE
    (code,) = (event.digest for event in measured.events if event.name == CODE)
    try:
        signer = Identity.open(key)
        before, release = Release.load(file), Release.signed(signer, measured.image, code, version)
        if before is not None and before.signer == release.signer and before.version > version:
            raise UserError(f"{file}: --security-version {version}: {before.version} was signed already")
        release.save(file)
    except OSError as error:
        raise UserError(f"{error.filename or key}: cannot be written ({error.strerror or error})") from error
    if as_json:
        say_json({"release": str(file), "signer": release.signer.hex(), "security_version": version})
    else:
        say(f"{file}: version {version}, signed by {release.signer.hex()[:16]}...; from the next start of its nodes on")
    if Configfs().here:
        note("this machine has confidential hardware, with which nodes seal nothing: see docs/attestation.md")
