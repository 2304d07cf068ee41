"""Changes of pictures [n, 3, h, w] in 0..1 for the judges' training: some that must not matter, some that destroy."""

import torch
import torch.nn.functional as F
from torch import Tensor

ORDERS = torch.tensor([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])


def floats(images: Tensor) -> Tensor:
    """uint8 [..., h, w, 3] to float [..., 3, h, w] in 0..1."""
    return images.movedim(-1, -3).float() / 255


def varied(x: Tensor, change: Tensor) -> Tensor:
    """Each group of x [groups, ..., channels, h, w] with its colours in one of six orders.

    Only the first three channels are colours.
    """
    rest = torch.arange(3, x.shape[-3], device=x.device).expand(len(x), -1)
    order = torch.cat([ORDERS.to(x.device)[change], rest], 1)
    return x.gather(-3, order.view(len(x), *[1] * (x.ndim - 4), -1, 1, 1).expand_as(x))


def any_change(groups: int, g: torch.Generator) -> Tensor:
    """For `varied`: half of the groups in other colours."""
    where = {"generator": g, "device": g.device}
    return torch.randint(6, (groups,), **where) * (torch.rand(groups, **where) < 0.6)


def _uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=g, device=g.device)


def _normal(x: Tensor, g: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=g, device=g.device)


def _pick(n: int, g: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=g, device=g.device))


def softened(x: Tensor, g: torch.Generator) -> Tensor:
    """Pictures as a good generator would make them: colours slightly off, with a little blur and noise."""
    n = len(x)
    blur = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blur = blur.lerp(F.avg_pool2d(F.pad(blur, (1, 1, 1, 1), mode="replicate"), 3, 1), _uniform(g, 0, 0.8, n, 1, 1, 1))
    x = x.lerp(blur, _uniform(g, -0.5, 1.0, n, 1, 1, 1).clamp(min=0))
    x = x * _uniform(g, 0.93, 1.07, n, 3, 1, 1) + _uniform(g, -0.04, 0.04, n, 1, 1, 1)
    return (x + _uniform(g, 0, 0.05, n, 1, 1, 1) * _normal(x, g)).clamp(0, 1)


def _noise(x: Tensor, g: torch.Generator) -> Tensor:
    """As many pictures of uniform, normal or coarse noise."""
    kind = _pick(4, g)
    if kind == 0:
        return _uniform(g, 0, 1, *x.shape)
    if kind == 1:
        return (0.5 + _uniform(g, 0.1, 0.4, len(x), 1, 1, 1) * _normal(x, g)).clamp(0, 1)
    cells = 2 + _pick(20, g)
    coarse = _uniform(g, 0, 1, len(x), 3, cells, cells)
    return F.interpolate(coarse, size=x.shape[-2:], mode="nearest" if kind == 2 else "bicubic").clamp(0, 1)


def _shuffled(x: Tensor, g: torch.Generator) -> Tensor:
    """The squares of a picture in another order."""
    side = (4, 8, 16)[_pick(3, g)]
    parts = F.unfold(x, side, stride=side)
    order = torch.randperm(parts.shape[-1], generator=g, device=g.device)
    return F.fold(parts[:, :, order], x.shape[-2:], side, stride=side)


def _smeared(x: Tensor, g: torch.Generator) -> Tensor:
    """Pictures reduced to 3 to 7 points across."""
    return F.interpolate(F.adaptive_avg_pool2d(x, 3 + _pick(5, g)), size=x.shape[-2:], mode="bilinear")


def _erased(x: Tensor, g: torch.Generator) -> Tensor:
    """Pictures of which half is covered by a flat colour, noise, or half of another picture."""
    kind, side = _pick(3, g), _pick(4, g)
    cover = (_uniform(g, 0, 1, len(x), 3, 1, 1).expand_as(x), _uniform(g, 0, 1, *x.shape), x.roll(1, 0))[kind]
    size = x.shape[-1]
    at = torch.arange(size, device=x.device) < int(size * (0.44 + 0.02 * _pick(10, g)))
    at = at.flip(0) if side % 2 else at
    return torch.where(at[:, None] if side < 2 else at[None, :], cover, x)


def _drowned(x: Tensor, g: torch.Generator) -> Tensor:
    """A picture under heavy noise."""
    return (x + _uniform(g, 0.25, 0.6, len(x), 1, 1, 1) * _normal(x, g)).clamp(0, 1)


NOISE, BROKEN = "noise", "a broken picture"
WAYS = (
    (_noise, NOISE),
    (_shuffled, BROKEN),
    (_shuffled, BROKEN),
    (_shuffled, BROKEN),
    (_smeared, BROKEN),
    (_erased, BROKEN),
    (_erased, BROKEN),
    (_drowned, BROKEN),
)


def broken(x: Tensor, g: torch.Generator) -> tuple[Tensor, list[str]]:
    """Destroyed pictures, an equal share by each of WAYS, and captions; n is at least 2 * len(WAYS)."""
    parts = x.chunk(len(WAYS))
    pictures = torch.cat([way(part, g) for (way, _), part in zip(WAYS, parts, strict=True)])
    return pictures, [name for (_, name), part in zip(WAYS, parts, strict=True) for _ in part]
