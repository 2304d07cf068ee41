"""A tiny diffusion transformer, trained by flow matching. Pictures are their own latents, prompts are hashed words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from stages.adapters.algebra import Adapter, Delta
from stages.core.family import Encodings, Family, KnownAs, Learner, ModuleName, Row, TrainingOptions, families
from stages.files.artifact import digest
from stages.runtime.seeds import generator

WIDTH, BLOCKS, HEADS, SIDE, WORDS = 32, 2, 2, 8, 8
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (to(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One stream of text and picture tokens, as Flux's single blocks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.norm, self.proj_mlp = Attention(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.attn(normed) + functional.gelu(self.proj_mlp(normed))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.time_embedder = nn.Linear(3, WIDTH), nn.Linear(1, WIDTH)
        self.position = nn.Parameter(torch.randn(SIDE**2, WIDTH))
        self.single_transformer_blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.proj_out = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """The velocity [n, 3, side, side] at pictures of that shape, times [n] in 0..1, text [n, words, width]."""
        tokens = self.x_embedder(x.flatten(2).mT) + self.position + self.time_embedder(time[:, None])[:, None]
        tokens = torch.cat([text, tokens], 1)
        for block in self.single_transformer_blocks:
            tokens = block(tokens)
        return self.proj_out(tokens[:, WORDS:]).mT.reshape(x.shape)


@families.register("tiny_dit")
class TinyDit(Family):
    known_as: ClassVar = KnownAs("tiny-dit", "tiny_dit")
    schedulers: ClassVar = ("flow",)

    path: str = "data/world"  # DVC watches it; the weights are drawn
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        return digest(["tiny_dit", self.seed])

    @cached_property
    def model(self) -> Transformer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Transformer().requires_grad_(False)

    @cached_property
    def base(self) -> dict[str, Tensor]:
        linear = {name: module for name, module in self.model.named_modules() if name.endswith(PROJECTIONS)}
        return {name: linear[name].weight.clone() for name in sorted(linear)}

    def shapes(self) -> dict[str, tuple[int, int]]:
        return {name: (weight.shape[0], weight.shape[1]) for name, weight in self.base.items()}

    def weight(self, name: str) -> Tensor:
        return self.base[name]

    def module_names(self) -> dict[str, ModuleName]:
        return {
            name: ModuleName("transformer", name, f"lora_transformer_{name.replace('.', '_')}") for name in self.base
        }

    def encode_images(self, images: Sequence[Image.Image]) -> Encodings:
        small = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images]
        return {"latents": torch.tensor(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1}

    def encode_prompts(self, prompts: Sequence[str]) -> Encodings:
        texts = torch.zeros(len(prompts), WORDS, WIDTH)
        for text, prompt in zip(texts, prompts, strict=True):
            for place, word in enumerate(prompt.split()[:WORDS]):
                text[place] = torch.randn(WIDTH, generator=generator("word", word))
        return {"text": texts}

    def learner(self, frozen: Delta | None, adapter: Adapter, options: TrainingOptions | None = None) -> Learner:
        return FlowLearner(self, frozen or Delta(), adapter)

    @torch.no_grad()
    def sample(
        self,
        prompts: Encodings,
        noise: Tensor,
        steps: int,
        guidance: float,
        scheduler: str,
        batch: int | None = None,
    ) -> list[Image.Image]:
        x, text = noise, prompts["text"]
        for step in range(steps):
            time = torch.full((len(x),), 1 - step / steps)
            blank, wanted = self.model(x, time, torch.zeros_like(text)), self.model(x, time, text)
            x = x - (blank + guidance * (wanted - blank)) / steps
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(picture).resize((4 * SIDE, 4 * SIDE), Image.Resampling.NEAREST) for picture in pixels]

    def shift(self, delta: Delta) -> None:
        for name, base in self.base.items():
            shift = delta.module(name)
            self.model.get_submodule(name).weight.copy_(base if shift is None else base + shift)

    def noise_shape(self) -> tuple[int, int, int]:
        return 3, SIDE, SIDE


class FlowLearner(Learner):
    def __init__(self, family: TinyDit, frozen: Delta, adapter: Adapter) -> None:
        self.family, self.frozen, self.scale, self.names = family, frozen, adapter.scale, sorted(adapter.a)
        self.a, self.b = ([nn.Parameter(half[n].clone()) for n in self.names] for half in (adapter.a, adapter.b))
        family.shift(frozen)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.a, *self.b]

    def prepare(self, images: Sequence[Encodings], prompts: Encodings) -> None:
        self.images, self.prompts = images, prompts

    def inputs(self, rows: Sequence[Row]) -> Encodings:
        clean = torch.cat([self.images[row.image]["latents"] for row in rows])
        noise = torch.stack([torch.randn(clean.shape[1:], generator=generator(row.seed)) for row in rows])
        time = torch.stack([torch.rand((), generator=generator(row.seed, "time")) for row in rows])
        along = time[:, None, None, None]
        return {
            "noisy": (1 - along) * clean + along * noise,
            "time": time,
            "wanted": noise - clean,
            "text": torch.stack([self.prompts["text"][row.prompt] for row in rows]),
            "weight": torch.tensor([row.weight for row in rows]),
        }

    def loss(self, inputs: Encodings) -> Tensor:
        return ((self._predicted(inputs) - inputs["wanted"]).square().mean((1, 2, 3)) * inputs["weight"]).sum()

    def _predicted(self, inputs: Encodings) -> Tensor:
        model = self.family.model
        shifted = {
            f"{name}.weight": model.get_submodule(name).weight + self.scale * b @ a
            for name, a, b in zip(self.names, self.a, self.b, strict=True)
        }
        return torch.func.functional_call(model, shifted, (inputs["noisy"], inputs["time"], inputs["text"]))

    @torch.no_grad()
    def predict(self, inputs: Encodings) -> Tensor:
        return self._predicted(inputs)

    def adapter(self) -> Adapter:
        a, b = ({n: p.detach().clone() for n, p in zip(self.names, half, strict=True)} for half in (self.a, self.b))
        return Adapter(a, b, self.scale)

    @contextmanager
    def paused(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.family.shift(self.frozen)
