"""Two fixed workloads on real digits, W1 and W2, whoever runs them: decentral (as a plugin), plain PyTorch, the peers.

scikit-learn's 1,797 digits, split 80/20 and IID over five peers; each round one local epoch of SGD with a fresh
optimiser, then the average weighted by samples. Seeds are fixed, so that accuracies compare to the last digit.
`python -m benchmarks.workload w1` prints the accuracy that everybody has to reach: the same rounds in one process.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

PEERS, SEED, BATCH, LEARNING_RATE, MOMENTUM = 5, 1234, 32, 0.05, 0.9
DIGITS = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks" / "digits.npz"


@dataclass(frozen=True, slots=True)
class Workload:
    """Layer widths of the perceptron, how many rounds, and the test accuracy that plain averaging ends with."""

    widths: tuple[int, ...]
    rounds: int
    accuracy: float


WORKLOADS = {
    "w1": Workload((64, 256, 128, 10), rounds=10, accuracy=0.8889),  # 50,826 parameters: what a framework costs
    "w2": Workload((64, 4096, 4096, 10), rounds=3, accuracy=0.9222),  # 17,088,522 parameters: what moving them costs
}


def prepare() -> None:
    """Writes the split once, so that no measured process imports scikit-learn."""
    if DIGITS.is_file():
        return
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16.0).astype(np.float32), labels.astype(np.int64)
    parts = train_test_split(images, labels, test_size=0.2, random_state=SEED, stratify=labels)
    DIGITS.parent.mkdir(parents=True, exist_ok=True)
    partial = DIGITS.with_suffix(".partial.npz")
    np.savez(partial, **dict(zip(("train_x", "test_x", "train_y", "test_y"), parts, strict=True)))
    partial.replace(DIGITS)


def part(name: str, indices: NDArray[np.int64] | None = None) -> tuple[Tensor, Tensor]:
    """Images (n, 64) and labels (n,) of `train` or `test`."""
    import torch

    with np.load(DIGITS) as file:
        images, labels = file[f"{name}_x"], file[f"{name}_y"]
    if indices is not None:
        images, labels = images[indices], labels[indices]
    return torch.from_numpy(images), torch.from_numpy(labels)


def shard(peer: int) -> tuple[Tensor, Tensor]:
    """What one peer trains on."""
    with np.load(DIGITS) as file:
        order = np.random.default_rng(SEED).permutation(len(file["train_y"]))
    return part("train", np.array_split(order, PEERS)[peer])


def perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    """The common initialisation."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def shuffle_seed(round: int, peer: int) -> int:
    """Of the order in which a peer sees its images in a round."""
    return 1000 * round + peer


def epoch(model: nn.Module, images: Tensor, labels: Tensor, *, round: int, peer: int) -> float:
    """One local epoch in place; the mean loss over its samples."""
    import torch
    from torch.nn.functional import cross_entropy

    optimiser = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(shuffle_seed(round, peer)))
    model.train()
    total = 0.0
    for batch in torch.split(order, BATCH):
        optimiser.zero_grad()
        loss = cross_entropy(model(images[batch]), labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += loss.item() * len(batch)
    return total / len(images)


def score(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy."""
    import torch
    from torch.nn.functional import cross_entropy

    model.eval()
    with torch.inference_mode():
        outputs = model(images)
        return cross_entropy(outputs, labels).item(), (outputs.argmax(1) == labels).float().mean().item()


def reference(workload: Workload) -> float:
    """Test accuracy after the same rounds in one process, one peer after the other."""
    import torch

    torch.set_num_threads(1)
    model, shards = perceptron(workload.widths), [shard(peer) for peer in range(PEERS)]
    total = sum(len(labels) for _, labels in shards)
    for round in range(1, workload.rounds + 1):
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        average = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        for peer, (images, labels) in enumerate(shards):
            model.load_state_dict(start)
            epoch(model, images, labels, round=round, peer=peer)
            for name, tensor in model.state_dict().items():
                average[name].add_(tensor, alpha=len(labels) / total)
        model.load_state_dict(average)
    return score(model, *part("test"))[1]


if __name__ == "__main__":
    prepare()
    for chosen in sys.argv[1:] or sorted(WORKLOADS):
        print(f"{chosen}: test accuracy {reference(WORKLOADS[chosen]):.4f}, to be {WORKLOADS[chosen].accuracy}")
