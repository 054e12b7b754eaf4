"""How servers are started: command lines, environments, and what is read from their logs and health pages."""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ugaf.base.errors import UgafError
from ugaf.models.servers import ModelServer
from ugaf.models.servers.commands import command_line, environment, flags
from ugaf.models.servers.entry import gpus_used
from ugaf.models.servers.keeper import BoundedLog
from ugaf.models.servers.process import describe_exit, log_end
from ugaf.models.servers.supervised import free_port, is_free, unhealthy


class TestCommandLines:
    def test_vllm_is_the_api_server_module_of_the_interpreter_that_is_named(self) -> None:
        server = ModelServer(
            model="org/vlm",
            revision="abc",
            served_name="vlm",
            serve="vllm",
            python="/opt/vllm/bin/python",
            gpus=2,
            args={"tensor-parallel-size": 2, "enforce-eager": True, "limit-mm-per-prompt": {"image": 2}},
        )
        assert command_line(server, "10.0.0.1", 8001) == [
            *("/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", "org/vlm"),
            *("--revision", "abc", "--served-model-name", "vlm", "--host", "10.0.0.1", "--port", "8001"),
            *("--tensor-parallel-size", "2", "--enforce-eager", "--limit-mm-per-prompt", '{"image": 2}'),
        ]

    def test_vllm_omni_serves_with_omni_by_ugafs_own_interpreter_if_none_is_named(self) -> None:
        server = ModelServer(model="org/edit", serve="vllm-omni", args={"vae-use-tiling": True})
        assert command_line(server, "127.0.0.1", 9) == [
            *(sys.executable, "-m", "vllm_omni.entrypoints.cli.main", "serve", "org/edit", "--omni"),
            *("--served-model-name", "org/edit", "--host", "127.0.0.1", "--port", "9", "--vae-use-tiling"),
        ]

    def test_sglang(self) -> None:
        server = ModelServer(model="org/llm", serve="sglang", python="py", gpus=4, args={"tp": 4})
        assert command_line(server, "h", 7) == [
            *("py", "-m", "sglang.launch_server", "--model-path", "org/llm", "--served-model-name", "org/llm"),
            *("--host", "h", "--port", "7", "--tp", "4"),
        ]

    def test_a_command_is_filled_in_and_other_braces_stay(self) -> None:
        command = ["run", "{model}", "--at={host}:{port}", '{"a": 1}']
        server = ModelServer(model="m", serve="command", command=command, args={"x": 1})
        assert command_line(server, "h", 5) == ["run", "m", "--at=h:5", '{"a": 1}', "--x", "1"]

    def test_flags_by_kind_of_value(self) -> None:
        args = {"a": 2, "b-c": True, "d": False, "e": None, "f": [1, "x"], "g": {"h": 0.5}, "i": "text", "-O3": True}
        expected = ["--a", "2", "--b-c", "--f", '[1, "x"]', "--g", '{"h": 0.5}', "--i", "text", "-O3"]
        assert flags(args) == expected

    @pytest.mark.parametrize("option", ["host", "port", "model", "served-model-name", "api_key", "--api-key"])
    def test_options_that_ugaf_gives_are_refused(self, option: str) -> None:
        with pytest.raises(ValidationError, match=f"args.{option}"):
            ModelServer(model="m", serve="vllm", args={option: "x"})

    def test_gpus_that_the_options_do_not_use_are_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"set args.tensor-parallel-size=4 or gpus=1"):
            ModelServer(model="m", serve="vllm", gpus=4)
        both = {"tensor_parallel_size": 2, "pipeline-parallel-size": 2}
        assert gpus_used(ModelServer(model="m", serve="vllm", gpus=4, args=both)) == 4

    def test_a_share_of_more_than_one_gpu_is_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"gpus: 1.5"):
            ModelServer(model="m", serve="vllm", gpus=1.5)

    def test_a_key_on_sglangs_command_line_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="api_key_env"):
            ModelServer(model="m", serve="sglang", api_key_env="K")


class TestEnvironment:
    INHERITED: ClassVar[dict[str, str]] = {
        "PATH": "/bin",
        "PYTHONPATH": "/site",
        "VLLM_API_KEY": "stray",
        "MY_KEY": "s3cret",
    }

    def test_the_key_goes_by_environment_and_not_by_command_line(self) -> None:
        server = ModelServer(model="m", serve="vllm", api_key_env="MY_KEY")
        assert environment(server, self.INHERITED, on_ray=False)["VLLM_API_KEY"] == "s3cret"
        assert "s3cret" not in " ".join(command_line(server, "h", 1))

    def test_a_stray_key_and_the_workers_python_path_are_not_handed_on(self) -> None:
        server = ModelServer(model="m", serve="vllm", env={"HF_HOME": "/models"})
        env = environment(server, self.INHERITED, on_ray=False)
        assert env == {"PATH": "/bin", "MY_KEY": "s3cret", "HF_HOME": "/models"}

    def test_a_server_without_gpus_sees_none_on_ray_unless_its_entry_says_so(self) -> None:
        given = {"CUDA_VISIBLE_DEVICES": "0,1"}
        none = ModelServer(model="m", serve="vllm", gpus=0)
        assert environment(none, given, on_ray=True)["CUDA_VISIBLE_DEVICES"] == ""
        assert environment(none, given, on_ray=False)["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert environment(ModelServer(model="m", serve="vllm"), given, on_ray=True) == given
        said = ModelServer(model="m", serve="vllm", gpus=0, env={"CUDA_VISIBLE_DEVICES": "3"})
        assert environment(said, given, on_ray=True)["CUDA_VISIBLE_DEVICES"] == "3"


class TestLog:
    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=60))
    def test_the_files_are_bounded_and_hold_the_end(self, tmp_path_factory: Any, chunks: list[bytes]) -> None:
        path = tmp_path_factory.mktemp("log") / "log"
        log = BoundedLog(str(path), 200)
        for chunk in chunks:
            log.write(chunk)
        old = Path(f"{path}.1")
        kept = (old.read_bytes() if old.exists() else b"") + path.read_bytes()
        everything = b"".join(chunks)
        assert len(kept) <= 200
        assert everything.endswith(kept)
        assert len(kept) >= min(len(everything), 60)

    def test_its_end_is_what_was_said_since_the_last_start(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        lines = [
            "[ugaf] start: old",
            "from the first start",
            "[ugaf] start: new",
            "\x1b[1;36m(Engine pid=1)\x1b[0;0m loading",
            'INFO: 127.0.0.1 - "GET /health HTTP/1.1" 200 OK',
            'INFO: 127.0.0.1 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error',
            "load:  10%\rload: 100%",
            "the key is s3cret\x07",
            "x" * 3000,
            "",
        ]
        log.write_text("\n".join(lines))
        assert log_end(log, 10, "s3cret").split("\n") == [
            "(Engine pid=1) loading",
            'INFO: 127.0.0.1 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error',
            "load: 100%",
            "the key is ***",
            "x" * 1000,
        ]
        assert log_end(log, 1) == "x" * 1000

    def test_it_reaches_into_the_file_before(self, tmp_path: Path) -> None:
        (tmp_path / "log.1").write_text("first\nsec")
        (tmp_path / "log").write_text("ond\nthird\n")
        assert log_end(tmp_path / "log", 2) == "second\nthird"
        assert log_end(tmp_path / "none") == ""


def test_an_exit_is_described() -> None:
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-15) == "was killed by SIGTERM"
    assert describe_exit(-9) == "was killed by SIGKILL (out of memory?)"
    assert describe_exit(-99) == "was killed by signal 99"


class TestHealth:
    @pytest.mark.parametrize(
        ("answers", "problem"),
        [
            ({"/health": 200}, ""),
            ({"/health": 503, "/v1/models": 200}, "it answers HTTP 503"),
            ({"/health": 404, "/v1/models": 200}, ""),
            ({"/health": 404, "/v1/models": 401}, "it answers HTTP 401"),
        ],
    )
    def test_by_what_a_server_answers(self, answers: dict[str, int], problem: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(answers[self.path])
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Tests are quiet."""

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            assert unhealthy("127.0.0.1", server.server_port, 5, None) == problem
            server.shutdown()

    def test_a_port_without_a_server_is_unhealthy_and_free(self) -> None:
        port = free_port("127.0.0.1")
        assert "refused" in unhealthy("127.0.0.1", port, 1, None)
        with socket.create_server(("127.0.0.1", port)):
            assert not is_free("127.0.0.1", port)
        assert is_free("127.0.0.1", port)

    def test_an_address_of_another_machine_is_named(self) -> None:
        with pytest.raises(UgafError, match=r"at 192\.0\.2\.77"):
            free_port("192.0.2.77")


def test_a_lora_is_served_under_its_own_name_and_is_what_a_fingerprint_knows() -> None:
    entry = {"model": "org/base", "lora": "org/score", "serve": "vllm"}
    server = ModelServer.model_validate(entry)
    line = command_line(server, "127.0.0.1", 9)
    assert line[line.index("--lora-modules") + 1] == "org/score=org/score"
    assert "--enable-lora" in line
    assert "--served-model-name" not in line
    assert (server.answers, server.name_in_requests) == ("org/score", "org/score")
    assert server.identity() != ModelServer.model_validate({**entry, "lora": None}).identity()
    with pytest.raises(ValueError, match="lora: ugaf starts one with serve: vllm only"):
        ModelServer.model_validate({**entry, "serve": "sglang"})
