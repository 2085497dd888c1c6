"""Answers written by OpenVINO on the processor, many in one run: continuous batching over a paged cache.

Each run of the network reads one token of every answer that is being written and as much of the prompts that wait as
the budget leaves, so an answer that is begun holds the others up by one short run at most. Keys and values lie in pages
of a pool that all answers share (Kwon et al. 2023, arXiv 2309.06180; prompts in pieces: Agrawal et al. 2024, arXiv
2403.02310). An answer gets all its pages before it begins, so none is ever thrown out half written; one that finds too
few waits in line. Logits come back, so seeds, probabilities, penalties and forms are ours, answer by answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino import properties
from openvino._offline_transformations import paged_attention_transformation

from feilun.errors import ArtifactError
from feilun.models import chat, tokens
from feilun.models.answers import Answer, Wrote
from feilun.models.choosing import ABILITIES, Choosing
from feilun.models.decoder import Manner
from feilun.models.desk import Advance, Desk, Speech, Work, own_work
from feilun.models.threads import ENGINE, named

TOKENS = 256  # that are read or written in one run
GROUP = 64  # activations in a row that are rounded together
POOL = 16_384  # tokens whose keys and values find a place, or one whole context where that is more

Ints = NDArray[np.int32]


@dataclass(eq=False)
class _Writing:
    """What is kept for one answer: its pages, how much of it the cache holds, and what has to be read next."""

    choosing: Choosing
    pages: list[int]
    unread: list[int]
    read: int = 0


@dataclass
class _Run:
    """The inputs of one run, row by row."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    past: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=lambda: [0])
    pages: list[int] = field(default_factory=list)
    page_begins: list[int] = field(default_factory=lambda: [0])
    last: list[int] = field(default_factory=list)  # tokens after which something is to be written
    longest: int = 0

    def add(self, kept: _Writing, count: int, page: int) -> None:
        """Some of what a row has not read yet."""
        self.ids += kept.unread[:count]
        self.positions += range(kept.read, kept.read + count)
        self.past.append(kept.read)
        self.begins.append(len(self.ids))
        self.pages += kept.pages[: -(-(kept.read + count) // page)]
        self.page_begins.append(len(self.pages))
        self.longest = max(self.longest, kept.read + count)
        if count == len(kept.unread):
            self.last.append(len(self.ids) - 1)

    def inputs(self) -> dict[str, Any]:
        """By the names that the transformed network has."""
        ints = {
            "past_lens": self.past,
            "subsequence_begins": self.begins,
            "block_indices": self.pages,
            "block_indices_begins": self.page_begins,
            "max_context_len": self.longest,
            "last": self.last,
        }
        found: dict[str, Any] = {name: np.array(value, np.int32) for name, value in ints.items()}
        return found | {
            "input_ids": np.array(self.ids, np.int64),
            "position_ids": np.array(self.positions, np.int64),
        }


class Paged(Desk):
    """A ``feilun.models.decoder.Decoder``."""

    def __init__(self, compiled: Any, speech: Speech, context: int, work: Work = own_work) -> None:
        super().__init__(speech, context, work)
        self._request: Any = compiled.create_infer_request()
        caches = [port for port in compiled.inputs if "_cache." in port.any_name]
        self._page = int(caches[0].partial_shape[2].get_length())
        count = -(-max(POOL, context) // self._page)
        for port in caches:
            shape = [count, *(d.get_length() for d in list(port.partial_shape)[1:])]
            self._request.set_tensor(port.any_name, openvino.Tensor(port.element_type, openvino.Shape(shape)))
        self._free_pages = list(range(count))
        self._writing: dict[Answer, _Writing] = {}
        self._waiting: deque[Answer] = deque()

    def look(self, row: Sequence[int], counts: Sequence[bool]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """What it makes of a text, while it writes no answer.

        Args:
            counts: which tokens are looked at; the first of a text cannot be.

        Returns:
            (n,) the token that it would have written in the place of each, and (n,) the surprise of that which is
            there, in nats.
        """
        kept = _Writing(Choosing(Manner(most=1)), self._free_pages[: -(-len(row) // self._page)], list(row))
        best, lost = [], []
        while kept.unread:
            run, count = _Run(), min(len(kept.unread), TOKENS)
            run.add(kept, count, self._page)
            after = [i for i in range(kept.read, kept.read + count) if i + 1 < len(row) and counts[i + 1]]
            run.last = [i - kept.read for i in after] or [0]
            self._request.infer(run.inputs(), share_inputs=True)
            logits = self._request.get_output_tensor(0).data.reshape(len(run.last), -1).astype(np.float64)
            if after:
                best.append(logits.argmax(1))
                highest = logits.max(1)
                total = highest + np.log(np.exp(logits - highest[:, None]).sum(1))
                lost.append(total - logits[np.arange(len(after)), [row[i + 1] for i in after]])
            kept.read, kept.unread = kept.read + count, kept.unread[count:]
        return np.concatenate(best), np.concatenate(lost)

    def _begin(self, answer: Answer) -> None:
        self._waiting.append(answer)

    def _step(self, answers: Sequence[Answer]) -> list[Advance]:
        self._seat()
        run = _Run()
        chosen: list[tuple[Answer, _Writing, int]] = []
        # who writes goes first: a long prompt must not hold them up
        for answer, kept in sorted(self._writing.items(), key=lambda pair: len(pair[1].unread) > 1):
            count = 1 if len(kept.unread) == 1 else min(len(kept.unread), TOKENS - len(run.ids))
            if count > 0 and not answer.over:
                run.add(kept, count, self._page)
                chosen.append((answer, kept, count))
        if not chosen:
            return []
        self._request.infer(run.inputs(), share_inputs=True)
        rows: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return self._written(chosen, rows.reshape(len(run.last), -1) if run.last else rows)

    def _written(self, chosen: Sequence[tuple[Answer, _Writing, int]], rows: NDArray[np.float32]) -> list[Advance]:
        advances, at = [], 0
        for answer, kept, count in chosen:
            kept.read += count
            kept.unread = kept.unread[count:]
            wrote: list[Wrote] = []
            if not kept.unread:
                wrote = [kept.choosing.choose(rows[at])]
                kept.unread = [wrote[0].token]
                at += 1
            advances.append(Advance(answer, wrote, count))
        return advances

    def _seat(self) -> None:
        """Give pages to those who wait, in order."""
        while self._waiting:
            answer = self._waiting[0]
            need = -(-(len(answer.prompt) + answer.manner.most) // self._page)
            if need > len(self._free_pages) and not answer.over:
                return
            self._waiting.popleft()
            if not answer.over:
                pages = [self._free_pages.pop() for _ in range(need)]
                self._writing[answer] = _Writing(Choosing(answer.manner, answer.form), pages, answer.prompt)

    def _end(self, answer: Answer) -> None:
        kept = self._writing.pop(answer, None)
        if kept is not None:
            self._free_pages += reversed(kept.pages)
        elif answer in self._waiting:
            self._waiting.remove(answer)

    def _free(self) -> None:
        self._request = None


def load(folder: Path, *, threads: int = 2, work: Work = own_work) -> Paged:
    """The decoder of a folder that ``compress`` wrote: model.xml, model.bin, tokenizer.json, config.json, the template.

    Raises:
        ArtifactError: a file is missing, or is not what OpenVINO can read.
    """
    place = folder / "model.xml"
    settings = {
        properties.inference_num_threads: max(2, threads),  # one thread swallows failures: see ``models/openvino.py``
        properties.num_streams: 1,
        # the default is bfloat16 where the processor has it: other answers on other machines
        properties.hint.inference_precision: openvino.Type.f32,
        properties.hint.kv_cache_precision: openvino.Type.f16,
        # 8-bit weights meet activations rounded in groups of so many; a fifth faster than in groups of 32
        properties.hint.dynamic_quantization_group_size: GROUP,
        properties.hint.enable_cpu_pinning: False,  # the gateway's own threads share these cores
    }
    told = tokens.told(folder)
    try:
        with named(ENGINE):  # its own threads keep the name
            core = openvino.Core()
            model = core.read_model(place)
            paged_attention_transformation(model)
            _choose_rows(model)
            compiled = core.compile_model(model, "CPU", settings)
        ends, positions = frozenset(map(int, told["ends"])), int(told["positions"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            "OpenVINO cannot load the model", where=str(place), hint=str(error).strip().splitlines()[-1]
        ) from error
    tokenizer = tokens.load_tokenizer(folder, positions)
    tokenizer.no_truncation()
    size = int(tokens.configuration(folder)["vocab_size"])
    return Paged(compiled, Speech(tokenizer, chat.load(folder), ends, size, ABILITIES), positions, work)


def _choose_rows(model: Any) -> None:
    """Logits only of the tokens that ``last`` names: a prompt's others are of no use, and their head costs most."""
    head = model.output("logits").get_node().input_value(0).get_node()
    last = ops.parameter([-1], np.int32, name="last")
    last.output(0).set_names({"last"})
    head.input(0).replace_source_output(ops.gather(head.input_value(0), last, ops.constant(np.int32(0))).output(0))
    model.add_parameters([last])
    model.validate_nodes_and_infer_types()
