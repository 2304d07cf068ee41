"""The metrics against the code that the paper used, on random weights: transformers for CLIP and DINO, and for CSD the
arithmetic of its own model, from a checkpoint in the published layout."""

import argparse
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, ViTConfig, ViTModel

from stages.core.metric import metrics
from stages.metrics import clip_i, csd, dino
from stages.metrics.weights.convert import dino as dino_checkpoint
from stages.metrics.weights.convert.csd import ARCHITECTURE, convert
from stages.runtime.faults import InputFault
from tests.support.models.random_judges import SIZES, write_clip, write_dino

WIDTH, LAYERS, HEADS, OUT, PIXELS, PATCH = 32, 2, 2, 24, 32, 8
TOWER = {
    "embed_dim": OUT,
    "quick_gelu": True,
    "vision_cfg": {"image_size": PIXELS, "patch_size": PATCH, "width": WIDTH, "layers": LAYERS, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
}
SMALL = "ViT-small-for-tests"


@pytest.fixture(scope="module", autouse=True)
def architecture(tmp_path_factory):
    """Registers a small tower as an architecture of open_clip."""
    path = tmp_path_factory.mktemp("architectures") / f"{SMALL}.json"
    path.write_text(json.dumps(TOWER))
    open_clip.add_model_config(path)


@pytest.fixture
def photos() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(3)]
    return [
        image.resize(size, Image.Resampling.BICUBIC)
        for image, size in zip(coarse, ((50, 40), (32, 32), (40, 71)), strict=True)
    ]


def test_clip_i_equals_the_embedding_of_transformers(tmp_path: Path, photos: list[Image.Image]) -> None:
    vectors = write_clip(tmp_path / "clip", SIZES["tiny"]).embed(photos)
    reference = CLIPModel.from_pretrained(tmp_path / "clip")
    preprocess = CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS})
    with torch.no_grad():
        expected = reference.get_image_features(**preprocess(photos, return_tensors="pt")).pooler_output
    assert torch.allclose(vectors, F.normalize(expected, dim=1), atol=1e-5)


# timm's, the published one, and one so large that a mix-up would be visible.
@pytest.mark.parametrize("norm_eps", [1e-6, ViTConfig().layer_norm_eps, 0.1])
def test_converted_dino_equals_the_class_token_of_transformers(
    tmp_path: Path, photos: list[Image.Image], norm_eps: float
) -> None:
    metric = write_dino(tmp_path / "dino", SIZES["tiny"], 37, norm_eps)
    vectors = metric.embed(photos)
    reference, loading_info = ViTModel.from_pretrained(
        tmp_path / "dino", add_pooling_layer=False, output_loading_info=True
    )
    assert not any(loading_info.values())  # the names are those of the file that the paper loads
    pixels = torch.stack([dino.preprocessing(37, PIXELS)(photo) for photo in photos])
    with torch.no_grad():
        expected = F.normalize(reference(pixels).last_hidden_state[:, 0], dim=1)
    assert torch.allclose(vectors, expected, atol=1e-5)
    assert f"{norm_eps:g}" in metric.encoder or norm_eps == 1e-6  # so that stored embeddings are not mixed up


def test_full_size_dino_has_the_published_names_and_shapes(tmp_path: Path) -> None:
    with torch.device("meta"):
        published = ViTModel(ViTConfig(hidden_size=384, intermediate_size=1536, num_attention_heads=6), False)
        ours = dino.build_model("", dino_checkpoint.ARCHITECTURE)
    assert sum(w.numel() for w in published.parameters()) == sum(w.numel() for w in ours.parameters()) == 21_665_664
    names = [name for key in ours.state_dict() for name in dino_checkpoint.published_names(key)]
    assert len(names) == len({*names}) == len(published.state_dict()) == 198
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "wrong.bin")
    with pytest.raises(InputFault, match=r"embeddings.cls_token is \(1,\), vit_small_patch16_224 has \(1, 1, 384\)"):
        dino_checkpoint.convert(tmp_path / "wrong.bin", tmp_path / "dino.safetensors")
    torch.save([torch.zeros(1)], tmp_path / "list.bin")
    with pytest.raises(InputFault, match="has no named weights"):
        dino_checkpoint.convert(tmp_path / "list.bin", tmp_path / "dino.safetensors")


# --- CSD ------------------------------------------------------------------------------------------------------------


def csd_published(prefix: str = "module.") -> dict[str, Tensor]:
    """Random weights with the names of the published checkpoint."""
    torch.manual_seed(0)
    visual = open_clip.create_model(SMALL, pretrained=None).visual
    weights = {f"{prefix}backbone.{k}": v.clone() for k, v in visual.state_dict().items() if k != "proj"}
    heads = {f"{prefix}last_layer_{what}": torch.randn(WIDTH, OUT) for what in ("style", "content")}
    return weights | heads


def checkpoint(path: Path, weights: dict[str, Tensor]) -> Path:
    """As CSD's training saves it, including optimisers and the arguments of the run."""
    run = argparse.Namespace(arch="vit_large", lr=np.float64(1e-3), eval_k=[1, 5])
    state = {"state": {}, "param_groups": [{"lr": np.float64(0.1)}]}
    torch.save({"model_state_dict": weights, "opt_bb": state, "opt_proj": state, "iter": 7, "args": run}, path)
    return path


def style_vector(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The computation of CSD's own model: OpenAI's tower without projection, times the style head, normalised."""
    w = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])

    x = F.conv2d(pixels, w["conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], 1) + w["positional_embedding"]
    x = norm(x, "ln_pre")
    for i in range(LAYERS):
        at = f"transformer.resblocks.{i}"
        q, k, v = (
            F.linear(norm(x, f"{at}.ln_1"), w[f"{at}.attn.in_proj_weight"], w[f"{at}.attn.in_proj_bias"])
            .view(len(x), -1, 3 * HEADS, WIDTH // HEADS)
            .transpose(1, 2)
            .chunk(3, 1)
        )
        mixed = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, w[f"{at}.attn.out_proj.weight"], w[f"{at}.attn.out_proj.bias"])
        wide = F.linear(norm(x, f"{at}.ln_2"), w[f"{at}.mlp.c_fc.weight"], w[f"{at}.mlp.c_fc.bias"])
        wide = wide * torch.sigmoid(1.702 * wide)  # the quick GELU
        x = x + F.linear(wide, w[f"{at}.mlp.c_proj.weight"], w[f"{at}.mlp.c_proj.bias"])
    return F.normalize(norm(x[:, 0], "ln_post") @ w["last_layer_style"], dim=1)


def test_converted_csd_equals_its_own_model(tmp_path: Path, photos: list[Image.Image]) -> None:
    weights = csd_published()
    convert(checkpoint(tmp_path / "checkpoint.pth", weights), tmp_path / "csd.safetensors", SMALL)
    convert(checkpoint(tmp_path / "again.pth", csd_published("")), tmp_path / "again.safetensors", SMALL)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "csd.safetensors").read_bytes()
    assert not any("content" in key for key in load_file(tmp_path / "csd.safetensors"))
    vectors = metrics.make("csd", {"path": str(tmp_path / "csd.safetensors"), "architecture": SMALL}).embed(photos)
    _, preprocess = clip_i.build_model("", SMALL)
    pixels = torch.stack([preprocess(photo) for photo in photos])
    assert torch.allclose(vectors, style_vector(weights, pixels), atol=1e-5)


def test_a_checkpoint_with_missing_or_unexpected_weights_is_refused(tmp_path: Path) -> None:
    weights = csd_published()
    head = "module.last_layer_style"
    for wrong, message in (
        ({k: v for k, v in weights.items() if k != head}, "1 weights .* missing and 0 unexpected, such as last_layer"),
        (weights | {"module.more": torch.zeros(1)}, "0 weights .* missing and 1 unexpected, such as more"),
        (weights | {head: torch.zeros(2, 2)}, r"last_layer_style is \(2, 2\)"),
    ):
        with pytest.raises(InputFault, match=message):
            convert(checkpoint(tmp_path / "wrong.pth", wrong), tmp_path / "csd.safetensors", SMALL)
        assert not (tmp_path / "csd.safetensors").exists()


class Runs:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("ran"),)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": csd_published(), "args": Runs()}, "evil.pth")
    with pytest.raises(InputFault, match="cannot be read without running code") as fault:
        convert(Path("evil.pth"), Path("csd.safetensors"), SMALL)
    assert "\n" not in str(fault.value)
    assert not Path("ran").exists()
    Path("cut.pth").write_bytes(Path("evil.pth").read_bytes()[:1000])
    with pytest.raises(InputFault, match="or is damaged"):
        convert(Path("cut.pth"), Path("csd.safetensors"), SMALL)


def test_full_size_csd_has_the_published_names() -> None:
    """The backbone has the 295 weights of OpenAI's ViT-L/14, the heads are 1024 x 768; on the meta device."""
    with torch.device("meta"):
        visual = open_clip.CLIP(**open_clip.get_model_config(ARCHITECTURE) | {"text_cfg": csd.NO_TEXT}).visual
    shapes = {key: tuple(value.shape) for key, value in visual.state_dict().items()}
    assert shapes.pop("proj") == (1024, 768)
    assert len(shapes) == 295
    assert all(isinstance(block.mlp.gelu, open_clip.transformer.QuickGELU) for block in visual.transformer.resblocks)
