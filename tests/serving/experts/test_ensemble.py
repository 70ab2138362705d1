"""Experts at their peers, over mutual TLS on loopback: the same images as in one process, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decentral.errors import Malformed, Refusal, Unreachable
from decentral.models.denoisers import unet
from decentral.serving.access import Access, access
from decentral.serving.experts.denoising import Evaluation, Gone, denoise
from decentral.serving.experts.ensemble import AT_ONCE, RemoteExpert, denoise_remotely, remote_experts
from decentral.serving.experts.expert import ExpertService
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.trust.anchors import FILE, Anchor, Anchors
from decentral.wire.authority import Authority
from decentral.wire.conversation import Output, Task
from decentral.wire.enrolment import credentials_for, invite
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.sessions import Client, Serve

COUNT, STEPS = 3, 4
LABELS = [0, 1, 2, 0, 1]


def small(seed: int, outputs: int = 1) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return unet((1, 8, 8), 3, channels=(8, 16), outputs=outputs).eval()


async def at_once(fn: Any) -> Tensor:
    result: Tensor = await asyncio.to_thread(fn)
    return result


@pytest.fixture(scope="module")
def pipeline() -> DecentralizedDiffusionPipeline:
    experts = {f"expert_{number}": small(number) for number in range(COUNT)}
    made = DecentralizedDiffusionPipeline(router=small(99, outputs=COUNT), **experts)
    made.set_progress_bar_config(disable=True)
    return made


@asynccontextmanager
async def served(folder: Path, services: list[tuple[Serve, str]]) -> AsyncIterator[tuple[Access, list[GrpcTransport]]]:
    """A cluster of experts, each a service and the digest that clients pin, and a client of it."""
    async with AsyncExitStack() as stack:
        authority = Authority.create(folder / "authority")
        address = await stack.enter_async_context(authority.serve("127.0.0.1:0"))
        peers, transports = [], []
        for number, (service, digest) in enumerate(services):
            identity, own = Identity.generate(), folder / f"peer-{number}"
            own.mkdir(mode=0o700)
            invite(authority, address, own)
            credentials = await credentials_for(identity, own)
            transport = await stack.enter_async_context(
                GrpcTransport.serve("127.0.0.1:0", identity, credentials, serve=service)
            )
            part = f"expert-{number % COUNT}"  # those after the first of each are replicas
            peers.append(Anchor(f"peer-{number}", identity.id, transport.address, part, digest))
            transports.append(transport)
        Anchors(authority.pem, tuple(peers)).save(folder / FILE)
        (folder / "client").mkdir(mode=0o700)
        invite(authority, address, folder / "client")
        yield await stack.enter_async_context(access(folder)), transports


def honest(pipeline: DecentralizedDiffusionPipeline) -> list[tuple[Serve, str]]:
    services = [ExpertService(model, f"expert-{number}", at_once) for number, model in pipeline.experts.items()]
    return [(service, service.digest) for service in services]


def wish(pipeline: DecentralizedDiffusionPipeline, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    arguments = {"class_labels": LABELS, "guidance_scale": 2.0, "experts": "top-2", "micro_batch": 3, **options}
    return pipeline.start(num_inference_steps=STEPS, generator=generator, present=range(COUNT), **arguments)


async def test_peers_give_the_images_of_one_process_bit_by_bit(tmp_path, pipeline):
    generator = torch.Generator().manual_seed(3)
    here = pipeline(
        num_inference_steps=STEPS,
        generator=generator,
        class_labels=LABELS,
        guidance_scale=2.0,
        experts="top-2",
        micro_batch=3,
        output_type="latent",
    )
    sampling = wish(pipeline)
    done: list[tuple[int, int]] = []
    async with served(tmp_path, honest(pipeline)) as (cluster, _), remote_experts(cluster) as remote:
        there = await denoise_remotely(sampling.batches, remote.experts, lambda batch, step: done.append((batch, step)))
    assert torch.equal(there, here.images)
    assert sampling.roster.evaluated == here.evaluations
    assert not remote.absent
    assert sorted(done) == [(batch, step) for batch in range(2) for step in range(1, STEPS + 1)]


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("at_once", [1, 2, None])
async def test_no_more_experts_are_at_work_than_was_said(tmp_path, pipeline, at_once, size):
    most = at_once or COUNT * (1 if size is None else AT_ONCE)
    running, seen, reached = 0, set[int](), asyncio.Event()

    def watched(serve: Serve) -> Serve:
        async def watch(task: Task, client: Client) -> None:
            nonlocal running
            running += 1
            seen.add(running)
            if running == most:
                reached.set()
            async with asyncio.timeout(20):
                await reached.wait()
            await asyncio.sleep(0.05)  # for one too many to come
            await serve(task, client)
            running -= 1

        return watch

    services = [(watched(service), digest) for service, digest in honest(pipeline)]
    sampling, expected = (wish(pipeline, experts="full", micro_batch=size) for _ in range(2))
    async with served(tmp_path, services) as (cluster, _), remote_experts(cluster, at_once) as remote:
        there = await denoise_remotely(sampling.batches, remote.experts)
    assert max(seen) == most
    assert torch.equal(there, denoise(expected.batches, pipeline.evaluate))


async def test_an_expert_that_dies_in_the_middle_is_left_out_and_named(tmp_path, pipeline):
    services = honest(pipeline)
    mortal, digest = services[1]
    calls = 0

    async def dies_at_its_third_task(task: Task, client: Client) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            dying.append(asyncio.ensure_future(peers[1].close()))
            await asyncio.sleep(60)
        await mortal(task, client)

    dying: list[asyncio.Task[None]] = []
    services[1] = dies_at_its_third_task, digest
    sampling = wish(pipeline, experts="full")
    async with served(tmp_path, services) as (cluster, peers), remote_experts(cluster) as remote:
        latents = await denoise_remotely(sampling.batches, remote.experts)
        await asyncio.gather(*dying)
    assert latents.isfinite().all()
    assert list(sampling.roster.absent) == [1]
    assert "peer-1" in sampling.roster.absent[1]
    assert 0 < sampling.roster.evaluated[1] < sampling.roster.evaluated[0]


@pytest.mark.parametrize("how", ["dies", "answers with another shape", "answers with NaN"])
async def test_a_replica_goes_on_in_the_place_of_an_expert_that_fails_in_the_middle(tmp_path, pipeline, how):
    """And the images are those that it would have made."""
    here = wish(pipeline, experts="full")
    expected = denoise(here.batches, pipeline.evaluate)
    services = honest(pipeline)
    mortal, digest = services[1]
    calls = 0

    async def fails_from_its_third_task_on(task: Task, client: Client) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            await mortal(task, client)
        elif how == "dies":
            dying.append(asyncio.ensure_future(peers[1].close()))
            await asyncio.sleep(60)
        else:
            x = task.tensors["x"]
            await client.say(Output({"v": x[:, :, :4].clone() if "shape" in how else torch.full_like(x, torch.nan)}))

    dying: list[asyncio.Task[None]] = []
    services[1] = fails_from_its_third_task_on, digest
    sampling = wish(pipeline, experts="full")
    async with served(tmp_path, [*services, *honest(pipeline)[:2]]) as (cluster, peers):
        async with remote_experts(cluster) as remote:
            latents = await denoise_remotely(sampling.batches, remote.experts)
        await asyncio.gather(*dying)
    assert torch.equal(latents, expected)
    assert sampling.roster.absent == {} and sampling.roster.evaluated == here.roster.evaluated
    assert remote.experts[0].replaced == ""
    assert remote.experts[1].replaced.startswith("peer-4 instead of peer-1: ") and "t = " in remote.experts[1].replaced


async def test_of_a_replica_that_is_not_there_from_the_beginning_the_result_tells_too(tmp_path, pipeline):
    sampling = wish(pipeline)
    async with served(tmp_path, [*honest(pipeline), *honest(pipeline)[:1]]) as (cluster, peers):
        await peers[0].close()
        async with remote_experts(cluster) as remote:
            await denoise_remotely(sampling.batches, remote.experts)
            assert remote.experts[0].replaced.startswith("peer-3 instead of peer-0: ")
            assert remote.absent == {} and len(remote.sessions) == COUNT


async def test_where_all_replicas_are_gone_each_is_named(tmp_path, pipeline):
    sampling = wish(pipeline, experts="full")
    async with (
        served(tmp_path, [*honest(pipeline), *honest(pipeline)[:1]]) as (cluster, peers),
        remote_experts(cluster) as remote,
    ):
        await peers[0].close()
        await peers[3].close()
        await denoise_remotely(sampling.batches, remote.experts)
    assert set(sampling.roster.absent) == {0} and remote.experts[0].replaced == ""
    assert "peer-0: " in sampling.roster.absent[0] and "peer-3: " in sampling.roster.absent[0]


async def test_without_any_expert_there_is_an_error_and_no_image(tmp_path, pipeline):
    sampling = wish(pipeline)
    async with served(tmp_path, honest(pipeline)) as (cluster, peers), remote_experts(cluster) as remote:
        for peer in peers:
            await peer.close()
        with pytest.raises(Unreachable, match="no expert is left"):
            await denoise_remotely(sampling.batches, remote.experts)


async def test_peers_that_cannot_be_reached_at_the_beginning_are_named(tmp_path, pipeline):
    async with served(tmp_path, honest(pipeline)) as (cluster, peers):
        await peers[2].close()
        async with remote_experts(cluster) as remote:
            assert set(remote.experts) == {0, 1}
            assert "peer-2" in remote.absent[2]


async def test_an_answer_that_is_none_costs_the_expert_its_place(tmp_path, pipeline):
    async def shapeless(task: Task, client: Client) -> None:
        await client.say(Output({"v": torch.zeros(1)}))

    async def nameless(task: Task, client: Client) -> None:
        await client.say(Output({"velocity": task.tensors["x"]}))

    services = [(shapeless, "00" * 32), honest(pipeline)[1], (nameless, "00" * 32)]
    sampling = wish(pipeline, experts="full")
    async with served(tmp_path, services) as (cluster, _), remote_experts(cluster) as remote:
        latents = await denoise_remotely(sampling.batches, remote.experts)
    assert latents.isfinite().all()
    assert set(sampling.roster.absent) == {0, 2}
    assert set(sampling.roster.evaluated) == {1}


async def test_a_model_that_is_not_the_pinned_one_is_not_asked(tmp_path, pipeline):
    services = honest(pipeline)
    services[0] = (services[0][0], "ab" * 32)
    sampling = wish(pipeline, experts="full")
    async with served(tmp_path, services) as (cluster, _), remote_experts(cluster) as remote:
        await denoise_remotely(sampling.batches, remote.experts)
    assert set(sampling.roster.absent) == {0}
    assert "model" in sampling.roster.absent[0]


async def test_a_busy_expert_is_asked_again_and_a_silent_one_is_not_waited_for(tmp_path, pipeline):
    attempts = 0

    async def busy(task: Task, client: Client) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Malformed(Refusal.BUSY, "later")
        await client.say(Output({"v": task.tensors["x"]}))

    async def silent(task: Task, client: Client) -> None:
        await asyncio.sleep(60)

    asked = Evaluation(0, torch.arange(1), torch.ones(1, 1, 8, 8), 1.0, None)
    services = [(busy, "00" * 32), (silent, "00" * 32)]
    async with served(tmp_path, services) as (cluster, _), remote_experts(cluster) as remote:
        answer = await remote.experts[0].evaluate(asked)
        assert isinstance(answer, Tensor)
        assert attempts == 3
        assert isinstance(remote.experts[1], RemoteExpert)
        gone = await remote.experts[1].evaluate(asked, answering=0.2)
        assert isinstance(gone, Gone)
        assert "no answer" in gone.why
