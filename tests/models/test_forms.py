from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from feilun.errors import SettingError
from feilun.models import forms
from feilun.models.choosing import Choosing
from feilun.models.decoder import Manner

FILM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 2, "maxLength": 6},
        "year": {"type": "integer"},
        "genre": {"enum": ["drama", "comedy", None]},
        "cast": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1, "maxItems": 2},
        "score": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "required": ["title", "cast"],
    "additionalProperties": False,
    "$defs": {
        "person": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 3}, "friend": {"$ref": "#/$defs/person"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}


def words() -> forms.Words:
    letters = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [("{", '"'), ('"', ":"), ("t", "r"), ("Ġ", '"')]
    vocabulary = {w: i for i, w in enumerate([*letters, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    return forms.Words(tokenizer, frozenset([1]), tokenizer.get_vocab_size())


WORDS = words()


def wrote(schema: Any, seed: int, temperature: float, most: int = 400) -> tuple[str, bool]:
    """An answer of a model that has no idea: random logits, new at each token; and whether it came to its end."""
    form = WORDS.form(forms.read(json.dumps(schema)))
    choosing = Choosing(Manner(most=most, temperature=temperature, seed=seed), form)
    random = np.random.default_rng(seed)
    said = b""
    for _ in range(most):
        token = choosing.choose(random.normal(0, 3, len(WORDS.bytes)).astype(np.float32)).token
        if token == 1:
            return said.decode(), True
        said += WORDS.bytes[token] or b""
        if form.over:
            return said.decode(), True
    return said.decode("utf-8", "replace"), False


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_whatever_a_model_wants_to_say_fits_the_schema(temperature: float) -> None:
    ended = 0
    for seed in range(40):
        said, whole = wrote(FILM, seed, temperature)
        if whole:
            ended += 1
            jsonschema.validate(json.loads(said), FILM)
    assert ended >= 30


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "boolean"}, ["true", "false"], ["True", "1", "tru"]),
        ({"type": "integer"}, ["0", "-12", "123456789012345"], ["01", "1.5", "-", "1234567890123456"]),
        ({"type": "number"}, ["0.5", "-1e9", "12"], [".5", "1.", "+1", "1e999"]),
        ({"type": "string"}, ['""', '"\\n\\u0041"', '"字😀"'], ['"', '"\n"', "'a'", '"\\x"']),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"字a"', '"abc"'], ['"a"', '"abcd"']),
        ({"const": {"a": [1, 2]}}, ['{"a": [1, 2]}'], ["{}"]),
        ({"type": ["string", "null"]}, ['"x"', "null"], ["0"]),
        ({"type": "object"}, ["{}", '{"a": {"b": []}}'], ["[]", "{a: 1}"]),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a":1}']),
        ({"type": "object", "additionalProperties": {"type": "null"}}, ['{"a":null, "b":null}'], ['{"a":1}']),
        ({"type": "array", "items": {"type": "null"}, "maxItems": 2}, ["[]", "[null,null]"], ["[null,null,null]"]),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        ({}, ["[1, true, null, {}]", '"a"'], ["[1,]", "nul"]),
    ],
    ids=lambda case: json.dumps(case)[:40] if isinstance(case, dict) else "",
)  # fmt: skip
def test_exactly_the_texts_of_fitting_values_are_let_through(
    schema: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    def passes(text: str) -> bool:
        form = WORDS.form(forms.read(json.dumps(schema)))
        for byte in text.encode():
            token = WORDS.bytes.index(bytes([byte]))
            if not form.fits(token):
                return False
            assert form.possible()[token]
            form.add(token)
        return form.fits(1)

    assert all(passes(text) for text in right)
    assert not any(passes(text) for text in wrong)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a"},
        {"type": "integer", "minimum": 3},
        {"oneOf": [{"type": "null"}, {"type": "string"}]},
        {"type": "object", "properties": {}, "required": ["a"]},
        {"not": {"type": "null"}},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"$ref": "#/$defs/b"}}},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"enum": []},
        False,
    ],
    ids=str,
)
def test_what_cannot_be_promised_is_refused_by_name(schema: Any) -> None:
    with pytest.raises(SettingError) as refused:
        forms.read(json.dumps(schema))
    assert refused.value.where == "response_format"


def test_a_token_of_several_letters_fits_only_as_a_whole() -> None:
    form = WORDS.form(forms.read('{"enum": [true]}'))
    names = [(word or b"").decode("latin-1") for word in WORDS.bytes]
    assert form.fits(names.index("tr")) and form.fits(names.index("t")) and not form.fits(names.index("r"))
    form.add(names.index("tr"))
    assert form.fits(names.index("u")) and not form.over
