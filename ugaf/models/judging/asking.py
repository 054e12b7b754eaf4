"""Several questions about each item, all items of a batch in one call of a Chat.

A judge asks two or more questions about a pair, and its verdict needs all the answers. Here the questions of all pairs
go to the server as one stream, made as there is room for them, and come back sorted by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from ugaf.base.failure import Failure, attempt
from ugaf.models.chat import Answer, Chat, ChatRequest

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Question:
    """A request, and its name in messages ("global pass")."""

    label: str
    request: ChatRequest


def ask_all(
    chat: Chat, items: Iterable[T], questions: Callable[[T], Iterable[Question]]
) -> list[dict[str, Answer] | Failure]:
    """For each item the answers by label, in the order of its questions; or a Failure that names those unanswered."""
    groups: list[list[str] | Failure] = []

    def requests() -> Iterator[ChatRequest]:
        for item in items:
            asked = attempt(lambda one: list(questions(one)), item)
            del item
            if isinstance(asked, Failure):
                groups.append(asked)
                continue
            groups.append([question.label for question in asked])
            while asked:
                yield asked.pop(0).request

    outcomes = chat.ask(requests())
    count = sum(len(group) for group in groups if not isinstance(group, Failure))
    if len(outcomes) != count:
        raise RuntimeError(f"{chat.model}: {len(outcomes)} outcomes for {count} requests")
    following = iter(outcomes)
    return [
        group if isinstance(group, Failure) else _together(group, list(islice(following, len(group))))
        for group in groups
    ]


def _together(labels: list[str], outcomes: list[Answer | Failure]) -> dict[str, Answer] | Failure:
    named = list(zip(labels, outcomes, strict=True))
    failed = [(label, outcome) for label, outcome in named if isinstance(outcome, Failure)]
    if failed:
        return Failure(failed[0][1].type, "; ".join(f"{label}: {failure.message}" for label, failure in failed))
    return {label: outcome for label, outcome in named if isinstance(outcome, Answer)}


def thinking_switch(thinking: bool | None) -> dict[str, Any]:
    """Fields of a request that tell a hybrid model's chat template to think or not; none where it is left alone."""
    return {} if thinking is None else {"chat_template_kwargs": {"enable_thinking": thinking}}


def tokens(answers: Mapping[str, Answer]) -> tuple[int, int]:
    """Tokens in and out of all answers together."""
    return sum(a.tokens_in for a in answers.values()), sum(a.tokens_out for a in answers.values())


def thinking(answers: Mapping[str, Answer]) -> str | None:
    """What the model thought before its answers, each under its label; None if nothing."""
    thoughts = [f"{label}: {answer.thinking}" for label, answer in answers.items() if answer.thinking]
    return "\n\n".join(thoughts) or None
