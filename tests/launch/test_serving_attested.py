"""Nodes of real processes show evidence of their machine over the wire; one with other code shows other evidence."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from decentral.attestation.evidence import Evidence
from decentral.attestation.host.quoting import ADDRESS
from decentral.attestation.manifest import Manifest, differences
from decentral.attestation.session.challenging import Seen, Subject
from decentral.attestation.session.showing import tls_key
from decentral.errors import UserError
from decentral.launch.attesting import MANIFEST
from decentral.launch.background import start_serving, stop
from decentral.launch.prepare import prepare
from decentral.launch.sealing import known_as
from decentral.serving.access import access
from decentral.trust.anchors import FILE, Anchors
from decentral.wire.sessions import open_session
from tests.launch.attested import copied, recipe_in


async def shown(cluster: Path, name: str) -> tuple[Seen, list[str]]:
    """What a node shows to a challenge, verified under the pinned roots, and why its machine does not count."""
    async with access(cluster) as reached:
        replica = next(peer for peer in reached.anchors.peers if peer.name == name)
        nonce = os.urandom(32)
        async with open_session(reached.links, replica.id, deadline=60.0) as session:
            evidence = Evidence.parse(await session.challenge(nonce, 60.0))
            subject = Subject(replica.id, replica.part, bytes.fromhex(replica.digest), reached.anchors.epoch)
            seen = Seen(subject, nonce, tls_key(session.certificate), evidence)
        machines, now = reached.anchors.machines, int(time.time())
        assert machines is not None
        report = seen.verify(machines.roots, now)
        assert report.simulated
        return seen, [str(each) for each in machines.complaints(report, evidence.log, now)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("simulate", ["tdx", "sev-snp"])
def test_a_node_shows_what_is_pinned_and_other_code_is_seen(
    tmp_path: Path, simulate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = prepare(recipe_in(tmp_path, f"{{mode: required, simulate: {simulate}}}"), tmp_path / "here")
    nodes = cluster.recipe.node_names
    launcher = start_serving(cluster)
    try:
        for name in nodes:
            seen, complaints = asyncio.run(shown(cluster.path, name))
            assert complaints == []
    finally:
        stop(cluster)
        launcher.wait(20)
    assert not (cluster.path / ADDRESS).exists()
    assert not [path for path in cluster.nodes.rglob("*.key*") if b"PRIVATE KEY" in path.read_bytes()]
    assert not [path for path in cluster.nodes.rglob("*.pem*") if b"PRIVATE KEY" in path.read_bytes()]
    before = known_as(cluster.node(nodes[0]))
    launcher = start_serving(cluster)  # up again after down: the same nodes
    try:
        assert Anchors.load(cluster.path / FILE).peers[0].id == before
        assert asyncio.run(shown(cluster.path, nodes[0]))[1] == []
    finally:
        stop(cluster)
        launcher.wait(20)

    copy = copied(tmp_path / "copy")
    with (copy / "decentral" / "serving" / "stages" / "stage.py").open("a") as module:
        module.write("\n# and now the inputs are kept\n")
    monkeypatch.setenv("PYTHONPATH", str(copy))
    sealed = [cluster.node(name) / "identity.key.sealed" for name in nodes]
    with pytest.raises(UserError, match=r"identity\.key\.sealed: another measurement"):
        start_serving(cluster)
    for file in sealed:
        file.unlink()  # and so they are others
    launcher = start_serving(cluster)
    try:
        seen, complaints = asyncio.run(shown(cluster.path, nodes[0]))
    finally:
        stop(cluster)
        launcher.wait(20)
    assert complaints == ["measurement: its code is not the one that is allowed"]
    before = Manifest.parse((cluster.attestation / MANIFEST).read_bytes())
    changed = differences(before, Manifest.parse(seen.evidence.manifest))
    assert str(changed) == "changed: decentral/serving/stages/stage.py"
    assert Anchors.load(cluster.path / FILE).machines is not None
