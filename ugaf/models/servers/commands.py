"""How each kind of server is started: its command line and its environment, as pure functions of an entry.

vLLM is started as the module that its API server is, by an interpreter that the entry names, since vLLM often lives in
an environment of its own. Keys go by environment: a command line can be read by everybody on the machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ugaf.base.errors import ConfigError
from ugaf.models.servers.entry import ModelServer

MODULES = {"vllm": "vllm", "vllm-omni": "vllm_omni", "sglang": "sglang"}


def command_line(server: ModelServer, host: str, port: int) -> list[str]:
    """The program and its arguments."""
    python = server.python or sys.executable
    where = ["--host", host, "--port", str(port)]
    named = ["--served-model-name", server.name_in_requests]
    revision = ["--revision", server.revision] if server.revision else []
    match server.serve:
        case "vllm":
            start = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", server.model]
            if server.lora:
                # The name that requests carry is the LoRA's; the model below it keeps its own.
                named = ["--enable-lora", "--lora-modules", f"{server.name_in_requests}={server.lora}"]
            return [*start, *revision, *named, *where, *flags(server.args)]
        case "vllm-omni":
            # Its own entry point is `vllm serve MODEL --omni`: this is the module behind that program.
            start = [python, "-m", "vllm_omni.entrypoints.cli.main", "serve", server.model, "--omni"]
            return [*start, *revision, *named, *where, *flags(server.args)]
        case "sglang":
            start = [python, "-m", "sglang.launch_server", "--model-path", server.model]
            return [*start, *revision, *named, *where, *flags(server.args)]
        case "command":
            return [_filled(part, server, host, port) for part in [*server.command, *flags(server.args)]]
        case None:
            raise ValueError(f"{server.model} is served by {server.endpoints}: there is nothing to start")


def flags(args: Mapping[str, Any]) -> list[str]:
    """{tensor-parallel-size: 2} -> --tensor-parallel-size 2; true -> the bare flag; false and null are left out;
    lists and mappings -> JSON."""
    out: list[str] = []
    for key, value in args.items():
        flag = key if key.startswith("-") else f"--{key}"
        if value is None or value is False:
            continue
        if value is True:
            out.append(flag)
        elif isinstance(value, list | dict):
            out += [flag, json.dumps(value)]
        else:
            out += [flag, str(value)]
    return out


def environment(server: ModelServer, inherited: Mapping[str, str], on_ray: bool) -> dict[str, str]:
    """The server's environment: what the supervisor inherited, changed by the entry.

    `PYTHONPATH` is not handed on, because the engine sets it for its own workers, and the packages there are not those
    of the server's interpreter. On Ray a server that reserved no GPU sees none.

    Raises ConfigError if the variable that `api_key_env` names is not set.
    """
    env = {name: value for name, value in inherited.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # A key that is set for another server would make this one refuse the workers.
    env.pop("VLLM_API_KEY", None)
    key = key_of(server, inherited)
    if key and server.serve in ("vllm", "vllm-omni"):
        env["VLLM_API_KEY"] = key
    if on_ray and not server.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
    return env | server.env


def key_of(server: ModelServer, environ: Mapping[str, str]) -> str | None:
    """The key of a server, if it has one. Raises ConfigError if it is not set."""
    if server.api_key_env is None:
        return None
    if not environ.get(server.api_key_env):
        raise ConfigError(f"api_key_env: the variable {server.api_key_env} is not set where the server is started")
    return environ[server.api_key_env]


def check_installed(server: ModelServer) -> None:
    """For a server that this interpreter would run. Raises ConfigError that says what to install."""
    module = MODULES.get(str(server.serve))
    if module and server.python is None and find_spec(module) is None:
        install = "'.[vllm]'" if module == "vllm" else module.replace("_", "-")
        raise ConfigError(
            f"{module} is not installed for {sys.executable}: pip install {install}, or name the interpreter of the "
            "environment that has it with `python`"
        )


def _filled(part: str, server: ModelServer, host: str, port: int) -> str:
    # Not str.format: braces are common in arguments, which may be JSON.
    for name, value in {"model": server.model, "host": host, "port": str(port)}.items():
        part = part.replace("{" + name + "}", value)
    return part
