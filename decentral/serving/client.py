"""A client of a model that peers serve in stages: an answer comes with the evidence for it, or it does not come.

    async with Client.connect("DIR") as client:
        prediction = await client.predict(images)
        prediction.labels, prediction.receipt

What a person gives is the folder of a cluster that is up, or a copy of what its clients need: `trust.toml`, the folder
`client`, and `stages` where this client computes the first parts itself or wants to find out who lied.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from decentral.core.agreement import certified, end_to_end
from decentral.core.finite import finite
from decentral.errors import UserError
from decentral.models.stages import Stage
from decentral.serving.access import CLIENT, Access, Connecting, access, held_in
from decentral.serving.asking.attesting import Attesting
from decentral.serving.asking.chain import LIMITS, Chain, Course, Tensors, check_inputs, digest_of, through
from decentral.serving.asking.circuits import Circuits, classes, numbers
from decentral.serving.asking.completing import course_of
from decentral.serving.asking.noise import Noise, noise_of
from decentral.serving.asking.prediction import Cost, Prediction, Unverified, offered
from decentral.serving.asking.proving import Proven, Provers, Say
from decentral.serving.asking.replicas import Patience, Replicas
from decentral.serving.selection.experience import Experience
from decentral.serving.selection.known_answers import KnownAnswers
from decentral.serving.selection.ledger import FILE as LEDGER
from decentral.serving.selection.ledger import Ledger
from decentral.serving.selection.notebook import Notebook
from decentral.serving.selection.probation import Probation
from decentral.serving.selection.reputation import Reputations
from decentral.serving.selection.routing import Router
from decentral.trust.anchors import Part
from decentral.trust.evidence import Fault, Kind
from decentral.trust.examination import Examination, examine
from decentral.trust.leakage import Measurement
from decentral.trust.order import SEED_BYTES, Order, Step
from decentral.trust.policy import FILE as POLICY
from decentral.trust.policy import Policy
from decentral.trust.proofs import MOST_SAMPLES
from decentral.trust.receipt import Receipt
from decentral.wire.clock import worker
from decentral.wire.messages import PeerId

STAGES = "stages"
ATTEMPTS = 3
"""Times that a batch is asked about, each time without those who failed, before it is given up."""


def policy_of(folder: Path) -> Policy:
    """What an answer of a cluster needs if its client says nothing else. Raises UserError."""
    return Policy.load(folder / POLICY) if (folder / POLICY).exists() else Policy()


class Client:
    """See above. Not for several event loops."""

    def __init__(
        self,
        cluster: Access,
        ledger: Ledger,
        policy: Policy,
        *,
        model: Mapping[str, Stage],
        circuits: Circuits | None,
        noise: Noise | None,
        measured: Measurement | None,
        attesting: Attesting | None,
        patience: Patience,
    ) -> None:
        self.anchors, self.policy = cluster.anchors, policy
        self.model, self.circuits = model, circuits
        self._cluster, self._noise, self._measured, self._stack = cluster, noise, measured, AsyncExitStack()
        self._worker = worker("client")  # one computation at a time
        self.reputations = Reputations(ledger)
        self._router = Router(self.reputations, time.monotonic, learned=Experience(ledger))
        self._replicas = Replicas(cluster.links, self._router, patience, LIMITS, attesting)
        self._chain = Chain(self._replicas, cluster.anchors, model, self._work, measured)
        self._provers = None if circuits is None else Provers(self._replicas, cluster.anchors, circuits.srs)
        probation = Probation(
            cluster.identity.id,
            cluster.anchors,
            self._replicas,
            self._router,
            self.reputations,
            KnownAnswers(ledger),
            self._chain.computed,
            frozenset(model),
        )
        self._notebook = Notebook(self.reputations, probation)

    @classmethod
    def connect(
        cls,
        where: Path | str,
        *,
        policy: Policy | None = None,
        model: Mapping[str, Stage] | None = None,
        patience: Patience | None = None,
        via: str | None = None,
    ) -> Connecting[Client]:
        """Of the cluster in a folder. `model`: its stages, as far as this client holds them; None: those of `stages`.

        `via`: the gateway (host:port) through which its nodes are reached, and which reads nothing of what is said.
        Where the trust file pins circuits, those are read too (`asking.circuits`).

        Raises UserError where there is no cluster that serves a model in stages, and TransportError if it is gone.
        """

        async def connect() -> Client:
            folder = Path(where)
            folder = folder.parent if folder.name == "trust.toml" else folder
            async with AsyncExitStack() as stack:
                cluster = await stack.enter_async_context(access(folder, via))
                if not cluster.anchors.parts:
                    raise UserError(f"{folder}: its peers serve no model in stages")
                held = await asyncio.to_thread(held_in, folder / STAGES, cluster.anchors, model)
                circuits = await asyncio.to_thread(Circuits.load, folder, cluster.anchors)
                ledger = stack.enter_context(await asyncio.to_thread(Ledger.open, folder / CLIENT / LEDGER))
                client = cls(
                    cluster,
                    ledger,
                    policy or policy_of(folder),
                    model=held,
                    circuits=circuits,
                    noise=noise_of(folder / STAGES),
                    measured=Measurement.load(folder),
                    attesting=Attesting.of(cluster.anchors, folder),
                    patience=patience or Patience(),
                )
                client._stack = stack.pop_all()
                return client

        return Connecting(connect)

    async def close(self) -> None:
        """Raises UserError where what was learned cannot be written down."""
        try:
            try:
                await self._notebook.close()
            finally:
                self._router.save()
        finally:
            await self._replicas.close()
            self._worker.shutdown(wait=False)
            await self._stack.aclose()

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent to replicas and received from them."""
        return self._replicas.traffic

    @property
    def busy(self) -> int:
        """How often a replica had too much to do, and was asked again."""
        return self._replicas.busy

    # ---- asking ---------------------------------------------------------------------------------------------------

    async def predict(
        self,
        batch: Tensor | Tensors,
        policy: Policy | None = None,
        *,
        prove: bool = True,
        say: Say = lambda proving: None,
    ) -> Prediction:
        """What the model says of a batch (n, ...), or of named tensors where it takes several.

        Where the policy requires proofs, it is what the model's circuits say, and `say` hears of each proof that is
        waited for. Without `prove` nobody is asked for one yet: the answer is all else that the policy wants, and its
        receipt not valid until it is completed (`complete`).

        Raises UserError for what cannot be asked and a policy that this cluster cannot meet, before anybody is asked;
        Unverified where no answer is accepted.
        """
        wanted, began = policy or self.policy, time.monotonic()
        replicas = {part.name: len(self.anchors.asked(part.name)) for part in self._remote}
        wanted.check_possible(replicas, offered(self.anchors, proofs=self.circuits is not None))
        if wanted.leakage is not None and self._measured is None:
            raise UserError(
                "leakage: nobody has measured what this cluster's parts learn; `decentral leakage DIR` does"
            )
        await self._notebook.room()
        before = self.traffic
        leaving = await self._front(batch)
        inputs = self._as_asked(leaving, wanted)
        digest = await digest_of(inputs)
        faults, problems, asked = list[Fault](), dict[PeerId, str](), 0
        for _ in range(ATTEMPTS):
            order = self._order(digest, wanted, {fault.node for fault in faults})
            course = await self._chain.run(order, inputs, wanted)
            pending = wanted.proves(order.seed) and not prove
            proven = Proven(course) if pending else await self._proven(course, say)
            course = proven.course
            found = told = await self._examined(course, wanted)
            if pending:
                found = await self._examined(course, replace(wanted, proofs=0.0))
            asked += sum(len(exchange.asked) for exchange in course.transcript.exchanges)
            faults += found.faults
            problems |= course.problems
            self._notebook.take(found, course.transcript)
            if found.verdict.valid or not found.faults:  # nobody failed: another attempt would end alike
                break
            if self._exhausted(proven.lacking, faults):
                break
        receipt = Receipt.signed(course.transcript, told, self._cluster.identity)
        if not found.verdict.valid or found.output is None:
            raise Unverified(found.verdict.reasons, faults, receipt, problems)
        sent, received = (now - then for now, then in zip(self.traffic, before, strict=True))
        proved = None
        if wanted.proved and self.circuits is not None:
            floats = await self._floats(leaving)
            proved = replace(self.circuits.read(found.output, proven.provers, floats), pending=pending)
        return Prediction(
            outputs=found.output if proved is None else numbers(found.output, proved.scale),
            labels=self._labels(found.output) if proved is None else classes(found.output),
            verdict=found.verdict,
            findings=found.findings,
            faults=tuple(faults),
            problems=problems,
            receipt=receipt,
            cost=Cost(asked, sent, received, time.monotonic() - began),
            noise=None if self._noise is None else self._noise.budget,
            proved=proved,
        )

    async def complete(self, receipt: Receipt, *, say: Say = lambda proving: None) -> Prediction:
        """The answer of a receipt of this client that was taken without its proofs (`predict`), with them.

        Who gave the answer and does not prove it is remembered for that. Raises UserError where there is nothing to
        prove, or no longer; Unverified where it is not proved, with a receipt that can be completed still.
        """
        before, began, identity = self.traffic, time.monotonic(), self._cluster.identity
        course = await asyncio.to_thread(course_of, receipt, self.anchors, identity.id)
        if self.circuits is None or self._provers is None:
            raise UserError("it cannot be completed: this cluster pins no circuits")
        proven = await self._provers.prove(course, say)
        found = await self._examined(proven.course, receipt.transcript.order.policy)
        await asyncio.to_thread(self.reputations.record, proven.faults)
        completed = Receipt.signed(proven.course.transcript, found, identity)
        if not found.verdict.valid or found.output is None:
            raise Unverified(found.verdict.reasons, proven.faults, completed, proven.course.problems)
        proved = self.circuits.read(found.output, proven.provers)
        sent, received = (now - then for now, then in zip(self.traffic, before, strict=True))
        return Prediction(
            outputs=numbers(found.output, proved.scale),
            labels=classes(found.output),
            verdict=found.verdict,
            findings=found.findings,
            faults=proven.faults,
            problems=proven.course.problems,
            receipt=completed,
            cost=Cost(0, sent, received, time.monotonic() - began),
            proved=proved,
        )

    async def stream(
        self, batches: Iterable[Tensor | Tensors], policy: Policy | None = None, *, ahead: int | None = None
    ) -> AsyncIterator[Prediction]:
        """The same for many batches, in their order; up to `ahead` of them are under way at once, so that every part
        has work. None: two for each part."""
        depth = ahead or 2 * len(self.anchors.parts)
        running: list[asyncio.Task[Prediction]] = []
        waiting = iter(batches)
        try:
            while True:
                while len(running) < depth and (batch := next(waiting, None)) is not None:
                    running.append(asyncio.create_task(self.predict(batch, policy)))
                if not running:
                    return
                yield await running.pop(0)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    @property
    def _remote(self) -> list[Part]:
        return [part for part in self.anchors.parts if part.at == "peers"]

    async def _front(self, batch: Tensor | Tensors) -> Tensors:
        """The tensors that leave: after the parts that this client computes itself."""
        first = self.anchors.parts[0]
        tensors: Tensors = {first.inputs[0]: batch} if isinstance(batch, Tensor) else dict(batch)
        if set(tensors) != set(first.inputs):
            raise UserError(f"the model takes {', '.join(first.inputs)}, not {', '.join(sorted(tensors)) or 'nothing'}")
        for name, tensor in tensors.items():
            if not tensor.ndim or not len(tensor):
                raise UserError(f"the input {name!r} is empty: a batch has samples along its first axis")
            if not finite(tensor):
                raise UserError(f"the input {name!r} is not finite")
        stages = [self.model[part.name] for part in self.anchors.parts if part.at == "client"]
        if stages:
            tensors = await self._work(lambda: through(stages, tensors))
        leaving = tensors if self._noise is None else self._noise(tensors)
        check_inputs(self._remote[0].name, leaving)
        return leaving

    def _as_asked(self, leaving: Tensors, policy: Policy) -> Tensors:
        """What peers are given: what circuits take, where answers are proved. Raises UserError."""
        if not policy.proved or self.circuits is None:
            return leaving
        if policy.proofs and (count := max(map(len, leaving.values()))) > MOST_SAMPLES:
            raise UserError(f"{count} samples: at most {MOST_SAMPLES} are proved at once")
        first = self._remote[0]
        return self.circuits.taken(leaving, first.inputs or tuple(sorted(leaving)))

    async def _proven(self, course: Course, say: Say) -> Proven:
        """With proofs, if the order's seed draws any and all parts have answered."""
        order = course.transcript.order
        answered = len(course.judgements) == len(order.steps) and course.judgements[-1].answer is not None
        if self._provers is None or not order.policy.proves(order.seed) or not answered:
            return Proven(course)
        return await self._provers.prove(course, say)

    async def _examined(self, course: Course, policy: Policy) -> Examination:
        """Off the event loop where proofs are verified."""

        def examined() -> Examination:
            return examine(course.transcript, self.anchors, policy, judgements=course.judgements)

        if any(Kind.ZK in exchange.evidence for exchange in course.transcript.exchanges):
            return await asyncio.to_thread(examined)
        return examined()

    def _exhausted(self, lacking: Iterable[str], faults: Iterable[Fault]) -> bool:
        """Whether nobody is left who could prove one of these parts."""
        blamed = {fault.node for fault in faults}
        return any(all(peer.id in blamed for peer in self.anchors.asked(part)) for part in lacking)

    async def _floats(self, leaving: Tensors) -> Tensors | None:
        """What the parts that peers compute come to in floats, if this client holds them."""
        if any(part.name not in self.model for part in self._remote):
            return None
        stages = [self.model[part.name] for part in self._remote]
        return await self._work(lambda: through(stages, leaving))

    def _order(self, inputs: bytes, policy: Policy, avoided: set[PeerId]) -> Order:
        steps = []
        for part in self._remote:
            everybody = [peer.id for peer in self.anchors.asked(part.name)]
            trusted = [peer for peer in everybody if peer not in avoided]
            enough = policy.replicas if Kind.CONSENSUS in policy.require else 1
            candidates = trusted if len(trusted) >= enough else everybody
            server = self._router.serves(part.name, candidates)
            steps.append(
                Step(part.name, bytes.fromhex(part.model(policy.proved)), server, self.reputations.weights(candidates))
            )
        local = tuple((part.name, bytes.fromhex(part.digest)) for part in self.anchors.parts if part.at == "client")
        return Order(
            os.urandom(SEED_BYTES),
            self.anchors.epoch,
            self._cluster.identity.id,
            int(time.time()),
            policy,
            inputs,
            tuple(steps),
            local,
        )

    def _labels(self, outputs: Tensors) -> tuple[int, ...]:
        if len(outputs) != 1 or (logits := next(iter(outputs.values()))).ndim != 2 or not logits.is_floating_point():
            return ()
        parts = self.anchors.parts
        drift = end_to_end([part.tolerance for part in parts], [part.gain for part in parts])
        return tuple(certified(logits, drift).tolist())

    async def _work(self, fn: Callable[[], Tensors]) -> Tensors:
        return await asyncio.get_running_loop().run_in_executor(self._worker, fn)
