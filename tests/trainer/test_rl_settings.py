"""Settings of the post-training: checked as a whole, without torch, with errors that name the setting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from ugaf.base.errors import ConfigError
from ugaf.trainer.rl.settings import PostSettings, load, parse

SERVER = {"model": "judge", "endpoints": ["http://127.0.0.1:9/v1"]}


def document(**changes: Any) -> dict[str, Any]:
    return {"output": "out", "data": {"shards": ["shards"]}, "model": {"base": "tiny"}, **changes}


def test_the_defaults_are_the_papers() -> None:
    settings = parse(document())
    assert (settings.sampling.groups, settings.sampling.members) == (24, 16)
    assert (settings.model.lora.rank, settings.model.lora.alpha, settings.optimizer.lr) == (32, 64.0, 3e-4)
    assert settings.reward.kind == "decoupled"
    assert settings.method == "nft"


def test_the_shipped_configuration_is_valid() -> None:
    settings = load(str(ROOT / "pipelines" / "train" / "fineedit-post.yaml"), ["sampling.groups=8"])
    assert settings.sampling.groups == 8
    assert settings.reward.scorer == "judge"


def test_a_step_of_the_plan_is_one_epoch_of_single_pairs() -> None:
    pairs = parse(document(sampling={"groups": 6})).pairs()
    assert (pairs.lanes, pairs.tokens) == (6, None)


def test_what_is_built_trains_a_lora_and_adds_no_fusion() -> None:
    model = parse(document(model={"base": "tiny", "lora": {"rank": 4}})).model.as_model()
    assert model.train == "lora"
    assert model.lora.rank == 4
    assert not model.early_fusion
    assert not model.deep_fusion


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reward": {"knd": "global"}}, "reward.knd: unknown setting; did you mean 'kind'"),
        ({"reward": {"scorer": "judge"}}, "needs `server"),
        ({"reward": {"scorer": "judge", "server": {"model": "m", "serve": "vllm"}}}, "starts no servers"),
        ({"reward": {"kind": "both"}}, "reward.kind"),
        ({"data": {"shards": ["s"], "cache": "features"}}, "data.cache"),
        ({"sampling": {"members": 1}}, "sampling.members"),
        ({"sampling": {"members": 4}, "optimizer": {"updates": 5}}, "optimizer.updates"),
        ({"nft": {"beta": 0}}, "nft.beta"),
        ({"dpo": {"omega": 0.5}}, "dpo.omega"),
        ({"model": {"base": "tiny", "train": "full"}}, "model.train: unknown setting"),
    ],
)
def test_what_cannot_work_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as found:
        parse(document(**changes))
    assert says in str(found.value)


def test_overrides_change_the_file_and_wrong_ones_name_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "post.yaml"
    file.write_text(yaml.safe_dump(document()))
    settings = load(str(file), ["reward.kind=global", "optimizer.lr=1e-5", f"reward.server={SERVER}"])
    assert settings.reward.kind == "global"
    assert settings.optimizer.lr == 1e-5
    assert settings.reward.server is not None
    for override, says in (
        ("rewrd.kind=global", "did you mean 'reward'"),
        ("reward.kind", "key=value"),
        ("method.x=1", "method is not a mapping"),
    ):
        changed = document(method="nft")
        file.write_text(yaml.safe_dump(changed))
        with pytest.raises(ConfigError) as found:
            load(str(file), [override])
        assert says in str(found.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path / "none.yaml"))


def test_neither_settings_nor_the_judge_import_torch() -> None:
    code = (
        "import sys, ugaf.trainer.rl.settings, ugaf.trainer.rl.__main__\n"
        "import ugaf.trainer.rl.judge, ugaf.trainer.rl.measures\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_setting_says_what_it_is() -> None:
    def missing(model: Any, path: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if not field.description and not hasattr(inner, "model_fields"):
                found.append(f"{path}.{name}")
            if hasattr(inner, "model_fields") and inner.__module__.startswith("ugaf.trainer.rl"):
                found += missing(inner, f"{path}.{name}")
        return found

    assert missing(PostSettings, "post") == []
