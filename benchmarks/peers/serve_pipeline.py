"""A classifier behind FastAPI as tutorials write it: transformers' pipeline in a plain function.

Told: ``model`` (a folder of MiniLM), ``port``, ``labels``. Answers POST /classify ``{"text": ...}`` until it is ended.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline


class Question(BaseModel):
    """What is asked."""

    text: str


def application(told: dict[str, Any]) -> FastAPI:
    """The endpoint, with a head of random numbers: speed does not depend on what it says."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(told["model"], num_labels=told["labels"])
    with tempfile.TemporaryDirectory() as folder:  # a pipeline is given a folder, as everywhere
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(told["model"]).save_pretrained(folder)
        classify = pipeline("text-classification", model=folder, truncation=True, max_length=128, top_k=None)
    app = FastAPI()

    @app.post("/classify")
    def answer(question: Question) -> Any:
        return classify(question.text)

    return app


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    uvicorn.run(application(given), host="127.0.0.1", port=given["port"], log_level="warning", access_log=False)
