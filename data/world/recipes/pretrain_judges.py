"""Trains the embedded world's judges: sight, dino, clip and csd, in this order; each of the last three is written to
the folder `judges` when it is done.

They stand in for the encoders of the paper: DINO (is it this very thing?), CLIP (is it what the words say?) and CSD (is
it in this style?). All three learn which pictures belong together among pictures that differ in one respect only, and
that noise and broken pictures belong to nothing. None of the study's objects is in what they learn from. Its styles are
in some of the pictures, as styles of all kinds are in what the paper's encoders have seen.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.world import judges
from data.world.lessons.damage import any_change, broken, floats, softened, varied
from data.world.lessons.losses import WARMTH, between, matched, together
from data.world.lessons.objects import VIEWS, family_pictures
from data.world.lessons.styles import CONTENTS, KINDS, style_pictures
from data.world.recipes.checkpoint import average as averaged
from data.world.recipes.checkpoint import part
from data.world.recipes.loop import CACHE, Run, brief, fit
from data.world.recipes.pool import as_tensor, pictures
from data.world.scenes import BASE_STYLES

DAMAGED = 24
RATES = (0.02, 3e-3)


class Objects:
    """Batches of whole families of objects."""

    def __init__(self, hundreds: int, device: str) -> None:
        data = family_pictures(hundreds)
        self.captions = data.pop("captions")
        self.data = {k: torch.from_numpy(v).to(device) for k, v in data.items()}

    def draw(self, families: int, g: torch.Generator, recolour: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures [n = families * members * views, 3, 64, 64], and of each the thing, the family, the noun [n], the
        upright thing [n, 4, 16, 16] and the outline [n, 1, 64, 64]; `pick` [families] says which they are."""
        pick = some(self.data["things"], families, g)
        change = any_change(families, g) * recolour
        known = {"nouns": self.data["nouns"][pick], "things": self.data["things"][pick] * 6 + change[:, None]}
        known |= {"kin": pick[:, None].expand_as(known["things"])}
        known |= {"upright": varied(floats(self.data["upright"][pick]), change)}
        known = {k: v.flatten(0, 1).repeat_interleave(VIEWS, 0) for k, v in known.items()}
        known |= {"outlines": floats(self.data["outlines"][pick]).flatten(0, 2), "pick": pick}
        return varied(floats(self.data["images"][pick]), change).flatten(0, 2), known


def some(x: Tensor, n: int, g: torch.Generator) -> Tensor:
    return torch.randperm(len(x), generator=g, device=g.device)[:n]


def train_sight(hundreds: int, run: Run) -> None:
    """Trains the encoder that all three start from."""
    pool = Objects(hundreds, run.device)
    torch.manual_seed(0)
    model, prepare = judges.Sight(judges.new_vit()), judges.normaliser(**judges.IMAGENET, device=run.device)

    def loss(g: torch.Generator) -> Tensor:
        x, known = pool.draw(10, g)
        with brief(run.device):
            tokens = model.encoder.forward_features(prepare(softened(x, g)))
        return model.wrong(tokens[:, 0].float(), tokens[:, 1:].float(), known)

    fit("judge-sight", model, loss, RATES, run, 0.99)


def sight() -> dict[str, Tensor]:
    return averaged(CACHE / "judge-sight")


def train_dino(hundreds: int, run: Run) -> None:
    pool, prepare = Objects(hundreds, run.device), judges.normaliser(**judges.IMAGENET, device=run.device)
    model = judges.Sight(judges.new_vit())
    model.load_state_dict(sight())

    def encode(y: Tensor) -> Tensor:
        with brief(run.device):
            seen = model.encoder(prepare(y))
        return F.normalize(seen.float(), dim=1)

    def loss(g: torch.Generator) -> Tensor:
        clean, known = pool.draw(12, g)
        x, hurt, mix = softened(clean, g), some(clean, DAMAGED, g), some(clean, DAMAGED, g)
        with brief(run.device):
            tokens = model.encoder.forward_features(prepare(torch.cat([x, broken(clean[hurt], g)[0]])))
        tokens = tokens.float()
        f, others = F.normalize(tokens[:, 0], dim=1).split([len(x), DAMAGED])
        kin = torch.cat([known["kin"], known["kin"][hurt]])
        mixed = between(encode, x[mix], f[mix], g, exponent=2)
        misread = model.wrong(tokens[: len(x), 0], tokens[: len(x), 1:], known)
        return together(f, known["things"], others, kin) + mixed + 0.5 * misread

    average = fit("judge-dino", model, loss, RATES, run, 0.99)
    judges.write_dino(part(average, "encoder."))


def _clip_start(config: dict) -> judges.Sight:
    """CLIP with the encoder of the first training, and its heads."""
    model = judges.Sight(judges.new_clip(config, sight()))
    tower = model.encoder.visual
    tower.output_tokens = True
    nn.init.eye_(tower.proj)  # so that the heads still work at first
    for reading in ("outline", "upright", "noun"):
        getattr(model, reading).load_state_dict(part(sight(), f"{reading}."))
    return model


def train_clip(hundreds: int, thousands: int, run: Run) -> None:
    """Trains CLIP on families of objects, and on `thousands` of pictures of the base's world, half in a style."""
    pool, tokenizer = Objects(hundreds, run.device), judges.new_tokenizer()
    config = judges.clip_config(len(tokenizer))
    model, prepare = _clip_start(config), judges.normaliser(**judges.OPENAI, device=run.device)
    tower = model.encoder.visual
    ids = judges.numbers(tokenizer, pool.captions).to(run.device)
    images, said = pictures("base", thousands)
    captions = [one.caption for one in said]
    base, base_ids = as_tensor(images, run.device), judges.numbers(tokenizer, np.array(captions)).to(run.device)
    styled = np.array([any(f"a {style} picture" in c for style in BASE_STYLES[1:]) for c in captions])
    kinds = [torch.from_numpy(np.flatnonzero(k)).to(run.device) for k in (~styled, styled)]

    def encode(y: Tensor) -> Tensor:
        with brief(run.device):
            seen = tower(prepare(y))[0]
        return F.normalize(seen.float(), dim=1)

    def loss(g: torch.Generator) -> Tensor:
        clean, known = pool.draw(12, g, recolour=False)
        x, hurt, mix = softened(clean, g), some(clean, DAMAGED, g), some(clean, DAMAGED, g)
        bad, names = broken(clean[hurt], g)
        seen = torch.cat([k[torch.randint(len(k), (16,), generator=g, device=g.device)] for k in kinds])
        others = softened(floats(base[seen]), g)
        with brief(run.device):
            whole, tokens = tower(prepare(torch.cat([x, bad, others])))
        whole, tokens = whole.float(), tokens.float()
        f = F.normalize(whole, dim=1)
        rows = torch.arange(len(x), device=g.device)
        short = (torch.rand(len(x), generator=g, device=g.device) < 0.35).long()
        told = ids[known["pick"]].flatten(0, 2)[rows, short]
        told = torch.cat([told, judges.numbers(tokenizer, np.array(names)).to(told.device), base_ids[seen]])
        kin = torch.cat([known["kin"], known["kin"][hurt]])
        alike = together(f[: len(x)], known["things"], f[len(x) : len(kin)], kin)
        mixed = between(encode, x[mix], f[mix], g)
        misread = model.wrong(whole[: len(x)], tokens[: len(x)], known)
        told_apart = matched(f, F.normalize(model.encoder.encode_text(told), dim=1), told)
        return told_apart + alike + mixed + 0.5 * misread

    average = fit("judge-clip", model, loss, RATES, run, 0.99)
    weights = part(average, "encoder.") | {"logit_scale": torch.tensor(1 / WARMTH).log()}
    tokenizer.save_pretrained(judges.HERE / "clip")
    judges.write_clip("clip", config, weights)


def train_csd(tens: int, run: Run) -> None:
    data = {k: torch.from_numpy(v).to(run.device) for k, v in style_pictures(tens).items()}
    config = judges.clip_config(vocabulary=2)
    model = judges.StyleSight(judges.new_clip(config, sight()).visual, sight())
    prepare = judges.normaliser(**judges.OPENAI, device=run.device)

    def seen_in(y: Tensor) -> tuple[Tensor, Tensor]:
        with brief(run.device):
            whole, tokens = model.encoder(prepare(y))
        return whole.float(), tokens.float()

    def encode(y: Tensor) -> Tensor:
        return F.normalize(seen_in(y)[0], dim=1)

    def loss(g: torch.Generator) -> Tensor:
        pick = some(data["things"], 2, g)
        change = any_change(len(pick), g)
        labels = (data["things"][pick] * 6 + change[:, None]).flatten().repeat_interleave(CONTENTS)
        clean = varied(floats(data["images"][pick]), change).flatten(0, 2)
        x, hurt, mix = softened(clean, g), some(clean, DAMAGED, g), some(clean, DAMAGED, g)
        seen, tokens = seen_in(torch.cat([x, broken(clean[hurt], g)[0]]))
        f, others = F.normalize(seen, dim=1).split([len(x), DAMAGED])
        kin = pick.repeat_interleave(KINDS * CONTENTS)
        alike = together(f, labels, others, torch.cat([kin, kin[hurt]])) + between(encode, x[mix], f[mix], g)
        return alike + model.wrong(seen, tokens[: len(x)], floats(data["outlines"][pick]).flatten(0, 2))

    average = fit("judge-csd", model, loss, (0.015, 2e-3), run, 0.99)
    judges.write_clip("csd", config, {f"visual.{k}": v for k, v in part(average, "encoder.").items()})
