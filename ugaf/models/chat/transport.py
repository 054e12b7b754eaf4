"""One exchange with one endpoint, on the official `openai` client: a JSON object, or a `TryError` that says what was.

The retries of `openai` are off: `ugaf.models.chat.server_client` counts tries, spreads them over endpoints and can
be stopped.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from ugaf.base.errors import ConfigError
from ugaf.base.needs import install_hint
from ugaf.models.chat.reply import shown

COMPLETIONS = "/chat/completions"

RETRIED = (408, 409, 429)
"""Statuses under 500 after which the same request may succeed."""

GATEWAY = (502, 503, 504)
"""Statuses that a gateway gives while what is behind it is away."""

CONNECTIONS = 16
"""Connections of one HTTP client."""

KEPT_S = 4.0
"""Seconds that an idle connection is kept: fewer than a server does (uvicorn 5), which may close it as we send."""

_NOT_CONNECTED = ("ConnectError", "ConnectTimeout")


@dataclass(frozen=True)
class Pace:
    """Seconds between tries and between looks at an endpoint that is away; doubled each time, from the first to `most`.

    connect_s: to open a connection. probe_timeout_s: for the answer of an endpoint that is only asked for its models.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    probe_first_s: float = 1.0
    probe_most_s: float = 15.0
    connect_s: float = 10.0
    probe_timeout_s: float = 30.0

    def backoff(self, tries: int, retry_after: float | None) -> float:
        """Wait after that many tries. What the server asks for is a lower bound; the rest is spread at random, so that
        requests which failed together do not come back together."""
        wait = min(self.most_s, self.first_s * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
        return wait if retry_after is None else retry_after + wait * 0.5


STEADY = Pace()


class TryError(Exception):
    """A try that brought no answer of the model.

    kind: the type of the Failure if no further try helps. status: HTTP, None if there was no reply. retry: another try
    may help. unreachable: no connection was had, so the server saw nothing of the request.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int | None = None,
        retry: bool = True,
        unreachable: bool = False,
        retry_after: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry = retry
        self.unreachable = unreachable
        self.retry_after = retry_after
        self.code = code


def require() -> None:
    """Raises ConfigError where `openai` is not installed."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise ConfigError(install_hint({"openai": "chat"})) from error


def open_clients(url: str, key: str | None, *, in_flight: int, through_proxy: bool) -> list[Any]:
    """`openai.AsyncOpenAI`s without retries of their own, for that many requests at once to one URL.

    Several, because the HTTP library looks at every connection of a client for every request: 64 requests in flight on
    one client cost half as much CPU again as on four.

    key: None for a server that wants none; never taken from OPENAI_API_KEY, which is meant for somebody else.
    through_proxy: heed HTTP_PROXY and the like; not for servers that the pipeline itself started.
    """
    import openai

    # Of whatever HTTP library this version of openai is built on.
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(
        max_connections=in_flight + 8, max_keepalive_connections=in_flight + 8, keepalive_expiry=KEPT_S
    )
    clients = []
    for _ in range(-(-in_flight // CONNECTIONS)):
        http = openai.DefaultAsyncHttpxClient(limits=limits, trust_env=through_proxy)
        clients.append(openai.AsyncOpenAI(api_key=key or "EMPTY", base_url=url, max_retries=0, http_client=http))
    return clients


async def post(
    client: Any,
    path: str,
    body: Mapping[str, Any],
    timeout_s: float,
    connect_s: float,
    files: Mapping[str, tuple[str, bytes, str]] | None = None,
) -> Any:
    """`POST` to a path under the base URL: the reply's JSON. Raises TryError.

    files: (file name, content, MIME type) of each field that is a file; with them, the body is a multipart form.
    """
    options = _timeouts(timeout_s, connect_s)
    if files is not None:
        options["headers"] = {"Content-Type": "multipart/form-data"}
    return await _exchange(client.post(path, cast_to=object, body=body, files=files, options=options), timeout_s)


async def complete(client: Any, body: Mapping[str, Any], timeout_s: float, connect_s: float) -> Mapping[str, Any]:
    """`POST /chat/completions`. Raises TryError."""
    reply = await post(client, COMPLETIONS, body, timeout_s, connect_s)
    if not isinstance(reply, Mapping):
        raise TryError("ServerError", f"the reply is not a JSON object: {shown(reply)}")
    if "choices" not in reply and "error" in reply:
        raise TryError("ServerError", f"an error with status 200: {shown(_said(reply['error']))}")
    return reply


async def models(client: Any, timeout_s: float, connect_s: float) -> list[str] | None:
    """`GET /models`: the names of the models, None if the reply is no list of them. Raises TryError."""
    request = client.get("/models", cast_to=object, options=_timeouts(timeout_s, connect_s))
    reply = await _exchange(request, timeout_s)
    listed = reply.get("data") if isinstance(reply, Mapping) else None
    if not isinstance(listed, list):
        return None
    return [str(item["id"]) for item in listed if isinstance(item, Mapping) and "id" in item]


async def _exchange(request: Any, timeout_s: float) -> Any:
    import openai

    try:
        # The client's own time-out starts again with every piece of the body that arrives.
        async with asyncio.timeout(timeout_s):
            return await request
    except openai.APIStatusError as error:
        raise _of_status(error) from error
    except (TimeoutError, openai.APITimeoutError) as error:
        if _cause(error) in _NOT_CONNECTED:
            raise TryError("Unreachable", "no connection in time", unreachable=True) from error
        raise TryError("TimedOut", f"no answer within timeout_s ({timeout_s:g} s)") from error
    except openai.APIConnectionError as error:
        why = f"{_cause(error)}: {error.__cause__}".rstrip(": ")
        if _cause(error) in _NOT_CONNECTED:
            raise TryError("Unreachable", why, unreachable=True) from error
        raise TryError("Disconnected", f"the connection was cut ({why})") from error
    except (openai.APIResponseValidationError, ValueError) as error:
        raise TryError("ServerError", f"the reply is not JSON: {shown(error)}") from error


def _of_status(error: Any) -> TryError:
    status = int(error.status_code)
    retry = status in RETRIED or status >= 500
    kind = "ServerError" if status >= 500 else "ServerBusy" if retry else "RequestRefused"
    said = shown(_said(error.body) or error.response.text)
    wait = _retry_after(error.response.headers) if retry else None
    return TryError(kind, f"HTTP {status}: {said}", status=status, retry=retry, retry_after=wait, code=error.code)


def _said(body: Any) -> str:
    """The words of an error body: OpenAI's and vLLM's {"error": {"message"}}, FastAPI's {"detail"}, or as it is."""
    if isinstance(body, Mapping):
        for field in ("error", "message", "detail"):
            if body.get(field):
                return _said(body[field])
    return "" if body is None else str(body)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, which gives seconds or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _timeouts(timeout_s: float, connect_s: float) -> dict[str, Any]:
    import openai

    return {"timeout": openai.Timeout(timeout_s, connect=min(connect_s, timeout_s))}


def _cause(error: BaseException) -> str:
    return type(error.__cause__).__name__ if error.__cause__ is not None else ""
