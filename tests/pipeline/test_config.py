"""Pipelines: every mistake is found before any work starts, and named with the nearest right name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from places import ROOT

from ugaf.base import yaml_files
from ugaf.base.errors import ConfigError
from ugaf.pipeline import config

BASE = {"name": "t", "inputs": ["sample://coffee"], "stages": ["curation.photometric", "annotation.detect"]}


@pytest.mark.parametrize("name", sorted(config.shipped_pipelines()))
def test_shipped_pipelines_are_valid_and_survive_their_own_record(name: str) -> None:
    pipeline = config.load(name)
    again = config.parse(yaml.safe_load(yaml.safe_dump(pipeline.document)))
    assert again.document == pipeline.document
    assert [s.fingerprint for s in again.stages] == [s.fingerprint for s in pipeline.stages]
    assert [s.rules for s in again.stages] == [s.rules for s in pipeline.stages]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sede": 1}, "pipeline.sede: unknown setting; did you mean 'seed'"),
        ({"seed": "x"}, "pipeline.seed: .*integer"),
        ({"inputs": []}, "pipeline.inputs: "),
        ({"fragment_rows": 0}, "pipeline.fragment_rows: "),
        ({"engine": {"executer": "ray"}}, "did you mean 'executor'"),
        ({"export": {"shard_mbs": 1}}, "did you mean 'shard_mb'"),
        ({"stages": "curation.photometric"}, "stages: expected a list"),
        (
            {"stages": ["curation.photometrics"]},
            "unknown stage 'curation.photometrics'; did you mean 'curation.photometric'",
        ),
        ({"stages": ["curation.photometric", "curation.photometric"]}, "stands twice"),
        (
            {"stages": [{"curation.photometric": {"working_sid": 2}}]},
            "working_sid: unknown setting; did you mean 'working_side'",
        ),
        ({"stages": [{"curation.photometric": {"keep": {"clarty": {"min": 1}}}}]}, "did you mean 'clarity'"),
        ({"stages": [{"curation.photometric": {"resources": {"cpu": 1}}}]}, "did you mean 'cpus'"),
        ({"stages": ["annotation.instruct"]}, "reads column 'objects', which no stage before it writes"),
        ({"stages": [{"annotation.detect": {"detector": {"engine": "proposal"}}}]}, "did you mean 'proposals'"),
        (
            {"stages": [{"annotation.detect": {"detector": {"engine": "proposals", "max_box": 1}}}]},
            "did you mean 'max_boxes'",
        ),
        ({"inputs": ["sample://coffee", {"path": "x.jsonl", "kind": "pairs"}]}, "cannot be mixed"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.parse({**BASE, **change})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expected key=value"),
        ("sed=1", "did you mean 'seed'"),
        ("curation.photometrics.working_side=3", "did you mean 'curation.photometric'"),
        ("curation.photometric.working_sid=3", "did you mean 'working_side'"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_mistakes_in_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.parse(BASE, [override])


def test_overrides_reach_settings_rules_and_resources() -> None:
    pipeline = config.parse(
        BASE,
        [
            "seed=7",
            "inputs=[sample://chelsea]",
            "curation.photometric.working_side=256",
            "curation.photometric.keep.rgb_entropy.min=6.5",
            "curation.photometric.keep.saturation=null",
            "annotation.detect.resources.workers=3",
        ],
    )
    photometric = pipeline.stage("curation.photometric")
    assert (pipeline.settings.seed, pipeline.settings.inputs[0].path) == (7, "sample://chelsea")
    assert photometric.settings.working_side == 256
    assert {(r.column, r.kind, r.bound) for r in photometric.rules if r.column == "rgb_entropy"} >= {
        ("rgb_entropy", "min", 6.5)
    }
    assert not [r for r in photometric.rules if r.column == "saturation"]
    assert pipeline.stage("annotation.detect").resources.workers == 3


def test_fingerprints_cover_settings_and_what_is_read_but_no_threshold() -> None:
    def prints(*overrides: str) -> list[str]:
        return [spec.fingerprint for spec in config.load("demo", overrides).stages]

    names = [spec.name for spec in config.load("demo").stages]
    base = prints()
    assert prints("curation.photometric.keep.rgb_entropy.min=1", "fragment_rows=9", "engine.flush_mb=1") == base
    moved = prints("annotation.detect.max_area=0.5")
    changed = {name for name, a, b in zip(names, base, moved, strict=True) if a != b}
    assert "curation.photometric" not in changed
    assert {"annotation.detect", "annotation.instruct", "generation.edit", "refinement.score"} <= changed
    seeded = prints("seed=1")
    changed = {name for name, a, b in zip(names, base, seeded, strict=True) if a != b}
    assert "annotation.detect" not in changed
    assert {"annotation.instruct", "generation.edit"} <= changed


def test_a_stage_of_one_s_own_by_module_and_class() -> None:
    pipeline = config.parse({**BASE, "stages": ["engine_stages:Mean"]})
    assert pipeline.providers["mean"] == "engine_stages:Mean"
    with pytest.raises(ConfigError, match="has no Stage named 'Meen'"):
        config.stage_class("engine_stages:Meen")


def test_columns_are_written_once() -> None:
    with pytest.raises(ConfigError, match="column 'mean' is written by engine_stages:Mean already"):
        config.parse({**BASE, "stages": ["engine_stages:Mean", "test_config:Again"]})


def test_files_that_are_no_pipelines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        config.load("demos")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML"):
        config.load(str(bad))
    bad.write_text("[1]")
    with pytest.raises(ConfigError, match="expected a pipeline: a mapping with name"):
        config.load(str(bad))


from engine_stages import Mean  # noqa: E402


class Again(Mean):
    """Writes a column that another stage has."""


def test_a_bound_takes_the_place_of_the_default_on_its_side() -> None:
    def saturation(**bounds: float) -> set[tuple[str, float]]:
        stage = {"curation.photometric": {"keep": {"saturation": bounds}}}
        rules = config.parse({**BASE, "stages": [stage]}).stages[0].rules
        return {(rule.kind, rule.bound) for rule in rules if rule.column == "saturation"}

    defaults = dict(saturation())
    assert set(defaults) == {"min", "max"}
    assert saturation(min=0.2) == {("min", 0.2), ("max", defaults["max"])}
    assert saturation(min_quantile=0.1) == {("min_quantile", 0.1), ("max", defaults["max"])}
    with pytest.raises(ConfigError, match="expected rules by column"):
        config.parse({**BASE, "stages": [{"curation.photometric": {"keep": [1]}}]})


KEYS = st.sampled_from(["a", "b", "name", "1", "true"])


@given(st.lists(KEYS, min_size=1, max_size=5), st.booleans(), st.integers(0, 3))
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_key_that_stands_twice_is_named_at_any_depth(keys: list[str], flow: bool, depth: int) -> None:
    if flow:
        text = "{" + ", ".join(f"{key}: {n}" for n, key in enumerate(keys)) + "}"
        text = "{x: " * depth + text + "}" * depth
    else:
        text = "".join(f"{'  ' * n}x:\n" for n in range(depth))
        text += "".join(f"{'  ' * depth}{key}: {n}\n" for n, key in enumerate(keys))
    if len(set(keys)) == len(keys):
        assert len(str(yaml_files.load(text))) > 2
    else:
        with pytest.raises(yaml.YAMLError, match=r"the key '.*' twice"):
            yaml_files.load(text)


def test_keys_that_a_merge_brings_may_be_changed() -> None:
    text = "base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\n"
    assert yaml_files.load(text)["own"] == {"x": 1, "y": 3}


def test_a_setting_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("name: x\ninputs: [a]\nstages: []\ninputs: [b]\n")
    with pytest.raises(ConfigError, match=r"(?s)p\.yaml: not valid YAML: the key 'inputs' twice.*line 4"):
        config.load(str(file))
    with pytest.raises(ConfigError, match="the key 'min' twice"):
        config.parse(BASE, ["curation.photometric.keep.contrast={min: 1, min: 2}"])


@given(st.one_of(st.binary(max_size=60), st.text().map(lambda text: text.encode("utf-16"))))
@hypothesis_settings(max_examples=80, deadline=None)
def test_whatever_a_pipeline_file_holds_the_error_names_it(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.mktemp("x") / "p.yaml"
    for content in (data, b"\xff\xd8\xff\xe0" + data, b"a: !!timestamp " + data):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"p\.yaml|pipeline"):
            config.load(str(file))


def test_text_files_are_opened_as_utf8_whatever_the_locale() -> None:
    found = []
    for folder in (ROOT / "ugaf", ROOT / "stages"):
        for file in Path(folder).rglob("*.py"):
            calls = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Call)]
            found += [f"{file}:{call.lineno}" for call in calls if _opens_by_locale(call)]
    assert not found


def _opens_by_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes a file as text of no named encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name == "fdopen" or (name == "open" and isinstance(call.func, ast.Name)):
        mode = call.args[1] if len(call.args) > 1 else ast.Constant("r")
        return isinstance(mode, ast.Constant) and "b" not in str(mode.value)
    return False
