"""The cluster files are what KubeRay, `ray up` and their shells take, and name what is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from places import ROOT
from ray.autoscaler._private.util import prepare_config, validate_config
from ray_heads import RAY, Head, started_head

from ugaf.cli.main import _parser
from ugaf.engine.metrics import RunMetrics
from ugaf.pipeline import config

CLUSTERS = ROOT / "clusters"
PYPROJECT = (ROOT / "pyproject.toml").read_text()

RAY_CLUSTER = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy", "workerGroupSpecs",
}  # fmt: skip
RAY_JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus",
    "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip
WORKERS = {"groupName", "minReplicas", "maxReplicas", "template"}
"""Fields of KubeRay's objects; of a group of workers those that are required."""


def document(name: str) -> Any:
    return yaml.safe_load((CLUSTERS / name).read_text())


def clusters() -> Iterator[dict[str, Any]]:
    yield document("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]
    yield document("kuberay-raycluster.yaml")["spec"]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = document("kuberay-raycluster.yaml")["spec"]
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def test_all_of_them_pin_the_ray_of_the_package() -> None:
    wanted = re.search(r"ray\[data,default\]==(\d+\.\d+)\.\*", PYPROJECT)
    assert wanted
    for name in ("Dockerfile", "kuberay-rayjob.yaml", "kuberay-raycluster.yaml", "ray-up-aws.yaml", "ray-up-gcp.yaml"):
        pinned = re.findall(r"(?:rayproject/ray:|rayVersion: )(\d+\.\d+)", (CLUSTERS / name).read_text())
        assert set(pinned) == {wanted[1]}, name
        for python in re.findall(r"rayproject/ray:\S+-py3(\d+)", (CLUSTERS / name).read_text()):
            assert int(python) >= 11, name


@pytest.mark.parametrize("name", ["ray-up-aws.yaml", "ray-up-gcp.yaml"])
def test_ray_up_takes_its_files(name: str) -> None:
    prepared = prepare_config(document(name))
    validate_config(prepared)
    groups = document(name)["available_node_types"]
    assert groups["head"]["resources"] == {"CPU": 0}
    workers = {key: group for key, group in groups.items() if key != "head"}
    assert sum(group["max_workers"] for group in workers.values()) <= document(name)["max_workers"]
    assert all(group["resources"]["GPU"] >= 2 for key, group in workers.items() if "gpu" in key)
    for key, group in groups.items():
        spot = group["node_config"].get("InstanceMarketOptions", group["node_config"].get("scheduling", {}))
        assert ("spot" in json.dumps(spot).lower()) == key.endswith("-spot"), key
    extras = re.search(r"ugaf\[([\w,]+)\]", " ".join(document(name)["setup_commands"]))
    assert extras
    assert all(re.search(rf"^{extra} = \[", PYPROJECT, re.MULTILINE) for extra in extras[1].split(","))


def test_kuberay_s_files_have_its_fields() -> None:
    for name, kind, known in (("rayjob", "RayJob", RAY_JOB), ("raycluster", "RayCluster", RAY_CLUSTER)):
        found = document(f"kuberay-{name}.yaml")
        assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", kind)
        assert set(found["spec"]) <= known
    for cluster in clusters():
        assert set(cluster) <= RAY_CLUSTER
        assert cluster["enableInTreeAutoscaling"] is True
        for group in cluster["workerGroupSpecs"]:
            assert set(group) == WORKERS | {"replicas", "rayStartParams"}
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())
    first, second = clusters()
    assert first == second, "the job's cluster is the one that stays"


@pytest.mark.skipif("UGAF_KUBERAY_CRDS" not in os.environ, reason="UGAF_KUBERAY_CRDS: the folder of KubeRay's CRDs")
@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
def test_kuberay_s_own_schema_takes_its_files(kind: str) -> None:
    crd = yaml.safe_load((Path(os.environ["UGAF_KUBERAY_CRDS"]) / f"ray.io_{kind}s.yaml").read_text())
    (version,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    closed(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(document(f"kuberay-{kind}.yaml"), schema)


def closed(schema: Any) -> None:
    """As the API server reads it: a field that is not there is an error."""
    if isinstance(schema, list):
        for part in schema:
            closed(part)
    if isinstance(schema, dict):
        if schema.get("properties") and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
        for part in schema.values():
            closed(part)


def test_every_pod_asks_for_all_that_it_may_take_and_has_keys_and_models() -> None:
    claim = document("kuberay-models.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name, pod in pods():
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"], name
        assert container["envFrom"][0]["secretRef"]["name"] == "ugaf-keys"
        assert {"name": "HF_HOME", "value": "/models/huggingface"} in container["env"]
        assert container["volumeMounts"] == [{"name": "models", "mountPath": "/models"}]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        spot = "spot" in json.dumps(pod.get("nodeSelector", {}))
        assert spot == name.endswith("-spot"), name
        gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        assert (gpus >= 2) == name.startswith("gpu")
        assert not spot or any(toleration["key"] == "spot" for toleration in pod["tolerations"])
    assert document("kuberay-raycluster.yaml")["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def commands(text: str) -> Iterator[list[str]]:
    """The calls of ugaf in a file, split into words."""
    joined = re.sub(r"\\\n(?:#\s*)?|\n(?:#\s*)?(?= *python -m ugaf)", " ", text)
    for found in re.findall(r"(?:python -m ugaf\.run|\bugaf run) (.*)", joined):
        yield shlex.split(found.split("`")[0].split(" &")[0])


def test_every_command_of_the_files_is_one_that_ugaf_takes() -> None:
    seen = 0
    for file in sorted(CLUSTERS.iterdir()):
        text = file.read_text()
        if file.name == "kuberay-rayjob.yaml":
            text = document(file.name)["spec"]["entrypoint"]
        for words in commands(text):
            given = [word for word in words if not word.startswith("$")]
            if "$" not in " ".join(words) and "--output" in given:
                options = _parser().parse_args(["run", *given])
                config.load(options.pipeline, options.set)
                seen += 1
    assert seen >= 5


def test_the_entrypoint_is_a_file_of_the_image() -> None:
    image = (CLUSTERS / "Dockerfile").read_text()
    assert "COPY --chown=ray clusters/again.sh clusters/" in image
    assert "WORKDIR /home/ray/ugaf" in image
    assert "bash /home/ray/ugaf/clusters/again.sh --rayjob " in document("kuberay-rayjob.yaml")["spec"]["entrypoint"]
    for source in re.findall(r"^COPY --chown=ray (.*) \S+$", image, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    board = json.loads((CLUSTERS / "grafana-dashboard.json").read_text())
    made = {
        metric.info["name"]: metric
        for metric in vars(RunMetrics("run", ["ingest"])).values()
        if hasattr(metric, "info")
    }
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers)) >= 6
    asked: set[str] = set()
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            names = re.findall(r"\bray_(ugaf_\w+)", target["expr"])
            assert names, target
            for name in names:
                asked.add(name.removesuffix("_total"))
                counter = type(made[name.removesuffix("_total")]).__name__ == "Counter"
                assert counter == name.endswith("_total"), f"{name}: only counters have _total"
            keys = set(re.findall(r"by \(([\w, ]+)\)", target["expr"])) | set(
                re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            )
            assert {key for text in keys for key in re.split(r", *", text)} <= {"run", "stage", "verdict", "kind"}
    assert asked == set(made)


def again(*arguments: str, environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(CLUSTERS / "again.sh"), *arguments], cwd=folder, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "WAIT_S": "0", **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "ended", "times"),
    [("75 75 0", 0, 3), ("75 75 75 75", 75, 3), ("2", 2, 1), ("75 4", 4, 2), ("1", 1, 1)],
)
def test_again_goes_on_for_75_alone(tmp_path: Path, statuses: str, ended: int, times: int) -> None:
    (tmp_path / "statuses").write_text("\n".join(statuses.split()) + "\n")
    command = 'status=$(head -n 1 statuses); sed -i 1d statuses; echo >> calls; exit "$status"'
    process = again("bash", "-c", command, environment={"TRIES": "3"}, folder=tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == ended
    assert len((tmp_path / "calls").read_text().splitlines()) == times


def test_again_that_is_ended_ends_its_command_and_does_not_go_on(tmp_path: Path) -> None:
    command = "trap 'echo told >> calls; kill $!; exit 75' TERM; echo begun >> calls; sleep 60 & wait"
    process = again("bash", "-c", command, environment={}, folder=tmp_path)
    limit = time.monotonic() + 30
    while not (tmp_path / "calls").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert (tmp_path / "calls").read_text().split() == ["begun", "told"]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with started_head(tmp_path_factory.mktemp("head")) as head:
        yield head


@pytest.mark.timeout(400)
@pytest.mark.own_ray
def test_a_rayjob_that_another_try_would_not_help_is_stopped_and_one_that_stopped_has_failed(head: Head) -> None:
    """KubeRay starts a job again whose status is FAILED, and no other."""
    ended = {}
    for status in (3, 75):
        command = ["bash", str(CLUSTERS / "again.sh"), "--rayjob", "bash", "-c", f"exit {status}"]
        environment = json.dumps(
            {"env_vars": {"TRIES": "1", "RAY_DASHBOARD": head.environment["RAY_API_SERVER_ADDRESS"]}}
        )
        done = subprocess.run(
            [str(RAY), "job", "submit", "--submission-id", f"ugaf-{status}", "--runtime-env-json", environment, "--",
             *command], env=head.environment, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        said = subprocess.run(
            [str(RAY), "job", "status", f"ugaf-{status}"], env=head.environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        ended[status] = (done.returncode, re.findall(r"STOPPED|FAILED|SUCCEEDED|stopped|failed|succeeded", said.stdout))
    assert sys.executable
    assert ended[3][1], ended
    assert {word.upper() for word in ended[3][1]} == {"STOPPED"}
    assert ended[75][0] == 1
    assert {word.upper() for word in ended[75][1]} == {"FAILED"}
