"""CLIP-T: how well a picture fits its prompt, as in DreamBooth (arXiv 2208.12242, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.metric import metrics
from stages.metrics.clip_i import ClipI, load, model_name
from stages.metrics.weights.loading import BATCH
from stages.runtime.device import device
from stages.runtime.inference import inference

if TYPE_CHECKING:
    import open_clip


@lru_cache
def tokenizer(path: str, architecture: str) -> open_clip.tokenizer.HFTokenizer | open_clip.SimpleTokenizer:
    """The tokenizer of the model; cached."""
    import open_clip

    return open_clip.get_tokenizer(model_name(path, architecture))


@metrics.register("clip_t")
class ClipT(ClipI):
    """Like clip_i, with the same picture embeddings, but compared with the prompt."""

    compares_with: ClassVar = "prompt"

    @inference()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        model, _ = load(self.path, self.architecture)
        ids = tokenizer(self.path, self.architecture)(list(prompts))
        return F.normalize(
            torch.cat([model.encode_text(part.to(device())) for part in ids.split(BATCH)]).float(), dim=1
        ).cpu()
