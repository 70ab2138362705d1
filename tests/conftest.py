"""What every test shares: shapes of `decentral.core` checked at run time, one torch thread, reproducible laws,
certificates without ceremony.

The import hook stands before any import of decentral, so that each jaxtyping annotation in `core` is enforced by
beartype while tests run; a deployment does not pay for it.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from jaxtyping import install_import_hook

install_import_hook("decentral.core", "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from decentral.wire.authority import Authority  # noqa: E402
from decentral.wire.certificate import Credentials, new_key, private_pem, request_certificate  # noqa: E402
from decentral.wire.identity import Identity  # noqa: E402

torch.set_num_threads(1)

hypothesis.settings.register_profile("here", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("here"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where real datasets lie, in the layouts torchvision reads; tests that need them skip where they are absent."""
    place = os.environ.get("DECENTRAL_DATA")
    if not place:
        pytest.skip("DECENTRAL_DATA is not set: this test needs datasets beyond the embedded digits")
    path = Path(place)
    if not path.is_dir():
        pytest.skip(f"DECENTRAL_DATA={place} is not a folder")
    return path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority") / "keys")


@pytest.fixture(scope="session")
def certify() -> Callable[..., Credentials]:
    """Credentials for an identity straight from an authority, without its server."""

    def issue(authority: Authority, identity: Identity, validity: timedelta = timedelta(days=1)) -> Credentials:
        key = new_key()
        certificate = authority.issue(request_certificate(identity, key, time.time() + 2 * 86400), validity)
        return Credentials(ssl.DER_cert_to_PEM_cert(certificate).encode(), private_pem(key), authority.pem)

    return issue


def children() -> set[int]:
    """Processes that this one has started and that have not ended; none where the kernel does not tell."""
    return {int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    """Ours are peers with open ports and models in memory."""
    before = children()
    yield
    left = children() - before
    assert not left, f"these processes outlived the test: {sorted(left)}"
