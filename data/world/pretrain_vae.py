"""Trains the embedded base's autoencoder: `python -m data.world.pretrain_vae [encoder|decoder]`.

First everything together; then the encoder stays as it is, its latents are scaled to unit variance, and the decoder
alone goes on, which the base can be trained beside.
"""

import argparse
import sys

import torch
import torch.multiprocessing as mp
from diffusers import AutoencoderKL

from data.world.loop import CACHE, fit
from data.world.pictures import pictures

STEPS = {"encoder": 1800, "decoder": 3000}
BATCH = 32


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        3,
        3,
        ("DownEncoderBlock2D",) * 3,
        ("UpDecoderBlock2D",) * 3,
        (16, 32, 64),
        layers_per_block=1,
        latent_channels=12,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 32, 32, 3] to float [n, 3, 32, 32] in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    x = pixels(images)
    with torch.no_grad():
        y = torch.cat([vae.decode(vae.encode(p).latent_dist.mode()).sample for p in x.split(100)]).clamp(-1, 1)
    return float((10 * torch.log10(4 / (x - y).square().mean((1, 2, 3)))).mean())


def train(rank: int, part: str, processes: int, seconds: float) -> None:
    images = torch.cat([torch.from_numpy(pictures("any", 30)[0]), torch.from_numpy(pictures("base", 48)[0][:10000])])
    torch.manual_seed(0)
    vae = new_vae()
    if part == "decoder":
        vae.load_state_dict(torch.load(CACHE / "vae.pt", weights_only=True))
        for p in (*vae.encoder.parameters(), *vae.quant_conv.parameters()):
            p.requires_grad_(False)

    def loss(g: torch.Generator) -> torch.Tensor:
        x = pixels(images[torch.randint(len(images), (BATCH,), generator=g)])
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=g)
        if part == "decoder":  # the base's latents are never quite clean: let the decoder know
            z = z.detach() + 0.05 * torch.randn(z.shape, generator=g)
        wrong = vae.decode(z).sample - x
        kl = posterior.kl().mean() / posterior.mean[0].numel() if part == "encoder" else 0.0
        return wrong.square().mean() + 0.1 * wrong.abs().mean() + 2e-5 * kl

    lrs = (0.01, 2e-3) if part == "encoder" else (0.006, 1e-3)
    average = fit(
        f"vae-{part}", vae, loss, STEPS[part], lrs, rank, processes, 0.99 if part == "encoder" else 0.998, seconds
    )
    if rank == 0:
        vae.load_state_dict(average)
        if part == "encoder":
            standardise(vae, images[:4000])
        torch.save(vae.state_dict(), CACHE / "vae.pt")
        any_scenes, base_world = psnr(vae, images[:1000]), psnr(vae, images[-1000:])
        print(f"PSNR {any_scenes:.2f} dB on any scenes, {base_world:.2f} dB on the base world")


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Folds the latents' mean and deviation into the 1x1 convolutions around them, so that the scaling factor is 1."""
    z = torch.cat([vae.encode(pixels(p)).latent_dist.mean for p in images.split(200)])
    mean, std, n = z.mean((0, 2, 3)), z.std((0, 2, 3)), z.shape[1]
    vae.quant_conv.weight[:n] /= std[:, None, None, None]
    vae.quant_conv.bias[:n] = (vae.quant_conv.bias[:n] - mean) / std
    vae.quant_conv.bias[n:] -= 2 * std.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= std[None, :, None, None]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=STEPS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this long; run again to go on")
    args = parser.parse_args()
    pictures("any", 30), pictures("base", 48)
    if args.processes == 1:
        sys.exit(train(0, args.part, 1, args.seconds))
    mp.spawn(train, (args.part, args.processes, args.seconds), args.processes)
