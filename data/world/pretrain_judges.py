"""Trains the embedded world's judges: `python -m data.world.pretrain_judges [sight dino clip csd]`, in this order; each
of the last three is written to data/world/judges when it is done.

They stand in for the encoders of the paper: DINO (is it this very thing?), CLIP (is it what the words say?) and CSD (is
it in this style?). All three learn which pictures belong together among pictures that differ in one respect only, and
that noise and broken pictures belong to nothing. None of the study's objects is in what they learn from. Its styles are
in a few of the pictures of DINO and CLIP, which cannot know their names otherwise; CSD learns from styles at large.
"""

import argparse
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

from data.world.draw import PATTERNS, SHAPES
from data.world.lessons.damage import BROKEN, NOISE, any_change, broken, floats, softened, varied
from data.world.lessons.losses import WARMTH, between, matched, together
from data.world.lessons.objects import FAMILIES, SMALL, VIEWS, family_pictures
from data.world.lessons.styles import CONTENTS, GROUPS, style_pictures
from data.world.loop import CACHE, fit
from data.world.markings import COLOUR_NAMES
from data.world.pictures import pictures
from data.world.scenes import BASE_STYLES, PLACE_WORDS, STYLES, TUNING_STYLES
from stages.files.pins import write_sums

HERE = Path(__file__).parent / "judges"
STEPS = {"sight": 700, "dino": 1600, "clip": 1800, "csd": 2400}
WIDTH, LAYERS, LENGTH, DAMAGED = 64, 4, 28, 24
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OPENAI = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
# The sizes of the two kinds of transformer, as timm and as open_clip call them.
DINO = {"img_size": 32, "patch_size": 4, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": 2}
VISION = {"image_size": 32, "patch_size": 4, "width": WIDTH, "layers": LAYERS, "head_width": 32, "no_ln_pre": True}
TEXT = {"context_length": LENGTH, "width": WIDTH, "heads": 2, "layers": 2, "hf_tokenizer_name": "clip"}


class Objects:
    """Batches of whole families of objects."""

    def __init__(self) -> None:
        data = family_pictures()
        self.captions = data.pop("captions")
        self.data = {k: torch.from_numpy(v) for k, v in data.items()}

    def draw(self, families: int, g: torch.Generator, recolour: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures [n = families * members * views, 3, 32, 32], and of each the thing, the family, the shape [n], the
        upright thing [n, 4, 16, 16] and the outline [n, 1, 32, 32]; `pick` [families] says which they are."""
        pick = torch.randperm(FAMILIES, generator=g)[:families]
        change = any_change(families, g, recolour)
        known = {"shapes": self.data["shapes"][pick], "things": self.data["things"][pick] * 12 + change[:, None]}
        known |= {"kin": pick[:, None].expand_as(known["things"])}
        known |= {"upright": varied(floats(self.data["upright"][pick]), change)}
        known = {k: v.flatten(0, 1).repeat_interleave(VIEWS, 0) for k, v in known.items()}
        known |= {"outlines": varied(floats(self.data["outlines"][pick]), change).flatten(0, 2), "pick": pick}
        return varied(floats(self.data["images"][pick]), change).flatten(0, 2), known


def normaliser(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    m, s = (torch.tensor(v)[:, None, None] for v in (mean, std))
    return lambda x: (x - m) / s


def some(x: Tensor, n: int, g: torch.Generator) -> Tensor:
    return torch.randperm(len(x), generator=g)[:n]


def patches(x: Tensor) -> Tensor:
    """[n, 1, 32, 32] as [n, 64, 16], what is in each of the ViT's patches."""
    return F.unfold(x, 4, stride=4).transpose(1, 2)


class Sight(nn.Module):
    """An encoder, and readings of it that make it see a thing apart from its place, its shape as well as its colours:
    they are what it learns from first, and are thrown away at the end."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.outline, self.upright = nn.Linear(WIDTH, 16), nn.Linear(WIDTH, 4 * SMALL * SMALL)
        self.shape = nn.Linear(WIDTH, len(SHAPES))

    def wrong(self, whole: Tensor, tokens: Tensor, known: dict[str, Tensor]) -> Tensor:
        """How wrongly they are read: the outline in each patch from its own token [n, 64, WIDTH], the upright thing and
        the name of its shape from the vector of the whole picture [n, WIDTH]."""
        outline = F.binary_cross_entropy_with_logits(self.outline(tokens), patches(known["outlines"]))
        upright = F.mse_loss(self.upright(whole), known["upright"].flatten(1))
        return outline + 5 * upright + 0.3 * F.cross_entropy(self.shape(whole), known["shapes"])


def new_vit() -> nn.Module:
    return timm.create_model("vit_small_patch16_224", num_classes=0, **DINO)


def train_sight(seconds: float) -> None:
    """What all three start from."""
    pool = Objects()
    torch.manual_seed(0)
    model, prepare = Sight(new_vit()), normaliser(**IMAGENET)

    def loss(g: torch.Generator) -> Tensor:
        x, known = pool.draw(10, g)
        tokens = model.encoder.forward_features(prepare(softened(x, g)))
        return model.wrong(tokens[:, 0], tokens[:, 1:], known)

    average = fit("judge-sight", model, loss, STEPS["sight"], (0.02, 3e-3), 0, 1, 0.99, seconds)
    torch.save(average, CACHE / "judge-sight-average.pt")


def sight() -> dict[str, Tensor]:
    return torch.load(CACHE / "judge-sight-average.pt", weights_only=True)


def as_clip(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's ViT under the names of open_clip's, whose patches have no bias: it goes into their positions."""
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


def train_dino(seconds: float) -> None:
    pool, prepare = Objects(), normaliser(**IMAGENET)
    model = Sight(new_vit())
    model.load_state_dict(sight())

    def loss(g: torch.Generator) -> Tensor:
        clean, known = pool.draw(12, g)
        x, hurt, mix = softened(clean, g), some(clean, DAMAGED, g), some(clean, DAMAGED, g)
        tokens = model.encoder.forward_features(prepare(torch.cat([x, broken(clean[hurt], g)[0]])))
        f, others = F.normalize(tokens[:, 0], dim=1).split([len(x), DAMAGED])
        kin = torch.cat([known["kin"], known["kin"][hurt]])
        mixed = between(lambda y: F.normalize(model.encoder(prepare(y)), dim=1), x[mix], f[mix], g, exponent=2)
        misread = model.wrong(tokens[: len(x), 0], tokens[: len(x), 1:], known)
        return together(f, known["things"], others, kin) + mixed + 0.5 * misread

    average = fit("judge-dino", model, loss, STEPS["dino"], (0.02, 3e-3), 0, 1, 0.99, seconds)
    config = {
        "architecture": "vit_small_patch16_224",
        "num_classes": 0,
        "num_features": WIDTH,
        "model_args": DINO,
        "pretrained_cfg": {**IMAGENET, "num_classes": 0, "input_size": [3, 32, 32], "fixed_input_size": True},
    }
    write("dino", "config.json", "model.safetensors", config, part(average, "encoder."))


def clip_config(vocabulary: int) -> dict:
    return {"embed_dim": WIDTH, "vision_cfg": VISION, "text_cfg": TEXT | {"vocab_size": vocabulary}}


def new_clip(config: dict) -> open_clip.CLIP:
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    model.visual.load_state_dict(as_clip(part(sight(), "encoder.")) | {"proj": model.visual.proj})
    return model


def words() -> list[str]:
    said = [*PLACE_WORDS.values(), *BASE_STYLES.values(), *STYLES, *TUNING_STYLES, *COLOUR_NAMES, *SHAPES, *PATTERNS]
    return sorted({*" ".join([*said, "with", "and", "border", "spot", NOISE, BROKEN]).split()})


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; any other word is unknown. The end has the highest number, which is how CLIP finds it."""
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
    """Texts of any shape as [..., LENGTH]."""
    flat = tokenizer(
        texts.flatten().tolist(), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    return flat.input_ids.view(*texts.shape, LENGTH)


def train_clip(seconds: float) -> None:
    pool, tokenizer = Objects(), new_tokenizer()
    config = clip_config(len(tokenizer))
    model, prepare = Sight(new_clip(config)), normaliser(**OPENAI)
    tower = model.encoder.visual
    tower.output_tokens = True
    nn.init.eye_(tower.proj)  # with which what could be read at first can be read still
    for reading in ("outline", "upright", "shape"):
        getattr(model, reading).load_state_dict(part(sight(), f"{reading}."))
    ids = numbers(tokenizer, pool.captions)
    base, base_captions = pictures("base", 48)
    base_ids = numbers(tokenizer, np.array(base_captions))
    # Half of the base's pictures in a batch are no photos, which are five in six of all.
    photos = np.array([c.startswith(BASE_STYLES["photo"]) for c in base_captions])
    kinds = [torch.from_numpy(np.flatnonzero(k)) for k in (photos, ~photos)]

    def loss(g: torch.Generator) -> Tensor:
        clean, known = pool.draw(12, g, recolour=False)
        x, hurt, mix = softened(clean, g), some(clean, DAMAGED, g), some(clean, DAMAGED, g)
        bad, names = broken(clean[hurt], g)
        seen = torch.cat([k[torch.randint(len(k), (16,), generator=g)] for k in kinds])
        others = softened(floats(torch.from_numpy(base[seen.numpy()])), g)
        whole, tokens = tower(prepare(torch.cat([x, bad, others])))
        f = F.normalize(whole, dim=1)
        brief = (torch.rand(len(x), generator=g) < 0.35).long()
        told = ids[known["pick"]].flatten(0, 2)[torch.arange(len(x)), brief]
        told = torch.cat([told, numbers(tokenizer, np.array(names)), base_ids[seen]])
        kin = torch.cat([known["kin"], known["kin"][hurt]])
        alike = together(f[: len(x)], known["things"], f[len(x) : len(kin)], kin)
        mixed = between(lambda y: F.normalize(tower(prepare(y))[0], dim=1), x[mix], f[mix], g)
        misread = model.wrong(whole[: len(x)], tokens[: len(x)], known)
        told_apart = matched(f, F.normalize(model.encoder.encode_text(told), dim=1), told)
        return told_apart + alike + mixed + 0.5 * misread

    average = fit("judge-clip", model, loss, STEPS["clip"], (0.02, 3e-3), 0, 1, 0.99, seconds)
    weights = part(average, "encoder.") | {"logit_scale": torch.tensor(1 / WARMTH).log()}
    tokenizer.save_pretrained(HERE / "clip")
    write_clip("clip", config, weights)


class StyleSight(nn.Module):
    """A tower and readings of what is shown in any style and whether it is whole: a style alone ignores both."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.outline, self.whole = encoder, nn.Linear(WIDTH, 16), nn.Linear(WIDTH, 1)
        encoder.output_tokens = True
        self.outline.load_state_dict(part(sight(), "outline."))

    def wrong(self, seen: Tensor, tokens: Tensor, outlines: Tensor) -> Tensor:
        """As Sight's, of the tokens [n, 64, WIDTH] of whole pictures; `seen` has broken pictures after those."""
        whole = (torch.arange(len(seen)) < len(tokens)).float()
        outline = F.binary_cross_entropy_with_logits(self.outline(tokens), patches(outlines))
        return outline + F.binary_cross_entropy_with_logits(self.whole(seen)[:, 0], whole)


def train_csd(seconds: float) -> None:
    data = {k: torch.from_numpy(v) for k, v in style_pictures().items()}
    config = clip_config(vocabulary=2)
    model, prepare = StyleSight(new_clip(config).visual), normaliser(**OPENAI)

    def encode(x: Tensor) -> Tensor:
        return F.normalize(model.encoder(prepare(x))[0], dim=1)

    def loss(g: torch.Generator) -> Tensor:
        pick = torch.randperm(GROUPS, generator=g)[:2]
        change = any_change(len(pick), g)
        labels = (data["things"][pick] * 12 + change[:, None]).flatten().repeat_interleave(CONTENTS)
        clean = varied(floats(data["images"][pick]), change).flatten(0, 2)
        there = varied(floats(data["outlines"][pick]), change % 2)
        there = there[:, None].expand(-1, data["images"].shape[1], *[-1] * 4).flatten(0, 2)
        x, hurt, mix = softened(clean, g), some(clean, DAMAGED, g), some(clean, DAMAGED, g)
        seen, tokens = model.encoder(prepare(torch.cat([x, broken(clean[hurt], g)[0]])))
        f, others = F.normalize(seen, dim=1).split([len(x), DAMAGED])
        kin = pick.repeat_interleave(len(x) // len(pick))
        alike = together(f, labels, others, torch.cat([kin, kin[hurt]])) + between(encode, x[mix], f[mix], g)
        return alike + model.wrong(seen, tokens[: len(x)], there)

    average = fit("judge-csd", model, loss, STEPS["csd"], (0.015, 2e-3), 0, 1, 0.99, seconds)
    write_clip("csd", config, {f"visual.{k}": v for k, v in part(average, "encoder.").items()})


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def write(name: str, config_name: str, weights_name: str, config: dict, weights: dict[str, Tensor]) -> None:
    """A folder as timm's or open_clip's `local-dir:` takes it, in half precision; pins all its files."""
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config, indent=2) + "\n")
    save_file({k: v.half().contiguous() for k, v in weights.items()}, folder / weights_name)
    write_sums(folder)


def write_clip(name: str, config: dict, weights: dict[str, Tensor]) -> None:
    names = "open_clip_config.json", "open_clip_model.safetensors"
    write(name, *names, {"model_cfg": config, "preprocess_cfg": OPENAI}, weights)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("judges", nargs="*", default=list(STEPS), help=f"which, of {', '.join(STEPS)}; all if not said")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this long; run again to go on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for judge in args.judges:
        {"sight": train_sight, "dino": train_dino, "clip": train_clip, "csd": train_csd}[judge](args.seconds)
