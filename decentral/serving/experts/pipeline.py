"""A diffusers pipeline of experts that were trained apart and sample as one.

McAllister et al., "Decentralized Diffusion Models", arXiv 2501.05450. Every part is a stock diffusers model in a folder
of its own, so that each can be used alone; see docs/diffusion.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput, is_accelerate_available
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from decentral.core.gating import Choice, Gate, gate
from decentral.errors import UserError
from decentral.models.autoencoders import decoded
from decentral.models.experts import Router, classes, config, image_size, own_memory, velocity
from decentral.serving.experts.admission import (
    EXPERTS,
    check_experts,
    check_folder,
    check_part,
    check_router,
    check_scheduler,
)
from decentral.serving.experts.denoising import Answer, Denoising, Evaluation, Gone, Plan, Roster, batches, denoise

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class DecentralizedDiffusionOutput(BaseOutput):  # type: ignore[misc]
    """Images, and who made them."""

    images: list[Image.Image] | np.ndarray[Any, Any] | Tensor
    evaluations: dict[int, int] = field(default_factory=dict)
    """How many samples each expert has seen, over all steps; with guidance an image is two samples."""
    absent: dict[int, str] = field(default_factory=dict)
    """Why an expert had no part in it, from the beginning or from a step on."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """A sampling that has begun: batches that can be taken through their steps independently, and who is there."""

    batches: list[Denoising]
    roster: Roster
    steps: int


class DecentralizedDiffusionPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Images from up to 16 experts and a router.

    `expert_k`: what the cluster k of the data was learned by; a missing one is absent, and the others share its weight.
    `router`: a model with one output channel for each cluster; one expert alone does without. `vae`: if the experts
    live in a latent space. `num_classes`: of the experts; found out from them where there are any here.
    """

    _optional_components = [*EXPERTS, "router", "scheduler", "vae"]  # noqa: RUF012  (diffusers' way to say it)

    def __init__(  # noqa: PLR0917  (diffusers reads its parts from here)
        self,
        router: ModelMixin | None = None,
        scheduler: FlowMatchEulerDiscreteScheduler | None = None,
        vae: ModelMixin | None = None,
        expert_0: ModelMixin | None = None,
        expert_1: ModelMixin | None = None,
        expert_2: ModelMixin | None = None,
        expert_3: ModelMixin | None = None,
        expert_4: ModelMixin | None = None,
        expert_5: ModelMixin | None = None,
        expert_6: ModelMixin | None = None,
        expert_7: ModelMixin | None = None,
        expert_8: ModelMixin | None = None,
        expert_9: ModelMixin | None = None,
        expert_10: ModelMixin | None = None,
        expert_11: ModelMixin | None = None,
        expert_12: ModelMixin | None = None,
        expert_13: ModelMixin | None = None,
        expert_14: ModelMixin | None = None,
        expert_15: ModelMixin | None = None,
        num_classes: int | None = None,
    ) -> None:
        given = locals()
        super().__init__()
        self.register_modules(
            router=router,
            scheduler=FlowMatchEulerDiscreteScheduler() if scheduler is None else scheduler,
            vae=vae,
            **{name: given[name] for name in EXPERTS},
        )
        here = self.experts
        for part in (*here.values(), *([] if router is None else [router])):
            own_memory(part)
        check_experts(here)
        if here:
            known = classes(here[min(here)])
            if num_classes not in (None, known):
                raise UserError(f"num_classes is {num_classes}, but expert_{min(here)} knows {known}")
            num_classes = known
        self.register_to_config(num_classes=num_classes or (classes(router) if router is not None else 0))
        self._check()

    @property
    def experts(self) -> dict[int, nn.Module]:
        """Those that are here, by index."""
        found = {index: getattr(self, name) for index, name in enumerate(EXPERTS)}
        return {index: expert for index, expert in found.items() if expert is not None}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        experts: Iterable[int] | None = None,
        **kwargs: Any,
    ) -> DecentralizedDiffusionPipeline:
        """Loads what `save_pretrained` wrote. `experts`: which of them; None: all; (): the part of a client of peers.

        Only safetensors are read. Raises UserError that names the part that is missing, or of a kind that is not known.
        """
        kwargs = {"use_safetensors": True, "low_cpu_mem_usage": is_accelerate_available(), **kwargs}
        if experts is not None:
            wanted = set(experts)
            if strange := wanted - set(range(len(EXPERTS))):
                raise UserError(f"there is no expert_{min(strange)}: experts are numbered from 0 to {len(EXPERTS) - 1}")
            kwargs |= {name: None for index, name in enumerate(EXPERTS) if index not in wanted}
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            for name, value in check_folder(folder).items():
                if isinstance(value, list) and value[0] is not None and name not in kwargs:
                    check_part(folder, name)
        return cast(DecentralizedDiffusionPipeline, super().from_pretrained(pretrained_model_name_or_path, **kwargs))

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what experts see."""
        return int(config(self._model())["in_channels"]), *image_size(self._model())

    @torch.no_grad()
    def __call__(
        self,
        num_images: int | None = None,
        num_inference_steps: int = 50,
        *,
        class_labels: int | Sequence[int] | Tensor | None = None,
        guidance_scale: float = 1.0,
        experts: Choice | Gate = "full",
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        micro_batch: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        batch_size: int | None = None,
    ) -> DecentralizedDiffusionOutput | tuple[Any]:
        """Samples images with the experts that are here.

        num_images: as many as there are labels, or one; `batch_size` is another name for it. class_labels: one for all
        or one each; None: of no class in particular. guidance_scale: above 1, classifier-free guidance. experts: who is
        asked: "full", "top-1", "top-2", {"threshold": 0.9}, {"name": "by-noise", "above": 0.5, "wide": "full",
        "narrow": "top-1"}. generator: one, or one for each image, whose noise is then the same in any batch. latents:
        that noise itself. micro_batch: images that go through the steps together; it can change the last bits.
        output_type: "pil", "np", "pt" or "latent". callback_on_step_end(pipeline, step, timestep, {"latents": ...}) may
        return other latents.

        Raises UserError for arguments that cannot be, Unreachable when no expert is left.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")
        if num_images is not None and batch_size not in (None, num_images):
            raise UserError(f"num_images is {num_images} and batch_size is {batch_size}: they are the same thing")
        sampling = self.start(
            num_images=batch_size if num_images is None else num_images,
            num_inference_steps=num_inference_steps,
            class_labels=class_labels,
            guidance_scale=guidance_scale,
            experts=experts,
            generator=generator,
            latents=latents,
            micro_batch=micro_batch,
        )
        with self.progress_bar(total=sampling.steps) as progress, _evaluating([*self.experts.values(), self.router]):

            def after_step(step: int, timestep: Tensor) -> None:
                if callback_on_step_end is not None:
                    now = torch.cat([part.latents for part in sampling.batches])
                    changed = (callback_on_step_end(self, step, timestep, {"latents": now}) or {}).get("latents", now)
                    sizes = [len(part.latents) for part in sampling.batches]
                    for part, own in zip(sampling.batches, torch.split(changed, sizes), strict=True):
                        part.latents = own
                progress.update()

            found = denoise(sampling.batches, self.evaluate, after_step)
        images = self.decode(found, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        return DecentralizedDiffusionOutput(
            images=images, evaluations=dict(sorted(sampling.roster.evaluated.items())), absent=sampling.roster.absent
        )

    def start(
        self,
        *,
        num_images: int | None = None,
        num_inference_steps: int = 50,
        class_labels: int | Sequence[int] | Tensor | None = None,
        guidance_scale: float = 1.0,
        experts: Choice | Gate = "full",
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        micro_batch: int | None = None,
        present: Iterable[int] | None = None,
    ) -> Sampling:
        """A sampling at its beginning, for whoever takes it through its steps: `__call__`, or a client of peers.

        `present`: experts that can be asked; None: those that are here. The other arguments are those of `__call__`.
        """
        count = self._check()
        there = set(self.experts if present is None else present)
        for what, value in {"num_inference_steps": num_inference_steps, "micro_batch": micro_batch}.items():
            if value is not None and value < 1:
                raise UserError(f"{what} must be at least 1, not {value}")
        if not there:
            raise UserError(f"there are no experts: none of expert_0 to expert_{count - 1} is loaded")
        if strange := there - set(range(count)):
            raise UserError(f"expert_{max(strange)} is unknown to the router, which tells {count} clusters apart")
        labels = self._labels(class_labels, num_images)
        if guidance_scale > 1 and labels is None:
            raise UserError(f"guidance_scale {guidance_scale} needs class_labels")
        number = len(labels) if labels is not None else 1 if num_images is None else num_images
        roster = Roster.of(count, there)
        plan = Plan(
            scheduler=self.scheduler,
            steps=num_inference_steps,
            gate=gate(experts),
            route=None if self.router is None else Router(self.router),
            guidance=guidance_scale,
            null=self.config.num_classes,
        )
        noise = self._noise(number, generator, latents)
        return Sampling(batches(plan, roster, noise, labels, micro_batch), roster, num_inference_steps)

    @torch.no_grad()
    def evaluate(self, evaluation: Evaluation) -> Answer:
        """What an expert of this process says."""
        expert = getattr(self, EXPERTS[evaluation.expert])
        if expert is None:
            return Gone("not loaded")
        return velocity(expert, evaluation.sample, evaluation.t, evaluation.labels)

    @torch.no_grad()
    def decode(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Images of what sampling ended with, in [0, 1] where they are numbers."""
        if output_type == "latent":
            return latents
        if self.vae is not None:
            latents = decoded(self.vae, latents)
        return VaeImageProcessor().postprocess(latents, output_type=output_type)

    def _check(self) -> int:
        """How many experts there are, absent ones included. Parts may have been replaced since the last time."""
        here = self.experts
        check_experts(here)
        check_scheduler(self.scheduler)
        if self.router is None and not here:
            raise UserError("there are no experts and no router")
        count = check_router(self.router, here)
        if self.vae is not None:
            own, channels = self.vae.config.latent_channels, config(self._model())["in_channels"]
            if own != channels:
                raise UserError(f"the vae does not fit: it has {own} latent channels, the experts have {channels}")
        return count

    def _model(self) -> nn.Module:
        """One that says how large images are: an expert, or else the router."""
        here = self.experts
        return here[min(here)] if here else cast(nn.Module, self.router)

    def _labels(self, given: int | Sequence[int] | Tensor | None, number: int | None) -> Tensor | None:
        if number is not None and number < 1:
            raise UserError(f"num_images must be at least 1, not {number}")
        if given is None:
            return None
        known = self.config.num_classes
        if not known:
            raise UserError("class_labels were given, but these experts know no classes")
        problem = "class_labels must be an integer or a list of integers"
        try:
            labels = torch.as_tensor(given, device=self._execution_device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{problem}: {error}") from error
        if labels.is_floating_point() or labels.ndim > 1 or not labels.numel():
            raise UserError(problem)
        if labels.ndim == 0:
            labels = labels.expand(1 if number is None else number)
        if number not in (None, len(labels)):
            raise UserError(f"{len(labels)} class_labels for {number} images")
        strange = labels[(labels < 0) | (labels >= known)]
        if len(strange):
            raise UserError(f"class_labels must be between 0 and {known - 1}, not {strange[0].item()}")
        return labels.long()

    def _noise(
        self, number: int, generator: torch.Generator | list[torch.Generator] | None, latents: Tensor | None
    ) -> Tensor:
        """float32, whatever the experts compute in."""
        shape = (number, *self.sample_shape)
        if latents is not None:
            if latents.shape != shape:
                raise UserError(f"latents have the shape {tuple(latents.shape)}, not {shape}")
            return latents.to(self._execution_device, torch.float32)
        if isinstance(generator, list) and len(generator) != number:
            raise UserError(f"{len(generator)} generators for {number} images")
        noise = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        return cast(Tensor, noise)


@contextlib.contextmanager
def _evaluating(models: Iterable[nn.Module | None]) -> Iterator[None]:
    """In evaluation mode meanwhile: in training, a DiT forgets labels at random."""
    modes = {module: module.training for model in models if model is not None for module in model.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
