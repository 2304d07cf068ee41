"""LoRA files of other programs: imported exactly, or refused in one line with counts."""

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors.torch import save, save_file

from stages.core.family import KnownAs, families
from stages.families.unet.names import module_names
from stages.files import tensors as weightfile
from stages.runtime.faults import ConfigFault, InputFault, MachineFault
from stages.tools.exchange.importing import _other_base, read_lora
from stages.tools.exchange.settings import CONFIG
from tests.support.lora_readers import fake_family
from tests.tools.test_exporting import MODULES, adapter

SHAPES = {name: (b.shape[0], adapter(0, 1).a[name].shape[1]) for name, b in adapter(0, 1).b.items()}
BASE = fake_family(SHAPES, KnownAs("some-base", "some_v1"))


def written(path, tensors, metadata=None):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return path


def kohya_of(ldm=True):
    return {module: name.kohya for module, name in module_names(MODULES, ldm).items()}


def kohya(alpha=2.0, ldm=True, rank=4):
    tensors, lora = {}, adapter(5, rank)
    for module, name in kohya_of(ldm).items():
        tensors |= {f"{name}.lora_down.weight": lora.a[module], f"{name}.lora_up.weight": lora.b[module]}
        tensors |= {f"{name}.alpha": torch.tensor(alpha)} if alpha is not None else {}
    return tensors


def named(pattern, down, up, rank=4):
    lora = adapter(5, rank)
    return {pattern.format(m) + end: factor[m] for m in MODULES for end, factor in ((down, lora.a), (up, lora.b))}


def same(actual, scale, rank=4):
    expected = adapter(5, rank, scale)
    return all(torch.allclose(actual.module(m), expected.module(m), rtol=1e-5, atol=1e-5) for m in MODULES)


def test_kohya_alpha_over_rank_is_the_scale(tmp_path):
    for ldm, alpha, scale in ((True, 2.0, 0.5), (False, 8.0, 2.0), (True, None, 1.0)):
        lora = read_lora(written(tmp_path / "a.safetensors", kohya(alpha, ldm)), BASE)
        assert (lora.format, lora.adapter.scale) == ("kohya", scale)
        assert same(lora.adapter, scale)


def test_diffusers_uses_its_settings_or_a_scale_of_one(tmp_path):
    tensors = named("unet.{}", ".lora.down.weight", ".lora.up.weight")
    for settings_, scale in (({}, 1.0), ({"unet.r": 4, "unet.lora_alpha": 8}, 2.0)):
        path = written(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps(settings_)})
        assert same(read_lora(path, BASE).adapter, scale)
    old = {
        name.replace(".to_out.0.", ".processor.to_out_").replace(".to_q.", ".processor.to_q_"): value
        for name, value in named("unet.{}.lora", ".down.weight", ".up.weight").items()
    }
    assert ".attn2.processor.to_out_lora.up.weight" in str(list(old))
    assert same(read_lora(written(tmp_path / "old.safetensors", old), BASE).adapter, 1.0)


def test_peft_needs_its_settings_file(tmp_path):
    path = written(tmp_path / "a.safetensors", named("base_model.model.{}", ".lora_A.weight", ".lora_B.weight"))
    with pytest.raises(InputFault, match=r"adapter_config\.json.*is missing beside it.*--alpha"):
        read_lora(path, BASE)
    assert same(read_lora(path, BASE, alpha=12).adapter, 3.0)
    (tmp_path / CONFIG).write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    assert same(read_lora(path, BASE).adapter, 2.0)
    (tmp_path / CONFIG).write_text(json.dumps({"r": 4, "lora_alpha": 8, "use_rslora": True}))
    assert read_lora(path, BASE).adapter.scale == pytest.approx(8 / math.sqrt(4))
    (tmp_path / CONFIG).write_text(json.dumps({"use_dora": True}))
    with pytest.raises(InputFault, match="DoRA"):
        read_lora(path, BASE)


def test_different_ranks_and_scales_become_one(tmp_path):
    tensors = kohya(2.0)
    first = kohya_of()[MODULES[0]]
    tensors[f"{first}.lora_down.weight"] = tensors[f"{first}.lora_down.weight"][:1]
    tensors[f"{first}.lora_up.weight"] = tensors[f"{first}.lora_up.weight"][:, :1]
    lora = read_lora(written(tmp_path / "a.safetensors", tensors), BASE).adapter
    assert {a.shape[0] for a in lora.a.values()} == {4}
    expected = 2.0 * tensors[f"{first}.lora_up.weight"] @ tensors[f"{first}.lora_down.weight"]
    assert torch.allclose(lora.module(MODULES[0]), expected, atol=1e-5)
    assert torch.allclose(lora.module(MODULES[1]), adapter(5, 4, 0.5).module(MODULES[1]), atol=1e-5)


KEY = f"{kohya_of()[MODULES[0]]}.lora_down.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: [t.pop(k) for k in list(t)[: len(t) // 2]],
            "expected 6 modules with down and up, has 3; .* is missing",
        ),
        (lambda t: t.clear(), "holds no tensors; expected 6 .* has 0"),
        (
            lambda t: t.update({"lora_unet_other.lora_down.weight": torch.ones(1, 1)}),
            "has 6, and 1 unknown tensors",
        ),
        (
            lambda t: [t.update({f"transformer.{k}": t.pop(k)}) for k in list(t)],
            "has 0, and 18 unknown tensors",
        ),
        (lambda t: t.update({KEY: torch.full_like(t[KEY], float("nan"))}), "contains other than finite floats"),
        (lambda t: t.update({KEY: t[KEY].to(torch.int8)}), "is I8; adapters must be F16, BF16 or F32"),
        (
            lambda t: t.update({KEY: torch.ones(4, 99)}),
            r"has up \(5, 4\) and down \(4, 99\), the base needs \(5, rank\)",
        ),
        (lambda t: t.update({KEY: torch.ones(3, 7)}), r"has up \(5, 4\) and down \(3, 7\)"),
        (lambda t: t.update({KEY: torch.ones(4)}), r"down \(4,\)"),
        (lambda t: t.update({KEY.replace("lora_down.weight", "dora_scale"): torch.ones(5)}), "dora_scale"),
    ],
)
def test_incomplete_or_foreign_adapters_are_refused(tmp_path, change, message):
    tensors = kohya()
    change(tensors)
    with pytest.raises(InputFault, match=message) as caught:
        read_lora(written(tmp_path / "a.safetensors", tensors), BASE)
    assert str(caught.value).startswith(f"{tmp_path / 'a.safetensors'}: ")
    assert "\n" not in str(caught.value)


UP = KEY.replace("lora_down", "lora_up")
ALPHA = KEY.replace("lora_down.weight", "alpha")


def of_rank(tensors, rank):
    return tensors | {KEY: torch.ones(rank, tensors[KEY].shape[1]), UP: torch.ones(len(tensors[UP]), rank)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: of_rank(t, 0), "has rank 0, this base allows 1 to 5"),
        (lambda t: of_rank(t, 6), "has rank 6, this base allows 1 to 5"),
        (lambda t: of_rank(t, 4000), "has rank 4000, this base allows 1 to 5"),
        (lambda t: t | {ALPHA: torch.ones(2)}, r"alpha has shape \(2,\); an alpha is one number"),
        (lambda t: t | {ALPHA: torch.ones(0)}, r"alpha has shape \(0,\); an alpha is one number"),
        (lambda t: t | {ALPHA: torch.tensor(float("nan"))}, "contains other than finite floats"),
        (lambda t: t | {KEY: 1e30 * t[KEY], UP: 1e30 * t[UP]}, "is not finite in float32"),
        (lambda t: t | {ALPHA: torch.tensor(3e38), UP: 1e9 * t[UP]}, "is not finite in float32"),
    ],
)
def test_impossible_ranks_scales_and_sizes_are_refused(tmp_path, change, message):
    with pytest.raises(InputFault, match=message) as caught:
        read_lora(written(tmp_path / "a.safetensors", change(kohya())), BASE)
    assert MODULES[0] in str(caught.value) or KEY.split(".")[0] in str(caught.value)


def test_zero_ranks_are_dropped(tmp_path):
    padded = {
        name: value
        if name.endswith("alpha")
        else torch.nn.functional.pad(value, (0, 2) if "up" in name else (0, 0, 0, 2))
        for name, value in kohya(3.0).items()
    }
    lora = read_lora(written(tmp_path / "a.safetensors", padded), BASE).adapter
    assert same(lora, 0.5)
    assert {len(a) for name, a in lora.a.items() if min(SHAPES[name]) < 6} == {6}


@pytest.mark.parametrize(
    "alpha", ["NaN", "Infinity", "-Infinity", "1e999", "1" + 400 * "0", '"8"', "[8, 8]", "null", "true", 9999 * "["]
)
@pytest.mark.parametrize("kind", ["diffusers", "peft"])
def test_alpha_in_settings_must_be_one_finite_number(tmp_path, kind, alpha):
    path, key = tmp_path / "a.safetensors", "unet.lora_alpha" if kind == "diffusers" else "lora_alpha"
    settings_ = f'{{"{key}": {alpha}}}'
    if kind == "diffusers":
        tensors = named("unet.{}", ".lora.down.weight", ".lora.up.weight")
        written(path, tensors, {"lora_adapter_metadata": settings_})
    else:
        written(path, named("base_model.model.{}", ".lora_A.weight", ".lora_B.weight"))
        (tmp_path / CONFIG).write_text(settings_)
    with pytest.raises(InputFault, match=r"its adapter settings are invalid: .") as caught:
        read_lora(path, BASE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), -float("inf")])
def test_alpha_as_an_option_must_be_finite(tmp_path, alpha):
    path = written(tmp_path / "a.safetensors", named("base_model.model.{}", ".lora_A.weight", ".lora_B.weight"))
    with pytest.raises(ConfigFault, match=r"^--alpha .*: must be a finite number"):
        read_lora(path, BASE, alpha)


def test_an_adapter_without_effect_is_imported_with_a_warning(tmp_path):
    path, whole = tmp_path / "a.safetensors", kohya()
    assert read_lora(written(path, whole), BASE).warnings == ()
    for zero in (kohya(0.0), {n: torch.zeros_like(t) if "up" in n else t for n, t in whole.items()}):
        (warning,) = read_lora(written(path, zero), BASE).warnings
        assert warning.startswith("no effect: ")
    (warning,) = read_lora(written(path, whole | {ALPHA: torch.tensor(0.0)}), BASE).warnings
    assert warning.startswith("1 of 6 modules are unchanged")
    config = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 0})}
    (warning,) = read_lora(
        written(path, named("unet.{}", ".lora.down.weight", ".lora.up.weight"), config), BASE
    ).warnings
    assert warning.startswith("no effect: ")


def sparse(path: Path, tensors) -> Path:
    """A sparse file whose header claims these shapes; it takes no disk space."""
    header, at = {}, 0
    for name, shape in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at := at + 4 * math.prod(shape)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + at)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {f"model.{name}": [1 << 20, 1 << 13] for name in t}, "has 0, and 18 unknown tensors"),
        (lambda t: t | {KEY: [1 << 36, t[KEY][1]], UP: [t[UP][0], 1 << 36]}, "has rank 68719476736"),
        (lambda t: t | {ALPHA: [1 << 38]}, "an alpha is one number"),
        (lambda t: t | {KEY: [4, 1 << 36]}, "the base needs"),
    ],
    ids=["names", "rank", "alpha", "shape"],
)
def test_a_terabyte_is_refused_by_its_header(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr("stages.files.tensors.load_file", lambda path: pytest.fail("loaded"))
    path = sparse(tmp_path / "a.safetensors", change({name: list(value.shape) for name, value in kohya().items()}))
    assert path.stat().st_size > 1e11
    with pytest.raises(InputFault, match=message):
        read_lora(path, BASE)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_not_enough_memory_is_a_machine_fault(tmp_path, monkeypatch, error):
    def full(path):
        raise error

    monkeypatch.setattr("stages.files.tensors.load_file", full)
    with pytest.raises(MachineFault, match=r"a\.safetensors: not enough memory for its [\d.]+ kB"):
        read_lora(written(tmp_path / "a.safetensors", kohya()), BASE)


@pytest.mark.parametrize("key", ["modelspec.architecture", "ss_base_model_version"])
def test_another_name_of_the_base_is_a_synonym_or_a_warning(tmp_path, key):
    path = written(tmp_path / "a.safetensors", kohya(), {key: "sd-1.5\n/lora"})
    (warning,) = read_lora(path, BASE).warnings
    assert warning.startswith(f"made for 'sd-1.5\\n' ({key}), this study's base is 'some")
    for name in ("some-base", "Somebody_2"):
        other = fake_family(SHAPES, KnownAs("some-base", "some-base", synonyms=("somebody*",)))
        assert read_lora(written(path, kohya(), {key: name}), other).warnings == ()


@pytest.mark.parametrize("family", sorted(families.classes))
def test_our_own_names_are_never_warned_of(family):
    known = families.classes[family].known_as
    own = {"modelspec.architecture": f"{known.architecture}/lora", "ss_base_model_version": known.version}
    assert not list(_other_base(own, known))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_an_alpha_of_any_number_type_is_read(tmp_path, dtype, shape):
    tensors = {n: torch.full(shape, 2, dtype=dtype) if n.endswith("alpha") else t for n, t in kohya().items()}
    assert same(read_lora(written(tmp_path / "a.safetensors", tensors), BASE).adapter, 0.5)


def valid_file() -> bytes:
    return save({"a": torch.ones(3), "b": torch.zeros(2, 2)})


def malformed_file(**entry) -> bytes:
    header = {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | entry}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(12)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.ckpt", valid_file(), r"\.ckpt files can run code"),
        ("a.safetensors", b"PK\x03\x04" + bytes(60), "a pickle, whatever its name says"),
        ("a.safetensors", b"\x80\x02}q\x00." + bytes(60), "a pickle"),
        ("a.safetensors", b"", "not safetensors, or truncated: 0 bytes"),
        ("a.safetensors", valid_file()[:20], "not safetensors, or truncated: 20 bytes"),
        ("a.safetensors", valid_file()[:-1], r"lists 28 bytes of numbers, the file has 27"),
        ("a.safetensors", valid_file() + b"x", r"lists 28 bytes of numbers, the file has 29"),
        ("a.safetensors", (1 << 60).to_bytes(8, "little") + b"{" * 50, "not safetensors, or truncated"),
        ("a.safetensors", malformed_file(shape=[4]), "has 12 bytes for shape"),
        ("a.safetensors", malformed_file(shape=[-3]), "an impossible shape"),
        ("a.safetensors", malformed_file(data_offsets=[4, 12]), "does not start where"),
        ("a.safetensors", malformed_file(shape=None), "header is wrong"),
        ("a.safetensors", (9).to_bytes(8, "little") + b'{"a":{}}}' + bytes(9), "header is wrong"),
        ("a.safetensors", (19).to_bytes(8, "little") + b'{"a":{},  "a": {} }', "the name 'a' occurs twice"),
    ],
)
def test_malformed_files_are_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputFault, match=message) as caught:
        weightfile.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    tensors = {"a" * (0x280 - 58): torch.ones(3)}
    path = written(tmp_path / "a.safetensors", tensors)
    assert path.read_bytes().startswith(b"\x80\x02")
    assert set(weightfile.read(path)[0]) == set(tensors)


@given(where=some.floats(0, 1, exclude_max=True), byte=some.integers(0, 255), cut=some.booleans())
@settings(max_examples=200, deadline=None)
def test_any_damage_to_a_file_is_a_fault_or_readable(tmp_path_factory, where, byte, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    data = bytearray(valid_file())
    at = int(where * len(data))
    data = data[:at] if cut else data[:at] + bytes([byte]) + data[at + 1 :]
    path.write_bytes(data)
    with suppress(InputFault):  # any other error would be a bug
        assert all(value.isfinite().all() for value in weightfile.read(path)[0].values())


@pytest.mark.parametrize("shape", [[1 << 62] * 20_000, [1 << 4000], [1, 2, 3, 4, 5, 6, 7, 8, 9], [-1, -1], [[1]]])
def test_an_absurd_shape_costs_nothing(tmp_path, shape):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    began = time.process_time()
    with pytest.raises(InputFault, match="its safetensors header is wrong"):
        weightfile.read_header(tmp_path / "a.safetensors")
    assert time.process_time() - began < 5
