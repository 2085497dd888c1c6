"""OpenVINO alone, without a server: the most that this network does on this machine.

Told: ``model`` (a folder with model.xml and tokenizer.json), ``texts``, ``seconds``, ``batch``, ``threads``, ``group``.
Answers: ``sorted`` (rows a second of batches sorted by length, on one stream for each thread, tokens made beforehand),
``alone_ms`` (the median time of one text after the other, with its tokenisation, all threads on one stream).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import properties
from tokenizers import Tokenizer


def compiled(told: dict[str, Any], streams: int) -> Any:
    """The network on so many streams."""
    settings = {
        properties.inference_num_threads: told["threads"],
        properties.num_streams: streams,
        properties.hint.inference_precision: openvino.Type.f32,
        properties.hint.dynamic_quantization_group_size: told["group"],
    }
    return openvino.Core().compile_model(Path(told["model"]) / "model.xml", "CPU", settings)


def pad(rows: list[list[int]]) -> list[Any]:
    """Ids and mask, as wide as the longest."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return [ids, mask]


def in_bulk(told: dict[str, Any], rows: list[list[int]]) -> float:
    """Rows a second."""
    rows = sorted(rows, key=len)
    batches = [pad(rows[i : i + told["batch"]]) for i in range(0, len(rows), told["batch"])]
    network = compiled(told, told["threads"])
    queue = openvino.AsyncInferQueue(network, told["threads"])
    for batch in batches[:: max(1, len(batches) // 8)]:  # every shape is met once before the clock runs
        queue.start_async(batch, share_inputs=True)
    queue.wait_all()
    done, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + told["seconds"]:
        for batch in batches:
            queue.start_async(batch, share_inputs=True)
            done += len(batch[0])
        queue.wait_all()
    return done / (time.perf_counter() - begun)


def alone(told: dict[str, Any], tokenizer: Tokenizer) -> float:
    """Milliseconds for one text."""
    request = compiled(told, 1).create_infer_request()
    times = []
    begun = time.perf_counter()
    while time.perf_counter() < begun + told["seconds"]:
        for text in told["texts"][:500]:
            started = time.perf_counter()
            request.infer(pad([tokenizer.encode(text).ids]))
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def main(told: dict[str, Any]) -> dict[str, Any]:
    """Both."""
    tokenizer = Tokenizer.from_file(str(Path(told["model"]) / "tokenizer.json"))
    rows = [encoded.ids for encoded in tokenizer.encode_batch_fast(told["texts"])]
    return {"sorted": in_bulk(told, rows), "alone_ms": alone(told, tokenizer)}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
