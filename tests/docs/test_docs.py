"""The documentation says what the code does: its example runs, its tables agree, its links and commands exist."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from chat_fakes import FakeChat
from places import ROOT
from pydantic import BaseModel, TypeAdapter

from ugaf.balance import BalanceSettings
from ugaf.base.errors import ConfigError
from ugaf.bench import __main__ as bench
from ugaf.cli.main import _parser
from ugaf.columns import reasons
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.export import ExportSettings
from ugaf.export import columns as export_columns
from ugaf.imaging import images
from ugaf.ingest import IMAGE_SCHEMA, PAIR_SCHEMA, InputSettings
from ugaf.ingest.limits import HttpSettings, LimitSettings
from ugaf.models.editors.diffusion.settings import Cache, Lora
from ugaf.models.editors.placement import PlacementSettings
from ugaf.models.servers import ModelServer, ServerLink
from ugaf.pipeline import config
from ugaf.pipeline.distinct import Distinct
from ugaf.pipeline.settings import EngineSettings, PipelineSettings, QuantileSettings, ReportSettings
from ugaf.pipeline.spec import Resources
from ugaf.stage import Failure, Row, Stage, engines
from ugaf.trainer import __main__ as trainer
from ugaf.trainer import settings as training
from ugaf.trainer.rl import __main__ as post_trainer
from ugaf.trainer.rl import settings as post_training

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "clusters" / "README.md"]
STAGES = (ROOT / "docs" / "stages.md").read_text()
GUIDE = (ROOT / "docs" / "write-a-stage.md").read_text()
MODEL_GUIDE = (ROOT / "docs" / "models.md").read_text()
README = (ROOT / "README.md").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODELS: dict[str, type[BaseModel]] = {
    "ingest": InputSettings,
    "export": ExportSettings,
    "report": ReportSettings,
    "pipeline": PipelineSettings,
    "engine": EngineSettings,
    "resources": Resources,
    "models": ModelServer,
    "quantiles": QuantileSettings,
    "distinct": Distinct,
    "balance": BalanceSettings,
    "placement": PlacementSettings,
    "lora": Lora,
    "cache": Cache,
    "limits": LimitSettings,
    "http": HttpSettings,
}
ENGINES = [(interface, name) for interface, known in engines.ENGINES.items() for name in known]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """The text below one heading of stages.md, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", STAGES, re.MULTILINE | re.DOTALL)
    assert found, f"docs/stages.md has no heading {heading!r}"
    return found[1]


def table(text: str, first: str) -> list[list[str]]:
    """Rows of cells of the first table whose header begins with the column `first`; [] if there is none."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(f"| {first} |")), None)
    rows: list[list[str]] = []
    for line in lines[start + 2 :] if start is not None else ():
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("\\", "") for cell in line.strip("|").split("|")])
    return rows


def settings_in_docs(heading: str) -> dict[str, str]:
    return {row[0]: row[1] for row in table(section(heading), "setting")}


def marked_operational(model: type[BaseModel], name: str) -> bool:
    extra = model.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("operational"))


def check_defaults(documented: dict[str, str], model: type[BaseModel]) -> None:
    named = [f"`{name}`" + (" †" if marked_operational(model, name) else "") for name in model.model_fields]
    assert list(documented) == named
    for name, cell in zip(model.model_fields, documented.values(), strict=True):
        field = model.model_fields[name]
        if cell == "required":
            assert field.is_required(), f"{name} has a default"
        elif not cell.startswith("see "):
            value = field.get_default(call_default_factory=True)
            assert yaml.safe_load(cell.strip("`")) == value, f"{name}: the default is {value!r}"


def type_name(type: pa.DataType) -> str:
    if pa.types.is_list(type):
        return f"list<{type_name(type.value_type)}>"
    if pa.types.is_struct(type):
        return "struct"
    names = {
        "double": "float64",
        "float": "float32",
        "halffloat": "float16",
        "large_binary": "bytes",
        "binary": "bytes",
    }
    return names.get(str(type), str(type))


@pytest.mark.parametrize("name", config.known_stages())
def test_a_stage_s_settings_columns_and_rules_are_documented(name: str) -> None:
    cls = config.stage_class(name)
    check_defaults(settings_in_docs(name), cls.Settings)
    rows = table(section(name), "column")
    assert [row[0].strip("`") for row in rows] == cls.schema.names
    assert [row[1] for row in rows] == [type_name(field.type) for field in cls.schema]
    if not cls.fans_out:
        rules = {row[0].strip("`"): yaml.safe_load(row[3].strip("`")) for row in rows if row[3]}
        assert rules == {column: dict(bounds) for column, bounds in cls.keep.items()}


@pytest.mark.parametrize("name", config.known_stages())
def test_a_measure_s_range_is_documented(name: str) -> None:
    """A number's range in the table (`0..1`, `0 or more`) is the one by which keep rules are checked."""
    cls = config.stage_class(name)
    found: dict[str, tuple[float, float | None]] = {}
    number = r"[-−]?[\d/.]*\d"
    for column, kind, meaning, *_ in table(section(name), "column"):
        ends = re.search(rf"({number})\.\.({number})|({number}) or more", meaning)
        if ends and re.match("int|float", kind):
            low, high, alone = (Fraction(end.replace("−", "-")) if end else None for end in ends.groups())
            found[column.strip("`")] = (float(alone if low is None else low), None if high is None else float(high))
    assert {column: told.range for column, told in cls.columns.items() if told.range is not None} == found


@pytest.mark.parametrize("name", config.known_stages())
def test_a_column_s_line_begins_with_what_the_stage_says_of_it(name: str) -> None:
    for (column, told), row in zip(
        config.stage_class(name).columns.items(), table(section(name), "column"), strict=True
    ):
        meaning = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", row[2]).replace('"', "'")
        assert told.about, f"{name}.{column} says nothing of itself"
        assert meaning.startswith(told.about)


@pytest.mark.parametrize(("interface", "name"), ENGINES)
def test_an_engine_s_options_are_documented(interface: str, name: str) -> None:
    cls = engines.engine_class(interface, {"engine": name})
    check_defaults(settings_in_docs(f"{interface}: {name}"), cls.Settings)


@pytest.mark.parametrize("heading", MODELS)
def test_other_settings_are_documented(heading: str) -> None:
    check_defaults(settings_in_docs(heading), MODELS[heading])


def all_settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name as in the trainer's table, field), those of inner sections with their path."""
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from all_settings(kind, f"{prefix}{name}.")
        else:
            yield f"`{prefix}{name}`" + (" †" if marked_operational(model, name) else ""), field


@pytest.mark.parametrize(
    ("page", "model"), [("trainer", training.TrainSettings), ("post-training", post_training.PostSettings)]
)
def test_the_trainer_s_settings_are_documented(page: str, model: type[BaseModel]) -> None:
    rows = {row[0]: row[1] for row in table((ROOT / "docs" / f"{page}.md").read_text(), "setting")}
    fields = dict(all_settings(model))
    assert list(rows) == list(fields)
    for name, cell in rows.items():
        assert (cell == "required") == fields[name].is_required(), name
        if cell != "required":
            default = TypeAdapter(dict[str, Any]).dump_python({"": fields[name].get_default(call_default_factory=True)})
            assert yaml.safe_load(cell.strip("`")) == json.loads(json.dumps(default))[""], name


def test_columns_of_ingest_and_export_are_documented() -> None:
    ingest = {row[0].strip("`"): row[1] for row in table(section("ingest"), "column")}
    assert ingest == {field.name: type_name(field.type) for schema in (IMAGE_SCHEMA, PAIR_SCHEMA) for field in schema}
    export = [row[:3] for row in table(section("export"), "column")][: len(export_columns.CORE)]
    assert export == [[f"`{c.name}`", export_columns.type_name(c), c.description] for c in export_columns.CORE]
    photographs = [row[:3] for row in table(section("photographs"), "column")][: len(export_columns.PHOTOGRAPH)]
    shown = [[f"`{c.name}`", export_columns.type_name(c), c.description] for c in export_columns.PHOTOGRAPH]
    assert photographs == shown


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name} links to {target}: no such heading"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_files_and_stages_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`((?:ugaf|tests|pipelines|clusters)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}, which is not there"
    known = {*config.known_stages(), "curation.letterbox"}
    for name in re.findall(r"`((?:curation|annotation|generation|refinement)\.\w+)`", text):
        assert name in known, f"{page.name} names the stage {name}, which is not there"


def command_lines() -> Iterator[list[str]]:
    """Every command of the pages' shell blocks, split into words, without comments."""
    for page in PAGES:
        for block in blocks(page.read_text(), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield words[words.index("--") + 1 :] if words[0] == "ray" and "--" in words else words


@pytest.mark.usefixtures("letterbox")
def test_commands_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    seen = set()
    for words in command_lines():
        if words[0] == "make":
            assert words[1] in targets
        elif words[0] == "ugaf":
            check_command(words[1:])
        elif words[:3] == ["python", "-m", "ugaf.run"]:
            check_command(["run", *words[3:]])
        elif words[:3] == ["python", "-m", "ugaf"]:
            check_command(words[3:])
        elif words[:3] == ["python", "-m", "ugaf.bench"]:
            bench.parser().parse_args(words[3:])
        elif words[:3] == ["python", "-m", "ugaf.trainer"]:
            given = trainer.parser().parse_args(words[3:])
            training.load(str(ROOT / given.config), given.set)
        elif "ugaf.trainer.rl" in words:
            given = post_trainer.parser().parse_args(words[words.index("ugaf.trainer.rl") + 1 :])
            post_training.load(str(ROOT / given.config), given.set)
        elif words[0] == "python" and words[1] != "-m":
            script = (ROOT / words[1]).read_text()
            assert all(f'"{word}"' in script for word in words[2:] if word.startswith("--")), words
        elif words[0] == "export":
            assert "=" in words[1], words
        else:
            check_installer(words)
        seen.add(words[0])
    assert seen >= {"make", "ugaf", "python", "pip"}


def check_installer(words: list[str]) -> None:
    """pip and venv; the extras of ugaf that are named are there."""
    assert words[0].endswith("pip") or words[:3] == ["python", "-m", "venv"], f"no test for {words}"
    for extras in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(EXTRAS), words


def check_command(words: list[str]) -> None:
    """The command line takes it, and the settings and stages that it names are there."""
    options = _parser().parse_args(words)
    if options.command == "stages" and options.stage != "curation.letterbox":
        config.stage_class(options.stage)
    elif options.command == "export":
        config.load("demo", [f"export.{change}" for change in options.set])
    elif options.command in ("run", "plan") and not options.pipeline.endswith(".yaml"):
        pipeline = config.load(options.pipeline, options.set)
        for name in filter(None, (options.stage, options.first, options.last)):
            pipeline.stage(name)


def test_settings_that_the_prose_changes_exist() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    changes = [change for change in re.findall(r"`--set ([\w.]+=[^\s`]+)`", text) if "..." not in change]
    assert len(changes) >= 3
    for change in changes:
        assert any(takes(name, change) for name in config.shipped_pipelines()), f"no pipeline takes {change}"


def takes(pipeline: str, change: str) -> bool:
    try:
        config.load(pipeline, [change])
    except ConfigError:
        return False
    return True


def test_the_example_of_rules_and_settings_is_valid() -> None:
    example = yaml.safe_load(next(block for block in blocks(STAGES, "yaml") if "stages:" in block))
    pipeline = config.parse({"name": "example", "inputs": ["sample://"], **example})
    assert [rule.column for rule in pipeline.stages[0].rules].count("saturation") == 2


@pytest.fixture
def files_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples of models.md name: a table of boxes, and a folder with a prompt."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"source": ["a.jpg"], "boxes": [[[0, 0, 8, 8]]]}), "boxes.parquet")
    (tmp_path / "my_prompts").mkdir()
    (tmp_path / "my_prompts" / "add.md").write_text("{metadata} {count} {registers}")


@pytest.mark.usefixtures("files_of_the_guide")
@pytest.mark.parametrize("number", range(len(blocks(MODEL_GUIDE, "yaml"))))
def test_the_examples_of_models_are_valid(number: int) -> None:
    """Each is a pipeline, or a part of one, which is put in the place of the same part of fineedit."""
    example = yaml.safe_load(blocks(MODEL_GUIDE, "yaml")[number])
    shipped = yaml.safe_load((ROOT / "pipelines" / "fineedit.yaml").read_text())
    if isinstance(example, list):
        example = {"stages": example}
    if {"name", "inputs", "stages"} <= example.keys():
        config.parse(example)
        return
    stages = {name: entry for stage in shipped["stages"] for name, entry in as_entry(stage).items()}
    for stage in example.get("stages", ()):
        assert as_entry(stage).keys() <= stages.keys()
        stages |= as_entry(stage)
    changed = {"models": shipped["models"] | example.get("models", {}), "stages": [{k: v} for k, v in stages.items()]}
    config.parse({**shipped, **example, **changed})


def as_entry(stage: Any) -> dict[str, Any]:
    return stage if isinstance(stage, dict) else {stage: None}


def test_the_models_of_the_shipped_pipelines_are_named() -> None:
    for name in ("fineedit", "fineedit-small"):
        text = (ROOT / "pipelines" / f"{name}.yaml").read_text()
        for model in re.findall(r"(?:model|lora|path): ([\w.-]+/[\w.-]+)", text):
            assert f"`{model}`" in MODEL_GUIDE, f"models.md does not name {model} of {name}"


@pytest.fixture
def letterbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Stage]]:
    """The guide's stage, as the file that the guide says, in a folder of its own."""
    (tmp_path / "my_stages.py").write_text(blocks(GUIDE, "python")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    try:
        yield config.stage_class("my_stages:letterbox")
    finally:
        sys.modules.pop("my_stages", None)


def guide_pipeline(output: Path, *changes: str) -> config.Pipeline:
    document = yaml.safe_load(blocks(GUIDE, "yaml")[0])
    overrides = [f"output={output}", "engine.executor=inline", *changes]
    return config.parse(document, overrides)


def test_the_guide_s_stage_is_short() -> None:
    assert len([line for line in blocks(GUIDE, "python")[0].splitlines() if line.strip()]) < 20


@pytest.mark.usefixtures("letterbox")
def test_the_guide_s_stage_runs_in_the_guide_s_pipeline(tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    barred = np.pad(photos["coffee"], ((50, 50), (0, 0), (0, 0)))
    (tmp_path / "barred.png").write_bytes(images.encode(barred))
    found: dict[str, dict[str, Any]] = {}
    for source in ("sample://coffee", str(tmp_path / "barred.png")):
        pipeline = guide_pipeline(tmp_path / "run", f"inputs=[{source!r}]")
        runner.run(pipeline, runner.RunOptions(), lambda _: None, lambda _: None)
        for part in RunView(pipeline.output, pipeline).rows("image", ["letterbox", "sources"]):
            found.update({row["sources"][0].rsplit("/", 1)[1]: row for row in part.to_pylist()})
    # Coffee is 400 x 600 with no dark edge; with 50 black lines above and below, 100 of 500 are bars.
    assert found["coffee"]["letterbox"] == 0
    assert found["barred.png"]["letterbox"] == pytest.approx(100 / 500, abs=2 / 256)
    assert (found["coffee"]["status"], found["barred.png"]["status"]) == ("kept", "rejected")
    assert re.fullmatch(r"letterbox 0\.\d+ > 0\.05", reasons.text(found["barred.png"]["reason"]))


@pytest.mark.usefixtures("letterbox")
def test_the_guide_s_tests_pass() -> None:
    module = types.ModuleType("guide_tests")
    exec(compile(next(b for b in blocks(GUIDE, "python") if "def test_" in b), "guide", "exec"), vars(module))
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) >= 2
    for test in tests:
        test()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        compile(block, page.name, "exec")


def test_the_guide_s_stage_of_the_whole_run_links_what_it_says(
    tmp_path: Path, photos: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(block for block in blocks(GUIDE, "python") if "def across" in block)
    (tmp_path / "same_size.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "photos").mkdir()
    small = images.encode(photos["coffee"][:64, :80])
    other = images.encode(photos["coffee"][64:128, :80])
    for name, data in (("a", small), ("b", other), ("c", images.encode(photos["coffee"][:50, :80]))):
        (tmp_path / "photos" / f"{name}.png").write_bytes(data)
    document = {"name": "guide", "inputs": [str(tmp_path / "photos")], "output": str(tmp_path / "run")}
    checked = config.parse({**document, "stages": ["same_size:SameSize"], "engine": {"executor": "inline"}})
    runner.run(checked, runner.RunOptions(), lambda _: None, lambda _: None)
    rows = [row for part in RunView(checked.output).rows("image", ["same_size", "height"]) for row in part.to_pylist()]
    assert sorted((row["height"], len(row["same_size"])) for row in rows) == [(50, 0), (64, 1), (64, 1)]
    assert sorted(row["status"] for row in rows) == ["kept", "kept", "rejected"]


def test_the_guide_s_model_stage_is_a_stage() -> None:
    code = next(block for block in blocks(GUIDE, "python") if "own_pool" in block)
    module = types.ModuleType("guide_model")
    exec(compile(code, "guide", "exec", dont_inherit=True), vars(module))
    assert issubclass(module.Aesthetic, Stage)
    with pytest.raises(ValueError, match="checkpoint"):
        module.Aesthetic("curation.aesthetic")
    needs = module.Aesthetic.needs(module.Aesthetic.Settings(checkpoint="best.pt"))
    assert (needs.own_pool, needs.gpus, needs.batch_rows) == (True, 0.5, 32)


class TestTheGuideSStageThatAsksAModel:
    @pytest.fixture
    def caption(self) -> Any:
        code = next(block for block in blocks(MODEL_GUIDE, "python") if "chat_needs" in block)
        module = types.ModuleType("guide_chat")
        exec(compile(code, "guide", "exec", dont_inherit=True), vars(module))
        return module

    def test_it_needs_its_server(self, caption: Any) -> None:
        needs = caption.Caption.needs(caption.Caption.Settings(server="eyes"))
        assert needs.servers == ("eyes",)
        assert needs.packages == {"openai": "chat"}
        assert needs.fragments > 1

    def test_its_fingerprint_knows_the_model_and_not_the_wait(self, caption: Any) -> None:
        settings = caption.Caption.Settings(server="eyes")
        one, other = (ModelServer(model=model, endpoints=["http://127.0.0.1:9/v1"]) for model in ("one", "other"))
        assert engines.identity(settings, {"eyes": one}) != engines.identity(settings, {"eyes": other})
        slow = one.model_copy(update={"timeout_s": 9.0})
        assert engines.identity(settings, {"eyes": one}) == engines.identity(settings, {"eyes": slow})

    def test_its_rows_have_an_answer_or_a_failure(self, caption: Any, photos: dict[str, np.ndarray]) -> None:
        stage = caption.Caption("mine.caption", caption.Caption.Settings(server="eyes"))
        stage.servers = {"eyes": ServerLink("eyes", ModelServer(model="tiny", endpoints=["http://127.0.0.1:9/v1"]), ())}
        said: Iterator[dict[str, str] | Failure] = iter(
            [{"seen": "A cup of coffee."}, Failure("TimedOut", "after 6 tries: no answer")]
        )
        stage.chat = FakeChat(lambda _: next(said))
        good = [Row(f"{n:032x}", {"image": images.encode(photos["coffee"], "jpeg")}) for n in range(2)]
        bad = Row("f" * 32, {"image": b"no picture"})
        first, broken, second = stage([good[0], bad, good[1]])
        assert first == {"caption_of_model": "A cup of coffee."}
        assert isinstance(broken, Failure)
        assert broken.type == "ImageError"
        assert second == Failure("TimedOut", "it: after 6 tries: no answer")
