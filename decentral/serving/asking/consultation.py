"""One part of a model asked about one input: its replicas commit to their answers, all of them, and then reveal them.

Whoever does not commit in time is replaced by the next in the line that the order draws. Where one is late, beside the
others and its own habit, the next is asked too, and the place is that of who commits first. All are told the same until
they have committed, so that nobody knows who serves, who audits, or whether anybody does.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from decentral.attestation.session.challenging import Seen
from decentral.errors import Barred, Malformed, Refusal, Refused, TransportError, Unreachable
from decentral.serving.asking.attesting import Distrusted
from decentral.serving.asking.replicas import Replicas
from decentral.trust.attested import vouched
from decentral.trust.evidence import Question, Reply, together
from decentral.trust.order import Order, Step
from decentral.trust.policy import Policy
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Reveal, Task, Terms
from decentral.wire.messages import PeerId
from decentral.wire.sessions import Conversation

Tensors = Mapping[str, Tensor]
BUSY_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds before a replica that is busy is asked again, doubled each time, for as long as it may take to commit."""
LATE, SOONEST = 8.0, 1.0
"""A replica is late after so many times what the first to commit has taken, and it itself usually takes, and no sooner
than after so many seconds."""
OF_TASKS = frozenset({Refusal.SCHEMA, Refusal.TOO_LARGE, Refusal.MALFORMED, Refusal.MODEL, Refusal.STALE})
"""Refusals that honest replicas give to a task that cannot be done, and to none that can."""


@dataclass(slots=True)
class _Replica:
    """A replica that has committed."""

    peer: PeerId
    conversation: Conversation
    reply: Reply
    seconds: float
    """Until it had committed."""
    fetched: bool = False
    """Whether it has been asked for its output."""


@dataclass(frozen=True, slots=True)
class Consultation:
    """Who was asked, in the order of the line; what came of each, less where a deadline ended; and why it was less.

    `seen`: what each has shown of its machine, where that is asked, in the session in which it was given the task;
    `busy`: who had too much to do until the deadline, as the last that it said; `distrusted`: whose machine does not
    count, where that is asked, and so was told nothing; `spared`: who was asked in the place of one that was late, and
    not waited for, or to whom the gateway on the way did not lead, or who ends soon and takes nothing new. `refusal`:
    what replicas say against the task itself, where so many say it that one of them is honest, and too few are left for
    a quorum; else None.
    """

    asked: tuple[PeerId, ...]
    replies: Mapping[PeerId, Reply]
    problems: Mapping[PeerId, str]
    busy: frozenset[PeerId] = frozenset()
    distrusted: frozenset[PeerId] = frozenset()
    spared: frozenset[PeerId] = frozenset()
    refusal: Refused | None = None
    seen: Mapping[PeerId, Seen] = field(default_factory=dict)


async def consult(order: Order, step: Step, inputs: Tensors, digest: bytes, replicas: Replicas) -> Consultation:
    """Asks the replicas of one part, when it is its turn; `digest` is that of `inputs`."""
    question = order.question(step, digest)
    task = Task(step.part, step.model, inputs, Terms(question.task, question.nonce, question.epoch))
    async with replicas.turn(step.part), AsyncExitStack() as stack:
        line = _Line(order.line(step), task, replicas, order.policy, stack)
        stack.callback(line.tell)
        if order.policy.audits < 1:
            await line.commit(1)  # whether others are asked too is told by what comes after
        await line.commit(order.policy.sizes(order.seed, step.part).replicas)
        if line.refusal is None:
            await line.reveal(question)
        return Consultation(
            tuple(line.asked),
            line.replies(),
            line.problems,
            line.busy,
            frozenset(line.distrusted),
            frozenset(line.spared | line.ending),
            line.refusal,
            line.seen,
        )


class _Line:
    """The replicas in the order in which they are asked, and what has come of those that were."""

    def __init__(
        self,
        waiting: list[PeerId],
        task: Task,
        replicas: Replicas,
        policy: Policy,
        conversations: AsyncExitStack,
    ) -> None:
        self._waiting, self._task, self._replicas, self._conversations = waiting, task, replicas, conversations
        self._policy = policy
        self._patience, self._watch = replicas.patience, replicas.watch
        self._committed: dict[PeerId, _Replica] = {}
        self._refused: dict[PeerId, Refused] = {}
        self._busy: set[PeerId] = set()
        self._began: dict[PeerId, float] = {}
        self.distrusted: set[PeerId] = set()
        self.spared: set[PeerId] = set()
        self.ending: set[PeerId] = set()
        """Who takes nothing new, as it ends soon: it is asked no more for a while, and nothing is held against it."""
        self.seen: dict[PeerId, Seen] = {}
        self.asked: list[PeerId] = []
        self.problems: dict[PeerId, str] = {}

    def replies(self) -> dict[PeerId, Reply]:
        return {peer: self._committed[peer].reply for peer in self.asked if peer in self._committed}

    @property
    def busy(self) -> frozenset[PeerId]:
        """See `Consultation`."""
        return frozenset(self._busy - set(self._committed))

    def tell(self) -> None:
        """How long each took to commit, if it then did all that it was asked for.

        Nothing of who was right to refuse, or was still asked when nobody waited any more.
        """
        right = self._refused if self.refusal is not None else {}
        for peer in self.asked:
            unasked = peer not in self.problems or peer in self.spared
            if peer in right or (peer not in self._committed and unasked):
                self._watch.withdrawn(peer)
            else:
                did = peer in self._committed and peer not in self.problems
                self._watch.ended(peer, self._committed[peer].seconds if did else None)

    @property
    def refusal(self) -> Refused | None:
        """See `Consultation`: more than may be faulty have refused, and fewer than have to agree have committed."""
        if len(self._refused) <= self._policy.faulty or len(self._committed) >= self._policy.quorum:
            return None
        reasons = Counter(refused.reason for refused in self._refused.values())
        common = max(reasons, key=lambda reason: reasons[reason])
        return next(refused for refused in self._refused.values() if refused.reason is common)

    # ---- committing -----------------------------------------------------------------------------------------------

    async def commit(self, count: int) -> None:
        """Until so many have committed, or nobody is left to ask."""
        async with asyncio.TaskGroup() as group:
            running: dict[asyncio.Task[None], PeerId] = {}
            while True:
                in_time = [peer for peer in running.values() if self._left(peer) > 0]
                while self._waiting and len(self._committed) + len(in_time) < count:
                    peer = self._waiting.pop(0)
                    self.asked.append(peer)
                    self._watch.began(peer)
                    self._began[peer] = asyncio.get_running_loop().time()
                    running[group.create_task(self._commit(peer))] = peer
                    in_time.append(peer)
                if not running:
                    return
                sooner = min(map(self._left, in_time), default=math.inf) if self._waiting else math.inf
                timeout = None if sooner == math.inf else max(sooner, 0.0)
                done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del running[task]
                if len(self._committed) >= count:
                    self._call_off(running, count)
                    return

    def _left(self, peer: PeerId) -> float:
        """Seconds until a replica is late. Where nobody has committed, or knows how long it takes, it never is."""
        usual = self._watch.usual(peer)
        if usual is None or not self._committed:
            return math.inf
        first = min(replica.seconds for replica in self._committed.values())
        bound = max(LATE * max(first, usual), SOONEST)
        return self._began[peer] + bound - asyncio.get_running_loop().time()

    def _call_off(self, running: Mapping[asyncio.Task[None], PeerId], count: int) -> None:
        """Who is late has lost its place; nothing is held against those who were asked in it, and are not needed."""
        for task, peer in running.items():
            task.cancel()
            if self._left(peer) > 0:
                self.spared.add(peer)
            else:
                self.problems[peer] = "late: the next in the line has committed"
        for peer in [peer for peer in self.asked if peer in self._committed][count:]:  # at the same moment
            del self._committed[peer]
            self.spared.add(peer)

    async def _commit(self, peer: PeerId) -> None:
        ends = self._began[peer] + self._patience.commit
        async with self._noting(peer, ends):
            conversation, commitment = await self._until_free(peer, ends)
            seconds = asyncio.get_running_loop().time() - self._began[peer]
            self._committed[peer] = _Replica(peer, conversation, Reply(commitment.digest), seconds)

    @asynccontextmanager
    async def _noting(self, peer: PeerId, ends: float) -> AsyncIterator[None]:
        """What a replica does not say until then is missing in its reply; here stands why."""
        try:
            async with asyncio.timeout_at(ends):
                yield
        except Distrusted as error:
            self.problems[peer] = str(error)
            self.distrusted.add(peer)
        except Barred as error:
            self.problems[peer] = str(error)
            self.spared.add(peer)
        except TransportError as error:
            self.problems[peer] = str(error)
            if not isinstance(error, Refused) or error.reason is not Refusal.BUSY:
                self._busy.discard(peer)
            if isinstance(error, Refused) and error.reason is Refusal.DRAINING:
                self.ending.add(peer)
            if isinstance(error, Refused) and error.reason in OF_TASKS and peer not in self._committed:
                self._refused[peer] = error
        except TimeoutError:
            self.problems[peer] = "busy" if peer in self.busy else "silent"

    async def _until_free(self, peer: PeerId, ends: float) -> tuple[Conversation, Commitment]:
        """Asks again where the replica has too much to do."""
        loop, pause = asyncio.get_running_loop(), BUSY_PAUSE
        while True:
            try:
                session = await self._replicas.session(peer, self._policy.attested)
                if self._policy.attested and (seen := self._replicas.seen(peer)) is not None:
                    self.seen[peer] = seen
                conversation = await self._conversations.enter_async_context(session.converse())
                await conversation.say(self._task)
                heard = await conversation.hear()
            except Refused as refused:
                if refused.reason is not Refusal.BUSY:
                    raise
                self._busy.add(peer)
                if loop.time() + pause > ends:
                    raise
                self._replicas.busy += 1
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if not isinstance(heard, Commitment):
                raise _broken(peer, heard)
            return conversation, heard

    # ---- revealing ------------------------------------------------------------------------------------------------

    async def reveal(self, question: Question) -> None:
        """All who have committed; the first of them in the line sends its output at once."""
        committed = [self._committed[peer] for peer in self.asked if peer in self._committed]
        if not committed:
            return
        shown = Open(tuple(sorted({replica.reply.commitment or b"" for replica in committed})))
        committed[0].fetched = True
        async with asyncio.TaskGroup() as group:
            for replica in committed:
                group.create_task(self._reveal(replica, question, shown))
        holders: dict[bytes, list[_Replica]] = {}
        for replica in committed:
            if (reveal := replica.reply.reveal) is not None:
                holders.setdefault(reveal.output, []).append(replica)
        async with asyncio.TaskGroup() as group:
            for digest, those in holders.items():
                if all(replica.reply.sent != digest for replica in those):
                    group.create_task(self._share(digest, those))
        self._drop_outsized(committed)

    def _drop_outsized(self, committed: Sequence[_Replica]) -> None:
        """Answers with more bytes than those that may win: a receipt would have to keep them, and nobody agrees."""
        forms = {replica.reply.sent: _form(tensors) for replica in committed if (tensors := replica.reply.tensors)}
        if len(set(forms.values())) < 2:
            return
        revealed = [replica.reply.reveal.output for replica in committed if replica.reply.reveal is not None]
        votes = Counter(forms[digest] for digest in revealed if digest in forms)
        agreed = [form for form, count in votes.items() if count >= self._policy.quorum]
        most = min(sum(size for *_, size in form) for form in agreed or forms.values())
        for replica in committed:
            size = sum(tensor.nbytes for tensor in (replica.reply.tensors or {}).values())
            if size > most:
                replica.reply = replace(replica.reply, tensors=None)
                self.problems[replica.peer] = f"sent {size} bytes, where an answer has {most}"

    async def _reveal(self, replica: _Replica, question: Question, shown: Open) -> None:
        async with self._noting(replica.peer, self._revealing()):
            await replica.conversation.say(shown)
            if replica.fetched:
                await replica.conversation.say(Fetch())
            heard = await replica.conversation.hear()
            if not isinstance(heard, Reveal):
                raise _broken(replica.peer, heard)
            replica.reply = replace(replica.reply, reveal=heard)
            if replica.fetched:
                await self._take_output(replica)
        opened = together(shown.commitments)
        with suppress(Malformed):  # the vote holds it against its maker, and finds what is verified while others sign
            replica.reply.signed(question, opened)
        seen = self.seen.get(replica.peer)
        if seen is not None and not vouched(seen.evidence, question, replica.reply, opened):
            replica.reply = Reply(replica.reply.commitment)  # one liar is outvoted, and takes no answer from others
            self.problems[replica.peer] = "its machine has not signed its answer"

    async def _share(self, digest: bytes, holders: Sequence[_Replica]) -> None:
        """One output for all who revealed its digest: it is sent until it is the right one once."""
        for holder in holders:
            if not holder.fetched:
                holder.fetched = True
                async with self._noting(holder.peer, self._revealing()):
                    await holder.conversation.say(Fetch())
                    await self._take_output(holder)
            if holder.reply.sent == digest:
                return

    def _revealing(self) -> float:
        return asyncio.get_running_loop().time() + self._patience.reveal

    async def _take_output(self, replica: _Replica) -> None:
        heard = await replica.conversation.hear()
        if not isinstance(heard, Output):
            raise _broken(replica.peer, heard)
        replica.reply = replace(replica.reply, tensors=heard.tensors)


def _form(tensors: Tensors) -> tuple[tuple[str, torch.dtype, torch.Size, int], ...]:
    """Names, types, shapes and bytes."""
    return tuple((name, each.dtype, each.shape, each.nbytes) for name, each in sorted(tensors.items()))


def _broken(peer: PeerId, heard: object) -> Unreachable:
    return Unreachable(f"{peer}: its answer breaks the protocol ({type(heard).__name__})")
