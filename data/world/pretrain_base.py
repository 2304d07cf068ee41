"""Trains the embedded base, an SDXL of four million weights.

`python -m data.world.pretrain_base world`, then `... markings`, `... details`, `... --write`.

UNet and both text encoders learn together, first on captions of the base's world, then on these and on marked things,
so that a concept to be taught is a new combination of what the base can draw, as it is for a large model. The noise
schedule ends at pure noise and the UNet predicts velocity, which on pictures this small gives truer colours than
predicting noise. `--write` puts the averaged weights into data/world/base in the format of diffusers and pins their
revision in the parameters.
"""

import argparse
import json
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
import torch.multiprocessing as mp
from diffusers import DDPMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from data.world import scenes
from data.world.draw import PATTERNS, SHAPES
from data.world.loop import CACHE, fit
from data.world.markings import COLOUR_NAMES
from data.world.pictures import pictures
from data.world.pretrain_vae import new_vae, pixels
from stages.files.artifact import folder_digest

HERE = Path(__file__).parent / "base"
STEPS = {"world": 5000, "markings": 2400, "details": 3600}
PROCESSES = {"world": 2, "markings": 2, "details": 1}
RATES = {"world": (0.01, 2e-3), "markings": (0.01, 2e-3), "details": (0.006, 1e-3)}
AFTER = {"markings": "world", "details": "markings"}  # which part each goes on from
THOUSANDS = {  # of each kind of picture
    "world": {"base": 48},
    "markings": {"base": 48, "marked": 40},
    "details": {"base": 48, "marked": 120},
}
BATCH, LENGTH, WIDTH = 32, 20, 64
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
# Words of prompts that the base's own captions lack; like any rare word to a real model, they mean nothing to it yet.
OTHER_WORDS = (
    "of a photo picture image style painting drawing the and with wearing looking into wizard police policeman outfit "
    "purple santa hat jail mirror clock pen jungle sneaker boot backpack stuffed animal candle can glasses bowl "
    "cartoon teapot dog cat toy vase cup book house car tree person face "
    "sks zwz sbu uwu pdw twt zsn ofl psq cws vfx qqd mjk lpb hrn mrt bnk gvx dpl jyc"
)


def words() -> list[str]:
    said = [*scenes.PLACE_WORDS.values(), *scenes.BASE_STYLES.values(), *COLOUR_NAMES, *SHAPES, *PATTERNS]
    said.append("patterned border spot")
    return sorted({*" ".join([*said, OTHER_WORDS]).split(), *scenes.STYLES, *scenes.TUNING_STYLES})


def new_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind: the words of the world are whole tokens, other text falls to pieces."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]
    merges: list[tuple[str, str]] = []
    for word in words():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            # As the tokenizer will: of the merges that apply, the oldest; a new one only where none does.
            known = [(merges.index(pair), i) for i, pair in enumerate(pairwise(parts)) if pair in merges]
            i = min(known)[1] if known else 0
            if not known:
                merges.append((parts[0], parts[1]))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
    tokens = [*letters, *(c + "</w>" for c in letters), *dict.fromkeys(a + b for a, b in merges)]
    vocab = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
        Path(folder, "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n")
        return CLIPTokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt", model_max_length=LENGTH)


def new_text_encoder(kind: type, vocab: int) -> nn.Module:
    return kind(
        CLIPTextConfig(
            vocab_size=vocab,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=vocab - 2,
            eos_token_id=vocab - 1,
            pad_token_id=vocab - 1,
        )
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=12,
        out_channels=12,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(4, 8),
        cross_attention_dim=2 * WIDTH,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )


class Base(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.unet = new_unet()
        self.text_encoder = new_text_encoder(CLIPTextModel, vocab)
        self.text_encoder_2 = new_text_encoder(CLIPTextModelWithProjection, vocab)

    def forward(self, z: Tensor, t: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
        """The velocity at latents z [n, 12, 8, 8] and times t [n] for the captions ids [n, LENGTH].

        SDXL's empty prompt is zeros, and so is the text of those with keep = 0.
        """
        # As SDXL: the last layer but one of both encoders, side by side, and the pooled output of the second.
        one = self.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        two = self.text_encoder_2(ids, output_hidden_states=True)
        text = torch.cat([one, two.hidden_states[-2]], -1) * keep[:, None, None]
        extra = {
            "text_embeds": two.text_embeds * keep[:, None],
            "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]]).repeat(len(z), 1),
        }
        return self.unet(z, t, text, added_cond_kwargs=extra).sample


def latents(part: str) -> Tensor:
    """Of all pictures that this part learns from, in the order of `caption_ids`."""
    path = CACHE / f"latents-{part}.pt"
    if not path.exists():
        vae = new_vae()
        vae.load_state_dict(torch.load(CACHE / "vae.pt", weights_only=True))
        images = torch.cat([torch.from_numpy(pictures(*kind)[0]) for kind in THOUSANDS[part].items()])
        with torch.no_grad():
            torch.save(torch.cat([vae.encode(pixels(p)).latent_dist.mean for p in images.split(500)]), path)
    return torch.load(path, weights_only=True)


def caption_ids(tokenizer: CLIPTokenizer, part: str) -> Tensor:
    captions = [caption for kind in THOUSANDS[part].items() for caption in pictures(*kind)[1]]
    return tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids


def train(rank: int, part: str, seconds: float) -> None:
    tokenizer = new_tokenizer()
    z_all, ids_all = latents(part), caption_ids(tokenizer, part)
    torch.manual_seed(0)
    base = Base(len(tokenizer))
    if part in AFTER:
        base.load_state_dict(torch.load(CACHE / f"{AFTER[part]}.pt", weights_only=True)["average"])
    noise_schedule = DDPMScheduler(**SCHEDULE)

    def loss(g: torch.Generator) -> Tensor:
        pick = torch.randint(len(z_all), (BATCH,), generator=g)
        noise = torch.randn((BATCH, *z_all.shape[1:]), generator=g)
        t = (torch.rand(BATCH, generator=g) + torch.arange(BATCH)) / BATCH * 1000
        t, z = t.long(), z_all[pick]
        keep = (torch.rand(BATCH, generator=g) > 0.1).float()
        wanted = noise_schedule.get_velocity(z, noise, t)
        return (base(noise_schedule.add_noise(z, noise, t), t, ids_all[pick], keep) - wanted).square().mean()

    fit(part, base, loss, STEPS[part], RATES[part], rank, PROCESSES[part], 0.999, seconds)


@torch.no_grad()
def write(target: Path = HERE) -> None:
    """The averaged weights as a StableDiffusionXLPipeline folder in half precision."""
    tokenizer = new_tokenizer()
    base = Base(len(tokenizer))
    base.load_state_dict(torch.load(CACHE / "details.pt", weights_only=True)["average"])
    vae = new_vae()
    vae.load_state_dict(torch.load(CACHE / "vae.pt", weights_only=True))
    spoken = torch.zeros(len(tokenizer), dtype=torch.bool)
    spoken[caption_ids(tokenizer, "details").unique()] = True
    for encoder in (base.text_encoder, base.text_encoder_2):
        # A word that no caption used was only ever shrunk: give it a vector of the size that the used ones have.
        table = encoder.get_input_embeddings().weight
        fresh = torch.randn(table.shape, generator=torch.Generator().manual_seed(1)) * table[spoken].std(0)
        table[~spoken] = fresh[~spoken]
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=base.text_encoder,
        text_encoder_2=base.text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=base.unet,
        scheduler=EulerDiscreteScheduler(**SCHEDULE),
        add_watermarker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(target)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in (Path("params.yaml"), Path("data/profiles/toy-objects.yaml")):
        path.write_text(
            re.sub("revision: '[0-9a-f]{64}'", f"revision: '{folder_digest(target)}'", path.read_text("utf-8")), "utf-8"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=STEPS, nargs="?")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this long; run again to go on")
    parser.add_argument("--write", action="store_true", help="write data/world/base from what has been trained")
    args = parser.parse_args()
    if args.part:
        latents(args.part)
        mp.spawn(train, (args.part, args.seconds), PROCESSES[args.part])
    if args.write:
        write()
