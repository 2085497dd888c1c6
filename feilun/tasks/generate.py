"""A written answer: the next message of a conversation, learned from conversations with good answers.

The loss counts the assistant's pieces alone, the one that ends an answer included. What is trained is compared, piece
by piece, with what serving will read: chat templates that change what they rendered before have spoiled many a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import Tensor

from feilun.errors import DataError
from feilun.models import causal
from feilun.models.causal import Causal
from feilun.models.chat import Chat
from feilun.models.decoding import Writing
from feilun.pipeline.kinds import Model
from feilun.tasks import metrics, metrics_text
from feilun.tasks.metrics import Metric
from feilun.tasks.options import TaskOptions
from feilun.tasks.task import Answered, TokenRows

HEAD = causal.HEAD
COLUMNS = ("messages",)
READS = ("messages",)
PROBES = 8  # conversations whose ids are compared with those of the saved files
BUDGET = 4096  # tokens that are looked at together when they are only measured


@dataclass(frozen=True)
class Examples(TokenRows):
    """N conversations: token ids, and which of them are answers. ``usual``: answer tokens in a row, on average.

    A row's loss is the sum over its answer tokens divided by ``usual``, so that every token weighs the same and the
    mean over rows is the mean over tokens.
    """

    counts: list[list[bool]]
    usual: float


def labels(frame: pl.DataFrame) -> list[str]:
    """None."""
    return []


def examples(frame: pl.DataFrame, network: Causal, options: TaskOptions) -> Examples:
    """Conversations as numbers; the network remembers how answers are to be written.

    Raises:
        DataError: a conversation is longer than the context (unless ``too_long`` skips those), has no answer, or is one
            that the template refuses.
        StepError: training would see other ids than serving.
    """
    settle(network, options)
    conversations = [conversation(row) for row in frame["messages"].to_list()]
    found = teach(network, conversations, last=options.learn_from == "last")
    kept = fitting(found, network.context, frame["id"].to_list(), options)
    rows, counts = [found[i][0] for i in kept], [found[i][1] for i in kept]
    return Examples(rows, counts, sum(map(sum, counts)) / max(1, len(counts)))


def losses(network: Causal, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """Each chosen row's loss, (N,), float32; rows lie side by side without padding and none sees another."""
    surprise, numbers = network.surprise([examples.rows[i] for i in chosen], [examples.counts[i] for i in chosen])
    return surprise.new_zeros(len(chosen)).index_add(0, numbers, surprise) / examples.usual


def load(model: Model) -> Writing:
    """What writes answers."""
    return Writing(causal.load(model.path))


def answer(engine: Writing, frame: pl.DataFrame) -> Answered:
    """The next message of each conversation; where there is no column ``messages``, ``text`` is what a user says.

    ``unread``: how many pieces at its beginning found no position in the model, where there are any.
    """
    prompts = engine.encode(asked(frame))
    said = [{"answer": text} for text in engine.texts(engine.write(prompts))]
    unread = [engine.unread(prompt) for prompt in prompts]
    return Answered([one | ({"unread": cut} if cut else {}) for one, cut in zip(said, unread, strict=True)], engine)


def measure(frame: pl.DataFrame, answered: Answered, labels: Sequence[str]) -> list[Metric]:
    """chrF first, then BLEU, ROUGE-L, F1 of words, exact matches, and the perplexity of the right answers."""
    conversations = [conversation(row) for row in frame["messages"].to_list()]
    truth = [messages[-1]["content"] for messages in conversations]
    found = metrics_text.of(truth, [said["answer"] for said in answered.said])
    sums, numbers = surprises(answered.raw.network, conversations)
    return [*found, metrics_text.perplexity(sums, numbers), left_out(numbers)]


def left_out(numbers: Sequence[int]) -> Metric:
    """The share of right answers that ``surprises`` did not look at, from its counts."""
    return metrics.mean("left_out", [not n for n in numbers], higher_is_better=False)


def settle(network: Causal, options: TaskOptions) -> None:
    """Let the network remember what the options say of writing; it is saved with it."""
    if options.template == "plain":
        network.chat = Chat("", network.chat.specials)
    network.decided |= {
        "answer_tokens": options.answer_tokens,
        "sampling": options.sampling,
        "top_p": options.top_p,
    }


def conversation(row: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Messages as plain dictionaries."""
    return [{"role": m["role"], "content": m["content"]} for m in row]


def asked(frame: pl.DataFrame) -> list[list[dict[str, str]]]:
    """What waits for an answer in each row: the conversation without the assistant's message at its end."""
    if "messages" not in frame.columns:
        return [[{"role": "user", "content": text}] for text in frame["text"].to_list()]
    return [before(conversation(row)) for row in frame["messages"].to_list()]


def before(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The conversation without the answer at its end."""
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def teach(
    network: Causal, conversations: Sequence[Sequence[Mapping[str, str]]], *, last: bool
) -> list[tuple[list[int], list[bool]]]:
    """Ids of each conversation, up to its last answer, and which of them an answer is.

    Raises:
        DataError: a conversation without an answer.
        StepError: training would see other ids than serving.
    """
    turns: list[tuple[int, int]] = []  # conversation, and its message that is an answer
    for number, messages in enumerate(conversations):
        own = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        if not own:
            raise DataError("there is no answer of the assistant", where=f"conversation {number + 1}")
        turns += [(number, at) for at in (own[-1:] if last else own)]
    heads = network.prompts([conversations[number][:at] for number, at in turns])
    if network.chat.template:
        wholes = network.wholes([conversations[number][: at + 1] for number, at in turns])
    else:  # served as its own ids, whatever its first characters would have melted into
        tails = network.wholes([conversations[number][at : at + 1] for number, at in turns])
        wholes = [head + tail for head, tail in zip(heads, tails, strict=True)]
    if last or len(turns) == len(conversations):  # one answer each
        found = [_answered(network, head, whole) for head, whole in zip(heads, wholes, strict=True)]
        _remember(network, conversations, turns, heads)
        return found
    found = _several(network, turns, heads, wholes)
    _remember(network, conversations, turns, heads)
    return found


def fitting(
    found: Sequence[tuple[list[int], Any]], context: int, names: Sequence[str], options: TaskOptions
) -> list[int]:
    """The numbers of the rows that the context holds.

    Raises:
        DataError: one does not fit and ``too_long`` does not say that it may be left out, or none fits.
    """
    kept = [i for i, (row, _) in enumerate(found) if len(row) <= context]
    if len(kept) < len(found) and (options.too_long == "refuse" or not kept):
        longest = max(range(len(found)), key=lambda i: len(found[i][0]))
        raise DataError(
            f"{len(found) - len(kept)} conversations are longer than the context of {context} tokens; the longest has "
            f"{len(found[longest][0])}",
            where=f"row {names[longest]}",
            hint='set context to hold them, or too_long = "skip" to learn without them',
        )
    return kept


@torch.inference_mode()
def surprises(network: Causal, conversations: Sequence[Sequence[Mapping[str, str]]]) -> tuple[list[float], list[int]]:
    """The sum of the surprise of each last answer's tokens, in nats, and how many there are.

    Both are 0 for a conversation of more tokens than the model has positions: nothing is said of a part of it.
    """
    taught = teach(network, conversations, last=True)
    read = [i for i, (row, _) in enumerate(taught) if len(row) <= network.positions]
    sums, numbers = [0.0] * len(taught), [0] * len(taught)
    for batch in batches([len(taught[i][0]) for i in read]):
        chosen = [read[at] for at in batch]
        lost, owner = network.surprise([taught[i][0] for i in chosen], [taught[i][1] for i in chosen])
        added = lost.new_zeros(len(chosen)).index_add(0, owner, lost).tolist()
        for i, value in zip(chosen, added, strict=True):
            sums[i], numbers[i] = value, sum(taught[i][1])
    return sums, numbers


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in order, in batches of at most ``BUDGET`` tokens."""
    found: list[list[int]] = [[]]
    held = 0
    for i, length in enumerate(lengths):
        if found[-1] and held + length > BUDGET:
            found.append([])
            held = 0
        found[-1].append(i)
        held += length
    return [batch for batch in found if batch]


def _answered(network: Causal, head: list[int], whole: list[int]) -> tuple[list[int], list[bool]]:
    """One conversation up to the end of its answer."""
    if whole[: len(head)] != head:
        raise causal.mismatch(network.tokenizer, whole[: len(head)], head, "a conversation to learn from")
    stops = network.stops
    end = next((i for i in range(len(head), len(whole)) if whole[i] in stops), None)
    if end is not None:
        whole = whole[: end + 1]
    elif stops:  # a template that does not say where an answer ends: the model must
        whole = [*whole, _stop(network)]
    return whole, [i >= len(head) for i in range(len(whole))]


def _several(
    network: Causal, turns: Sequence[tuple[int, int]], heads: Sequence[list[int]], wholes: Sequence[list[int]]
) -> list[tuple[list[int], list[bool]]]:
    """Conversations with several answers: the last whole one, in which each answer must stand as it was served."""
    found: dict[int, tuple[list[int], list[bool]]] = {}
    for (number, _), head, whole in zip(turns, heads, wholes, strict=True):
        row, counts = _answered(network, head, whole)
        if number in found:
            earlier, counted = found[number]
            if row[: len(earlier)] != earlier:
                raise causal.mismatch(network.tokenizer, row[: len(earlier)], earlier, "an answer before the last")
            counts[: len(earlier)] = counted
        found[number] = row, counts
    return [found[number] for number in sorted(found)]


def _stop(network: Causal) -> int:
    named = network.tokenizer.token_to_id(network.chat.specials.get("eos_token", ""))
    return min(network.stops) if named is None else int(named)


def _remember(
    network: Causal,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    turns: Sequence[tuple[int, int]],
    heads: Sequence[list[int]],
) -> None:
    asked = network.told([conversations[number][:at] for number, at in turns[:PROBES]])
    network.probes = list(zip(asked, heads, strict=False))
