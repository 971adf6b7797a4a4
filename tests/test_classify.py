"""Zero-shot probabilities are open_clip's, of every kind of image, and mistakes are told in one line."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from pictures import encoded, picture
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from gcl.errors import UserError
from gcl.models.open_clip_start import SIGLIP_IMAGE, build_open_clip
from gcl.retrieval.classify import build_logits, main

TINY = Path("gcl/models/gcl-tiny.json").resolve()
LABELS = ["dress", "running shoe", "t-shirt, blue"]
LABELS_ARGUMENT = 'labels=[dress, running shoe, "t-shirt, blue"]'
PIXELS = 32  # of the model: no resizing, in which open_clip's transform differs from ours by rounding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, and files that are none."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded(picture(PIXELS, PIXELS, seed=number), "PNG"))
    (folder / "notes.txt").write_text("no image")
    (folder / "._0.png").write_bytes(b"what a Mac leaves behind")
    return folder


@pytest.fixture(scope="module", params=["sigmoid", "softmax"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Start":
    """A tiny model whose scale is not the usual one, with and without a bias."""
    config = json.loads(TINY.read_text())
    if request.param == "softmax":
        del config["init_logit_bias"]
    return Start(tmp_path_factory.mktemp(request.param), f"tiny-{request.param}", config)


class Start:
    """Weights in a file, and open_clip's own model of them."""

    def __init__(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        self.architecture, self.weights = folder / f"{name}.json", folder / "weights.safetensors"
        self.has_bias = "init_logit_bias" in config
        self.architecture.write_text(json.dumps(config))
        network = build_open_clip(str(self.architecture)).network
        network.logit_scale.data.fill_(3.0)
        save_file(network.state_dict(), self.weights)
        self.network = open_clip.create_model(name, pretrained=str(self.weights))
        self.network.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    def classify(self, output: Path, image: Path | str, *arguments: str) -> dict[str, dict[str, float]]:
        """What the command writes: image -> label -> probability."""
        command = [f"checkpoint={self.weights}", "model=tiny", f"model.architecture={self.architecture}"]
        main([*command, f"image={image}", LABELS_ARGUMENT, f"output_dir={output}", *arguments])
        found = json.loads((output / "classification.json").read_text())
        return {row["image"]: row["probabilities"] for row in found["images"]}

    def features(self, image: Path, texts: list[str]) -> tuple[Tensor, Tensor]:
        """As open_clip's README computes them."""
        transform = open_clip.image_transform(
            PIXELS,
            is_train=False,
            mean=SIGLIP_IMAGE["mean"],
            std=SIGLIP_IMAGE["std"],
            resize_mode=SIGLIP_IMAGE["resize_mode"],
            interpolation=SIGLIP_IMAGE["interpolation"],
        )
        with torch.no_grad():
            features = self.network.encode_image(transform(Image.open(image)).unsqueeze(0))
            return functional.normalize(features), functional.normalize(self.network.encode_text(self.tokenizer(texts)))


def test_by_default_it_is_open_clips_zero_shot(start: Start, folder: Path, tmp_path: Path) -> None:
    image, texts = start.features(folder / "1.png", LABELS)
    expected = (100.0 * image @ texts.T).softmax(dim=-1)[0]
    found = start.classify(tmp_path, folder / "1.png")[str(folder / "1.png")]
    assert list(found) == LABELS
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)


def test_the_models_own_scale_is_that_of_its_loss(start: Start, folder: Path, tmp_path: Path) -> None:
    image, texts = start.features(folder / "0.png", LABELS)
    logits = start.network.logit_scale.exp() * image @ texts.T
    expected = torch.sigmoid(logits + start.network.logit_bias) if start.has_bias else logits.softmax(-1)
    found = start.classify(tmp_path, folder / "0.png", "scale=model")[str(folder / "0.png")]
    assert list(found.values()) == pytest.approx(expected[0].tolist(), rel=1e-4)


def test_the_template_is_filled_with_the_label_and_nothing_else(start: Start, folder: Path, tmp_path: Path) -> None:
    image, texts = start.features(folder / "2.png", [f"a {label} of {{size}}" for label in LABELS])
    expected = (100.0 * image @ texts.T).softmax(dim=-1)[0]
    found = start.classify(tmp_path, folder / "2.png", "template='a {} of {size}'")[str(folder / "2.png")]
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_folder_or_list_gives_each_image_what_it_gets_alone(start: Start, folder: Path, tmp_path: Path) -> None:
    names = [str(folder / f"{number}.png") for number in range(3)]
    whole = start.classify(tmp_path / "folder", folder)
    assert list(whole) == names
    assert start.classify(tmp_path / "list", f"[{names[2]},{names[0]}]") == {
        names[2]: pytest.approx(whole[names[2]], abs=1e-6),
        names[0]: pytest.approx(whole[names[0]], abs=1e-6),
    }
    assert start.classify(tmp_path / "one", names[1]) == {names[1]: pytest.approx(whole[names[1]], abs=1e-6)}


def test_the_likeliest_label_stands_on_top(
    start: Start, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = start.classify(tmp_path, folder / "0.png", "scale=5")[str(folder / "0.png")]
    printed = capsys.readouterr().out
    ordered = sorted(found, key=lambda label: -found[label])
    places = [printed.index(f" {label} ") for label in ordered]
    assert places == sorted(places)
    assert all(f"{found[label]:.4f}" in printed for label in LABELS)
    assert "softmax of 5 x cosine" in printed


WRONG = [
    (["image=IMAGES/0.png", "labels=[]"], "must name what an image may show"),
    (["image=IMAGES/0.png", "labels=[dress,'']"], "must name what an image may show"),
    (["image=IMAGES/0.png", "labels=[dress, shoe, dress]"], "'dress' twice"),
    (["image=IMAGES/0.png", "labels=dress"], "should be a valid list"),
    (["image=IMAGES/0.png", "labels=[dress]"], "name two or more"),
    (["image=IMAGES/0.png", "labels=[a,b]", "template=photo"], "template='photo' does not say where"),
    (["image=IMAGES/0.png", "labels=[a,b]", "scale=-1"], "scale=-1.0 must be above 0"),
    (["image=IMAGES/0.png", "labels=[a,b]", "scale=modell"], "scale='modell' does not fit"),
    (["image=IMAGES/missing.png", "labels=[a,b]"], "is no file, folder or"),
    (["image=IMAGES/notes.txt", "labels=[a,b]"], "notes.txt cannot be classified: not an image"),
    (["image=[IMAGES/0.png,IMAGES/._0.png]", "labels=[a,b]"], "_0.png cannot be classified: not an image"),
    (["image=http://127.0.0.1/secret.png", "labels=[a,b]"], "cannot be classified: private address"),
    (["image=[]", "labels=[a,b]"], "names no image"),
    (["image=IMAGES/0.png", "labels=[a,b]", "output_dir=IMAGES/0.png"], "0.png is a file; give a folder"),
    (["image=s3://bucket/a.png", "labels=[a,b]"], "cannot be classified: bad address"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_mistake_is_one_line(start: Start, folder: Path, arguments: list[str], message: str) -> None:
    command = [f"checkpoint={start.weights}", "model=tiny", f"model.architecture={start.architecture}"]
    with pytest.raises(UserError) as error:
        main([*command, *(argument.replace("IMAGES", str(folder)) for argument in arguments)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_images_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="holds no image"):
        start.classify(tmp_path, tmp_path)


def test_one_label_is_answered_by_a_model_that_judges_each_on_its_own(start: Start, folder: Path) -> None:
    command = [f"checkpoint={start.weights}", "model=tiny", f"model.architecture={start.architecture}"]
    arguments = [*command, f"image={folder / '0.png'}", "labels=[dress]", "scale=model"]
    if start.has_bias:
        main(arguments)
    else:
        with pytest.raises(UserError, match="name two or more"):
            main(arguments)


class Unscaled:
    """An encoder that was not trained with a scale."""

    name, dimensions, read_image = "unscaled", 2, staticmethod(lambda encoded: torch.zeros(1))

    def encode_images(self, images: Tensor) -> Tensor:
        return images

    def encode_texts(self, texts: list[str], context_length: int | None = None) -> Tensor:
        return torch.zeros(len(texts), 2)

    def identity(self) -> dict[str, str]:
        return {}

    def to(self, device: torch.device) -> "Unscaled":
        return self


def test_a_model_without_a_scale_is_asked_for_a_number() -> None:
    with pytest.raises(UserError, match="unscaled has no scale of its own"):
        build_logits(Unscaled(), "model")
    assert build_logits(Unscaled(), 100.0).bias is None
