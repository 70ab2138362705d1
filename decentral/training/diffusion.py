"""Local training of a network that turns noise into images: flow matching, with a moving average of its parameters.

Lipman et al., "Flow matching for generative modeling" (arXiv 2210.02747), equation 23; times drawn as in Esser et al.,
"Scaling rectified flow transformers" (2403.03206), section 3.1. The mathematics of the path is `core.flow`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.flow import interpolate, velocity_target
from decentral.core.seeds import derive_seed
from decentral.data.clusters import Assignment
from decentral.data.datasets import Indices, LabelledImages
from decentral.data.partition import subset
from decentral.errors import UserError
from decentral.models.denoisers import ask, null_label
from decentral.models.graphs import evaluating, saved_state
from decentral.training.images import NormalisedImages
from decentral.training.latents import EncodedImages
from decentral.training.learner import Evaluation, State
from decentral.training.loop import LocalTraining, Settings, check_schema

LIVE, UPDATES = "live/", "average/updates"
"""In what a checkpoint keeps: the parameters that are trained; how often the average has followed them."""
TIMES = ("uniform", "logit-normal")
BATCH = 256


@dataclass(frozen=True, slots=True)
class Seen:
    """Test images, their noise and times; their labels, where the network takes some; their numbers in the test set."""

    images: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    labels: Int[Tensor, " b"] | None
    numbers: Int[Tensor, " b"]

    @property
    def noised(self) -> Float[Tensor, "b c h w"]:
        return interpolate(self.images, self.noise, self.t)


class NoisedTraining(LocalTraining):
    """What experts and routers share: noise of all levels, labels that are left out at times, an average that is kept.

    The peer's model, as others see it and as it is evaluated and kept, is the exponential moving average of the
    parameters; `ema` is the weight of the past, less at the beginning: min(ema, (1 + n) / (10 + n)) at the n-th step.
    `autoencoder` is the one whose latents are learned from, None: pixels.
    `times`: how noise levels are drawn. `label_dropout`: share of labels replaced by the one that says nothing, so that
    guidance has something to compare with. `test` are the test images to evaluate on, by number, and `draws` how often
    each is seen, at other noise; peers that share a seed see the same noise on the same image.
    """

    published: ClassVar[bool] = True
    """Whether what was learned is written down as others will use it, when training is over."""
    assignment: Assignment | None = None
    """Who has which images, in an ensemble."""

    def __init__(
        self,
        model: nn.Module,
        dataset: LabelledImages,
        share: Indices,
        *,
        ema: float = 0.999,
        times: str = "uniform",
        label_dropout: float = 0.1,
        accumulate: int = 1,
        draws: int = 4,
        test: Indices | None = None,
        evaluation_samples: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        """Raises UserError for an option that cannot be."""
        if not 0 <= ema < 1 or not 0 <= label_dropout < 1:
            raise UserError(f"learner: ema and label_dropout must be in [0, 1), not {ema} and {label_dropout}")
        if times not in TIMES:
            raise UserError(f"learner.times: must be one of {', '.join(TIMES)}, not {times!r}")
        if accumulate < 1 or draws < 1:
            raise UserError(f"learner: accumulate and draws must be at least 1, not {accumulate} and {draws}")
        middle, half = ((value,) * dataset.image_shape[0] for value in dataset.span)
        super().__init__(model, dataset, share, accumulate=accumulate, mean=middle, std=half, **settings)
        self.autoencoder = dataset.autoencoder if isinstance(dataset, EncodedImages) else None
        self._null = null_label(model)
        self._conditional = self._null is not None and self._null >= dataset.classes  # one may know no class but none
        self._ema, self._times, self._dropout, self._draws = ema, times, label_dropout, draws
        chosen = subset(dataset.test_labels, evaluation_samples, self.seed, "evaluation.samples")
        self._test_numbers = chosen if test is None else np.intersect1d(chosen, test)
        self._test: NormalisedImages | None = None
        self._start_average()

    def stepped(self) -> None:
        self._updates += 1
        decay = min(self._ema, (1 + self._updates) / (10 + self._updates))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._floats, 1 - decay)

    def drawn_times(self, count: int) -> Float[Tensor, " n"]:
        """From torch's random state."""
        if self._times == "uniform":
            return torch.rand(count, device=self.device)
        return torch.randn(count, device=self.device).sigmoid()

    def drawn_labels(self, batch: Int[Tensor, " b"]) -> Int[Tensor, " b"] | None:
        """Of some of the peer's images, some of them left out; None: the network takes no labels."""
        if not self._conditional:
            return None
        dropped = torch.rand(len(batch), device=self.device) < self._dropout
        return self._labels[batch].masked_fill(dropped, self._dataset.classes)

    def view(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self._average.items()}

    def parameters(self) -> dict[str, Tensor]:
        return {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor) for name, tensor in self._average.items()
        }

    @torch.no_grad()
    def load(self, parameters: State) -> None:
        """Training goes on from the average, unless `load_optimizer` says where it stood."""
        super().load(parameters)
        self._start_average()

    def optimizer_state(self) -> dict[str, Tensor]:
        live = {f"{LIVE}{name}": tensor.cpu() for name, tensor in saved_state(self.model).items()}
        return {**super().optimizer_state(), **live, UPDATES: torch.tensor(self._updates)}

    @torch.no_grad()
    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        live = {name.removeprefix(LIVE): tensor for name, tensor in state.items() if name.startswith(LIVE)}
        if live:
            own = saved_state(self.model)
            check_schema(own, live)
            for name, tensor in own.items():
                tensor.copy_(live[name])
            self._updates = int(state[UPDATES])
        rest = {name: tensor for name, tensor in state.items() if not name.startswith(LIVE) and name != UPDATES}
        super().load_optimizer(rest)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network in evaluation mode with the averaged parameters; afterwards it has its own again."""
        live = {name: tensor.clone() for name, tensor in saved_state(self.model).items()}
        super().load(self._average)
        try:
            with evaluating(self.model):
                yield self.model
        finally:
            super().load(live)

    def held_out(self) -> Iterator[Seen]:
        """Test images as they are evaluated on: the same at every call, and at every peer."""
        if self._test is None:
            self._test = self._normalised(torch.from_numpy(self._dataset.some_test_images(self._test_numbers)))
        labels = torch.from_numpy(self._dataset.test_labels)
        for rows in torch.split(torch.arange(len(self._test_numbers)), BATCH):
            numbers = torch.from_numpy(self._test_numbers)[rows]
            for draw in range(self._draws):
                noise, t = held_out_noise(self.seed, draw, numbers.tolist(), self._dataset.image_shape)
                known = labels[numbers].to(self.device) if self._conditional else None
                images = self._test[rows.to(self.device)]
                yield Seen(images, noise.to(self.device), t.to(self.device), known, numbers)

    def _start_average(self) -> None:
        state = saved_state(self.model)
        self._average = {name: tensor.clone() for name, tensor in state.items()}
        changing = [name for name, tensor in state.items() if tensor.is_floating_point()]
        self._floats, self._averaged = ([found[name] for name in changing] for found in (state, self._average))
        self._updates = 0


class DiffusionLearner(NoisedTraining):
    """An expert: trained on its share, it learns the flow of its share. Alone on all images, it is the monolith."""

    def loss(self, images: Float[Tensor, "b c h w"], batch: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        t, noise = self.drawn_times(len(batch)), torch.randn_like(images)
        answer = ask(self.model, interpolate(images, noise, t), t, self.drawn_labels(batch))
        return functional.mse_loss(answer.float(), velocity_target(images, noise))

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Mean squared error of the velocity, over pixels, on the test images; there is no accuracy."""
        if not len(self._test_numbers):
            return Evaluation(loss=None, accuracy=None, samples=0)
        total, seen = torch.zeros((), dtype=torch.float64, device=self.device), 0
        with self.averaged() as model:
            for part in self.held_out():
                error = ask(model, part.noised, part.t, part.labels) - velocity_target(part.images, part.noise)
                total += error.square().mean((1, 2, 3)).sum(dtype=torch.float64)
                seen += len(error)
        return Evaluation(loss=total.item() / seen, accuracy=None, samples=len(self._test_numbers))


def held_out_noise(
    seed: int, draw: int, numbers: list[int], shape: tuple[int, ...]
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, " n"]]:
    """The noise and the times at which test images are seen in one draw: they depend on the image's number alone."""
    noise, times = torch.empty(len(numbers), *shape), torch.empty(len(numbers))
    for row, number in enumerate(numbers):
        generator = torch.Generator().manual_seed(derive_seed(seed, "held out", draw, number))
        noise[row] = torch.randn(shape, generator=generator)
        times[row] = torch.rand((), generator=generator)
    return noise, times
