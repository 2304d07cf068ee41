"""What is done to pictures [n, 3, 32, 32] in 0..1 while the judges learn: too little to count, or too much."""

import torch
import torch.nn.functional as F
from torch import Tensor

ORDERS = torch.tensor([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])


def floats(images: Tensor) -> Tensor:
    """uint8 [..., 32, 32, 3] to float [..., 3, 32, 32] in 0..1."""
    return images.movedim(-1, -3).float() / 255


def varied(x: Tensor, change: Tensor) -> Tensor:
    """Each group of x [groups, ..., channels, height, width] with its colours in one of six orders and, where `change`
    is odd, mirrored; a channel after the first three is no colour."""
    x = torch.where((change % 2 == 1).view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
    if x.shape[-3] > 1:
        for i in (change > 1).nonzero().flatten().tolist():
            x[i] = x[i].index_select(-3, torch.tensor([*ORDERS[change[i] // 2].tolist(), *range(3, x.shape[-3])]))
    return x


def any_change(groups: int, g: torch.Generator, recolour: bool = True) -> Tensor:
    """For `varied`: half of the groups mirrored and half of them in other colours."""
    order = torch.randint(6, (groups,), generator=g) * (torch.rand(groups, generator=g) < 0.6) * recolour
    return order * 2 + torch.randint(2, (groups,), generator=g)


def _uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=g)


def softened(x: Tensor, g: torch.Generator) -> Tensor:
    """As a good generator would show it: colours a little off, a little blur, a little noise."""
    n = len(x)
    blur = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x.lerp(blur, _uniform(g, -0.5, 0.9, n, 1, 1, 1).clamp(min=0))
    x = x * _uniform(g, 0.93, 1.07, n, 3, 1, 1) + _uniform(g, -0.04, 0.04, n, 1, 1, 1)
    return (x + _uniform(g, 0, 0.05, n, 1, 1, 1) * torch.randn(x.shape, generator=g)).clamp(0, 1)


def _noise(x: Tensor, g: torch.Generator) -> Tensor:
    """Uniform, normal, or coarse noise; of the pictures only the number counts."""
    kind = int(torch.randint(4, (), generator=g))
    if kind == 0:
        return torch.rand(x.shape, generator=g)
    if kind == 1:
        return (0.5 + _uniform(g, 0.1, 0.4, len(x), 1, 1, 1) * torch.randn(x.shape, generator=g)).clamp(0, 1)
    cells = int(torch.randint(2, 12, (), generator=g))
    coarse = torch.rand((len(x), 3, cells, cells), generator=g)
    return F.interpolate(coarse, size=x.shape[-2:], mode="nearest" if kind == 2 else "bicubic").clamp(0, 1)


def _shuffled(x: Tensor, g: torch.Generator) -> Tensor:
    """The squares of a picture in another order."""
    side = (4, 8)[int(torch.randint(2, (), generator=g))]
    parts = F.unfold(x, side, stride=side)
    return F.fold(parts[:, :, torch.randperm(parts.shape[-1], generator=g)], x.shape[-2:], side, stride=side)


def _smeared(x: Tensor, g: torch.Generator) -> Tensor:
    """What is left after squeezing a picture into 3 to 6 points across."""
    points = int(torch.randint(3, 7, (), generator=g))
    return F.interpolate(F.adaptive_avg_pool2d(x, points), size=x.shape[-2:], mode="bilinear")


def _erased(x: Tensor, g: torch.Generator) -> Tensor:
    """Half of a picture gone: under a flat colour, under noise, or under half of another picture."""
    kind, side = (int(torch.randint(n, (), generator=g)) for n in (3, 4))
    cover = (_uniform(g, 0, 1, len(x), 3, 1, 1).expand_as(x), torch.rand(x.shape, generator=g), x.roll(1, 0))[kind]
    at = torch.arange(x.shape[-1]) < int(torch.randint(14, 20, (), generator=g))
    at = at.flip(0) if side % 2 else at
    return torch.where(at[:, None] if side < 2 else at[None, :], cover, x)


def _drowned(x: Tensor, g: torch.Generator) -> Tensor:
    """A picture under heavy noise."""
    return (x + _uniform(g, 0.25, 0.6, len(x), 1, 1, 1) * torch.randn(x.shape, generator=g)).clamp(0, 1)


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
    """Pictures that show nothing any more, an equal part by each of WAYS, and captions; n at least 2 * len(WAYS)."""
    parts = x.chunk(len(WAYS))
    pictures = torch.cat([way(part, g) for (way, _), part in zip(WAYS, parts, strict=True)])
    return pictures, [name for (_, name), part in zip(WAYS, parts, strict=True) for _ in part]
