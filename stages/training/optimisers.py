"""The optimisers of `train.optimiser`: AdamW, and AdamW with moments of eight bits, as the paper's code trains.

Both skip a step if a flag on the device says that something is not finite, and store their moments in checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from stages.core.params import Train


class AdamW:
    """torch's AdamW, fused: nothing is read on the host, so a CUDA graph can record it.

    Args:
        parameters: to train.
        options: of the optimiser.
        rate: the learning rate, on the device; read in every step.
        not_finite: no step is applied while it is 1.
    """

    recordable: ClassVar[bool] = True

    def __init__(self, parameters: Sequence[nn.Parameter], options: Train, rate: Tensor, not_finite: Tensor) -> None:
        self._inner = torch.optim.AdamW(
            parameters,
            rate,
            options.betas,
            options.epsilon,
            options.weight_decay,
            fused=True,
            capturable=rate.device.type == "cuda",
        )
        self._inner.found_inf = not_finite  # type: ignore[attr-defined] # fused AdamW skips the step if it is 1

    def step(self) -> None:
        """Updates the parameters from their gradients."""
        self._inner.step()

    def moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The moments of one parameter by name."""
        state = self._inner.state[parameter]
        return {"first": state["exp_avg"], "second": state["exp_avg_sq"]}

    def restore(self, parameter: nn.Parameter, moments: dict[str, Tensor], step: int) -> None:
        """Sets the moments that a parameter had after `step` steps, in the places that recorded graphs read, if any."""
        restored = {
            "step": torch.tensor(float(step), device=parameter.device),
            "exp_avg": moments["first"],
            "exp_avg_sq": moments["second"],
        }
        for name, place in self._inner.state[parameter].items():
            restored[name] = place.copy_(restored[name])
        self._inner.state[parameter] = restored

    def reset(self) -> None:
        """Sets all moments to zero, in place, and the number of steps."""
        for state in self._inner.state.values():
            for value in state.values():
                value.zero_()


class AdamW8bit:
    """AdamW of bitsandbytes: moments in blocks of 256 numbers of eight bits (arXiv 2110.02861), on a CPU too.

    Each step reads the flag and the rate on the host. Parameters of fewer than 4096 numbers have moments of 32 bits.

    Args: as for `AdamW`.
    """

    recordable: ClassVar[bool] = False

    def __init__(self, parameters: Sequence[nn.Parameter], options: Train, rate: Tensor, not_finite: Tensor) -> None:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not used here
        from bitsandbytes.optim import AdamW8bit as Inner

        self._rate, self._not_finite = rate, not_finite
        self._inner = Inner(parameters, 0.0, options.betas, options.epsilon, options.weight_decay)

    def step(self) -> None:
        """Updates the parameters from their gradients."""
        if not bool(self._not_finite):
            self._inner.param_groups[0]["lr"] = float(self._rate)
            self._inner.step()

    def moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The moments of one parameter by name: numbers, scales of blocks, and what the numbers stand for."""
        state = self._inner.state[parameter]  # parameters share some of the tensors, which files cannot
        return {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}

    def restore(self, parameter: nn.Parameter, moments: dict[str, Tensor], step: int) -> None:
        """Sets the moments that a parameter had after `step` steps."""
        self._inner.state[parameter] = {"step": step, **moments}

    def reset(self) -> None:
        """Begins anew, with new moments."""
        self._inner.state.clear()


OPTIMISERS: dict[str, type[AdamW] | type[AdamW8bit]] = {"adamw": AdamW, "adamw8bit": AdamW8bit}
