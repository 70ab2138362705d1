"""The kernel's interface to confidential machines, on a folder that behaves like it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from decentral.attestation.attester import RUNTIME, Unattested
from decentral.attestation.host.configfs import REGISTERS, REPORTS, Configfs, HardwareAttester
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.registers import REGISTER_BYTES, ZERO, Event, EventLog, extend
from decentral.attestation.report import Technology
from decentral.attestation.snp.collateral import Collateral
from decentral.attestation.snp.table import to_table
from tests.attestation.world import IMAGE, LOG, NOW, TDX

DATA = bytes(range(64))
EVENTS = (Event.of(RUNTIME, "code", b"files"), Event.of(RUNTIME, "recipe", b"yaml"))


class Kernel:
    """Files that answer as those of configfs and sysfs do, in place of the ones that pathlib would find."""

    def __init__(self, system: Path, monkeypatch: pytest.MonkeyPatch, provider: str = "tdx_guest\n") -> None:
        self.reports, self.registers = system / REPORTS, system / REGISTERS
        self.reports.mkdir(parents=True)
        self.provider, self.busy, self.generation = provider, 0, 0
        self.register: bytes | None = ZERO
        self.along = b"certificates"
        self.interfering: Callable[[], None] = lambda: None
        self.quote: Callable[[bytes], bytes] = lambda signed: b"quote" + signed
        self.entry = self.reports / f"decentral-{os.getpid()}"
        self._inblob = b""
        write, read, text = Path.write_bytes, Path.read_bytes, Path.read_text
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: self.write(path, data, write))
        monkeypatch.setattr(Path, "read_bytes", lambda path: self.read(path, read))
        monkeypatch.setattr(Path, "read_text", lambda path, *_: self.read(path, text))
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda path, **_: self.exists(path, exists))

    def exists(self, path: Path, otherwise: Callable[[Path], bool]) -> bool:
        if path.parent == self.entry:
            return path.name != "auxblob" or "sev" in self.provider
        return self.register is not None if path.parent == self.registers else otherwise(path)

    def write(self, path: Path, data: bytes, otherwise: Callable[[Path, bytes], int]) -> int:
        if path.parent == self.entry and path.name == "inblob":
            assert self.entry.is_dir()
            self._inblob = data
            self.generation += 1
        elif path.parent == self.registers:
            assert self.register is not None
            assert path.name == "rtmr3:sha384"
            assert len(data) == REGISTER_BYTES
            self.register = extend(self.register, data)
            self.interfering()
        else:
            return otherwise(path, data)
        return len(data)

    def read(self, path: Path, otherwise: Callable[[Path], object]) -> object:
        if path.parent == self.registers:
            return self.register
        if path.parent != self.entry:
            return otherwise(path)
        if path.name == "outblob" and self.busy:
            self.busy -= 1
            self.generation += 1
        return {
            "generation": str(self.generation),
            "outblob": self.quote(self._inblob),
            "provider": self.provider,
            "auxblob": self.along,
        }[path.name]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


def test_a_machine_without_the_interface_says_so(tmp_path: Path) -> None:
    assert not Configfs(tmp_path).here
    with pytest.raises(Unattested, match="makes no report"):
        Configfs(tmp_path).report(DATA)
    assert Configfs(tmp_path).extend(EVENTS) == EventLog()


async def test_a_quote_is_of_what_was_given_to_sign(tmp_path: Path, kernel: Kernel) -> None:
    configfs = Configfs(tmp_path)
    assert configfs.here
    assert configfs.report(DATA) == (Technology.TDX, b"quote" + DATA, b"")
    quoted = await HardwareAttester(configfs, EventLog(EVENTS), collateral=lambda: b"tcb", manifest=b"files").quote(
        DATA
    )
    assert (quoted.quote, quoted.log, quoted.collateral, quoted.manifest) == (
        b"quote" + DATA,
        EventLog(EVENTS),
        b"tcb",
        b"files",
    )


async def test_a_report_of_sev_snp_brings_its_certificates(tmp_path: Path, kernel: Kernel, sev_snp: Simulation) -> None:
    kernel.provider = "sev_guest\n"
    attester = HardwareAttester(Configfs(tmp_path), EventLog())
    quoted = await attester.quote(DATA)
    assert (quoted.technology, quoted.collateral) == (Technology.SNP, b""), "which are no table"
    collateral = sev_snp.collateral(NOW)
    kernel.along = to_table(Collateral.parse(collateral))
    assert (await attester.quote(DATA)).collateral == collateral
    assert await attester.log() == EventLog()


async def test_collateral_that_is_renewed_is_shown_from_then_on(tmp_path: Path, kernel: Kernel) -> None:
    words = iter([b"of June", b"of July", b""])
    attester = HardwareAttester(Configfs(tmp_path), EventLog(), collateral=lambda: next(words))
    assert [(await attester.quote(DATA)).collateral for _ in range(3)] == [b"of June", b"of July", b""]


def test_a_report_that_somebody_else_may_have_ordered_is_made_again(tmp_path: Path, kernel: Kernel) -> None:
    kernel.busy = 2
    assert Configfs(tmp_path).report(DATA)[1] == b"quote" + DATA
    kernel.busy = 100
    with pytest.raises(Unattested, match="others write there"):
        Configfs(tmp_path).report(DATA)


def test_reports_of_others_are_not_taken_for_one_of_ours(tmp_path: Path, kernel: Kernel) -> None:
    kernel.provider = "arm_cca_guest"
    with pytest.raises(Unattested, match="arm_cca_guest"):
        Configfs(tmp_path).report(DATA)
    with pytest.raises(ValueError, match="64 bytes"):
        Configfs(tmp_path).report(DATA[:-1])


def test_what_a_node_runs_is_extended_into_its_register_and_the_log_replays_to_it(
    tmp_path: Path, kernel: Kernel
) -> None:
    log = Configfs(tmp_path).extend(EVENTS)
    assert log.replay()[RUNTIME] == kernel.register
    assert log.events == EVENTS
    later = Event.of(RUNTIME, "code", b"other files")
    assert Configfs(tmp_path).extend([later], log).replay()[RUNTIME] == kernel.register
    with pytest.raises(Unattested, match="events are not known"):
        Configfs(tmp_path).extend([later], log)


def test_a_register_that_was_extended_before_or_meanwhile_is_nobodys(tmp_path: Path, kernel: Kernel) -> None:
    kernel.register = hashlib.sha384(b"somebody").digest()
    with pytest.raises(Unattested, match="events are not known"):
        Configfs(tmp_path).extend(EVENTS)
    kernel.register = ZERO

    def interfere() -> None:
        kernel.register = hashlib.sha384(b"somebody").digest()

    kernel.interfering = interfere
    with pytest.raises(Unattested, match="somebody else"):
        Configfs(tmp_path).extend(EVENTS)


def test_without_a_register_the_image_alone_is_measured(tmp_path: Path, kernel: Kernel) -> None:
    kernel.register = None
    assert Configfs(tmp_path).extend(EVENTS) == EventLog()


def test_a_quote_of_tdx_ends_where_it_says_and_the_buffer_of_the_kernel_is_longer(
    tmp_path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    quote = TDX.quote(DATA, IMAGE, LOG)
    kernel.quote = lambda signed: quote + bytes(300)
    assert Configfs(tmp_path).report(DATA) == (Technology.TDX, quote, b"")
    kernel.provider = "sev_guest\n"
    assert Configfs(tmp_path).report(DATA)[1] == quote + bytes(300), "of others nothing is taken away"


def test_the_kernel_tells_whose_reports_it_makes_and_what_its_register_is(tmp_path: Path, kernel: Kernel) -> None:
    kernel.provider = "sev_guest\n"
    (kernel.reports / f"decentral-provider-{os.getpid()}").mkdir()
    kernel.entry = kernel.reports / f"decentral-provider-{os.getpid()}"
    assert Configfs(tmp_path).provider() == "sev_guest"
    assert not kernel.entry.exists(), "it is left as it was"
    assert Configfs(tmp_path).register() == ZERO
    kernel.register = None
    assert Configfs(tmp_path).register() is None


def test_without_the_interface_nobody_tells_whose_reports_there_are(tmp_path: Path) -> None:
    with pytest.raises(Unattested, match="does not tell"):
        Configfs(tmp_path).provider()
    assert Configfs(tmp_path).register() is None


@pytest.mark.parametrize(("number", "here"), [(errno.ENXIO, False), (errno.EACCES, True)])
def test_an_interface_without_a_guest_is_none_and_one_that_this_user_may_not_use_is(
    tmp_path: Path, kernel: Kernel, number: int, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module that has the interface may be loaded on any machine; it makes no entries there."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert Configfs(tmp_path).here is here
