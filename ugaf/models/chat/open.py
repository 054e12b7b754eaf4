"""The Chat of a server, and what an engine needs that asks one."""

from __future__ import annotations

from ugaf.base.needs import Needs
from ugaf.models.chat.client import client_of
from ugaf.models.chat.types import Chat
from ugaf.models.servers import ServerLink

FRAGMENTS = 4
"""Fragments that a worker works on at once where its stage waits for a server: the next ones keep the server busy while
the last answers of one come in."""

BATCH_ROWS = 64
"""Rows of one fragment that such a stage has in hand at once."""


def open_chat(link: ServerLink) -> Chat:
    """The Chat of a server; one for each process and server, however often it is opened."""
    return client_of(link)


def chat_needs() -> Needs:
    """What every engine that asks a Chat needs (`ugaf.stage.engines.needs` adds the server that its settings name)."""
    return Needs(own_pool=True, cpus=0.25, fragments=FRAGMENTS, batch_rows=BATCH_ROWS, packages={"openai": "chat"})
