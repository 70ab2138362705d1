"""What an answer needs before it is accepted: the one place that decides, and in doubt it says no.

    replicas = 3         # of every part, drawn from the client's nonce
    quorum = 2           # of them have to agree ...
    faulty = 1           # ... so that so many may lie
    tolerance = 1e-4     # how far answers may be apart, see `decentral.core.agreement.distance`
    require = ["consensus", "zk", "attestation"]
    audits = "always"    # or the probability with which a part is computed by the others too
    proofs = "always"    # or the probability with which an answer has to be proved ...
    proof_parts = "all"  # in all its parts, or its last one alone ("head"), where consensus speaks for the others
    allow_simulated = false
    leakage = 0.5        # what the tensors that leave the client may tell of its inputs, at most

Verifiers measure; nothing that they did not measure counts for the answer.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from decentral.core.lots import chosen
from decentral.core.quorum import Sizes
from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.registry import nearest
from decentral.trust.evidence import Finding, Kind

FILE = "policy.toml"
"""Of what the clients of a cluster ask for if they say nothing else, beside its trust file."""
ALWAYS = "always"
ALL, HEAD = PROOF_PARTS = ("all", "head")
REQUIRABLE = {kind.value: kind for kind in (Kind.CONSENSUS, Kind.ZK, Kind.ATTESTATION)}
NEEDED = (Kind.MODEL, Kind.LINK, Kind.FRESH)
"""Of every part, whatever a policy says."""

Refuse = Callable[[str, tuple[str, ...]], Exception]
"""Makes an error of a problem and the key where it is, `Document.error` of a YAML file for one."""


@dataclass(frozen=True, slots=True)
class Policy:
    """See above. `leakage`: None, nobody asks."""

    replicas: int = 3
    quorum: int = 2
    faulty: int = 1
    tolerance: float = 1e-4
    require: frozenset[Kind] = frozenset({Kind.CONSENSUS})
    audits: float = 1.0
    proofs: float = 1.0
    proof_parts: str = ALL
    allow_simulated: bool = False
    leakage: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], refuse: Refuse) -> Policy:
        """From plain values, as a file or flags have them. Raises what `refuse` makes."""
        given: dict[str, Any] = {}
        known = [each.name for each in fields(cls)]
        for key, value in values.items():
            if key not in known:
                raise refuse(f"unknown key; {nearest(str(key), known)}", (str(key),))
            try:
                given[key] = _READ[key](value)
            except ValueError as error:
                raise refuse(str(error), (key,)) from None
        policy = cls(**given)
        if (problem := policy._unspoken()) is not None:
            raise refuse(problem, ("proof_parts",))
        if not 0 <= policy.faulty < policy.quorum:
            raise refuse(
                f"a quorum of {policy.quorum} may be {policy.faulty} faulty replicas alone: it has to be more",
                ("quorum" if "quorum" in given else "faulty",),
            )
        if policy.quorum > policy.replicas - policy.faulty:
            honest = policy.replicas - policy.faulty
            raise refuse(
                f"{policy.replicas} replicas, {policy.faulty} of them faulty, leave {honest} for a quorum of "
                f"{policy.quorum}",
                ("replicas" if "replicas" in given else "quorum" if "quorum" in given else "faulty",),
            )
        return policy

    @classmethod
    def load(cls, file: Path) -> Policy:
        """From a TOML file. Raises UserError that names the file, the line and the key."""
        try:
            text = file.read_text()
            values = tomllib.loads(text)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
        except ValueError as error:  # also what is no UTF-8
            raise UserError(f"{file}: is no policy in TOML ({error})") from error

        def refuse(problem: str, key: tuple[str, ...]) -> UserError:
            written = re.search(rf"""^[ \t]*\[*["']?{re.escape(key[0])}\b""", text, re.MULTILINE)
            line = f":{text[: written.start()].count(chr(10)) + 1}" if written else ""
            return UserError(f"{file}{line}: {key[0]}: {problem}")

        return cls.of(values, refuse)

    def save(self, file: Path) -> None:
        """As TOML, which knows no null: what is None is left out."""
        values = {key: value for key, value in self.plain().items() if value is not None}
        lines = [
            "# What an answer needs if its client says nothing else.",
            *(f"{k} = {json.dumps(v)}" for k, v in values.items()),
        ]
        write_atomic(file, ("\n".join(lines) + "\n").encode())

    def requiring(self, names: str) -> Policy:
        """With these requirements instead, between commas as `--require` has them. Raises UserError."""
        try:
            wanted = replace(self, require=_required([name.strip() for name in names.split(",") if name.strip()]))
        except ValueError as error:
            raise UserError(f"require: {error}") from None
        if (problem := wanted._unspoken()) is not None:
            raise UserError(f"proof_parts: {problem}")
        return wanted

    def plain(self) -> dict[str, Any]:
        """What `of` reads, every key with its value."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "require": sorted(kind.value for kind in self.require)}

    @property
    def proved(self) -> bool:
        """Whether answers are those of circuits: whole numbers, which all who are honest come to alike."""
        return Kind.ZK in self.require

    @property
    def attested(self) -> bool:
        """Whether only those are asked whose machines count."""
        return Kind.ATTESTATION in self.require

    def proves(self, seed: bytes) -> bool:
        """Whether the answer to the task with this seed has to be proved: nobody else knows before it is there."""
        return Kind.ZK in self.require and chosen(seed, "proof", self.proofs)

    def to_prove(self, seed: bytes, parts: Sequence[str]) -> tuple[str, ...]:
        """Those of an answer's parts that have to be proved: none, all, or the head."""
        if not self.proves(seed):
            return ()
        return tuple(parts[-1:] if self.proof_parts == HEAD else parts)

    def _unspoken(self) -> str | None:
        """Why nothing would speak for some of the parts."""
        if self.proof_parts == HEAD and self.proved and Kind.CONSENSUS not in self.require:
            return "with head alone consensus speaks for the other parts, and has to be required as well"
        return None

    def sizes(self, seed: bytes, part: str) -> Sizes:
        """How many replicas of a part answer in the task with this seed: all that are wanted, or the serving one alone.

        Nobody else knows before that one has committed.
        """
        audited = Kind.CONSENSUS in self.require and chosen(seed, f"audit/{part}", self.audits)
        return Sizes(self.replicas, self.faulty, self.quorum) if audited else Sizes(1, 0, 1)

    def check_possible(self, replicas: Mapping[str, int], offered: Collection[Kind]) -> None:
        """Raises UserError, before any work, if these many replicas of each part, which offer this, cannot meet it."""
        for part, count in replicas.items():
            if Kind.CONSENSUS in self.require and count < self.replicas:
                raise UserError(f"replicas: the policy wants {self.replicas} replicas of {part}; there are {count}")
        for kind in sorted(self.require - {Kind.CONSENSUS} - set(offered), key=lambda kind: kind.value):
            raise UserError(f"require: the policy wants {kind.value}, which this cluster does not offer")

    def judge(self, seed: bytes, parts: Sequence[str], findings: Collection[Finding]) -> Verdict:
        """Of an answer that these parts gave in turn. Valid if every part has all that is needed and nothing failed."""
        reasons = [f"{each.part}: {each.kind.value}: {each.detail}" for each in findings if not each.passed]
        if not parts:
            reasons.append("no part of a model has answered")
        if len(set(parts)) < len(parts):
            reasons.append("a part has answered twice")
        strays = sorted({each.part for each in findings} - set(parts))
        reasons += [f"{stray}: there are findings about a part that the answer does not have" for stray in strays]
        about = {each.part for each in findings}
        asked = [part for part in parts if part in about]
        to_prove = self.to_prove(seed, parts)
        if asked and (rest := [part for part in parts if part not in about]):
            failed = [each.part for each in findings if not each.passed]
            why = f": {failed[-1]} failed" if failed else ""
            reasons.append(f"{', '.join(rest)}: {'was' if len(rest) == 1 else 'were'} not asked{why}")
        for part in asked or parts:
            needed = [*NEEDED, *(kind for kind in REQUIRABLE.values() if kind in self.require and kind is not Kind.ZK)]
            needed += [Kind.ZK] if part in to_prove else []
            needed += [Kind.LEAKAGE] if self.leakage is not None else []
            for kind in needed:
                passed = [each for each in findings if (each.kind, each.part) == (kind, part) and each.passed]
                reason = self._lacking(kind, passed, self.sizes(seed, part).quorum)
                told = not passed and any((each.kind, each.part) == (kind, part) for each in findings)
                if reason is not None and not told:
                    reasons.append(f"{part}: {kind.value}: {reason}")
        return Verdict(not reasons, tuple(dict.fromkeys(reasons)), tuple(findings))

    def _lacking(self, kind: Kind, found: Sequence[Finding], quorum: int) -> str | None:
        """Why findings that passed are not enough."""
        if not found:
            return "there is no evidence that passed"
        if not self.allow_simulated and any(each.simulated for each in found):
            return "is simulated, which the policy does not allow"
        measured = [each.measured for each in found]
        if kind is Kind.CONSENSUS and not all(m is not None and m >= quorum for m in measured):
            return f"fewer than {quorum} agree"
        if kind is Kind.LEAKAGE and not all(m is not None and m <= self._most() for m in measured):
            return f"more than {self._most()} leaks"
        return None

    def _most(self) -> float:
        return math.inf if self.leakage is None else self.leakage


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons`: every one for which the answer is not valid; `findings`: what was measured, passed or not."""

    valid: bool
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...] = field(default=(), compare=False)


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 1000:
        raise ValueError(f"must be a whole number from 0 to 1000, not {value!r}")
    return value


def _number(value: object, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
        raise ValueError(f"must be a number from 0 to {highest:g}, not {value!r}")
    return float(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _one_of(value: object, words: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"must be {' or '.join(words)}, not {value!r}")
    return value


def _required(value: object) -> frozenset[Kind]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"must be a list of {', '.join(REQUIRABLE)}, not {value!r}")
    for name in value:
        if name not in REQUIRABLE:
            raise ValueError(f"unknown requirement {name!r}; {nearest(str(name), REQUIRABLE)}")
    return frozenset(REQUIRABLE[name] for name in value)


_READ: dict[str, Callable[[Any], object]] = {
    "replicas": _whole,
    "quorum": _whole,
    "faulty": _whole,
    "tolerance": lambda value: _number(value, 1.0),
    "require": _required,
    "audits": lambda value: 1.0 if value == ALWAYS else _number(value, 1.0),
    "proofs": lambda value: 1.0 if value == ALWAYS else _number(value, 1.0),
    "proof_parts": lambda value: _one_of(value, PROOF_PARTS),
    "allow_simulated": _truth,
    "leakage": lambda value: None if value is None else _number(value, 1.0),
}
