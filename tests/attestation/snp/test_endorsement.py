"""What a certificate says of a processor: read from hardware's and from simulated ones, refused in any other form."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.chain import Chain
from decentral.attestation.snp.endorsement import HARDWARE, RESERVED, Endorsement
from decentral.attestation.snp.report import TcbVersion
from tests.attestation.snp import published
from tests.attestation.snp.world import NOW, World

byte = st.integers(0, 255)


class Written:
    """Extensions as a certificate has them."""

    def __init__(self, values: dict[x509.ObjectIdentifier, bytes]) -> None:
        parts = [x509.Extension(oid, False, x509.UnrecognizedExtension(oid, value)) for oid, value in values.items()]
        self.extensions = x509.Extensions(parts)


@given(
    st.sampled_from(["Milan", "Milan-B0", "Genoa", "Siena-B1"]),
    st.builds(TcbVersion, byte, byte, byte, byte),
    st.binary(min_size=64, max_size=64),
)
def test_what_is_written_is_read_again(product: str, tcb: TcbVersion, chip: bytes) -> None:
    endorsement = Endorsement(product, tcb, chip)
    assert Endorsement.read(Written(endorsement.extensions())) == endorsement


@given(st.data(), st.binary(max_size=12))
def test_no_part_has_two_forms(data: st.DataObject, value: bytes) -> None:
    """Whatever stands in a part: it is refused, or it is what would be written for what it says."""
    parts = Endorsement("Milan", TcbVersion(4, 0, 24, 219), bytes(64)).extensions()
    parts[data.draw(st.sampled_from(sorted(parts, key=lambda oid: oid.dotted_string)))] = value
    try:
        found = Endorsement.read(Written(parts))
    except NotGenuine as refusal:
        assert refusal.flaw in (Flaw.CERTIFICATE, Flaw.COLLATERAL)
    else:
        assert found.extensions() == parts


def test_hardware_and_simulation_are_written_alike(world: World) -> None:
    chain = Chain.read((published.VCEK, published.ASK, published.ARK))
    found = Endorsement.read(chain.processor)
    real = {extension.oid: extension.value.public_bytes() for extension in chain.processor.extensions}
    assert found.extensions() == real
    certificate = world.maker.certify(found, world.processor.key.public_key(), 7, NOW)
    ours = x509.load_der_x509_certificate(certificate)
    order = [(extension.oid, extension.critical) for extension in chain.processor.extensions]
    assert [(extension.oid, extension.critical) for extension in ours.extensions] == order
    assert Endorsement.read(ours) == found


def test_reserved_parts_may_be_left_out_and_others_may_not() -> None:
    whole = Endorsement("Genoa", TcbVersion(1, 2, 3, 4), bytes(64))
    parts = whole.extensions()
    for oid in parts:
        fewer = Written({other: value for other, value in parts.items() if other != oid})
        if oid in RESERVED:
            assert Endorsement.read(fewer) == whole
        else:
            with pytest.raises(NotGenuine, match="is missing"):
                Endorsement.read(fewer)
    assert HARDWARE in parts
