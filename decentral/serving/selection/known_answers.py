"""Questions whose answers a client knows: a newcomer is tested with them, and cannot tell them from any other.

They are past questions on whose answer a quorum agreed, or which the client has computed again. A peer that has been
asked one before would know it, so each peer gets each question once. Who was never asked it may still be told of it by
somebody who was: then it has to collude to pass a test, and passing gives no more than a stranger's weight in the lots.

They are inputs of this client's users: testing a peer shows it one of them. Whoever does not want that keeps none.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from decentral.serving.selection.ledger import Ledger
from decentral.trust.evidence import tensors_digest
from decentral.wire.messages import PeerId

MOST = 64
"""Questions of each part."""
MOST_BYTES = 4 << 20
"""Of a question together with its answer: larger ones are not kept."""

NEW_TO = """SELECT number FROM answers WHERE part = ? AND model = ? AND number NOT IN
    (SELECT answer FROM asked WHERE peer IN (SELECT value FROM json_each(?)))"""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A question to a part, and its answer, which is a reference up to the part's tolerance."""

    part: str
    model: bytes
    inputs: Tensors
    output: Tensors


class KnownAnswers:
    """Kept in a ledger; of every part at most `most`. All methods raise UserError where the ledger cannot be used."""

    def __init__(
        self, ledger: Ledger, most: int = MOST, most_bytes: int = MOST_BYTES, chance: random.Random | None = None
    ) -> None:
        """`chance`: what draws; by default, what nobody can foresee."""
        self._ledger, self._most, self._most_bytes = ledger, most, most_bytes
        self._chance = chance or random.SystemRandom()

    def keep(self, part: str, model: bytes, inputs: Tensors, output: Tensors, asked: Iterable[PeerId]) -> None:
        """A question to the part with this digest, the answer that counts, and who knows the question.

        If there are enough, one drawn at random makes room, so that old and new ones stay mixed. Questions to a model
        that this part no longer is are of no use, and go.
        """
        if self._most < 1 or sum(t.nbytes for t in (*inputs.values(), *output.values())) > self._most_bytes:
            return
        row = (part, model, tensors_digest(inputs), _written(inputs), tensors_digest(output), _written(output))
        with self._ledger.writing() as connection:
            connection.execute("DELETE FROM answers WHERE part = ? AND model != ?", (part, model))
            others = _numbers(connection, "SELECT number FROM answers WHERE part = ? AND digest != ?", (part, row[2]))
            self._chance.shuffle(others)
            spare = [(number,) for number in others[self._most - 1 :]]
            connection.executemany("DELETE FROM answers WHERE number = ?", spare)
            connection.execute(
                "INSERT OR IGNORE INTO answers (part, model, digest, inputs, output_digest, output)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
            (number,) = _numbers(connection, "SELECT number FROM answers WHERE part = ? AND digest = ?", (part, row[2]))
            _note(connection, number, asked)

    def known(self, part: str, model: bytes, peers: Iterable[PeerId]) -> Known | None:
        """A question, drawn at random, that none of these peers was ever asked, if there is one.

        From now on it counts as asked of them.
        """
        asking = sorted(set(peers))
        with self._ledger.writing() as connection:
            numbers = _numbers(connection, NEW_TO, (part, model, json.dumps(asking)))
            if not numbers:
                return None
            number = self._chance.choice(numbers)
            _note(connection, number, asking)
            digest, inputs, output_digest, output = connection.execute(
                "SELECT digest, inputs, output_digest, output FROM answers WHERE number = ?", (number,)
            ).fetchone()
            return Known(part, model, self._read(inputs, digest), self._read(output, output_digest))

    def _read(self, written: bytes, digest: bytes) -> Tensors:
        try:
            tensors = load(written)
        except (SafetensorError, ValueError, TypeError) as error:
            raise self._ledger.damaged(f"a known answer: {error}") from error
        if tensors_digest(tensors) != digest:
            raise self._ledger.damaged("a known answer that is not what was written")
        return tensors


def _numbers(connection: sqlite3.Connection, query: str, values: tuple[object, ...]) -> list[int]:
    return sorted(number for (number,) in connection.execute(query, values))


def _written(tensors: Tensors) -> bytes:
    """safetensors takes no two tensors that share memory."""
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    return bytes(save(plain))


def _note(connection: sqlite3.Connection, number: int, peers: Iterable[PeerId]) -> None:
    connection.executemany("INSERT OR IGNORE INTO asked VALUES (?, ?)", [(number, peer) for peer in peers])
