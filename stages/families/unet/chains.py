"""Several UNets in training in one pass: they share all weights but those of the attention.

On a CPU the kernels of most operations compute a row in the same way whatever the other rows are. Exceptions are
products of a few rows (those of the times' embedding) and 1x1 convolutions, so these are computed chain by chain, and
each chain's numbers are those that it has alone. Where a training does not repeat to the last bit anyway, they are
computed at once. `stages/tools/together/train.py` checks the numbers on the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stages.core.family import Encodings, JoinedLearners, Learner
from stages.families.unet.learner import UNetLearner
from stages.families.unet.lora.grouped import Grouped
from stages.runtime.device import reproducible


class JoinedUNets(JoinedLearners):
    """Learners of one family, ready for training, whose loss is computed in one pass of its UNet.

    Args:
        learners: what each of them has prepared stays with it; the family itself may be at any delta.

    Raises:
        ValueError: they cannot share a pass.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        own = [one for one in learners if isinstance(one, UNetLearner)]
        grouped = [layers for one in own if isinstance(layers := one.layers["unet"], Grouped)]
        if len(grouped) < len(learners) or own[0].family.text_encoders:
            raise ValueError("train.layers is peft, or adapters change the text encoders")
        if any(one.options.checkpointing for one in own):
            raise ValueError("train.checkpointing is set")
        self.first = own[0]
        self.layers, self.count = grouped[0].joined(grouped[1:]), len(learners)
        # Made once: compiled code depends on which function a module calls.
        self.alone = {module: by_chain(type(module).forward.__get__(module), self.count) for module in self._apart()}

    def _apart(self) -> Iterator[nn.Module]:
        """The modules that are computed chain by chain."""
        for name, module in self.first.unet.named_modules() if reproducible() else ():
            if (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)) or (
                isinstance(module, nn.Linear) and ("embedding" in name or "time_emb" in name)
            ):
                yield module

    def losses(self, inputs: Sequence[Encodings]) -> Tensor:
        with self._installed():
            errors = self.first.errors(joined(inputs), self.layers)
        return torch.stack([part.sum() for part in torch.split(errors, len(errors) // self.count)])

    @contextmanager
    def _installed(self) -> Iterator[None]:
        """Within the block the UNet computes all chains."""
        self.layers.install()
        for module, forward in self.alone.items():
            module.__dict__["forward"] = forward
        try:
            yield
        finally:
            for module in (*self.alone, *self.layers.attentions.values()):
                del module.__dict__["forward"]


def by_chain(forward: Callable[[Tensor], Tensor], chains: int) -> Callable[[Tensor], Tensor]:
    """The function applied to the rows of one chain after another."""

    def call(x: Tensor) -> Tensor:
        return torch.cat([forward(part) for part in x.chunk(chains)])

    return call


def joined(inputs: Sequence[Encodings]) -> dict[str, Tensor]:
    """The inputs of all chains, chain by chain."""
    return {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
