"""Answering with OpenVINO on the processor: no torch, loaded in a fraction of a second, the same to the last bit.

engine = load(folder, threads=2)
scores = engine.run(engine.encode(["a fine film"]))  # (1, C), each row sums to 1

Each thread is a stream of its own: two rectangles side by side take less time than one after the other on both threads,
which wait for each other at every layer (docs/decisions/0011-engines.md).
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import properties
from tokenizers import Tokenizer

from feilun.errors import ArtifactError
from feilun.models import tokens
from feilun.models.threads import ENGINE, named

# 8-bit weights meet activations rounded in groups of so many: of 1200 answers 0.5 % change (1 % in groups of 128)
GROUP = 32
_NOTHING = np.empty(0, np.float32)


class Engine:
    """A compiled network with its tokenizer; safe to call from any thread (see ``feilun.models.inference.Engine``)."""

    def __init__(
        self, compiled: Any, tokenizer: Tokenizer, head: str, labels: tuple[str, ...], *, streams: int
    ) -> None:
        self.head = head
        self.labels = labels
        self.context = tokens.context_of(tokenizer)
        self.decided: dict[str, Any] = {}
        self.tokenizer = tokenizer
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special ones included, cut at the context; their number is what usage counts."""
        return tokens.encode(self.tokenizer, texts)

    def run(self, rows: tokens.Rows) -> NDArray[np.float32]:
        """Scores (N, C) for N rows of ids. A row's scores do not depend on the other rows; waits for a free stream."""
        return np.stack(self.outputs(rows)) if rows else np.zeros((0, len(self.labels)), np.float32)

    def outputs(self, rows: tokens.Rows) -> list[NDArray[np.float32]]:
        """Each row's scores: (C,), or (its tokens, C) where the head answers for each token.

        What makes several rectangles goes on every stream that is free, the largest first.
        """
        scores = [_NOTHING] * len(rows)
        rectangles = list(tokens.rectangles([len(row) for row in rows], self.context))
        if len(rectangles) == 1:  # in the calling thread: nobody has to be woken
            request = self._requests.get()
            try:
                tokens.give(scores, rows, rectangles[0][0], request.infer(_inputs(rows, *rectangles[0]), True)[0])
            finally:
                self._requests.put(request)
        else:
            self._side_by_side(deque(sorted(rectangles, key=_size, reverse=True)), rows, scores)
        return scores

    def _side_by_side(
        self, left: deque[tuple[list[int], int]], rows: tokens.Rows, scores: list[NDArray[np.float32]]
    ) -> None:
        running: deque[tuple[Any, list[int], list[Any]]] = deque()
        try:
            while left or running:
                while left and (request := self._request(wait=not running)) is not None:
                    chosen, width = left.popleft()
                    inputs = _inputs(rows, chosen, width)
                    running.append((request, chosen, inputs))  # which must be there until it is done
                    request.start_async(inputs, share_inputs=True)
                request, chosen, _ = running[0]
                request.wait()
                tokens.give(scores, rows, chosen, request.get_output_tensor().data)
                running.popleft()
                self._requests.put(request)
        finally:
            for request, *_ in running:  # something has failed
                with contextlib.suppress(RuntimeError):
                    request.wait()
                self._requests.put(request)

    def _request(self, *, wait: bool) -> Any:
        """A stream; None where none is free and nobody wants to wait."""
        try:
            return self._requests.get(block=wait)
        except queue.Empty:
            return None


def load(folder: Path, *, threads: int = 2, streams: int | None = None) -> Engine:
    """Compile the network in ``folder``: model.xml, model.bin, tokenizer.json, config.json.

    Args:
        folder: a model artefact of the format openvino.
        threads: processor threads for all streams together.
        streams: rectangles that are computed side by side; one for each thread by default.

    Raises:
        ArtifactError: a file is missing, or is not what OpenVINO can read.
    """
    streams = streams or threads
    ready = compiled(read(folder), threads, streams, place=folder)
    engine = Engine(
        ready, tokens.load_tokenizer(folder), tokens.load_head(folder), tokens.load_labels(folder), streams=streams
    )
    engine.decided = tokens.load_decided(folder)
    return engine


def read(folder: Path) -> Any:
    """The network in a folder, not compiled yet.

    Raises:
        ArtifactError: a file is missing, or is not what OpenVINO can read.
    """
    place = folder / "model.xml"
    try:
        return openvino.Core().read_model(place)
    except RuntimeError as error:
        raise _unreadable(place, error) from error


def compiled(model: Any, threads: int, streams: int, *, place: Path | None = None) -> Any:
    """A network that was read, ready to run; its threads are counted as the engine's.

    Raises:
        ArtifactError: OpenVINO cannot run it.
    """
    settings = {
        # with one thread OpenVINO 2026.4 swallows what goes wrong in a run, and gives out what the run before left
        properties.inference_num_threads: max(2, threads),
        properties.num_streams: streams,
        # the default is bfloat16 where the processor has it: other scores on other machines
        properties.hint.inference_precision: openvino.Type.f32,
        properties.hint.dynamic_quantization_group_size: GROUP,
        properties.hint.enable_cpu_pinning: False,  # the gateway's own threads share these cores
    }
    try:
        with named(ENGINE):  # its own threads keep the name
            return openvino.Core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise _unreadable(place, error) from error


def _unreadable(place: Path | None, error: RuntimeError) -> ArtifactError:
    return ArtifactError(
        "OpenVINO cannot load the model", where=str(place) if place else None, hint=str(error).strip().splitlines()[-1]
    )


def _inputs(rows: tokens.Rows, chosen: list[int], width: int) -> list[NDArray[np.int64]]:
    return list(tokens.pad([rows[i] for i in chosen], width))


def _size(rectangle: tuple[list[int], int]) -> int:
    return len(rectangle[0]) * rectangle[1]
