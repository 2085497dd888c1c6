"""Conversations and answers that a model shall write: messages, a question and its answer, a better and a worse one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feilun.prepare.cells import Cells
from feilun.prepare.repairing import repair_lines

Message = dict[str, str]
ROLES = ("system", "user", "assistant", "tool")
# what others call them: ShareGPT, Gemini, chat logs
_ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "customer": "user"}
FORM = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'


def messages(cells: Cells, column: str, *, answered: bool) -> list[list[Message] | None]:
    """Each row's conversation; None where the cell is empty.

    Args:
        cells: the rows.
        column: lists of {role, content}, or of {from, value} as ShareGPT writes them.
        answered: whether the last message is the assistant's answer (else it is what shall be answered).

    Raises:
        DataError: a cell is no such list, a role is unknown, a message is empty, or the wrong one speaks last.
    """
    found: list[list[Message] | None] = []
    for row, cell in enumerate(cells.values(column)):
        spoken = None if cell is None else _read(cell, cells, row, column)
        if spoken is not None:
            _check(spoken, cells, row, column, answered=answered)
        found.append(spoken)
    return found


def asked(cells: Cells, text: str, system: str | None) -> list[list[Message] | None]:
    """The conversation that a question begins, behind the instructions of ``system`` if there are any."""
    questions = [repair_lines(cell or "") for cell in cells.texts(text)]
    before = [repair_lines(cell or "") for cell in cells.texts(system)] if system else [""] * cells.rows
    return [
        [*([{"role": "system", "content": said}] if said else []), {"role": "user", "content": question}]
        if question
        else None
        for said, question in zip(before, questions, strict=True)
    ]


def answers(cells: Cells, column: str) -> tuple[list[str | None], list[list[Message] | None]]:
    """Answers, and the conversations before them where the column holds these too."""
    texts: list[str | None] = []
    before: list[list[Message] | None] = []
    for row, cell in enumerate(cells.values(column)):
        if isinstance(cell, list):
            spoken = _read(cell, cells, row, column)
            _check(spoken, cells, row, column, answered=True, alone=True)
            texts.append(spoken[-1]["content"])
            before.append(spoken[:-1] or None)
        else:
            texts.append(repair_lines(str(cell)) or None if cell is not None else None)
            before.append(None)
    return texts, before


def question(spoken: Sequence[Message]) -> str:
    """What is asked last.

    >>> question([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
    'Why?'
    """
    return next(message["content"] for message in reversed(spoken) if message["role"] == "user")


def _read(cell: Any, cells: Cells, row: int, column: str) -> list[Message]:
    if not isinstance(cell, list) or not all(isinstance(one, dict) for one in cell):
        raise cells.wrong("the cell is not a conversation", row, column, f"write {FORM}")
    return [_message(one, number, cells, row, column) for number, one in enumerate(cell, 1)]


def _message(one: dict[str, Any], number: int, cells: Cells, row: int, column: str) -> Message:
    role, content = one.get("role") or one.get("from"), one.get("content") or one.get("value")
    role = _ALIASES.get(str(role), str(role))
    if role not in ROLES:
        hint = f"roles are {', '.join(ROLES)}"
        raise cells.wrong(f"message {number} has the role '{role[:80]}'", row, column, hint)
    if not isinstance(content, str) or not repair_lines(content):
        raise cells.wrong(f"message {number} is empty or is not text", row, column, f"write {FORM}")
    return {"role": role, "content": repair_lines(content)}


def _check(
    spoken: Sequence[Message], cells: Cells, row: int, column: str, *, answered: bool, alone: bool = False
) -> None:
    """``alone``: whether the answer may stand there without a question."""
    wanted = "assistant" if answered else "user"
    if not spoken or spoken[-1]["role"] not in ((wanted,) if answered else (wanted, "tool")):
        what = f"the conversation ends with '{spoken[-1]['role']}'" if spoken else "the conversation is empty"
        whose = (
            "the answer that is learned" if answered else "what is asked; the answers are in 'chosen' and 'rejected'"
        )
        raise cells.wrong(what, row, column, f"the last message is {whose}")
    if (not alone or len(spoken) > 1) and not any(message["role"] == "user" for message in spoken):
        raise cells.wrong("nobody asks anything in the conversation", row, column, f"write {FORM}")
