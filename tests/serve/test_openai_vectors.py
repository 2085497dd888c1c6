"""The official client asks for vectors and moderations."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import openai
import pytest

from faults.house import HTTP, LABELS
from tests.serve.talking import SIZE, Talking


def test_texts_become_vectors_of_length_1_whichever_way_they_are_sent(talking: Talking) -> None:
    texts = ["good film", "bad plot", "good film"]
    coded = talking.client.embeddings.create(model="vectors", input=texts)  # the client's own way: base64
    plain = talking.client.embeddings.create(model="vectors", input=texts, encoding_format="float")
    assert [d.index for d in plain.data] == [0, 1, 2]
    for one, other in zip(coded.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
        assert math.hypot(*other.embedding) == pytest.approx(1, abs=1e-5)
    assert plain.data[0].embedding == plain.data[2].embedding != plain.data[1].embedding
    assert (plain.usage.prompt_tokens, plain.usage.total_tokens) == (6, 6)


def test_the_asynchronous_client_asks_for_vectors(talking: Talking) -> None:
    async def ask() -> int:
        async with openai.AsyncOpenAI(api_key=talking.token, base_url=f"{talking.running.base}/v1") as client:
            made = await client.embeddings.create(model="vectors", input="good film", dimensions=SIZE)
            return len(made.data[0].embedding)

    assert asyncio.run(ask()) == SIZE


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"dimensions": SIZE + 1}, "dimensions"),
        ({"input": [1, 2]}, "input.0"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": "reviews"}, "model"),
    ],
)
def test_vectors_that_cannot_be_had_are_refused_by_name(talking: Talking, more: dict[str, Any], param: str) -> None:
    body = {"model": "vectors", "input": "good"} | more
    reply = HTTP.post(f"{talking.running.base}/v1/embeddings", json=body, headers=talking.headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, param)


def test_a_text_is_flagged_by_what_the_release_does_not_call_harmless(talking: Talking) -> None:
    texts = ["good film", "bad plot ending", "dull slow !", "we like it"]
    labels = HTTP.post(
        f"{talking.running.base}/v1/classify", json={"model": "flags", "input": texts}, headers=talking.headers
    ).json()["results"]
    said = talking.client.moderations.create(model="flags", input=texts)
    assert len(said.results) == len(texts)
    for result, known in zip(said.results, labels, strict=True):
        told = result.model_dump()
        assert result.flagged == (known["label"] == "negative")
        scores = {name: told["category_scores"][name] for name in LABELS}
        assert scores == known["scores"]
        assert [name for name in LABELS if told["categories"][name]] == [known["label"]]
    parts: Any = [{"type": "text", "text": text} for text in texts]
    assert [r.flagged for r in talking.client.moderations.create(model="flags", input=parts).results] == [
        r.flagged for r in said.results
    ]


def test_a_moderation_needs_a_model_that_classifies(talking: Talking) -> None:
    for body, param in (({"input": "x"}, "model"), ({"model": "talk", "input": "x"}, "model")):
        reply = HTTP.post(f"{talking.running.base}/v1/moderations", json=body, headers=talking.headers)
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, param)
