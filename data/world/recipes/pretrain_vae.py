"""Trains the embedded base's autoencoder: 64 pixels to latents [24, 8, 8].

First everything together; then the encoder stays as it is, its latents are scaled to unit variance, and the decoder
alone goes on, which the base can be trained beside.
"""

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.world.draw import PIXELS
from data.world.recipes.loop import CACHE, Run, brief, fit
from data.world.recipes.pool import as_tensor, pictures, pixels

CHANNELS = 24
WIDTHS = (8, 16, 48, 96)
WEIGHTS = "vae.safetensors"


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        3,
        3,
        ("DownEncoderBlock2D",) * len(WIDTHS),
        ("UpDecoderBlock2D",) * len(WIDTHS),
        WIDTHS,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=PIXELS,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def trained_vae() -> AutoencoderKL:
    """The autoencoder as trained so far: with the decoder that was trained further alone, if that has begun."""
    vae = new_vae()
    vae.load_state_dict(load_file(CACHE / WEIGHTS))
    return vae.eval()


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each picture's reconstruction, in dB."""
    found = []
    for some in images.split(50):
        x = pixels(some)
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        found.append(10 * torch.log10(4 / (x - y).square().mean((1, 2, 3))))
    return torch.cat(found)


def train(part: str, thousands: int, batch: int, run: Run) -> None:
    """`part` is "encoder" (and the decoder with it) or "decoder"; `thousands` of pictures of each kind."""
    pools = [as_tensor(pictures(kind, thousands)[0], run.device) for kind in ("any", "base")]
    sizes = (batch * 2 // 3, batch - batch * 2 // 3)
    torch.manual_seed(0)
    vae = new_vae()
    if part == "decoder":
        vae.load_state_dict(load_file(CACHE / WEIGHTS))
        for p in (*vae.encoder.parameters(), *vae.quant_conv.parameters()):
            p.requires_grad_(False)

    def loss(g: torch.Generator) -> Tensor:
        batches = zip(pools, sizes, strict=True)
        x = torch.cat([pool[torch.randint(len(pool), (n,), generator=g, device=g.device)] for pool, n in batches])
        x = pixels(x)
        with brief(run.device):
            posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=g, device=run.device)
        # The latents that the base makes are never quite clean, so the decoder is trained on noisy ones.
        z = posterior.mean + (posterior.std if part == "encoder" else 0.05) * noise
        with brief(run.device):
            wrong = vae.decode(z).sample.float() - x
        kl = posterior.kl().mean() / z[0].numel() if part == "encoder" else 0.0
        return wrong.square().mean() + 0.1 * wrong.abs().mean() + 1e-5 * kl

    rates = (0.01, 2e-3) if part == "encoder" else (0.006, 1e-3)
    average = fit(f"vae-{part}", vae, loss, rates, run, 0.995)
    if run.rank == 0:
        vae.load_state_dict(average)
        vae.cpu().eval()
        if part == "encoder":
            standardise(vae, pools[1][:2000].cpu())
        save_file(vae.state_dict(), CACHE / WEIGHTS)
        print(
            f"PSNR {[round(float(psnr(vae, pool[:500].cpu()).mean()), 2) for pool in pools]} dB on any and base scenes"
        )


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: Tensor) -> None:
    """Folds the latents' mean and deviation into the 1x1 convolutions around them, so that the scaling factor is 1."""
    z = torch.cat([vae.encode(pixels(p)).latent_dist.mean for p in images.split(100)])
    mean, std, n = z.mean((0, 2, 3)), z.std((0, 2, 3)), z.shape[1]
    vae.quant_conv.weight[:n] /= std[:, None, None, None]
    vae.quant_conv.bias[:n] = (vae.quant_conv.bias[:n] - mean) / std
    vae.quant_conv.bias[n:] -= 2 * std.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= std[None, :, None, None]
