"""The command says what was answered, what was verified, and who failed; its receipt is good elsewhere."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from decentral.cli.predict import _ask
from decentral.launch.gateway import serve_tunnel
from decentral.serving.client import Client
from decentral.serving.stages.model import Network, save_stages
from decentral.serving.stages.stage import StageService
from decentral.trust.receipt import verify
from tests.serving.asking.test_attesting import EDITED, PINNED, Node


class Lies(StageService):
    """Adds to what it computes."""

    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().answer(inputs, client).items()}


async def predict(
    cluster: Any, *arguments: str, noise: dict[str, Any] | None = None, name: str = "mlp"
) -> tuple[int, str, str]:
    network = Network(
        name, {"hidden": [16, 12, 16]}, (1, 8, 8), 10, ("2", "6"), True, "x", {"name": "digits"},
        tuple("0123456789"), (0.0,), (16.0,), 16, noise=noise,
    )  # fmt: skip
    (cluster.folder / "stages").mkdir(exist_ok=True)
    save_stages(cluster.folder / "stages", network, cluster.stages)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "decentral", "predict", str(cluster.folder), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(100):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_answers_evidence_and_the_liar_are_told(cluster, tmp_path):
    made = await cluster(liars={"stage-1-b": Lies})
    receipt = tmp_path / "receipt.json"
    code, out, err = await predict(made, "digits:7", "digits:8", "--json", "--receipt", str(receipt))
    assert code == 0, err
    said = json.loads(out)
    assert [each["input"] for each in said["answers"]] == ["digits:7", "digits:8"]
    assert said["verdict"]["valid"]
    assert [(each["node"], each["kind"]) for each in said["faults"]] == [("stage-1-b", "lied")]
    assert verify(receipt, made.folder / "trust.toml").valid
    code, out, _ = await predict(made, "digits:7")
    assert code == 0
    assert "verified: stage-0" in out and "lied: stage-1-b" in out


@pytest.mark.slow
async def test_what_noise_keeps_of_each_input_is_said_with_the_answer(cluster):
    made = await cluster(local=1)
    budget = {"mechanism": "laplace", "epsilon": 2.0, "clip": 3.0}
    code, out, err = await predict(made, "digits:7", noise=budget)
    assert code == 0, err
    assert "added to what left this machine: laplace noise: epsilon 2 for each answer, clipped to 3" in out
    code, out, _ = await predict(made, "digits:7", "--json", noise=budget)
    assert json.loads(out)["noise"] == {**budget, "delta": None}
    code, out, _ = await predict(made, "digits:7", "--json")
    assert json.loads(out)["noise"] is None


async def test_where_no_answer_is_accepted_the_exit_code_says_so_and_the_evidence_is_kept(cluster, tmp_path):
    made = await cluster(liars={"stage-1-a": Lies, "stage-1-b": Lies})
    receipt = tmp_path / "receipt.json"
    code, out, _ = await predict(made, "digits:7", "--receipt", str(receipt))
    assert code == 1
    assert "no answer that the policy accepts" in out and "lied: stage-1-a" in out
    assert not verify(receipt, made.folder / "trust.toml").valid


async def test_where_nobody_is_there_it_says_why_and_where_to_look(cluster):
    made = await cluster()
    for node in list(made.transports):
        await made.kill(node)
    code, out, err = await predict(made, "digits:7")
    assert (code, err) == (1, "")
    assert "unresponsive: stage-0-a" in out and "stage-0-b: " in out
    assert f"who is up: decentral status {made.folder}" in out


async def test_an_answer_is_told_before_the_client_has_learned_from_it(cluster, monkeypatch):
    made = await cluster()
    await predict(made, "digits:7")  # and its network is in the folder
    told: list[str] = []
    close = Client.close

    async def closing(self: Client) -> None:
        told.append("closes")
        await close(self)

    monkeypatch.setattr(Client, "close", closing)
    await _ask(made.folder, ["digits:8"], None, lambda prediction, asked: told.append(asked[0].name))
    assert told == ["digits:8", "closes"]


async def test_a_receipt_that_cannot_be_written_costs_no_answer(cluster):
    made = await cluster()
    code, out, err = await predict(made, "digits:7", "--receipt", "/dev/fd/receipt.json")
    assert code == 2
    assert "verified: stage-0" in out and "receipt:" not in out
    assert "--receipt /dev/fd/receipt.json: cannot be written" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digits:9999",), "test images 0 to 354"),
        (
            ("digits:7", "--require", "zk"),
            "pins no circuit of stage-0, stage-1, stage-2: make them with `decentral zk setup",
        ),
        ((), "no INPUT to ask about"),
        (("digits:7", "--no-wait-proof"), "without --receipt FILE"),
        (("digits:7", "--no-wait-proof", "--receipt", "r.json"), "the policy wants no proofs"),
        (("digits:7", "--wait-proof", "r.json"), "a receipt has its inputs"),
        (("--wait-proof", "absent.json"), "absent.json"),
        (("digits:7", "--require", "faith"), "unknown requirement"),
        (("digits:7", "--via", "nowhere"), "--via nowhere: is not an address of the form host:port"),
        (("digits:7", "--receipt", "absent/folder/r.json"), "there is no folder"),
        (("digits:7", "--receipt", "."), "is no ordinary file"),
        (("digits:7", "--receipt", "/dev/null"), "is no ordinary file"),
    ],
    ids=lambda value: str(value[-1:])[:20],
)
async def test_what_cannot_be_asked_ends_with_one_line(cluster, arguments, said):
    made = await cluster()
    code, out, err = await predict(made, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.slow
async def test_an_answer_comes_through_a_gateway_or_the_gateway_is_named(cluster):
    made, told = await cluster(), asyncio.get_running_loop().create_future()
    passing = asyncio.create_task(serve_tunnel(made.folder, told.set_result))
    via = await told
    code, out, err = await predict(made, "digits:7", "--via", via)
    assert code == 0, err
    assert "verified: stage-0" in out
    passing.cancel()
    await asyncio.gather(passing, return_exceptions=True)
    code, out, _ = await predict(made, "digits:7", "--via", via)
    assert code == 1
    assert f"stage-0-a: the gateway at {via}: " in out and "unresponsive: stage-0-a" not in out


@pytest.mark.slow
async def test_machines_that_were_shown_are_told_and_simulated_ones_have_to_be_allowed(cluster):
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    code, out, err = await predict(made, "digits:7", "--require", "consensus,attestation", "--allow-simulated")
    assert code == 0, err
    assert "attested: stage-0, stage-1, stage-2: 3 machines count (tdx)" in out
    assert "stands on simulated machines: whoever owns their host could forge this" in out
    code, out, err = await predict(made, "digits:7", "--require", "consensus,attestation")
    assert code == 1
    assert "is simulated, which the policy does not allow" in out + err


async def test_replicas_whose_machines_do_not_count_are_named_with_what_is_wrong(cluster):
    made = await cluster(attesters={"": Node(), "stage-1-a": Node(EDITED), "stage-1-b": Node(EDITED)}, machines=PINNED)
    code, out, err = await predict(made, "digits:7", "--require", "consensus,attestation", "--allow-simulated")
    assert code == 1
    for node in ("stage-1-a", "stage-1-b"):
        assert f"unattested: {node} (stage-1): its machine does not count: measurement: its code is not" in out + err
