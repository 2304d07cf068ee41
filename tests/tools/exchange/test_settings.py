"""Settings of adapters: what peft itself loads with them is imported, or they are refused by name."""

import json
import re

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as some
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from stages.runtime.faults import ConfigFault, InputFault
from stages.tools.exchange.importing import read_lora
from stages.tools.exchange.settings import CONFIG, IN_FILE
from tests.support.lora_readers import fake_family
from tests.tools.test_exporting import MODULES

SHAPES = {name: (6 + k % 2, 8 - k % 2) for k, name in enumerate(MODULES)}
BASE = fake_family(SHAPES)
TARGETS = ["to_q", "to_out.0"]


class Model(nn.Module):
    """Linear layers under the names of a UNet's attention."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            place: nn.Module = self
            for part in name.split(".")[:-1]:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            layer = nn.Linear(shape[1], shape[0], bias=True)
            layer.weight.data = torch.randn(shape, generator=g)
            place.add_module(name.split(".")[-1], layer)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: self.get_submodule(name).weight.detach().clone() for name in SHAPES}

    def forward(self, x):
        return x


def saved(folder, **options):
    """Writes an adapter with random weights as peft does; returns what peft adds to each weight when it loads it.

    Patterns are given in the order in which peft stores them: the first that matches counts.
    """
    options = {key: dict(sorted(value.items())) if key.endswith("pattern") else value for key, value in options.items()}
    model = get_peft_model(Model(), LoraConfig(target_modules=TARGETS, **options))
    g = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=g)
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(Model(), folder).merge_and_unload()
    return {name: weight - Model().weights()[name] for name, weight in loaded.weights().items()}


PATTERNS = {
    "to_q": "an ending",
    "attn2.to_out.0": "dots match any letter",
    r"^mid_block\.attentions\.0\.transformer_blocks\.0\.attn1\.to_q": "a whole name",
    r"(down|up)_blocks\.\d.*": "an expression",
    "out.0": "the end of a part of a name, which is no match",
    r"attn[12]\.to_(q|k)": "a class and a choice",
}


@given(
    rank=some.integers(1, 4),
    alpha=some.sampled_from([1, 4, 8, 12]),
    ranks=some.dictionaries(some.sampled_from(sorted(PATTERNS)), some.integers(1, 4), max_size=3),
    alphas=some.dictionaries(some.sampled_from(sorted(PATTERNS)), some.integers(1, 32), max_size=3),
    rslora=some.booleans(),
    start=some.sampled_from([True, "gaussian"]),
)
@settings(max_examples=15, database=None, phases=[Phase.generate])
def test_scales_are_those_of_peft(tmp_path_factory, rank, alpha, ranks, alphas, rslora, start):
    folder = tmp_path_factory.mktemp("peft")
    options = {"rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": rslora, "init_lora_weights": start}
    expected = saved(folder, r=rank, lora_alpha=alpha, **options)
    path = folder / "adapter_model.safetensors"
    actual = read_lora(path, BASE).adapter
    assert all(torch.allclose(actual.module(name), delta, rtol=1e-4, atol=1e-5) for name, delta in expected.items())
    # As diffusers stores them: keys with the part's name, within the file.
    config = json.loads((folder / CONFIG).read_text())
    tensors = {name.replace("base_model.model.", "unet."): value for name, value in load_file(path).items()}
    other = tmp_path_factory.mktemp("diffusers") / "a.safetensors"
    save_file(tensors, other, {IN_FILE: json.dumps({f"unet.{key}": value for key, value in config.items()})})
    again = read_lora(other, BASE).adapter
    assert all(torch.equal(again.module(name), actual.module(name)) for name in SHAPES)


@pytest.fixture
def plain(tmp_path):
    saved(tmp_path, r=2, lora_alpha=4)
    return tmp_path / "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base too.*convert"),
        ({"init_lora_weights": "pissa_niter_2"}, "init_lora_weights is 'pissa_niter_2'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["attn1"]}, "modules_to_save is .'attn1'."),
    ],
)
def test_what_plain_lora_does_not_have_is_refused_by_name(tmp_path, options, message):
    saved(tmp_path, r=2, **options)
    with pytest.raises(InputFault, match=rf"{CONFIG}: its adapter settings are invalid: .*{message}|tensors") as caught:
        read_lora(tmp_path / "adapter_model.safetensors", BASE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', not LORA"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"something_new": 1}, "something_new is 1, which plain LoRA does not have"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"r": 3}, r"r of .* is 3, its factors have rank 2"),
        ({"rank_pattern": {"to_q": 5}}, r"r of .*to_q is 5, its factors have rank 2"),
        ({"alpha_pattern": {"to_q": "8"}}, "alpha_pattern to_q is '8', not a finite number"),
        ({"alpha_pattern": {"(": 8}}, "pattern '\\('"),
        ({"alpha_pattern": {"(" * 4000 + ")" * 4000: 8}}, "pattern '\\("),
        (
            {"alpha_pattern": {"x" * 10_001: 8}},
            "alpha_pattern has more than 10000 patterns, or one of more",
        ),
        ({"rank_pattern": {f"x{number}": 8 for number in range(10_001)}}, "rank_pattern has more than 10000 patterns"),
        ({"alpha_pattern": ["to_q"]}, "is not a mapping"),
    ],
)
def test_changed_settings_are_refused_by_name(plain, change, message):
    file = plain.parent / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputFault, match=message) as caught:
        read_lora(plain, BASE)
    assert "\n" not in str(caught.value)


def test_patterns_have_a_limit_in_time(plain, monkeypatch):
    class Slow:
        def match(self, name, timeout):
            assert 0 < timeout < 1
            raise TimeoutError("regex timed out")

    monkeypatch.setattr("stages.tools.exchange.settings.regex.compile", lambda pattern: Slow())
    file = plain.parent / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha_pattern": {"to_q": 8}}))
    with pytest.raises(InputFault, match="pattern 'to_q': regex timed out"):
        read_lora(plain, BASE)


def test_all_patterns_together_have_a_limit_in_time(plain, monkeypatch):
    file = plain.parent / CONFIG
    slow = {f"x{number}": 8 for number in range(100)}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha_pattern": slow}))
    read_lora(plain, BASE)
    clock = iter(range(10_000))
    monkeypatch.setattr("stages.tools.exchange.settings.time.monotonic", lambda: next(clock))
    with pytest.raises(InputFault, match="its 100 patterns take too long"):
        read_lora(plain, BASE)


def test_settings_without_effect_are_accepted(plain):
    file = plain.parent / CONFIG
    expected = read_lora(plain, BASE).adapter
    config = json.loads(file.read_text()) | {"something_new": None, "peft_version": "9.9.9", "lora_dropout": 0.5}
    file.write_text(json.dumps(config))
    actual = read_lora(plain, BASE).adapter
    assert all(torch.equal(actual.module(name), expected.module(name)) for name in SHAPES)
    config.pop("lora_alpha")  # peft's own default is 8, not the rank
    file.write_text(json.dumps(config))
    assert read_lora(plain, BASE).adapter.scale == 4


def test_alphas_may_not_contradict_each_other(plain):
    with pytest.raises(ConfigFault, match=r"^--alpha: .* has its own alpha\. Omit it\."):
        read_lora(plain, BASE, alpha=3)
    tensors = load_file(plain)
    alphas = {name.replace("lora_A.weight", "alpha"): torch.tensor(4.0) for name in tensors if "lora_A" in name}
    save_file(tensors | alphas, plain)
    assert read_lora(plain, BASE).adapter.scale == 2
    (first, *_) = alphas
    save_file(tensors | alphas | {first: torch.tensor(5)}, plain)
    with pytest.raises(InputFault, match=r"has scale 2\.5 by its alpha and 2 by the adapter settings"):
        read_lora(plain, BASE)


def test_a_kohya_file_whose_alphas_are_missing_is_not_guessed(plain):
    names = {f"base_model.model.{module}": name.kohya for module, name in BASE.module_names().items()}
    roles = {"lora_A": "lora_down", "lora_B": "lora_up"}
    tensors = {}
    for key, value in load_file(plain).items():
        module, role = re.fullmatch(r"(.*)\.(lora_[AB])\.weight", key).groups()
        tensors[f"{names[module]}.{roles[role]}.weight"] = value
    path = plain.with_name("kohya.safetensors")
    save_file(tensors, path, {"ss_network_alpha": "1", "ss_network_dim": "2"})
    with pytest.raises(InputFault, match=r"ss_network_alpha '1' and ss_network_dim '2', but tensors with the alphas"):
        read_lora(path, BASE)
    assert read_lora(path, BASE, alpha=1).adapter.scale == 0.5
    save_file(tensors, path, {"ss_network_alpha": "1\nerror: " * 10_000, "ss_network_dim": "2"})
    with pytest.raises(InputFault, match=r"ss_network_alpha '1\\nerr") as caught:
        read_lora(path, BASE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    save_file(tensors, path, {"ss_network_alpha": "2", "ss_network_dim": "2"})
    assert read_lora(path, BASE).adapter.scale == 1
