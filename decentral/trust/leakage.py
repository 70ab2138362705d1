"""What was measured of the tensors that each part is sent, `leakage.json` beside a cluster's trust file, and the check.

The number that a policy bounds is the larger of two. The distance correlation with the inputs (see
`decentral.core.leakage`) needs no attacker, and sees neither rotation nor scale, which whoever receives the tensors can
undo; but a network that was trained to lower it (NoPeek) lowers it faster than what can be made again. So the other one
is what a trained inverter did make again, as a share. Neither proves secrecy: a better attacker finds more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral import canonical
from decentral.errors import Malformed, Refusal, UserError
from decentral.files import write_atomic
from decentral.trust.anchors import Part
from decentral.trust.evidence import Finding, Kind
from decentral.trust.policy import Policy

if TYPE_CHECKING:
    from decentral.trust.examination import Case

FILE = "leakage.json"
VERSION = 1
MOST = 1000.0
"""Decibels; images of 8 bits that differ in one bit of one pixel are far below."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one part is sent tells of the images, whoever computes that part.

    `correlation`: in [0, 1]. `psnr` (decibels) and `ssim`: of the images that a trained inverter made, on average;
    `floor_psnr`, `floor_ssim`: of one picture, the mean, for every image. `labels`: how often a trained probe guessed
    them.
    """

    part: str
    correlation: float
    psnr: float
    ssim: float
    floor_psnr: float
    floor_ssim: float
    labels: float

    @property
    def reconstructed(self) -> float:
        """The share of the squared error of the mean picture that the inverter undid (geometric means); 0 for none."""
        return max(0.0, 1 - 10 ** ((self.floor_psnr - self.psnr) / 10))

    @property
    def leakage(self) -> float:
        """What policies bound, in [0, 1]."""
        return max(self.correlation, self.reconstructed)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The parts in their order, with the digests that they had, and how it was measured.

    `noise`: the client's budget as text, added to what the first part after its own is sent; empty: none. `accuracy`:
    of the answers about the victims' images, noise included; an attacker had `own` images and was tried on `others`.
    """

    exposures: tuple[Exposure, ...]
    digests: Mapping[str, str]
    noise: str
    accuracy: float
    own: int
    others: int
    seed: int

    def save(self, folder: Path) -> Path:
        """Writes the file into a cluster's folder; returns its path. Raises OSError."""
        content = {"version": VERSION, **asdict(self)}
        write_atomic(folder / FILE, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> Measurement | None:
        """None where nothing was measured. Raises UserError for a file that is none of ours."""
        file = folder / FILE
        try:
            content = json.loads(file.read_bytes())
            return _read(content)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{file}: is no measurement of leakage ({error}); `decentral leakage` makes one") from error

    def of(self, parts: Sequence[Part], noise: str) -> bool:
        """Whether this was measured of these very parts, in this order, with this noise."""
        return noise == self.noise and list(self.digests.items()) == [(part.name, part.digest) for part in parts]


def findings(measured: Measurement, parts: Sequence[Part]) -> list[Finding]:
    """Of every part: nothing leaks to one that the client computes. The caller has checked what was measured (`of`)."""
    known = {each.part: each for each in measured.exposures}
    found = []
    for part in parts:
        told = 0.0 if part.at == "client" else known[part.name].leakage
        found.append(Finding(Kind.LEAKAGE, part.name, True, f"leakage {told:.3f}", told))
    return found


def stated(measured: Measurement, part: str) -> bytes:
    """What a client says of one part, as evidence in a receipt. Raises KeyError for a part that was not measured."""
    told = next((each.leakage for each in measured.exposures if each.part == part), None)
    if told is None:
        raise KeyError(part)
    digests = [[name, digest] for name, digest in measured.digests.items()]
    return canonical.encode({"leakage": told, "digests": digests, "noise": measured.noise})


def verify_stated(evidence: bytes, case: Case) -> Finding:
    """That it was measured of the very parts that the verifier has pinned. The number is the client's word: it alone
    can have measured what leaks of its own inputs, and it is whom a leak harms. Raises Malformed.
    """
    plain = canonical.decode(evidence)
    try:
        told, noise, digests = plain["leakage"], plain["noise"], plain["digests"]
        if type(told) is not float or not 0 <= told <= 1 or not isinstance(noise, str) or len(plain) > 3:
            raise ValueError("no number from 0 to 1")
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed(Refusal.MALFORMED, f"is no measurement of leakage ({error})") from None
    part, pinned = case.question.part, [[each.name, each.digest] for each in case.anchors.parts]
    if digests != pinned:
        return Finding(Kind.LEAKAGE, part, False, "it was measured of other parts")
    return Finding(Kind.LEAKAGE, part, True, f"leakage {told:.3f}, as its client has measured", told)


def check_leakage(folder: Path, parts: Sequence[Part], policy: Policy, noise: str = "") -> Measurement | None:
    """What was measured of the cluster in `folder`, if it is what the policy wants; None: it does not ask.

    Raises UserError that names the part, where more leaks than the policy allows, and where nobody has measured these
    parts with this `noise` (the text of the client's budget).
    """
    if policy.leakage is None:
        return None
    measured = Measurement.load(folder)
    advice = f"run `decentral leakage {folder}` first"
    if measured is None:
        raise UserError(f"leakage: the policy allows {policy.leakage}, but nobody has measured these parts; {advice}")
    if not measured.of(parts, noise):
        raise UserError(f"leakage: what was measured in {folder / FILE} are other parts, or other noise; {advice}")
    for finding in findings(measured, parts):
        if finding.measured is not None and finding.measured > policy.leakage:
            raise UserError(
                f"leakage: what leaves the client for {finding.part} tells {finding.measured:.3f} of its inputs; the "
                f"policy allows {policy.leakage}. Let the client run more parts itself (local), or add noise: "
                "docs/privacy.md"
            )
    return measured


def _read(content: Any) -> Measurement:
    """Raises ValueError, TypeError, KeyError or AttributeError for what is not of this form."""
    if content.pop("version") != VERSION:
        raise ValueError("another version of the file")
    exposures = []
    for values in content.pop("exposures"):
        if set(values) != {each.name for each in fields(Exposure)}:
            raise ValueError("an exposure with other keys")
        numbers = {key: float(value) for key, value in values.items() if key != "part"}
        if not 0 <= numbers["correlation"] <= 1:
            raise ValueError(f"a correlation of {numbers['correlation']}")
        if not all(abs(number) <= MOST for number in numbers.values()):
            raise ValueError("a number that cannot be")
        exposures.append(Exposure(part=str(values["part"]), **numbers))
    digests = {str(name): str(digest) for name, digest in content.pop("digests").items()}
    if [each.part for each in exposures] != list(digests):
        raise ValueError("exposures of other parts than the digests")
    return Measurement(exposures=tuple(exposures), digests=digests, **content)
