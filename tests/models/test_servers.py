"""Servers that the pipeline starts, with a tiny server: they are kept alive, given up and ended, here and on Ray."""

from __future__ import annotations

import http.client
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from places import PATHS, SUPPORT

from ugaf.base.errors import StopRun, UgafError
from ugaf.models.chat import ChatRequest, Message, open_chat
from ugaf.models.servers import ModelServer, ServerLink, supervised, supervisor
from ugaf.models.servers.process import ServerProcess
from ugaf.models.servers.supervised import Status, Timing, free_port, is_free, unhealthy
from ugaf.models.servers.supervisor import begin_servers, stop_servers

FAKE = SUPPORT / "fake_model_server.py"
FAST = Timing(look_s=0.05, probe_s=1.0, hang_s=0.5, grace_s=1.0, delay_s=0.02)


@pytest.fixture(autouse=True)
def _logs_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of servers that died are kept."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def tag() -> str:
    """A model's name that only this test's servers have on their command line."""
    return f"model-{uuid.uuid4().hex}"


def entry(tag: str, *options: str, **settings: Any) -> ModelServer:
    command = [sys.executable, "-S", str(FAKE), "--model", "{model}", "--host", "{host}", "--port", "{port}", *options]
    given = {"gpus": 0, "cpus": 0.1, "start_timeout_s": 60, **settings}
    return ModelServer(model=tag, serve="command", command=command, **given)


def running(tag: str) -> list[int]:
    """Processes with this on their command line: servers and their keepers."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if tag in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def until(true: Callable[[], Any], what: str, limit_s: float = 20.0) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.03)
    return value


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ask(url: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Ask the server whose base URL this is; `path` is below its root."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=10)
    connection.request("POST" if body is not None else "GET", path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    data = json.loads(answer.read())
    connection.close()
    return answer.status, data


def chat(url: str, text: str) -> str:
    status, answer = ask(url, "/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})
    assert status == 200
    return str(answer["choices"][0]["message"]["content"])


def kill_server(url: str) -> None:
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(url, "/die", {})


def killed(link: ServerLink) -> None:
    """Has the only server of a link die, and waits until its supervisor knows."""
    until(lambda: status_of(link).state == "healthy", "its supervisor finds it healthy")
    before = status_of(link).restarts
    kill_server(refreshed(link)[0])
    until(lambda: status_of(link).restarts == before + 1, "the death is noticed", 10)


def nothing_left(tag: str) -> None:
    until(lambda: not running(tag), "servers and keepers are gone", 5)


@contextmanager
def start_servers(
    models: dict[str, ModelServer], names: list[str], on_ray: bool, notify: Callable[[str], None], timing: Timing
) -> Iterator[dict[str, ServerLink]]:
    links, handles = begin_servers(models, names, on_ray, notify, timing=timing)
    try:
        yield links
    finally:
        stop_servers(handles, notify)


def started(
    models: dict[str, ModelServer], *names: str, on_ray: bool = False, notify: Callable[[str], None] | None = None
) -> Any:
    return start_servers(models, names or list(models), on_ray, notify or quiet, timing=FAST)


def quiet(_: str) -> None:
    """Tests need no news."""


def status_of(link: ServerLink) -> Status:
    """Of the first server of a link."""
    if isinstance(link.refresh, supervisor.AskHere):
        return link.refresh.servers[0].status()
    assert isinstance(link.refresh, supervisor.AskActors)
    import ray

    status: Status = ray.get(link.refresh.actors[0].status.remote())
    return status


def answers(url: str) -> bool:
    where = urlsplit(url)
    return not unhealthy(str(where.hostname), where.port or 0, 5, None)


def refreshed(link: ServerLink) -> tuple[str, ...]:
    """Where the servers of a link are, once all of them answer."""
    assert link.refresh is not None
    refresh = link.refresh
    return until(lambda: all(map(answers, urls := refresh())) and urls, "all servers answer")


class TestHere:
    def test_servers_are_healthy_inside_and_gone_outside(self, tag: str) -> None:
        said: list[str] = []
        models = {
            "writer": entry(tag, env={"COLOUR": "red"}, replicas=2),
            "far": ModelServer(model="m", endpoints=["http://far:1/v1/"]),
            "unused": entry(tag, "--fail-at-start", "never started"),
        }
        with started(models, "writer", "far", notify=said.append) as links:
            assert links["far"] == ServerLink("far", models["far"], ("http://far:1/v1",), None)
            assert set(links) == {"writer", "far"}
            urls = links["writer"].urls
            assert len(set(urls)) == 2
            assert set(links["writer"].refresh()) == set(urls)
            assert [chat(url, "hello") for url in urls] == ["echo: hello"] * 2
            assert ask(urls[0], "/env?COLOUR") == (200, {"value": "red"})
            log = Path(status_of(links["writer"]).log)
            assert str(urlsplit(urls[0]).port) in log.read_text()
        nothing_left(tag)
        assert not log.parent.exists()
        assert said[0] == f"models.writer: starting 2 servers of {tag} (command, 0 GPUs and 0.1 CPUs each)"
        assert said[1].startswith("models.writer: healthy after ")

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_they_are_stopped_whatever_ends_the_block(self, tag: str, error: type[BaseException]) -> None:
        def block() -> None:
            with started({"w": entry(tag)}):
                assert running(tag)
                raise error

        with pytest.raises(error):
            block()
        nothing_left(tag)

    def test_one_that_is_killed_comes_back_at_its_url(self, tag: str) -> None:
        said: list[str] = []
        with started({"w": entry(tag)}, notify=said.append) as links:
            link = links["w"]
            first = status_of(link)
            assert first.pid is not None
            os.kill(first.pid, signal.SIGKILL)
            until(lambda: status_of(link).restarts, "the death is noticed", 5)
            assert refreshed(link) == link.urls
            until(lambda: status_of(link).state == "healthy", "its supervisor knows", 5)
            now = status_of(link)
            assert (now.restarts, now.state) == (1, "healthy")
            assert now.pid != first.pid
            assert chat(link.urls[0], "back") == "echo: back"
        assert "a server was started again once; its log is" in said[-1]
        assert "told" not in Path(now.log).read_text()

    def test_it_moves_to_another_port_if_its_own_was_taken(self, tag: str) -> None:
        slow = replace(FAST, delay_s=1.5)
        with start_servers({"w": entry(tag)}, ["w"], False, quiet, timing=slow) as links:
            link = links["w"]
            port = urlsplit(link.urls[0]).port
            assert port is not None
            killed(link)
            with socket.create_server(("127.0.0.1", port)):
                (url,) = refreshed(link)
                assert url != link.urls[0]
                assert chat(url, "moved") == "echo: moved"

    def test_a_port_that_is_taken_before_the_first_start_costs_nothing(
        self, tag: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            ports = iter([taken, free_port("127.0.0.1")])
            looks = iter([True])
            monkeypatch.setattr(supervised, "free_port", lambda _: next(ports))
            monkeypatch.setattr(supervised, "is_free", lambda host, port: next(looks, False) or is_free(host, port))
            with started({"w": entry(tag, restarts=0)}) as links:
                assert status_of(links["w"]).restarts == 0
                assert links["w"].urls == refreshed(links["w"])
                assert links["w"].urls != (f"http://127.0.0.1:{taken}/v1",)

    def test_one_that_dies_too_often_stops_the_run_with_the_end_of_its_log(self, tag: str) -> None:
        with started({"w": entry(tag, restarts=1)}) as links:
            link = links["w"]
            killed(link)
            kill_server(refreshed(link)[0])
            until(lambda: status_of(link).state == "failed", "it is given up")
            with pytest.raises(StopRun) as caught:
                link.refresh()
            message = str(caught.value)
            assert "models.w: the server died once more than its restarts (1): it ended with exit code 7" in message
            assert "    told to die" in message
            assert str(FAKE) in message
            assert status_of(link).log in message
        nothing_left(tag)

    def test_deaths_are_forgotten_after_a_healthy_time(self, tag: str) -> None:
        patient = Timing(look_s=0.02, delay_s=0.0, grace_s=1.0, forgive_s=0.0)
        with start_servers({"w": entry(tag, restarts=1)}, ["w"], False, quiet, timing=patient) as links:
            for _ in range(2):
                killed(links["w"])
            refreshed(links["w"])
            assert status_of(links["w"]).restarts == 2

    def test_one_that_was_healthy_once_may_fail_to_start_again_within_its_restarts(
        self, tag: str, tmp_path: Path
    ) -> None:
        with started({"w": entry(tag, "--fail-if", str(tmp_path / "mark"), restarts=2)}) as links:
            kill_server(links["w"].urls[0])
            until(lambda: status_of(links["w"]).state == "failed", "it is given up")
            assert status_of(links["w"]).restarts == 2
            assert "once is enough" in status_of(links["w"]).problem
            assert "told to die" not in status_of(links["w"]).problem

    def test_one_that_cannot_start_fails_at_once_and_the_others_are_stopped(self, tag: str) -> None:
        models = {"slow": entry(tag, "--start-delay", "600"), "bad": entry(tag, "--fail-at-start", "no such weights")}
        with pytest.raises(StopRun) as caught, started(models):
            pytest.fail("a server that cannot start was waited for")
        message = str(caught.value)
        assert "models.bad: the server cannot start: it ended with exit code 3" in message
        assert message.endswith("    no such weights")
        assert f"--model {tag}" in message
        nothing_left(tag)

    def test_one_that_is_not_healthy_in_time_is_ended(self, tag: str) -> None:
        models = {"w": entry(tag, "--start-delay", "600", start_timeout_s=0.3)}
        with pytest.raises(StopRun, match=r"it was not healthy after 0\.3 s \(ConnectionRefusedError"), started(models):
            pytest.fail("it was never healthy")
        nothing_left(tag)

    def test_a_program_that_is_missing_is_named(self) -> None:
        server = ModelServer(model="m", serve="command", command=["/no/such/program"])
        with pytest.raises(StopRun, match="cannot start /no/such/program: No such file or directory"):
            started({"w": server}).__enter__()

    def test_a_package_that_is_missing_is_named_with_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ugaf.models.servers.commands.find_spec", lambda _: None)
        with pytest.raises(StopRun, match=r"models.w: vllm is not installed for .*'\.\[vllm\]'.*`python`"):
            started({"w": ModelServer(model="m", serve="vllm")}).__enter__()

    def test_a_key_that_is_not_set_is_named(self, tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NO_SUCH_KEY", raising=False)
        with pytest.raises(StopRun, match=r"models\.w: api_key_env: the variable NO_SUCH_KEY is not set"):
            started({"w": entry(tag, api_key_env="NO_SUCH_KEY")}).__enter__()

    def test_a_server_without_a_health_page_is_asked_for_its_models_with_the_key(
        self, tag: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SERVERS_TEST_KEY", "s3cret")
        models = {"w": entry(tag, "--no-health", "--key", "s3cret", api_key_env="SERVERS_TEST_KEY")}
        with started(models) as links:
            assert status_of(links["w"]).state == "healthy"

    def test_one_that_hangs_is_ended_and_started_again(self, tag: str) -> None:
        with started({"w": entry(tag, "--ignore-term")}) as links:
            first = status_of(links["w"])
            ask(links["w"].urls[0], "/hang", {})
            until(lambda: status_of(links["w"]).restarts == 1, "the hang is noticed")
            assert first.pid is not None
            assert gone(first.pid)
            assert chat(refreshed(links["w"])[0], "again") == "echo: again"

    def test_no_request_is_lost_when_servers_die_under_a_chat(self, tag: str) -> None:
        models = {"w": entry(tag, "--die-after", "40", replicas=2, restarts=9, in_flight=8)}
        with started(models) as links:
            texts = [f"number {number}" for number in range(90)]
            answers = open_chat(links["w"]).ask(ChatRequest((Message("user", (text,)),)) for text in texts)
            assert [getattr(answer, "text", answer) for answer in answers] == [f"echo: {text}" for text in texts]
            assert sum(server.status().restarts for server in links["w"].refresh.servers) >= 2

    def test_children_that_left_its_session_end_with_it(self, tag: str, tmp_path: Path) -> None:
        path = tmp_path / "child"
        with started({"w": entry(tag, "--child", str(path))}) as links:
            first = int(path.read_text())
            assert not gone(first)
            killed(links["w"])
            refreshed(links["w"])
            assert gone(first)
            second = int(path.read_text())
            assert not gone(second)
        assert gone(second)


SUPERVISE = """
import sys, time
from ugaf.models.servers import ModelServer
from ugaf.models.servers.supervised import SupervisedServer, Timing
command, model = sys.argv[2:], sys.argv[1]
settings = ModelServer(model=model, serve="command", command=command, gpus=0)
server = SupervisedServer("w", settings, timing=Timing(grace_s=1.0))
server.start()
while server.status().state != "healthy":
    time.sleep(0.02)
print(server.status().pid, flush=True)
time.sleep(600)
"""


class TestKilledKeepers:
    def test_a_supervisor_that_is_killed_leaves_no_server(self, tag: str, tmp_path: Path) -> None:
        child = tmp_path / "child"
        command = entry(tag, "--child", str(child), "--ignore-term").command
        with subprocess.Popen([sys.executable, "-c", SUPERVISE, tag, *command], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            detached = int(child.read_text())
            process.kill()
        until(lambda: gone(pid) and gone(detached), "the server and its child are gone")
        nothing_left(tag)

    def test_a_keeper_that_is_killed_takes_its_server_along_and_another_is_started(self, tag: str) -> None:
        with started({"w": entry(tag)}) as links:
            first = status_of(links["w"]).pid
            assert first is not None
            (keeper,) = [pid for pid in running(tag) if pid != first]
            os.kill(keeper, signal.SIGKILL)
            until(lambda: gone(first), "the server is gone", 5)
            until(lambda: status_of(links["w"]).restarts == 1, "its death is noticed", 5)
            refreshed(links["w"])
        nothing_left(tag)

    def test_a_keeper_is_no_child_of_its_supervisor(self, tag: str, tmp_path: Path) -> None:
        # Ray kills the children of a worker before they can do anything.
        command = [sys.executable, "-c", "import time; time.sleep(600)", tag]
        process = ServerProcess(command, os.environ, tmp_path / "log", 1.0)
        until(lambda: process.ended(0.05) is None and process.pid, "it runs")
        children = {child.pid for child in psutil.Process().children()}
        assert len(running(tag)) == 2
        assert not children.intersection(running(tag))
        process.stop()
        assert process.ended(10) == -signal.SIGTERM
        process.close()
        nothing_left(tag)


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import ray

    path = os.pathsep.join([PATHS, str(Path(__file__).parent)])
    ray.init(
        "local",
        num_cpus=4,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": path, "TMPDIR": str(tmp_path_factory.mktemp("logs"))}},
    )
    yield ray
    ray.shutdown()


@pytest.mark.usefixtures("ray_here")
class TestOnRay:
    def test_workers_find_a_server_again_that_was_killed(self, ray_here: Any, tag: str) -> None:
        models = {"gpu": entry(tag, gpus=1, replicas=2), "cpu": entry(tag, restarts=1)}
        with started(models, on_ray=True) as links:
            seen = [ask(url, "/env?CUDA_VISIBLE_DEVICES")[1]["value"] for url in links["gpu"].urls]
            assert sorted(seen) == ["0", "1"]
            assert ask(links["cpu"].urls[0], "/env?CUDA_VISIBLE_DEVICES")[1]["value"] == ""
            assert {urlsplit(url).hostname for url in links["gpu"].urls} == {"127.0.0.1"}
            link = pickle.loads(pickle.dumps(links["cpu"]))
            assert link.refresh() == link.urls

            killed(link)
            again = ray_here.remote(num_cpus=0.1)(lambda link: chat(refreshed(link)[0], "found")).remote(links["cpu"])
            assert ray_here.get(again) == "echo: found"

            kill_server(refreshed(link)[0])
            until(lambda: _given_up(link), "the server is given up")
            with pytest.raises(StopRun, match="told to die"):
                ray_here.get(ray_here.remote(num_cpus=0.1)(lambda link: link.refresh()).remote(link))
        nothing_left(tag)

    def test_an_actor_that_is_killed_takes_its_server_along_and_another_is_started(
        self, ray_here: Any, tag: str
    ) -> None:
        with started({"w": entry(tag)}, on_ray=True) as links:
            link = links["w"]
            (actor,) = link.refresh.actors
            server = ray_here.get(actor.status.remote()).pid
            os.kill(_actor_process(server), signal.SIGKILL)
            until(lambda: gone(server), "the server is gone")
            (url,) = until(lambda: link.refresh() != link.urls and refreshed(link), "it is somewhere else", 60)
            assert chat(url, "new") == "echo: new"
        nothing_left(tag)

    def test_one_that_cannot_start_stops_the_run(self, tag: str) -> None:
        with pytest.raises(StopRun, match=r"(?s)models.w: the server cannot start.*bad weights$"):
            started({"w": entry(tag, "--fail-at-start", "bad weights")}, on_ray=True).__enter__()
        nothing_left(tag)

    def test_what_ray_lacks_is_said(self, tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "PLACE_S", 0.3)
        with pytest.raises(UgafError) as caught:
            started({"w": entry(tag, gpus=4)}, on_ray=True).__enter__()
        message = str(caught.value)
        assert "models.w: Ray found no room for a server in 0 s" in message
        assert "needs 4 GPUs and 0.1 CPUs on one node" in message
        assert "free on all nodes together are " in message
        assert "The nodes have 4 CPUs and 2 GPUs" in message


def _given_up(link: ServerLink) -> bool:
    assert link.refresh is not None
    try:
        link.refresh()
    except StopRun:
        return True
    return False


def _actor_process(server: int) -> int:
    """The process of the actor that supervises this server: the keeper between them has it as its argument."""
    command = psutil.Process(psutil.Process(server).ppid()).cmdline()
    return int(command[command.index(next(part for part in command if part.endswith("keeper.py"))) + 1])
