"""The same OpenVINO network behind LitServe, with its batching.

Told: ``model`` (a folder with model.xml and tokenizer.json), ``port``, ``batch`` (rows), ``wait`` (s), ``threads``,
``group``.
Answers POST /predict ``{"text": ...}`` until it is ended.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import openvino
from openvino import properties
from tokenizers import Tokenizer


class Classifier(litserve.LitAPI):
    """Tokens, one padded batch, scores."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(max_batch_size=told["batch"], batch_timeout=told["wait"])
        self.told = told

    def setup(self, device: str) -> None:
        """Load; the settings are those of ours."""
        folder = Path(self.told["model"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding()
        settings = {
            properties.inference_num_threads: self.told["threads"],
            properties.hint.inference_precision: openvino.Type.f32,
            properties.hint.dynamic_quantization_group_size: self.told["group"],
        }
        self.network = openvino.Core().compile_model(folder / "model.xml", "CPU", settings)

    def decode_request(self, request: dict[str, str], **_: Any) -> str:
        """The text."""
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        """As they come."""
        return inputs

    def predict(self, x: list[str], **_: Any) -> list[list[float]]:
        """Scores of a batch."""
        encoded = self.tokenizer.encode_batch_fast(x)
        ids = np.array([e.ids for e in encoded], np.int64)
        mask = np.array([e.attention_mask for e in encoded], np.int64)
        found: list[list[float]] = self.network([ids, mask])[0].tolist()
        return found

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """One for each request."""
        return output

    def encode_response(self, output: list[float], **_: Any) -> dict[str, list[float]]:
        """JSON."""
        return {"scores": output}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    server = litserve.LitServer(Classifier(given), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=given["port"], generate_client_file=False, log_level="warning")
