"""Exports hold exactly what was learned: read back by the rules of other programs."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.adapters.algebra import Adapter, Delta
from stages.families.unet.names import ldm_name, module_names
from stages.files import tensors
from stages.runtime.faults import ConfigFault, InputFault
from stages.tools.exchange.exporting import DTYPES, TRUNCATION_LIMIT, Packed, check_truncation, pack
from stages.tools.exchange.factors import balance, join, truncate
from stages.tools.exchange.importing import read_lora
from tests.support.lora_readers import comfyui, diffusers, fake_family, ldm_names, open_lora

MODULES = [
    f"{block}.transformer_blocks.0.attn{k}.to_{end}"
    for block in ("down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.1")
    for k, end in ((1, "q"), (2, "out.0"))
]
LDM, PLAIN = (module_names(MODULES, ldm) for ldm in (True, False))  # as a family returns them
NAMES, SAME_NAMES = ldm_names(2, 1, MODULES), {name: name for name in MODULES}
TOLERANCE = {"fp16": 1e-3, "fp32": 1e-6}


def adapter(seed: int, rank: int, scale: float = 1.0, size: float = 1.0, modules: list[str] = MODULES) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    shapes = {name: (5 + k % 3, 7 - k % 2) for k, name in enumerate(MODULES)}
    a = {name: torch.randn(rank, shapes[name][1], generator=g) for name in modules}
    return Adapter(a, {name: size * torch.randn(shapes[name][0], rank, generator=g) for name in modules}, scale)


def dense(seed: int) -> Delta:
    return Delta(dense={name: matrix for name, matrix in adapter(seed, 7).delta.matrices()})


def relative_error(actual: dict[str, torch.Tensor], delta: Delta) -> float:
    """The largest relative error of a module."""
    assert sorted(actual) == delta.modules
    return max(float((actual[n] - exact).norm() / exact.norm()) for n, exact in delta.matrices())


@settings(max_examples=100, deadline=None)
@given(
    ranks=some.lists(some.integers(1, 6), min_size=1, max_size=4),
    scale=some.floats(0.01, 8),
    size=some.sampled_from([1e-5, 1e-2, 1.0, 30.0]),
    seed=some.integers(0, 2**31),
    dtype=some.sampled_from(["fp16", "fp32"]),
    names=some.sampled_from([LDM, PLAIN]),
)
def test_sums_survive_both_formats(tmp_path_factory, ranks, scale, size, seed, dtype, names):
    delta = sum((adapter(seed + k, r, scale, size).delta for k, r in enumerate(ranks)), Delta())
    folder = tmp_path_factory.getbasetemp() / "exported"
    folder.mkdir(exist_ok=True)
    for form, read in (("kohya", comfyui), ("diffusers", diffusers)):
        packed = pack(delta, form, DTYPES[dtype], None, names)
        tensors.write(folder / "a.safetensors", packed.tensors, packed.metadata)
        file, metadata = open_lora(folder / "a.safetensors")
        actual = read(file, NAMES) if form == "kohya" else read(file, metadata, MODULES)
        assert relative_error(actual, delta) <= TOLERANCE[dtype]
        if sum(ranks) <= 5:  # the full rank of the smallest module
            assert packed.rank == str(sum(ranks))
        assert max(packed.errors.values()) == pytest.approx(relative_error(actual, delta), rel=0.3, abs=2e-7)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_dense_states_survive_exactly(dtype):
    packed = pack(dense(3), "kohya", DTYPES[dtype], None, LDM)
    assert relative_error(comfyui(packed.tensors, NAMES), dense(3)) <= TOLERANCE[dtype]
    assert packed.rank == "full"
    with pytest.raises(ConfigFault, match=r"--format diffusers: cannot hold.*--rank N.*--format kohya"):
        pack(dense(3), "diffusers", DTYPES[dtype], None, LDM)


def test_blocks_have_the_names_of_kohyas_sdxl():
    known = {
        "down_blocks.1.attentions.0": "input_blocks.4.1",
        "down_blocks.2.attentions.1": "input_blocks.8.1",
        "mid_block.attentions.0": "middle_block.1",
        "up_blocks.0.attentions.2": "output_blocks.2.1",
        "up_blocks.1.attentions.0": "output_blocks.3.1",
    }
    inner = ".transformer_blocks.9.attn2.to_out.0"
    assert {name: ldm_name(name + inner, 2).removesuffix(inner) for name in known} == known
    names = module_names(["text_encoder_2.encoder.q_proj", *(name + inner for name in known)], ldm=True)
    assert next(iter(names.values())).kohya == "lora_te2_encoder_q_proj"
    assert list(names.values())[-1].kohya == "lora_unet_output_blocks_3_1_transformer_blocks_9_attn2_to_out_0"


@given(seed=some.integers(0, 10**6), rank=some.integers(1, 5), kind=some.sampled_from(["sum", "dense"]))
@settings(max_examples=30, deadline=None)
def test_a_truncation_is_optimal(seed, rank, kind):
    delta = dense(seed) if kind == "dense" else adapter(seed, 2, 0.5).delta + adapter(seed + 1, 3).delta
    packed = pack(delta, "kohya", torch.float32, rank, PLAIN)
    for name, exact in delta.matrices():
        sizes = np.linalg.svd(exact.double().numpy(), compute_uv=False)
        best = np.sqrt((sizes[rank:] ** 2).sum() / (sizes**2).sum())
        assert packed.errors[name] == pytest.approx(best, rel=1e-3, abs=1e-6)
        assert np.linalg.matrix_rank(comfyui(packed.tensors, SAME_NAMES)[name], rtol=1e-5) <= rank
    highest = max(min(rank, *exact.shape) for _, exact in delta.matrices())
    assert {t.shape[0] for name, t in packed.tensors.items() if name.endswith("lora_down.weight")} == {highest}


def test_a_truncation_with_a_large_error_is_refused():
    lossy = pack(dense(1), "diffusers", torch.float16, 1, LDM)
    with pytest.raises(
        InputFault, match=rf"--rank 1: .*worst .*above the limit of {TRUNCATION_LIMIT:g}.*--accept-error"
    ):
        check_truncation(lossy, accepted=False)
    check_truncation(lossy, accepted=True)
    check_truncation(Packed({}, {}, "1", {"m": TRUNCATION_LIMIT}), accepted=False)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank):
    with pytest.raises(ConfigFault, match=rf"--rank {rank}: must be at least 1"):
        pack(dense(1), "kohya", torch.float16, rank, LDM)


def test_a_rank_above_the_full_rank_is_exact():
    assert pack(adapter(0, 2).delta, "kohya", torch.float32, 4, LDM).rank == "2"
    whole = pack(dense(1), "diffusers", torch.float32, 99, LDM)
    assert relative_error(diffusers(whole.tensors, whole.metadata, MODULES), dense(1)) < 1e-6


def test_ranks_above_the_full_rank_are_reduced_to_it(tmp_path):
    delta = adapter(0, 6).delta + adapter(1, 6, 0.5).delta
    for form in ("diffusers", "kohya"):
        packed = pack(delta, form, torch.float32, None, LDM)
        assert packed.worst < 1e-6
        assert not packed.truncated
        if form == "diffusers":
            sizes = {t.shape[0] for n, t in packed.tensors.items() if "lora.down" in n}
            assert sizes == {min(exact.shape) for _, exact in delta.matrices()}
        tensors.write(tmp_path / form, packed.tensors, packed.metadata)
        back = read_lora(tmp_path / form, fake_family({name: tuple(exact.shape) for name, exact in delta.matrices()}))
        assert relative_error(dict(back.adapter.delta.matrices()), delta) < 1e-6


def test_layers_are_listed_with_the_worst_first():
    packed = pack(dense(1), "kohya", torch.float16, 2, LDM)
    assert packed.truncated
    errors = [error for _, error in packed.layers()]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == len(MODULES)
    assert packed.layers()[0][0] in packed.summary()
    assert not pack(dense(1), "kohya", torch.float16, 7, LDM).truncated
    assert not pack(adapter(1, 2).delta, "kohya", torch.float16, 2, LDM).truncated


def test_only_the_dense_modules_of_a_state_are_written_as_matrices():
    some_dense = {name: matrix for name, matrix in dense(2).dense.items() if name in MODULES[:2]}
    mixed = Delta(adapter(0, 2, modules=MODULES[2:]).delta.terms, some_dense)
    packed = pack(mixed, "kohya", torch.float32, None, LDM)
    assert len(packed.tensors) == 2 + 3 * 4
    assert relative_error(comfyui(packed.tensors, NAMES), mixed) < 1e-6


def test_overflow_and_an_empty_delta_are_refused():
    with pytest.raises(InputFault, match=r"numbers are too large for torch\.float16"):
        pack(adapter(0, 2, size=1e10).delta, "kohya", torch.float16, None, LDM)
    with pytest.raises(InputFault, match="the delta is empty"):
        pack(Delta(), "kohya", torch.float16, None, LDM)


@given(seed=some.integers(0, 10**6), power=some.integers(-30, 30))
@settings(max_examples=20, deadline=None)
def test_balancing_does_not_change_the_product(seed, power):
    one = adapter(seed, 1, size=2.0**power)
    for name, a in one.a.items():
        left, right = balance(a, one.b[name])
        assert torch.equal(right @ left, one.b[name] @ a)
        assert 0.25 <= float(left.abs().max() / right.abs().max()) <= 4
    zero = torch.zeros(2, 1)
    assert all(
        torch.equal(x, y) for x, y in zip(balance(torch.ones(1, 3), zero), (torch.ones(1, 3), zero), strict=True)
    )


def test_adapters_of_different_modules_give_several_ranks():
    delta = adapter(0, 2).delta + adapter(1, 3, modules=MODULES[:2]).delta
    assert {join(delta, name)[0].shape[0] for name in delta.modules} == {2, 5}
    packed = pack(delta, "diffusers", torch.float32, None, LDM)
    assert packed.rank == "Dynamic"
    assert relative_error(diffusers(packed.tensors, packed.metadata, MODULES), delta) < 1e-6


def test_thin_factors_are_not_multiplied_out():
    thin = Adapter({"m": torch.randn(2, 4000)}, {"m": torch.randn(3000, 2)})
    a, b = truncate(thin.delta, "m", 2)
    assert torch.allclose(b[:9] @ a[:, :9], thin.b["m"][:9] @ thin.a["m"][:, :9], atol=1e-4)


def test_equal_content_gives_equal_bytes(tmp_path):
    packed = pack(adapter(1, 2).delta, "kohya", torch.float16, None, LDM)
    notes = {f"ss_{k}": str(k) for k in range(20)}
    for name, some_order in (("a", packed.tensors), ("b", dict(reversed(packed.tensors.items())))):
        tensors.write(tmp_path / name, some_order, notes if name == "a" else dict(reversed(notes.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert open_lora(tmp_path / "a")[1] == notes
    start = 8 + int.from_bytes((tmp_path / "a").read_bytes()[:8], "little")
    assert start % 8 == 0
    assert tensors.content_hash(packed.tensors) == hashlib.sha256((tmp_path / "a").read_bytes()[start:]).hexdigest()
