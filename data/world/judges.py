"""The architecture of the embedded world's judges, and the folders in which they are stored."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from data.world.artwork import COLOURS, NOUNS
from data.world.draw import PIXELS
from data.world.lessons.damage import BROKEN, NOISE
from data.world.lessons.objects import SMALL
from data.world.recipes.checkpoint import part
from data.world.scenes import BASE_STYLES, PLACE_WORDS, STYLES, TUNING_STYLES
from stages.files.pins import write_sums

HERE = Path(__file__).parent / "judges"
WIDTH, LAYERS, HEADS, PATCH, LENGTH = 96, 4, 3, 8, 24
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OPENAI = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
# The sizes of the two kinds of transformer, as timm and as open_clip call them.
DINO = {"img_size": PIXELS, "patch_size": PATCH, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS}
VISION = {"image_size": PIXELS, "patch_size": PATCH, "width": WIDTH, "layers": LAYERS, "head_width": WIDTH // HEADS}
VISION |= {"no_ln_pre": True}
TEXT = {"context_length": LENGTH, "width": 64, "heads": 2, "layers": 2, "hf_tokenizer_name": "clip"}


def normaliser(mean: tuple[float, ...], std: tuple[float, ...], device: str) -> Callable[[Tensor], Tensor]:
    m, s = (torch.tensor(v, device=device)[:, None, None] for v in (mean, std))
    return lambda x: (x - m) / s


def patches(x: Tensor) -> Tensor:
    """[n, 1, 64, 64] as [n, 64, 16]: the content of each of the ViT's patches, at half the resolution."""
    return F.unfold(F.avg_pool2d(x, 2), PATCH // 2, stride=PATCH // 2).transpose(1, 2)


class Sight(nn.Module):
    """An encoder, and heads that make it separate a thing from its place, and its shape from its colours: it is trained
    with them first, and they are discarded at the end."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.outline, self.upright = nn.Linear(WIDTH, PATCH * PATCH // 4), nn.Linear(WIDTH, 4 * SMALL * SMALL)
        self.noun = nn.Linear(WIDTH, len(NOUNS))

    def wrong(self, whole: Tensor, tokens: Tensor, known: dict[str, Tensor]) -> Tensor:
        """The loss of the heads: they predict the outline in each patch from its own token [n, 64, WIDTH], and the
        upright thing and its noun from the vector of the whole picture [n, WIDTH]."""
        outline = F.binary_cross_entropy_with_logits(self.outline(tokens), patches(known["outlines"]))
        upright = F.mse_loss(self.upright(whole), known["upright"].flatten(1))
        return outline + 5 * upright + 0.3 * F.cross_entropy(self.noun(whole), known["nouns"])


class StyleSight(nn.Module):
    """A picture tower, and heads that make it see the content of a picture in any style, and whether the picture is
    intact: by its style alone, a picture whose squares are shuffled would be the same."""

    def __init__(self, encoder: nn.Module, sight: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder, self.outline, self.whole = encoder, nn.Linear(WIDTH, PATCH * PATCH // 4), nn.Linear(WIDTH, 1)
        encoder.output_tokens = True
        self.outline.load_state_dict(part(sight, "outline."))

    def wrong(self, seen: Tensor, tokens: Tensor, outlines: Tensor) -> Tensor:
        """As Sight's, for the tokens [n, 64, WIDTH] of intact pictures; in `seen`, broken pictures follow those."""
        whole = (torch.arange(len(seen), device=seen.device) < len(tokens)).float()
        outline = F.binary_cross_entropy_with_logits(self.outline(tokens), patches(outlines))
        return outline + F.binary_cross_entropy_with_logits(self.whole(seen)[:, 0], whole)


def new_vit() -> nn.Module:
    return timm.create_model("vit_small_patch16_224", num_classes=0, **DINO)


def as_clip(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's ViT under open_clip's names. The patches of the latter have no bias, so it is added to the positions."""
    names = {"norm1": "ln_1", "norm2": "ln_2", "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj"}
    names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "blocks": "transformer.resblocks"}
    position = vit["pos_embed"][0].clone()
    position[1:] += vit["patch_embed.proj.bias"]
    out = {"class_embedding": vit["cls_token"][0, 0], "positional_embedding": position}
    out |= {"conv1.weight": vit["patch_embed.proj.weight"]}
    out |= {"ln_post.weight": vit["norm.weight"], "ln_post.bias": vit["norm.bias"]}
    for key in (k for k in vit if k.startswith("blocks")):
        name = key
        for a, b in names.items():
            name = name.replace(a, b)
        out[name] = vit[key]
    return out


def clip_config(vocabulary: int) -> dict:
    return {"embed_dim": WIDTH, "vision_cfg": VISION, "text_cfg": TEXT | {"vocab_size": vocabulary}}


def new_clip(config: dict, sight: dict[str, Tensor]) -> open_clip.CLIP:
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    model.visual.load_state_dict(as_clip(part(sight, "encoder.")) | {"proj": model.visual.proj})
    return model


def words() -> list[str]:
    styles = [style.name for style in (*STYLES, *TUNING_STYLES)]
    said = [*PLACE_WORDS.values(), *BASE_STYLES, *styles, *COLOURS, *NOUNS, "a an of picture", NOISE, BROKEN]
    return sorted({*" ".join(said).split()})


def new_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; any other word is unknown. CLIP recognises the end by its number, the highest."""
    vocab = {t: i for i, t in enumerate(["<pad>", "<unk>", *words(), "<start>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(t, vocab[t]) for t in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=LENGTH,
    )


def numbers(tokenizer: PreTrainedTokenizerFast, texts: np.ndarray) -> Tensor:
    """The token ids of texts of any shape, [..., LENGTH]."""
    flat = tokenizer(
        texts.flatten().tolist(), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    ids: Tensor = flat.input_ids.view(*texts.shape, LENGTH)
    return ids


def write(name: str, config_name: str, weights_name: str, config: dict, weights: dict[str, Tensor]) -> None:
    """Writes a folder that timm or open_clip loads by `local-dir:`, in half precision, and pins all its files."""
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config, indent=2) + "\n")
    save_file({k: v.cpu().half().contiguous() for k, v in weights.items()}, folder / weights_name)
    (folder / weights_name).chmod(0o644)
    write_sums(folder)


def write_dino(weights: dict[str, Tensor]) -> None:
    config = {
        "architecture": "vit_small_patch16_224",
        "num_classes": 0,
        "num_features": WIDTH,
        "model_args": DINO,
        "pretrained_cfg": {**IMAGENET, "num_classes": 0, "input_size": [3, PIXELS, PIXELS], "fixed_input_size": True},
    }
    write("dino", "config.json", "model.safetensors", config, weights)


def write_clip(name: str, config: dict, weights: dict[str, Tensor]) -> None:
    facts = {"model_cfg": config, "preprocess_cfg": OPENAI}
    write(name, "open_clip_config.json", "open_clip_model.safetensors", facts, weights)
