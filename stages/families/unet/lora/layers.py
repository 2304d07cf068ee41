"""LoRA in the attention of a model: one peft layer per matrix, or all matrices in a few large operations.

peft is the definition: each matrix W becomes W x + scale * B (A x). `grouped.py` computes the same sums with the
matrices of a UNet stacked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from stages.adapters.algebra import Adapter, Matrices
from stages.core.family import Encodings
from stages.families.unet.compiled.blocks import restore_blocks
from stages.families.unet.lora.groups import attentions_of


class Layers(ABC):
    """An adapter in training in a UNet or a text encoder.

    Args:
        fixed_a: B alone is trained.
    """

    def __init__(self, model: Any, adapter: Adapter, fixed_a: bool = False) -> None:
        self.model, self.scale, self.names = model, adapter.scale, sorted(adapter.a)
        self.rank = adapter.a[self.names[0]].shape[0]
        self.parameters: list[nn.Parameter] = []

    @abstractmethod
    def install(self) -> None:
        """Puts the layers into the model, also after `remove` has taken them out."""

    def constants(self, text: Tensor) -> dict[str, Tensor]:
        """What `begin` needs of the prompts [n, length, channels] and training does not change, one row per prompt."""
        return {}

    def begin(self, inputs: Encodings) -> None:  # noqa: B027
        """Called before each forward pass."""

    def end(self) -> None:  # noqa: B027
        """Called after it, unless activations are recomputed: frees what `begin` computed for this pass."""

    @abstractmethod
    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the model computes as if there were no adapter; `begin` and `end` are called as ever."""
        yield

    @abstractmethod
    def adapter(self) -> Adapter:
        """The current adapter, float32 on the CPU."""

    @abstractmethod
    def views(self, tensors: Sequence[Tensor]) -> tuple[Matrices, Matrices]:
        """A and B by module, as views of tensors that are laid out as the parameters; without A if it is fixed."""


def remove(model: Any) -> None:
    """Ends a training: removes all adapter layers from a model, and the compiled code that runs them.

    Does nothing if there was none, since a walk through all modules takes as long as a swap. A learner's first step is
    to set a UNet's mode of training, and peft sets `peft_config`.
    """
    from diffusers.utils import recurse_remove_peft_layers

    peft = getattr(model, "peft_config", None)
    if not (peft or model.training):
        return
    model.eval()
    if peft:
        recurse_remove_peft_layers(model)
        del model.peft_config
        model._hf_peft_config_loaded = False  # the flag of both diffusers and transformers
    for attention in attentions_of(model).values():
        attention.__dict__.pop("forward", None)
    restore_blocks(model)


class PerMatrix(Layers):
    """One LoRA layer of peft per matrix."""

    def __init__(self, model: Any, adapter: Adapter, fixed_a: bool = False) -> None:
        super().__init__(model, adapter)
        on = model.device
        self.factors = [
            nn.Parameter(h[n].float().to(on, copy=True), requires_grad=h is adapter.b or not fixed_a)
            for h in (adapter.a, adapter.b)
            for n in self.names
        ]
        self.parameters = [factor for factor in self.factors if factor.requires_grad]

    def install(self) -> None:
        from peft import LoraConfig

        alpha = self.scale * self.rank
        self.model.add_adapter(
            LoraConfig(r=self.rank, lora_alpha=alpha, target_modules=self.names, init_lora_weights=False)
        )
        places = [(name, factor) for factor in ("lora_A", "lora_B") for name in self.names]
        for (name, factor), parameter in zip(places, self.factors, strict=True):
            getattr(self.model.get_submodule(name), factor)["default"].weight = parameter

    @contextmanager
    def off(self) -> Iterator[None]:
        scales = [self.model.get_submodule(name).scaling for name in self.names]
        before = [scale["default"] for scale in scales]
        for scale in scales:
            scale["default"] = 0.0
        try:
            yield
        finally:
            for scale, value in zip(scales, before, strict=True):
                scale["default"] = value

    def adapter(self) -> Adapter:
        a, b = self.views([factor.detach().float().cpu().clone() for factor in self.factors])
        return Adapter(a, b, self.scale)

    def views(self, tensors: Sequence[Tensor]) -> tuple[Matrices, Matrices]:
        a, b = tensors[: -len(self.names)], tensors[-len(self.names) :]
        return dict(zip(self.names, a, strict=True)) if a else {}, dict(zip(self.names, b, strict=True))
