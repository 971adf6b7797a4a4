"""A wrong setting is refused in one line before anything is loaded, and a checkpoint's settings can run nothing."""

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml

import train
from gcl.cli import main as gcl_main
from gcl.cli import run_command
from gcl.config import load_settings, shipped
from gcl.data.augment import Augmentation
from gcl.data.loader import DataSettings
from gcl.data.prepare.command import PrepareSettings, SplitSettings
from gcl.data.sources.demo import DemoSource
from gcl.errors import UserError
from gcl.losses.objective import Objective
from gcl.parts import TARGET, Settings, build, build_as, check, check_parts, comments, dataclass_of, locate, type_hints
from gcl.retrieval.settings import EvaluateSettings
from gcl.retrieval.tasks import RetrievalTask
from gcl.training.optim import OptimSettings
from gcl.training.run import RunDirectory
from gcl.training.trainer import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ["output_dir=run", "data.path=shards"]
OPTIONS = sorted(path.relative_to(shipped("conf")).with_suffix("") for path in shipped("conf").glob("*/*.yaml"))


def train_settings(*arguments: str) -> Settings:
    return load_settings("train", train.TrainingRun, [*NEEDED, *arguments])


def said(*arguments: str, verb: str = "train") -> str:
    """The one line with which settings are refused."""
    schema, needed = (train.TrainingRun, NEEDED) if verb == "train" else (PrepareSettings, ["output_dir=out"])
    with pytest.raises(UserError) as error:
        load_settings(verb, schema, [*needed, *arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def config_dir(folder: Path, **experiments: str) -> str:
    """A `--config-dir` argument for a folder with these experiments."""
    (folder / "experiment").mkdir(parents=True)
    for name, text in experiments.items():
        (folder / "experiment" / f"{name}.yaml").write_text("# @package _global_\n" + text)
    return f"--config-dir={folder}"


@pytest.mark.parametrize(
    "argument, unknown, nearest",
    [
        ("train.bach_size=3", "train.bach_size", "train.batch_size"),
        ("optim.lrr=3", "optim.lrr", "optim.lr"),
        ("output_dri=x", "output_dri", "output_dir"),
        ("data.augmentation.flipp=0.5", "data.augmentation.flipp", "data.augmentation.flip"),
        ("model.image_sise=64", "model.image_sise", "model.image_size"),
        ("batch_size=3", "batch_size", "train.batch_size"),
        ("+optim.learning_rate=3", "optim.learning_rate", None),
        (
            "objective.pairs=[{left: {title: 1}, rigth: {image: 1}}]",
            "objective.pairs[0].rigth",
            "objective.pairs[0].right",
        ),
        ("tasks.title2image.max_querys=5", "tasks.title2image.max_querys", "tasks.title2image.max_queries"),
        ("loss.gahter=1", "loss.gahter", None),
    ],
)
def test_an_unknown_key_is_refused_naming_the_nearest(argument: str, unknown: str, nearest: str | None) -> None:
    line = said(argument)
    assert f"unknown setting {unknown}" in line
    assert f"(did you mean {nearest}?)" in line if nearest else "--help" in line


@pytest.mark.parametrize(
    "yaml_text, words",
    [
        ("loss: {gahter: 1}", ["unknown setting loss.gahter"]),
        ("train: {max_stepps: 5}", ["unknown setting train.max_stepps", "train.max_steps"]),
        ("optimm: {lr: 5}", ["unknown setting optimm", "optim"]),
        ("train: {max_steps: many}", ["train.max_steps", "many", "integer"]),
        ("train: [1, 2", ["odd.yaml"]),
        ("seed: ${nothing}", ["nothing"]),
        ("defaults:\n  - override /loss: sigmoidd", ["sigmoidd"]),
    ],
)
def test_a_wrong_yaml_of_one_s_own_is_refused(tmp_path: Path, yaml_text: str, words: list[str]) -> None:
    line = said(config_dir(tmp_path, odd=yaml_text), "experiment=odd")
    assert [word for word in words if word not in line] == []


def test_an_experiment_of_one_s_own_states_only_its_differences(tmp_path: Path) -> None:
    text = "defaults:\n  - override /loss: softmax\ntrain: {max_steps: 7}\noptim: {lr: 0.5}\n"
    settings = train_settings(config_dir(tmp_path, mine=text), "experiment=mine", "optim.lr=0.25")
    assert settings["loss"][TARGET] == "gcl.losses.softmax.SoftmaxLoss"
    assert settings["train"]["max_steps"] == 7
    assert settings["optim"]["lr"] == 0.25  # the command line has the last word
    assert settings["train"]["batch_size"] == TrainSettings().batch_size


@pytest.mark.parametrize(
    "argument, words",
    [
        ("train.max_steps=many", ["train.max_steps='many'", "integer"]),
        ("train.max_steps=1.5", ["train.max_steps=1.5", "integer"]),
        ("train.precision=fp8", ["train.precision='fp8'", "'float32' or 'bf16'"]),
        ("resume=perhaps", ["resume='perhaps'", "boolean"]),
        ("optim.lr_multipliers={visual: fast}", ["optim.lr_multipliers", "number"]),
        ("data.augmentation=strong", ["data.augmentation='strong'"]),
        ("objective.pairs=3", ["objective.pairs=3"]),
        ("objective.pairs=[{left: {title: 1.0}}]", ["objective.pairs[0].right must be set"]),
        ("train.max_steps=null", ["train.max_steps=None", "integer"]),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_the_rule(argument: str, words: list[str]) -> None:
    line = said(argument)
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    "argument, words",
    [
        ("loss=sigmiod", ["no such loss", "did you mean sigmoid?", "softmax"]),
        ("experiment=quikstart", ["no such experiment", "did you mean quickstart?"]),
        ("los=sigmoid", ["unknown setting los", "did you mean loss?"]),
        ("train.max_steps", ["'train.max_steps' is not understood", "key=value"]),
        ("--max-steps=3", ["'--max-steps=3' is not understood"]),
        ("--config-dir=/no/such/folder", ["/no/such/folder is no folder"]),
        ("model._target_=gcl.models.joined.build_joind", ["model._target_=gcl.models.joined.build_joind"]),
        ("train.max_steps=[1", ["[1"]),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused(argument: str, words: list[str]) -> None:
    line = said(argument)
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize("argument", ["optim.lr=1e-5,3e-5", "loss=sigmoid,softmax", "seed=range(1,4)"])
def test_a_list_for_a_sweep_is_refused_where_one_run_is_meant(argument: str) -> None:
    assert f"{argument} lists several values; one run takes one" in said(argument)


def test_a_comma_that_belongs_to_a_value_is_kept() -> None:
    assert train_settings("output_dir='runs/a,b'")["output_dir"] == "runs/a,b"


def test_a_value_that_must_be_given_is_named_with_its_meaning() -> None:
    with pytest.raises(UserError, match="^output_dir must be set: the run's directory$"):
        load_settings("train", train.TrainingRun, ["data.path=shards"])
    with pytest.raises(UserError, match="^data.path must be set: folder written by gcl prepare, or its address"):
        load_settings("train", train.TrainingRun, ["output_dir=run"])
    assert said("source=catalog", verb="prepare").startswith("source.path must be set: the table")


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_that_is_shipped_can_be_chosen(option: Path) -> None:
    group, name = str(option.parent), option.name
    if group == "source":
        more = [] if name == "demo" else ["source.path=x"]
        more += {"behaviour": ["source.catalog.path=y"], "marqo_gs": ["source.images=y"]}.get(name, [])
        load_settings("prepare", PrepareSettings, ["output_dir=out", f"source={name}", *more])
    elif group == "task":
        files = [f"task.{key}=f" for key in ("queries", "query_ids", "corpus", "corpus_ids", "qrels")]
        more = {"catalog": ["task.left={title: 1.0}"], "precomputed": files}.get(name, [])
        build(load_settings("evaluate", EvaluateSettings, [f"task={name}", *more])["task"])
        if name != "precomputed":
            mine = [argument.replace("task.", "tasks.mine.") for argument in more]
            assert "mine" in train_settings(f"+task@tasks.mine={name}", *mine)["tasks"]
    else:
        train_settings(f"{group}={name}", *["weighting.weights={0: 1.0}"] * (name == "piecewise"))


def test_the_settings_defaults_are_the_constructors_own() -> None:
    settings = train_settings("model=tiny")
    built = {name: build(settings[name]) for name in ("data", "optim", "train")}
    assert built == {"data": DataSettings("shards"), "optim": OptimSettings(), "train": TrainSettings()}
    assert isinstance(built["data"].augmentation, Augmentation)
    assert isinstance(build(settings["objective"]), Objective)
    assert {name: build(task) for name, task in settings["tasks"].items()} == {
        "title2image": RetrievalTask({"title": 1.0}),
        "category2image": RetrievalTask({"category": 1.0}),
    }
    signature = inspect.signature(locate(settings["model"][TARGET], "", False))
    given = yaml.safe_load((shipped("conf") / "model" / "tiny.yaml").read_text())
    assert {k: v for k, v in settings["model"].items() if k not in given} == {
        name: parameter.default for name, parameter in signature.parameters.items() if name not in given
    }
    prepared = build_as(PrepareSettings, load_settings("prepare", PrepareSettings, ["output_dir=out"]))
    default = PrepareSettings("out", source=None)
    assert vars(prepared) | {"source": None} == vars(default)
    assert prepared.split == SplitSettings()
    assert vars(prepared.source) == vars(DemoSource())


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_no_yaml_repeats_a_constructor_s_default(option: Path) -> None:
    given = yaml.safe_load((shipped("conf") / option.with_suffix(".yaml")).read_text())
    if TARGET in given:
        parameters = inspect.signature(locate(given[TARGET], "", False)).parameters
        assert [name for name in given if name != TARGET and given[name] == parameters[name].default] == []


def parts_of(settings: Any, hint: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The path and the schema of every part and settings dataclass in checked settings."""
    inner = dataclass_of(hint)
    if isinstance(settings, list):
        for item in settings:
            yield from parts_of(item, inner or Any, path)
    elif get_origin(hint) is dict and inner:
        for name, value in settings.items():
            yield from parts_of(value, inner, f"{path}{name}.")
    elif isinstance(settings, dict) and (TARGET in settings or inner):
        schema = locate(settings[TARGET], path, False) if TARGET in settings else inner
        yield path, schema
        hints = type_hints(schema)  # type: ignore[arg-type]
        for name, value in settings.items():
            yield from parts_of(value, hints.get(name, Any), f"{path}{name}.")
    elif isinstance(settings, dict):
        for name, value in settings.items():
            yield from parts_of(value, Any, f"{path}{name}.")


@pytest.mark.parametrize(
    "option", ["", "loss=softmax", "model=tiny", "tracking=wandb", "source=demo", "source=catalog"]
)
def test_every_setting_has_a_comment(option: str) -> None:
    if option.startswith("source"):
        arguments = ["output_dir=out", option, *["source.path=x"] * (option == "source=catalog")]
        schema, settings = PrepareSettings, load_settings("prepare", PrepareSettings, arguments)
    else:
        schema, settings = train.TrainingRun, train_settings(*[option] * bool(option))  # type: ignore[assignment]
    for path, part in parts_of(settings, schema, ""):
        explained = comments(part)
        assert [f"{path}{name}" for name in inspect.signature(part).parameters if not explained.get(name)] == []


def help_of(capsys: pytest.CaptureFixture[str], verb: str, *arguments: str) -> str:
    schema = train.TrainingRun if verb == "train" else PrepareSettings
    with pytest.raises(SystemExit) as left:
        load_settings(verb, schema, [*arguments, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


def line_of(text: str, name: str) -> str:
    """The line of the help that begins with a setting's name."""
    return next((line.strip() for line in text.splitlines() if line.strip().startswith(f"{name}=")), "")


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_help_lists_every_setting_with_its_value_and_comment(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    text = help_of(capsys, verb)
    schema: Any = train.TrainingRun if verb == "train" else PrepareSettings
    settings = train_settings() if verb == "train" else load_settings(verb, schema, ["output_dir=out"])
    parts = dict(parts_of(settings, schema, ""))
    for path, part in parts.items():
        for name, comment in comments(part).items():
            listed_below = any(other.startswith(f"{path}{name}.") for other in parts) and name != "pairs"
            if path != "objective.pairs." and not listed_below:  # pairs are shown as one value
                assert line_of(text, path + name).endswith(comment), path + name


def test_help_lists_every_group_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "train") + help_of(capsys, "prepare")
    listed = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ") and line.split()}
    assert [str(o) for o in OPTIONS if o.name not in listed.get(str(o.parent), "").replace(",", "").split()] == []


def test_help_shows_what_the_command_line_chose(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "train", "model=tiny", "train.max_steps=7", "data.path=here")
    assert line_of(text, "train.max_steps").startswith("train.max_steps=7 ")
    assert line_of(text, "data.path").startswith("data.path=here ")
    assert "package:gcl/models/gcl-tiny.json" in line_of(text, "model.architecture")


def start(*arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_the_commands_print_their_help_and_one_line_of_error(tmp_path: Path) -> None:
    mistaken = [config_dir(tmp_path / "conf", x="loss: {gahter: 1}\n"), "experiment=x", "data.path=shards"]
    shown = start("train.py", "--help")  # the two at the same time: most of it is importing torch
    refused = start("train.py", *mistaken, f"output_dir={tmp_path / 'run'}")
    out, err = shown.communicate(timeout=120)
    assert shown.returncode == 0 and not err
    assert "optim.lr=" in out and "quickstart" in out
    out, err = refused.communicate(timeout=120)
    assert refused.returncode == 2 and not out
    assert err.startswith("gcl: error: unknown setting loss.gahter")
    assert err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["prepar"], "gcl: error: unknown verb 'prepar' (did you mean prepare?)"),
        (["prepare", "output_dir=x", "split.validaton=0"], "gcl: error: unknown setting split.validaton (did you mean"),
        (
            ["train", *NEEDED, "train.bach_size=1"],
            "gcl: error: unknown setting train.bach_size (did you mean train.batch_size?)",
        ),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_exit_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["gcl", *arguments])
    with pytest.raises(SystemExit) as left:
        gcl_main()
    assert left.value.code == 2
    written = capsys.readouterr()
    assert not written.out
    assert written.err.startswith(line) and written.err.count("\n") == 1


def test_a_process_that_is_not_the_first_leaves_the_word_to_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken() -> None:
        raise UserError("value, rule, remedy")

    for rank, line in (("1", ""), ("0", "gcl: error: value, rule, remedy\n")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit, match="2"):
            run_command(mistaken)
        assert capsys.readouterr().err == line


def test_an_error_of_ours_keeps_its_trace() -> None:
    def broken() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        run_command(broken)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `gcl_trap` outside gcl that leaves this file behind when it is imported or its function is called."""
    sprung = tmp_path / "sprung"
    code = ["from pathlib import Path", "def spring():", f"    Path({str(sprung)!r}).touch()", "spring()"]
    (tmp_path / "gcl_trap.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)
    yield sprung
    sys.modules.pop("gcl_trap", None)


TRAP = {TARGET: "gcl_trap.spring"}
HOSTILE = [
    {"model": TRAP},
    {"model": {TARGET: "gcl.models.open_clip_start.build_open_clip", "architecture": TRAP}},
    {"tasks": {"title2image": TRAP}},
    {"data": {TARGET: "gcl.data.loader.DataSettings", "path": "x", "augmentation": TRAP}},
    {"anything": [TRAP]},
    {"anything": {"deep": {"deeper": TRAP}}},
    {"anything": {"deep": [{"deeper": [TRAP]}]}},
    {"source": {TARGET: "gcl.data.prepare.command.PrepareSettings", "output_dir": "x", "source": {"a": {"b": TRAP}}}},
    {"source": {TARGET: "gcl.data.prepare.command.PrepareSettings", "output_dir": "x", "source": [TRAP]}},
]


def build_all(settings: Any) -> None:
    """Make every part, as an entry point would."""
    if isinstance(settings, dict) and TARGET in settings:
        build(settings)
    elif isinstance(settings, dict | list):
        for value in settings.values() if isinstance(settings, dict) else settings:
            build_all(value)


def test_a_trap_in_one_s_own_settings_springs(trap: Path) -> None:
    build_all({"model": TRAP})
    assert trap.exists()


@pytest.mark.parametrize("settings", HOSTILE, ids=str)
def test_a_run_s_settings_neither_import_nor_call_what_is_not_gcl_s(
    trap: Path, tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="gcl"):
        build_all(RunDirectory(tmp_path).settings())
    assert not trap.exists()
    assert "gcl_trap" not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.exec",
        "gcl.config.sys.exit",
        "gcl.training.run.subprocess.run",
        "gcl.training.run.subprocess",
        "gcl.data.prepare.merge.shutil.rmtree",
        "gcl.parts.importlib.import_module",
        "gcl.data.fetch.records.Path",
        "gclx.anything.run",
        "gcl",
        "",
        None,
        7,
        # gcl's own functions that are no parts: they write files, import modules and start commands.
        "gcl.training.run.write_text",
        "gcl.training.run.commit",
        "gcl.cli.run_verb",
        "gcl.parts.locate",
        "gcl.parts.build_value",
        "gcl.distributed.leave",
    ],
)
def test_a_checkpoint_s_settings_may_only_name_gcl_s_parts(target: Any) -> None:
    with pytest.raises(UserError):
        locate(target, "model", only_gcl=True)


def test_a_checkpoint_s_own_settings_are_accepted_as_a_run_writes_them() -> None:
    for arguments in ([], ["model=tiny", "loss=softmax"], ["tracking=wandb"]):
        settings = yaml.safe_load(yaml.safe_dump(train_settings(*arguments)))
        assert check_parts(settings) == settings


def test_a_checkpoint_s_unknown_key_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown setting model.sead \(did you mean model.seed\?\)"):
        check_parts({"model": {TARGET: "gcl.models.open_clip_start.build_open_clip", "architecture": "x", "sead": 1}})


def test_checking_settings_does_not_change_them() -> None:
    given = {TARGET: "gcl.training.optim.OptimSettings", "lr": 1}
    checked = check(given, OptimSettings)
    assert given == {TARGET: "gcl.training.optim.OptimSettings", "lr": 1}
    assert {name: value for name, value in checked.items() if name != TARGET} == dataclasses.asdict(OptimSettings(lr=1))


def test_a_dict_on_the_command_line_replaces_the_one_that_was_there() -> None:
    settings = train_settings("tasks.title2image.left={query: 1.0}", "experiment=catalogue", "optim.lr_multipliers={}")
    assert settings["tasks"]["title2image"]["left"] == {"query": 1.0}
    assert settings["optim"]["lr_multipliers"] == {}


def test_a_dict_for_a_part_changes_only_what_it_names() -> None:
    settings = train_settings("train={max_steps: 7}")
    assert (settings["train"]["max_steps"], settings["train"]["batch_size"]) == (7, 128)


def test_a_task_can_be_left_out_and_another_added() -> None:
    settings = train_settings("~tasks.category2image", "tasks.query2image={left: {query: 1.0}}")
    assert list(settings["tasks"]) == ["title2image", "query2image"]
    assert settings["tasks"]["query2image"]["right"] == {"image": 1.0}


@pytest.mark.parametrize(
    "wrong",
    ["model=null", "loss=null", "data=null", "~tasks.nothing", "model={a: 1}", "loss=3", "seed=-1", "data=shards2"],
)
def test_what_is_no_part_gives_one_line(wrong: str) -> None:
    with pytest.raises(UserError) as refused:
        train_settings(wrong)
    assert len(str(refused.value).splitlines()) == 1


def test_removing_what_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean category2image\?"):
        train_settings("~tasks.category2imag")
