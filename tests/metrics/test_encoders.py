"""Every metric against the library's own computation of the same embedding, on small models with random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import transforms as T

from stages.core.metric import EmbeddingMetric, metrics
from stages.metrics import clip_i, csd, dino
from stages.metrics.csd import tower_weights
from stages.runtime.faults import InputFault

SMALL = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def photos() -> list[Image.Image]:
    g = torch.Generator().manual_seed(0)
    sizes = [(50, 40), (32, 32), (40, 71)]
    return [
        T.ToPILImage()(F.interpolate(torch.rand((1, 3, 6, 6), generator=g), size=s, mode="bicubic")[0].clamp(0, 1))
        for s in sizes
    ]


def pipeline(resize: int, crop: int, mean: tuple[float, ...], std: tuple[float, ...]) -> T.Compose:
    bicubic = T.InterpolationMode.BICUBIC
    return T.Compose([T.Resize(resize, bicubic), T.CenterCrop(crop), T.ToTensor(), T.Normalize(mean, std)])


CLIP = pipeline(32, 32, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def clip_folder(folder: Path) -> tuple[Path, open_clip.CLIP]:
    torch.manual_seed(0)
    model = open_clip.CLIP(**SMALL).eval()
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder, model


def dino_folder(folder: Path) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=0, **VIT).eval()
    folder.mkdir()
    config = {"architecture": "vit_small_patch16_224", "num_classes": 0, "model_args": VIT}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"input_size": [3, 32, 32]}}))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder, model


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == torch.float32 and torch.allclose(a, F.normalize(b, dim=1), atol=1e-5)


def test_clip_i_is_open_clips_embedding_with_the_papers_preprocessing(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    folder, model = clip_folder(tmp_path / "clip")
    vectors = metrics.make("clip_i", {"path": str(folder)}).embed(photos)
    with torch.no_grad():
        assert same(vectors, model.encode_image(torch.stack([CLIP(p) for p in photos])))


def test_clip_t_shares_picture_embeddings_with_clip_i_and_uses_clips_tokenizer(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    folder, model = clip_folder(tmp_path / "clip")
    clip_i, clip_t = (metrics.make(name, {"path": str(folder)}) for name in ("clip_i", "clip_t"))
    assert clip_i.encoder == clip_t.encoder
    assert torch.equal(clip_i.embed(photos), clip_t.embed(photos))
    prompts = ["a photo of a sks dog", "a cat in the snow"]
    ids = open_clip.SimpleTokenizer(context_length=16)(prompts)
    with torch.no_grad():
        assert same(clip_t.embed_text(prompts), model.encode_text(ids))
    assert (clip_i.compares_with, clip_t.compares_with) == ("references", "prompt")
    assert (clip_i.recognises, clip_t.recognises) == (True, False)


def test_dino_is_timms_class_token_with_the_papers_preprocessing(tmp_path: Path, photos: list[Image.Image]) -> None:
    folder, model = dino_folder(tmp_path / "dino")
    vectors = metrics.make("dino", {"path": str(folder), "resize": 37}).embed(photos)
    prepared = torch.stack([pipeline(37, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(p) for p in photos])
    with torch.no_grad():
        assert same(vectors, model(prepared))
        assert same(vectors, model.forward_features(prepared)[:, 0])


def test_dino_resizes_to_256_and_crops_to_224_as_in_the_paper() -> None:
    assert metrics.classes["dino"].model_fields["resize"].default == 256
    assert timm.get_pretrained_cfg("vit_small_patch16_224.dino").input_size == (3, 224, 224)


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-L-14-quickgelu"])
def test_the_architectures_of_openais_weights_use_quick_gelu(name: str) -> None:
    assert open_clip.get_model_config(name)["quick_gelu"] is True


def test_quick_gelu_in_the_configuration_reaches_the_model(tmp_path: Path) -> None:
    folder, _ = clip_folder(tmp_path / "clip")
    model, _ = clip_i.load(str(folder), "")
    assert all(
        isinstance(block.mlp.gelu, open_clip.transformer.QuickGELU) for block in model.visual.transformer.resblocks
    )


def test_csd_reads_the_published_weight_names(tmp_path: Path, photos: list[Image.Image]) -> None:
    folder, model = clip_folder(tmp_path / "csd")
    published = {f"module.backbone.{k}": v for k, v in model.visual.state_dict().items() if k != "proj"}
    heads = {"module.last_layer_style": model.visual.proj.detach(), "module.last_layer_content": torch.zeros(32, 24)}
    save_file(published | heads, folder / "open_clip_model.safetensors")
    assert set(tower_weights(published | heads)) == set(model.visual.state_dict())
    vectors = metrics.make("csd", {"path": str(folder)}).embed(photos)
    with torch.no_grad():
        assert same(vectors, model.visual(torch.stack([CLIP(p) for p in photos])))


# --- invalid files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip_i", "clip_t", "dino", "csd"])
@pytest.mark.parametrize("path", ["nowhere", "nowhere/weights.safetensors", "weights.bin", "damaged.safetensors"])
def test_a_wrong_path_is_an_error_of_one_line_that_names_the_file(
    name: str, path: str, tmp_path: Path, photos: list[Image.Image]
) -> None:
    for file in ("weights.bin", "damaged.safetensors"):
        (tmp_path / file).write_bytes(b"not weights")
    architecture = "vit_tiny_patch16_224" if name == "dino" else "ViT-S-32-alt"
    with pytest.raises(InputFault, match=path) as fault:
        metrics.make(name, {"path": str(tmp_path / path), "architecture": architecture}).embed(photos)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(("name", "make"), [("clip_i", clip_folder), ("dino", dino_folder), ("csd", clip_folder)])
def test_weights_with_wrong_shapes_or_names_are_refused(
    name: str, make: Callable[[Path], tuple[Path, nn.Module]], tmp_path: Path, photos: list[Image.Image]
) -> None:
    folder, model = make(tmp_path / name)
    file = next(folder.glob("*.safetensors"))
    state = (model.visual if name == "csd" else model).state_dict()
    key = next(k for k in state if "pos" in k)
    for wrong in (
        {**state, key: torch.zeros(7, 7)},
        {**state, "more": torch.zeros(1)},
        {k: v for k, v in state.items() if k != key},
    ):
        save_file(wrong, file)
        with pytest.raises(InputFault, match=f"'({key}|more)' is"):
            metrics.make(name, {"path": str(folder)}).embed(photos)
        _clear_caches()


def _clear_caches() -> None:
    for module in (clip_i, csd, dino):
        module.load.cache_clear()


@pytest.mark.parametrize("name", ["clip_i", "clip_t", "dino", "csd"])
def test_an_unknown_architecture_or_a_missing_configuration_is_refused(
    name: str, tmp_path: Path, photos: list[Image.Image]
) -> None:
    file = tmp_path / ("model.safetensors" if name == "dino" else "open_clip_model.safetensors")
    save_file({"a": torch.zeros(1)}, file)
    for options, message in (({}, "config.json"), ({"architecture": "ViT-Z-1"}, "ViT-Z-1")):
        with pytest.raises(InputFault, match=message):
            metrics.make(name, {"path": str(tmp_path), **options}).embed(photos)


def test_other_weights_or_preprocessing_make_another_encoder(tmp_path: Path) -> None:
    folder, model = dino_folder(tmp_path / "dino")
    first: EmbeddingMetric = metrics.make("dino", {"path": str(folder)})
    save_file({k: v + 1 for k, v in model.state_dict().items()}, tmp_path / "other.safetensors")
    other = metrics.make("dino", {"path": str(tmp_path / "other.safetensors")})
    assert len({first.encoder, other.encoder, metrics.make("dino", {"path": str(folder), "resize": 64}).encoder}) == 3
