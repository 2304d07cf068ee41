"""Trains the embedded base, an SDXL of 5.2 million weights beside its autoencoder, on latents of captioned pictures.

UNet and both text encoders learn together. The noise schedule ends at pure noise and the UNet predicts velocity, which
on pictures this small gives truer colours than predicting noise.
"""

import hashlib
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from data.world.draw import PIXELS
from data.world.recipes import checkpoint
from data.world.recipes.loop import CACHE, Run, brief, fit
from data.world.recipes.pool import as_tensor, pictures, pixels
from data.world.recipes.pretrain_vae import CHANNELS, trained_vae
from data.world.scenes import generic_captions
from data.world.words import LENGTH, new_tokenizer

HERE = Path(__file__).parents[1] / "base"
WIDTH = 64
RATES = (0.01, 2e-3)
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
TIME_IDS = [float(PIXELS), PIXELS, 0, 0, PIXELS, PIXELS]


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
        in_channels=CHANNELS,
        out_channels=CHANNELS,
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
        """The velocity at latents z [n, CHANNELS, 8, 8] and times t [n] for the captions ids [n, LENGTH].

        SDXL's empty prompt is zeros, and so is the text of those with keep = 0.
        """
        # As in SDXL: the last layer but one of both encoders, concatenated, and the pooled output of the second.
        one = self.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        two = self.text_encoder_2(ids, output_hidden_states=True)
        text = torch.cat([one, two.hidden_states[-2]], -1) * keep[:, None, None]
        extra = {
            "text_embeds": two.text_embeds * keep[:, None],
            "time_ids": torch.tensor([TIME_IDS], device=z.device).expand(len(z), -1),
        }
        velocity: Tensor = self.unet(z, t, text, added_cond_kwargs=extra).sample
        return velocity


def whole_convolutions(model: nn.Module) -> None:
    """Excludes the convolutions from `brief`: they are so small that a CPU is slower in bfloat16 than in float32."""

    def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return nn.Conv2d.forward(conv, x.float())

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = partial(convolve, module)  # type: ignore[method-assign]


def _encoder_digest() -> str:
    weights = trained_vae().state_dict()
    encoder = [v.numpy().tobytes() for k, v in sorted(weights.items()) if k.startswith(("encoder.", "quant_conv"))]
    return hashlib.sha256(b"".join(encoder)).hexdigest()[:12]


@torch.no_grad()
def latents(thousands: int, device: str = "cpu") -> Tensor:
    """The latents of the base's pictures, float16 [n, CHANNELS, 8, 8]; computed once for each encoder."""
    path = CACHE / f"latents-{thousands}-{_encoder_digest()}.safetensors"
    if not path.exists():
        vae = trained_vae().to(device)
        images = as_tensor(pictures("base", thousands)[0], device)
        found = [vae.encode(pixels(some)).latent_dist.mean.half().cpu() for some in images.split(250)]
        save_file({"latents": torch.cat(found).contiguous()}, path)
    return load_file(path)["latents"].to(device)


def caption_ids(thousands: int) -> Tensor:
    captions = [said.caption for said in pictures("base", thousands)[1]]
    found = new_tokenizer()(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids: Tensor = found.input_ids
    return ids


def spread(u: Tensor) -> Tensor:
    """Uniform draws [n] as one from each n-th part of 0..1."""
    return (u + torch.arange(len(u), device=u.device)) / len(u)


def times(u: Tensor) -> Tensor:
    """Times [n] in 0..999 by uniform draws [n].

    Three quarters are logit-normal (Esser et al., arXiv 2403.03206), where shapes are decided; a quarter is uniform, so
    that the ends are seen too.
    """
    middle, everywhere = u.tensor_split([len(u) - len(u) // 4])
    normal = torch.special.ndtri(spread(middle).clamp(1e-6, 1 - 1e-6))
    return (torch.cat([normal.sigmoid(), spread(everywhere)]) * 1000).long().clamp(max=999)


def train(thousands: int, batch: int, run: Run) -> None:
    z_all, ids_all = latents(thousands, run.device), caption_ids(thousands).to(run.device)
    torch.manual_seed(0)
    base = Base(len(new_tokenizer()))
    signal = DDPMScheduler(**SCHEDULE).alphas_cumprod.to(run.device).sqrt()

    def loss(g: torch.Generator) -> Tensor:
        where = {"generator": g, "device": run.device}
        pick = torch.randint(len(z_all), (batch,), **where)
        z = z_all[pick].float()
        noise = torch.randn(z.shape, **where)
        t = times(torch.rand(batch, **where))
        keep = (torch.rand(batch, **where) > 0.1).float()
        kept = signal[t][:, None, None, None]
        lost = (1 - kept * kept).sqrt()
        wanted = kept * noise - lost * z
        with brief(run.device):
            said = base(kept * z + lost * noise, t, ids_all[pick], keep)
        return (said.float() - wanted).square().mean()

    if run.device == "cpu":
        whole_convolutions(base.unet)
    fit("base", base, loss, RATES, run, 0.998)


@torch.no_grad()
def pipeline() -> StableDiffusionXLPipeline:
    """The pipeline as trained so far."""
    tokenizer = new_tokenizer()
    base = Base(len(tokenizer))
    base.load_state_dict(checkpoint.average(CACHE / "base"))
    spoken = torch.zeros(len(tokenizer), dtype=torch.bool)
    spoken[caption_ids(min_pool()).unique()] = True
    for encoder in (base.text_encoder, base.text_encoder_2):
        # The vector of a word that no caption used has only shrunk: it gets a new one, as long as those of used words.
        table = encoder.get_input_embeddings().weight
        fresh = torch.randn(table.shape, generator=torch.Generator().manual_seed(1)) * table[spoken].std(0)
        table[~spoken] = fresh[~spoken]
    return StableDiffusionXLPipeline(
        vae=trained_vae(),
        text_encoder=base.text_encoder.eval(),
        text_encoder_2=base.text_encoder_2.eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=base.unet.eval(),
        scheduler=EulerDiscreteScheduler(**SCHEDULE),
        add_watermarker=False,
    )


def min_pool() -> int:
    """The thousands of pictures of the smallest pool of the base's world that has been drawn."""
    return min(int(path.stem.split("-")[1]) for path in CACHE.glob("base-*.npy"))


def write(target: Path = HERE) -> None:
    """The averaged weights as a StableDiffusionXLPipeline folder in half precision, with captions to rehearse."""
    pipeline().to(dtype=torch.float16).save_pretrained(target)
    (target / "captions.txt").write_text("\n".join(generic_captions()) + "\n", "utf-8")
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
