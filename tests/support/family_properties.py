"""The properties of every family, and an instance of each that needs no network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from stages.adapters.algebra import Adapter, Delta, fresh_adapter
from stages.adapters.storage import fingerprint, flat
from stages.core.family import Family, Row, SamplingOptions, TrainingOptions, families
from stages.core.params import load
from stages.files import tensors
from stages.files.artifact import folder_digest
from stages.runtime.faults import ConfigFault
from stages.runtime.seeds import generator
from stages.tools.exchange.exporting import pack
from stages.tools.exchange.importing import read_lora
from tests.support.models import random_sd15

PROMPTS = ["a photo of a sks owl", "a robot"]


def offline(name: str, folder: Path) -> Family:
    """A small base of this family. One whose options all have defaults needs nothing here.

    Raises:
        Skipped: it needs weights that are not here.
    """
    toy = load().base.options
    if name in ("toy", "sdxl"):  # the embedded base has SDXL's architecture
        return families.make(name, toy | {"pixels": 32})
    if name == "sd15":
        path, _ = random_sd15.write(folder / "sd15")
        return families.make(name, {"path": str(path), "revision": folder_digest(path), "pixels": 32})
    try:
        return families.make(name, {})
    except ConfigFault as fault:
        pytest.skip(f"needs weights that are not here: {fault}")


def drawn(family: Family, size: float = 0.1) -> Adapter:
    """An adapter of rank 2 that changes every module, or none if `size` is 0."""
    fresh = fresh_adapter(family.shapes(), 2, 2, generator("properties"))
    b = {name: size * torch.randn(value.shape, generator=generator(name)) for name, value in fresh.b.items()}
    return Adapter(fresh.a, b, fresh.scale)


def sampled(family: Family, delta: Delta, scheduler: str) -> list[Image.Image]:
    family.shift(delta)
    noise = torch.randn((2, *family.noise_shape()), generator=generator("noise"))
    return family.sample(family.encode_prompts(PROMPTS), noise, 2, 3.0, scheduler)


def shapes_are_those_of_the_weights(family: Family, folder: Path) -> None:
    shapes = family.shapes()
    assert shapes
    assert all(tuple(family.weight(name).shape) == shape for name, shape in shapes.items())


def a_shift_of_zero_changes_no_picture(family: Family, folder: Path) -> None:
    for scheduler in family.schedulers:
        before, shifted, zero, after = (
            [picture.tobytes() for picture in sampled(family, delta, scheduler)]
            for delta in (Delta(), drawn(family).delta, drawn(family, 0.0).delta, Delta())
        )
        assert before == zero == after != shifted
        assert len(before) == 2


def no_step_of_training_changes_no_number(family: Family, folder: Path) -> None:
    given = drawn(family)
    assert fingerprint(flat(family.learner(None, given).adapter())) == fingerprint(flat(given))
    assert fingerprint(flat(family.learner(drawn(family).delta, given).adapter())) == fingerprint(flat(given))


def gradients_reach_the_adapter(family: Family, folder: Path) -> None:
    pictures = sampled(family, Delta(), family.schedulers[0])
    images = [family.encode_images([picture]) for picture in pictures]
    learner = family.learner(None, drawn(family))
    learner.prepare(images, family.encode_prompts(PROMPTS))
    loss = learner.loss(learner.inputs([Row(0, 0, 7, 0.5), Row(1, 1, 8, 0.5)]))
    loss.backward()
    assert bool(loss.isfinite())
    gradients = [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def its_fingerprint_depends_on_its_options_alone(family: Family, folder: Path) -> None:
    again = type(family)(**family.model_dump())
    assert again.fingerprint == family.fingerprint
    assert again.shapes() == family.shapes()


def what_it_declares_exists(family: Family, folder: Path) -> None:
    assert family.schedulers
    assert family.training_options <= TrainingOptions.model_fields.keys()
    assert family.sampling_options <= SamplingOptions.model_fields.keys()


def names_come_back_from_every_format(family: Family, folder: Path) -> None:
    names, shapes, delta = family.module_names(), family.shapes(), drawn(family).delta
    assert names.keys() == shapes.keys()
    for unique in ({name.kohya for name in names.values()}, {(n.part, n.module) for n in names.values()}):
        assert len(unique) == len(shapes)
    assert not any("." in name.kohya for name in names.values())
    for form in ("diffusers", "kohya"):
        packed = pack(delta, form, torch.float32, None, names)
        path = folder / f"{form}.safetensors"
        tensors.write(path, packed.tensors, packed.metadata)
        back = read_lora(path, family)
        assert back.format == form
        for module, shift in delta.matrices():
            assert torch.allclose(back.adapter.module(module), shift, atol=1e-6), module


PROPERTIES: list[Callable[[Family, Path], None]] = [
    shapes_are_those_of_the_weights,
    a_shift_of_zero_changes_no_picture,
    no_step_of_training_changes_no_number,
    gradients_reach_the_adapter,
    its_fingerprint_depends_on_its_options_alone,
    what_it_declares_exists,
    names_come_back_from_every_format,
]
