"""Split learning: two ends and a middle learn what the whole network would, and each knows its own part alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.leakage import distance_correlation
from decentral.data.datasets import LabelledImages, load_dataset
from decentral.errors import UserError
from decentral.models.catalogue import build_model
from decentral.training.classifier import ClassifierLearner
from decentral.training.split import Ask, Kind, OutOfStep, SplitClient, SplitServer, incoming, split
from decentral.wire.elements import schema_hash

MLP = ("mlp", {"hidden": [32, 24, 16]}, ["2", "6"])
ADAM: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.003, "fresh_optimizer": False}
SETTINGS: dict[str, Any] = {"batch_size": 16, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    return load_dataset("digits")


def network(data: LabelledImages, name: str, options: Mapping[str, object]) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, data.image_shape, data.classes, **options)


def pair(
    data: LabelledImages,
    name: str = MLP[0],
    options: Mapping[str, object] = MLP[1],
    cuts: Sequence[str] = tuple(MLP[2]),
    images: int = 65,
    **settings: Any,
) -> tuple[SplitClient, SplitServer]:
    """Client and server, joined in this process; 65 images leave one over, which joins the batch before."""
    share = np.arange(images)
    made = [
        split(network(data, name, options), data, share, cuts=cuts, peer=peer, **{**SETTINGS, **settings})
        for peer in (0, 1)
    ]
    client, server = made
    assert isinstance(client, SplitClient)
    assert isinstance(server, SplitServer)
    client.partner = server
    return client, server


# ---- what is learned ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (MLP, {}),
        (MLP, {**ADAM, "weight_decay": 0.01}),
        (MLP, {"momentum": 0.9, "fresh_optimizer": False, "steps": 3}),
        (("mlp", {"hidden": [32, 24, 16], "batch_norm": True}, ["3", "6"]), {}),
        (("cnn", {"channels": [4, 8], "hidden": 16}, ["features.2", "classifier.1"]), {}),
        (("resnet20", {"width": 2}, ["stages.0.0.conv1", "stages.2.0.conv1"]), {}),  # residuals over both cuts
        (("resnet20", {"width": 2}, ["stages.0.0.conv1", "stages.0.0.conv2"]), {}),  # one that passes the middle by
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value[0],
)
def test_it_learns_what_the_whole_network_would_to_the_last_bit(
    digits: LabelledImages, model: tuple[str, dict[str, object], list[str]], settings: dict[str, Any]
) -> None:
    name, options, cuts = model
    client, server = pair(digits, name, options, cuts, **settings)
    whole = ClassifierLearner(network(digits, name, options), digits, np.arange(65), **{**SETTINGS, **settings})
    for round in (1, 2):
        assert client.train(round) == whole.train(round)
    assert client.view().keys().isdisjoint(server.view())
    both = {**client.view(), **server.view()}
    assert both.keys() == whole.view().keys()
    for key, tensor in whole.view().items():
        assert torch.equal(both[key], tensor), key
    assert client.evaluate() == whole.evaluate()


def test_dropout_in_the_middle_is_the_servers_and_leaves_the_clients_chance_alone(digits: LabelledImages) -> None:
    """Its own is drawn from the seed; what the client draws is what it would draw alone."""

    def trained(middle: float, seed: int = 0) -> tuple[SplitClient, Tensor]:
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(middle), nn.Linear(16, 10)]
        torch.manual_seed(0)
        whole = nn.Sequential(*layers)
        made = [split(whole, digits, np.arange(64), cuts=["3", "4"], peer=peer, seed=seed) for peer in (0, 1)]
        client, server = made
        assert isinstance(client, SplitClient)
        assert isinstance(server, SplitServer)
        client.partner = server
        client.train(1)
        return client, torch.rand(4)

    (first, after), (again, too), (other, _) = trained(0.5), trained(0.5), trained(0.5, seed=1)
    without, same = trained(0.0)
    assert all(torch.equal(first.view()[key], tensor) for key, tensor in again.view().items())
    assert torch.equal(after, too)
    assert torch.equal(after, same)
    assert not all(torch.equal(first.view()[key], tensor) for key, tensor in other.view().items())
    assert not all(torch.equal(first.view()[key], tensor) for key, tensor in without.view().items())


def test_nopeek_makes_what_leaves_the_client_tell_less(digits: LabelledImages) -> None:
    def told(weight: float) -> tuple[float, float]:
        client, _ = pair(digits, "mlp", {"hidden": [128, 64, 32]}, images=1400, nopeek=weight, **ADAM)
        for round in range(1, 7):
            client.train(round)
        images, _ = client.test_set()
        with torch.no_grad():
            client.front.eval()
            [sent] = client.front.run({client.front.inputs[0].name: images[:200]}).values()
        accuracy = client.evaluate().accuracy
        assert accuracy is not None
        return distance_correlation(images[:200], sent), accuracy

    (plain, good), (peeked, nearly) = told(0.0), told(1.0)
    assert peeked < plain - 0.1
    assert nearly > good - 0.05
    with pytest.raises(UserError, match="nopeek: must be 0 or more"):
        pair(digits, nopeek=-1.0)


# ---- what is said ---------------------------------------------------------------------------------------------------


def overheard(
    data: LabelledImages, **options: Any
) -> tuple[SplitClient, SplitServer, list[tuple[Ask, dict[str, Tensor]]]]:
    client, server = pair(data, **options)
    heard: list[tuple[Ask, dict[str, Tensor]]] = []
    words = client.conversation(1)
    ask = next(words)
    try:
        while True:
            heard.append((ask, server.answer(1, ask)))
            ask = words.send(heard[-1][1])
    except StopIteration:
        return client, server, heard


def test_nothing_but_activations_and_gradients_of_the_cuts_is_said(digits: LabelledImages) -> None:
    client, server, heard = overheard(digits)
    into = [(port.name, port.shape[1:]) for port in server.middle.inputs]
    out = [(port.name, port.shape[1:]) for port in server.middle.outputs]
    for ask, answer in heard:
        said, told = (into, out) if ask.kind is Kind.FORWARD else (out, into)
        assert [(name, tuple(tensor.shape[1:])) for name, tensor in ask.tensors.items()] == said
        assert [(name, tuple(tensor.shape[1:])) for name, tensor in answer.items()] == told
        most = max(tensor.nbytes for tensor in (*ask.tensors.values(), *answer.values()))
        assert most <= server.largest_message() == client.largest_message()
    assert [ask.kind for ask, _ in heard[:4]] == [Kind.FORWARD, Kind.BACKWARD] * 2
    assert [len(next(iter(ask.tensors.values()))) for ask, _ in heard[::2]] == [16, 16, 16, 17]
    assert schema_hash(client.exchanged()) == schema_hash(server.exchanged())
    assert (server.samples, server.class_counts(), server.evaluate().samples) == (0, [0] * 10, 0)


def test_a_server_that_lost_its_place_says_so(digits: LabelledImages) -> None:
    client, server = pair(digits)
    words = client.conversation(1)
    first = next(words)
    second = words.send(server.answer(1, first))
    third = words.send(server.answer(1, second))
    for early in (Ask(Kind.BACKWARD, 1, second.tensors), Ask(Kind.FORWARD, 7, third.tensors), second):
        with pytest.raises(OutOfStep):
            server.answer(1, early)
    server.load(server.parameters())
    with pytest.raises(OutOfStep):
        server.answer(1, third)
    assert server.answer(1, first).keys() == {port.name for port in server.middle.outputs}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: {}, "tensors"),
        (lambda t: {**t, "more": torch.zeros(1)}, "more"),
        (lambda t: {name: tensor[:, :5] for name, tensor in t.items()}, "not torch.float32"),
        (lambda t: {name: tensor[:0] for name, tensor in t.items()}, "not torch.float32"),
        (lambda t: {name: tensor.double() for name, tensor in t.items()}, "float64"),
        (lambda t: {name: tensor * torch.nan for name, tensor in t.items()}, "not finite"),
        (lambda t: {name: tensor / 0 for name, tensor in t.items()}, "not finite"),
    ],
)
def test_what_cannot_be_a_batch_is_refused_by_both(digits: LabelledImages, change: Any, says: str) -> None:
    client, server = pair(digits)
    words = client.conversation(1)
    first = next(words)
    with pytest.raises(ValueError, match=says):
        server.answer(1, Ask(first.kind, first.step, change(first.tensors)))
    second = words.send(server.answer(1, first))
    with pytest.raises(ValueError, match=says):
        server.answer(1, Ask(second.kind, second.step, change(second.tensors)))
    with pytest.raises(ValueError, match=says):
        words.send(change(server.answer(1, second)))


def test_integers_cross_without_gradients() -> None:
    from decentral.models.stages import Port

    port = Port("index", torch.int64, (2, 3))
    [found] = incoming({"index": torch.zeros(5, 3, dtype=torch.int64)}, [port], 5, torch.device("cpu")).values()
    assert not found.requires_grad


# ---- what cannot be -------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(64, 64), nn.ReLU()
        self.second, self.last = self.first, nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.second(self.middle(self.first(images.flatten(1)))))
        return logits


class Dropping(nn.Module):
    """Its dropout is no module: a trace in evaluation mode knows nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.dropout(self.first(images.flatten(1)), 0.5, self.training)
        logits: Tensor = self.last(self.second(hidden))
        return logits


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        (None, {"cuts": ["2"]}, "two modules"),
        (None, {"cuts": ["2", "4", "6"]}, "two modules"),
        (None, {"cuts": ["2", "nowhere"]}, "no module of this network"),
        (None, {"cuts": ["2", "6"], "precision": "bfloat16"}, "computes in float32"),
        (Tied, {"cuts": ["first", "middle"]}, "cut|needed on both sides"),
        (Dropping, {"cuts": ["first", "second"]}, "something else in training"),
    ],
)
def test_a_network_that_cannot_be_split_is_refused(
    digits: LabelledImages, model: Any, settings: dict[str, Any], says: str
) -> None:
    made = network(digits, MLP[0], MLP[1]) if model is None else model()
    with pytest.raises(UserError, match=says):
        split(made, digits, np.arange(20), **settings)


def test_neither_side_can_train_alone(digits: LabelledImages) -> None:
    client, server = pair(digits)
    client.partner = None
    for alone in (client, server):
        with pytest.raises(UserError, match="use algorithm 'split'"):
            alone.train(1)
    with pytest.raises(UserError, match="use algorithm 'split'"):
        client.evaluate()
