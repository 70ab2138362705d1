"""Nodes of other machines as a source: what each says at its own address, as it comes.

An address is the endpoint that `--metrics` opens: `/about` says of which recipe it is, `/events` has a journal from its
beginning. A node is believed about itself alone; a launcher, which has the journals of all, about everybody.
"""

from __future__ import annotations

import http.client
import json
import queue
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from decentral.dashboard.source import About, about_serving, about_training
from decentral.errors import UserError
from decentral.run.experiment import validated
from decentral.run.journal import Event
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.run.source import Document

ASKING = 10.0
"""Seconds for an answer."""
QUIET = 60.0
"""Seconds without a word after which a connection is gone."""
AGAIN = 1.0
"""Seconds until a node that does not answer is asked again."""
MOST_ABOUT = 4 << 20
LONGEST = 1 << 20
"""Bytes of a line."""
MOST_WAITING = 20_000
"""Events of a node that wait to be shown; beyond that it is not listened to."""
AT_ONCE = 10_000
FORM = re.compile(r"(?:http://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})/?")


def is_address(said: str) -> bool:
    """Whether it is meant as the address of a node: HOST:PORT."""
    return FORM.fullmatch(said) is not None


class AddressSource:
    """Of one cluster; all addresses have to be of the same recipe. Raises UserError otherwise, and for silent ones."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._nodes = [_Node(said) for said in addresses]
        self._about = self._agreed()
        for node in self._nodes:
            node.start()

    def _agreed(self) -> About:
        said = [node.ask() for node in self._nodes]
        for node, each in zip(self._nodes, said, strict=True):
            if each["hash"] != said[0]["hash"]:
                raise UserError(f"{node.said}: is of another recipe than {self._nodes[0].said}")
        first, where = said[0], ", ".join(node.said for node in self._nodes)
        document = Document(where, first["recipe"])
        if first["does"] == "serving":
            serving = validated(document, ServingRecipe)
            self._check(serving.hash, first)
            return about_serving(serving, first["world"], where)
        training = validated(document, Recipe)
        self._check(training.hash, first)
        return about_training(training, first["world"], where)

    def _check(self, found: str, about: Mapping[str, Any]) -> None:
        if found != about["hash"]:
            raise UserError(f"{self._nodes[0].said}: says of its recipe another hash than it has")

    def about(self) -> About:
        return self._about

    def poll(self) -> Sequence[Event]:
        """In the order in which they came."""
        found: list[Event] = []
        for node in self._nodes:
            found += node.take(AT_ONCE // len(self._nodes) + 1)
        return found

    def facts(self) -> Mapping[str, Any]:
        lost = [f"{node.said}: {node.problem}" for node in self._nodes if node.problem]
        return {"running": len(lost) < len(self._nodes), "pictures": [], "problem/addresses": "; ".join(lost)}

    def picture(self, name: str) -> bytes | None:
        return None

    def close(self) -> None:
        for node in self._nodes:
            node.stop()


class _Node:
    """One address, listened to on a thread of its own."""

    def __init__(self, said: str) -> None:
        match = FORM.fullmatch(said)
        if match is None or not 0 < int(match[2]) < 65536:
            raise UserError(f"{said}: is no address; it must be HOST:PORT, as --metrics has opened it")
        self.said, self._host, self._port = said, match[1].strip("[]"), int(match[2])
        self.problem = ""
        self._index: int | None = None
        self._waiting: queue.Queue[Any] = queue.Queue(MOST_WAITING)
        self._stopped = threading.Event()
        self._last = "0"

    def ask(self) -> Mapping[str, Any]:
        """What it says of itself. Raises UserError."""
        try:
            with self._answer("/about", ASKING) as answer:
                about = json.loads(answer.read(MOST_ABOUT))
            node = about["node"]
            sound = all(isinstance(about[key], str) for key in ("hash", "does", "world"))
            if not sound or not isinstance(about["recipe"], dict) or not (node is None or type(node) is int):
                raise ValueError("a field is of another kind")
        except OSError as error:
            raise UserError(f"{self.said}: does not answer ({error})") from error
        except (http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{self.said}: is not the endpoint of a node ({error})") from error
        self._index = node
        found: Mapping[str, Any] = about
        return found

    def start(self) -> None:
        threading.Thread(target=self._listen, name=f"listens to {self.said}", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def take(self, most: int) -> Iterator[Any]:
        for _ in range(most):
            try:
                yield self._waiting.get_nowait()
            except queue.Empty:
                return

    def _answer(self, path: str, wait: float) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=wait)
        connection.request("GET", path, headers={"Last-Event-ID": self._last, "Accept": "*/*"})
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(f"status {answer.status}")
        return answer

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._answer("/events", QUIET) as answer:
                    self.problem = ""
                    self._hear(answer)
                self.problem = "has ended"
            except (OSError, http.client.HTTPException) as error:
                self.problem = f"does not answer ({error})"
            self._stopped.wait(AGAIN)

    def _hear(self, answer: http.client.HTTPResponse) -> None:
        """Server-sent events, one line of data each, until the connection ends."""
        number = self._last
        while not self._stopped.is_set():
            line = answer.readline(LONGEST)
            if not line:
                return
            name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(":")
            if name == "id":
                number = value.strip()
            elif name == "data":
                self._keep(value)
                self._last = number if number.isdecimal() and len(number) < 16 else self._last

    def _keep(self, data: str) -> None:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if self._index is not None and (not isinstance(event, dict) or event.get("peer") != self._index):
            event = None  # a node tells of itself alone
        while not self._stopped.is_set():
            try:
                self._waiting.put(event, timeout=AGAIN)
            except queue.Full:  # nobody listens to it until there is room
                continue
            return
