"""An entry of a pipeline's `models:`, and what can be known of it before a server is started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ugaf.base.location import Location
from ugaf.base.settings import Settings, operational

SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")

OWN_SETTINGS = {
    "model": "model",
    "model-path": "model",
    "revision": "revision",
    "served-model-name": "served_name",
    "host": "",
    "port": "",
    "api-key": "api_key_env",
}
"""Options of servers that `args` must not give -> the setting that gives them ("": the supervisor does)."""

GPUS_OF = {
    "vllm": (("tensor-parallel-size", "tp"), ("pipeline-parallel-size", "pp"), ("data-parallel-size", "dp")),
    "sglang": (("tensor-parallel-size", "tp-size", "tp"), ("pipeline-parallel-size", "pp-size", "pp")),
}
"""Options whose product is the number of GPUs that a server uses, with their other names."""


class ModelServer(Settings):
    """One served model: an endpoint that runs already, or one that the pipeline starts and supervises."""

    model: str = Field(min_length=1, description="the model: a hub id or a path; also the name that requests carry")
    revision: str | None = Field(None, description="the hub revision of `model`")
    lora: str | None = Field(
        None, description="a LoRA on the model (hub id or path), which then is what answers; for serve: vllm"
    )
    served_name: str | None = operational(
        None, description="name that requests carry, where it is not `lora` or `model`"
    )
    endpoints: list[str] = operational(
        [], description="base URLs of servers that run already (http://host:8000/v1); with any, none is started"
    )
    serve: Literal["vllm", "vllm-omni", "sglang", "command"] | None = operational(
        None, description="what the pipeline starts and supervises, if `endpoints` is empty"
    )
    command: list[str] = operational(
        [], description="for serve: command: the program and its arguments; {model} {host} {port} are filled in"
    )
    python: str | None = operational(
        None, description="interpreter that has the server's packages, where it is not the one that runs ugaf"
    )
    args: dict[str, Any] = operational(
        {}, description="options of the server's command line: {tensor-parallel-size: 2} gives --tensor-parallel-size 2"
    )
    env: dict[str, str] = operational({}, description="environment variables of the server; no keys: they are recorded")
    replicas: Annotated[int, Field(ge=1)] | Literal["auto"] = operational(
        "auto", description="servers to start; auto: in proportion to their work, of the GPUs that there are"
    )
    gpus: float = operational(1.0, ge=0, description="GPUs of one started server")
    cpus: float = operational(1.0, ge=0, description="CPUs of one started server")
    start_timeout_s: float = operational(1800.0, gt=0, description="how long a started server may take to be healthy")
    restarts: int = operational(
        10,
        ge=0,
        description="times a server that died is started again before the run stops; more than `tries`, so "
        "that a request that kills it fails first",
    )
    api_key_env: str | None = operational(
        None, description="environment variable that holds the key; read by the workers, written nowhere"
    )
    in_flight: int = operational(64, ge=1, description="requests on their way at once, for each worker")
    timeout_s: float = operational(300.0, gt=0, description="longest wait for one answer")
    tries: int = operational(
        6, ge=1, description="times a request is sent before its row fails, for busy servers and cut connections"
    )
    answer_tries: int = Field(
        3, ge=1, description="answers asked for, each with another seed, before a row fails for a malformed one"
    )
    patience_s: float = operational(
        600.0, gt=0, description="how long all endpoints may be away before the run stops, its rows still pending"
    )
    structured: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema", description="how the server is asked for JSON; `none` only says it in words"
    )

    @field_validator("endpoints")
    @classmethod
    def _urls(cls, value: list[str]) -> list[str]:
        for url in value:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is no URL: give http://HOST:PORT/v1")
            if Location(url).has_secret:
                raise ValueError("a URL must not hold a password or key: name a variable with api_key_env")
        return [url.rstrip("/") for url in value]

    @field_validator("env")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if any(secret in name.upper() for secret in SECRET_NAMES):
                raise ValueError(f"{name} looks like a secret, and settings are recorded: set it where ugaf is started")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> ModelServer:
        if not self.endpoints and self.serve is None:
            raise ValueError("say where it is, `endpoints: [http://HOST:PORT/v1]`, or `serve: vllm` to start it")
        if self.serve == "command" and not self.command:
            raise ValueError("serve: command needs `command`, a list of the program and its arguments")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: {self.gpus:g} is no share of one GPU and no whole number of them")
        if self.is_started:
            check_start(self)
        return self

    @property
    def name_in_requests(self) -> str:
        return self.served_name or self.answers

    @property
    def answers(self) -> str:
        """The model that answers: the LoRA, if there is one. It is what rows name."""
        return self.lora or self.model

    @property
    def is_started(self) -> bool:
        """The pipeline starts it."""
        return not self.endpoints

    @property
    def least(self) -> int:
        """Fewest servers to start."""
        return 1 if self.replicas == "auto" else self.replicas

    def identity(self) -> dict[str, Any]:
        """What of it a fingerprint covers: which model answers, and how it is made to answer in JSON."""
        return {
            "model": self.model,
            "revision": self.revision,
            "lora": self.lora,
            "structured": self.structured,
            "answer_tries": self.answer_tries,
        }


def reserved(
    models: Mapping[str, ModelServer], names: Iterable[str], replicas: Mapping[str, int] | None = None
) -> tuple[float, float]:
    """CPUs and GPUs that the started ones of these servers take, all replicas together.

    replicas: how many there are of each; of others, as many as their entries say, at least one.
    """
    started = [(models[name], (replicas or {}).get(name, models[name].least)) for name in names]
    started = [(server, count) for server, count in started if server.is_started]
    return sum(s.cpus * count for s, count in started), sum(s.gpus * count for s, count in started)


def check_start(server: ModelServer) -> None:
    """What can be known of an entry before its server is started. Raises ValueError, as a validator does."""
    for key in server.args:
        option = key.lstrip("-").replace("_", "-")
        if option in OWN_SETTINGS and server.serve != "command":
            instead = OWN_SETTINGS[option]
            hint = f"set `{instead}` of the entry instead" if instead else "ugaf chooses it"
            raise ValueError(f"args.{key}: {hint}")
    if server.lora and server.serve not in ("vllm", "command"):
        raise ValueError(f"lora: ugaf starts one with serve: vllm only, not with {server.serve}")
    if server.serve == "sglang" and server.api_key_env:
        raise ValueError(
            "api_key_env: sglang takes a key on its command line only, where everybody on the machine can read it; "
            "leave it out, or use serve: command with a script that reads the variable"
        )
    used = gpus_used(server)
    if server.gpus >= 1 and used is not None and used != server.gpus:
        option = GPUS_OF[str(server.serve)][0][0]
        raise ValueError(
            f"gpus: {server.gpus:g} are reserved for each server, and its args make it use {used}; "
            f"set args.{option}={int(server.gpus)} or gpus={used}"
        )


def gpus_used(server: ModelServer) -> int | None:
    """How many GPUs the server's options make it use; None where that cannot be told."""
    options = GPUS_OF.get(str(server.serve))
    if options is None:
        return None
    args = {key.lstrip("-").replace("_", "-"): value for key, value in server.args.items()}
    total = 1
    for names in options:
        value = next((args[name] for name in names if name in args), 1)
        if not isinstance(value, int):
            return None
        total *= value
    return total
