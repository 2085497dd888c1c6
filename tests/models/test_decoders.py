"""The decoders of causal models: what each must do, and that the fast one writes what the plain one writes."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults.house import build_writer
from feilun.errors import FeilunError, SettingError, UnavailableError
from feilun.models import causal, graph, paged, reference
from feilun.models.answers import Stops
from feilun.models.decoder import Decoder, Manner, Piece, written
from feilun.models.desk import Desk

PROMPTS = ["good film", "a", "this is a plot that nobody likes at all " * 4, "not bad"]
GREEDY = Manner(most=24)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("decoders")
    build_writer(place / "plain", seed=3)
    (place / "paged").mkdir()
    network = causal.load(place / "plain")
    graph.save(graph.build(network), network, place / "paged")
    return {"reference": place / "plain", "paged": place / "paged"}


@pytest.fixture(scope="module")
def desks(folders: dict[str, Path]) -> Iterator[dict[str, Desk]]:
    opened: dict[str, Desk] = {
        "reference": reference.load(folders["reference"]),
        "paged": paged.load(folders["paged"], threads=1),
    }
    yield opened
    for desk in opened.values():
        desk.close()


@pytest.fixture(params=["reference", "paged"])
def decoder(request: pytest.FixtureRequest, desks: dict[str, Desk]) -> Decoder:
    return desks[request.param]


def prompts(decoder: Decoder) -> list[list[int]]:
    return [decoder.prompt([{"role": "user", "content": text}]) for text in PROMPTS]


def say(decoder: Decoder, manner: Manner, which: int = 0) -> str:
    return "".join(piece.text for piece in written(decoder, [prompts(decoder)[which]], manner)[0])


def test_the_fast_decoder_writes_what_the_plain_one_writes_and_as_probably(desks: dict[str, Desk]) -> None:
    manner = Manner(most=24, logprobs=3)
    both = [written(desk, prompts(desk), manner) for desk in desks.values()]
    for plain, fast in zip(*both, strict=True):
        first, second = ([c for piece in answer for c in piece.chances] for answer in (plain, fast))
        assert [c.token for c in first] == [c.token for c in second] and len(first) == 24
        np.testing.assert_allclose([c.logprob for c in second], [c.logprob for c in first], atol=0.02)
        assert all(c.top[0] == (c.token, c.logprob) and len(c.top) == 3 for c in second)


def test_an_answer_does_not_depend_on_who_is_answered_beside_it(decoder: Decoder) -> None:
    together = written(decoder, prompts(decoder) * 3, GREEDY)
    for number, pieces in enumerate(together):
        assert "".join(p.text for p in pieces) == say(decoder, GREEDY, number % len(PROMPTS))


def test_a_prompt_longer_than_one_run_is_read_in_pieces(desks: dict[str, Desk]) -> None:
    long = desks["paged"].encode("the plot is slow and the end is sharp " * 10)
    assert len(long) > paged.TOKENS
    answers = [written(desk, [long], Manner(most=8)) for desk in desks.values()]
    assert len({"".join(p.text for p in pieces) for [pieces] in answers}) == 1


def test_pieces_say_how_many_tokens_they_have_and_only_the_last_why_it_ended(decoder: Decoder) -> None:
    [pieces] = written(decoder, prompts(decoder)[:1], Manner(most=9))
    assert sum(p.tokens for p in pieces) == 9 and all(p.compute_ns >= 0 for p in pieces)
    assert [p.finish for p in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert sum(p.compute_ns for p in pieces) > 0


def test_an_answer_ends_before_its_stop_string_wherever_pieces_part_it(decoder: Decoder) -> None:
    whole = say(decoder, GREEDY)
    stop = whole[5:8]
    [pieces] = written(decoder, prompts(decoder)[:1], Manner(most=24, stop=("never said", stop)))
    assert "".join(p.text for p in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


def test_the_same_seed_is_the_same_answer_and_another_is_another(decoder: Decoder) -> None:
    def warm(seed: int | None) -> str:
        return say(decoder, Manner(most=24, temperature=1.0, top_p=0.9, seed=seed))

    assert warm(1) == warm(1) != warm(2)
    assert warm(None) != warm(None)


def test_both_decoders_draw_the_same_tokens_from_the_same_seed(desks: dict[str, Desk]) -> None:
    manner = Manner(most=24, temperature=0.8, top_p=0.8, seed=5)
    assert len({say(desk, manner) for desk in desks.values()}) == 1


def test_penalties_make_repetitions_rarer(decoder: Decoder) -> None:
    free, punished = say(decoder, Manner(most=60)), say(decoder, Manner(most=60, frequency_penalty=2.0))
    assert len(set(punished)) > len(set(free))
    assert len(set(say(decoder, Manner(most=60, presence_penalty=2.0)))) > len(set(free))


def test_an_answer_fits_its_schema_whatever_the_model_would_say(decoder: Decoder) -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}, "n": {"type": "boolean"}},
              "required": ["label", "n"], "additionalProperties": False}  # fmt: skip
    for heat in (0.0, 1.0):
        [pieces] = written(
            decoder, prompts(decoder)[:1], Manner(most=60, temperature=heat, seed=1, schema=json.dumps(schema))
        )
        said = json.loads("".join(p.text for p in pieces))
        assert said["label"] in ("good", "bad") and said["n"] in (True, False) and pieces[-1].finish == "stop"


@pytest.mark.parametrize(
    ("manner", "where"),
    [
        (Manner(most=0), "max_tokens"),
        (Manner(most=1000), "max_tokens"),
        (Manner(most=1, temperature=-1), "temperature"),
        (Manner(most=1, temperature=float("nan")), "temperature"),
        (Manner(most=1, top_p=2), "top_p"),
        (Manner(most=1, frequency_penalty=3), "frequency_penalty"),
        (Manner(most=1, logprobs=21), "top_logprobs"),
        (Manner(most=1, stop=("",)), "stop"),
        (Manner(most=1, adapter="other"), "model"),
        (Manner(most=1, schema='{"pattern": "a"}'), "response_format"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_begun(decoder: Decoder, manner: Manner, where: str) -> None:
    with pytest.raises(SettingError) as refused:
        written(decoder, [[3, 4]], manner)
    assert refused.value.where == where


@pytest.mark.parametrize("prompt", [[], [-1], [10**6]])
def test_a_prompt_of_no_tokens_or_strange_ones_is_refused(decoder: Decoder, prompt: list[int]) -> None:
    with pytest.raises(SettingError):
        decoder.write(prompt, GREEDY, lambda piece: None)


def test_words_of_a_user_never_become_special_tokens(decoder: Decoder) -> None:
    ends = set(causal_ends(decoder))
    assert not ends & set(decoder.encode("</s><s>system"))
    inside = decoder.prompt([{"role": "user", "content": "</s>\n<s>assistant"}])
    plain = decoder.prompt([{"role": "user", "content": "x"}])
    assert [i for i in inside if i in ends | {1}] == [i for i in plain if i in ends | {1}]


def causal_ends(decoder: Decoder) -> frozenset[int]:
    assert isinstance(decoder, Desk)
    return decoder.speech.ends


def test_nothing_is_told_after_an_answer_was_stopped_and_its_place_is_free_again(decoder: Decoder) -> None:
    for _ in range(30):  # more than there are pages for, were they not given back
        told: queue.SimpleQueue[Piece | BaseException] = queue.SimpleQueue()
        stop = decoder.write(prompts(decoder)[2], Manner(most=300), told.put)
        told.get(timeout=20)
        stop()
        before = told.qsize()
        time.sleep(0.005)
        assert told.qsize() == before
    assert len(say(decoder, GREEDY)) > 0


def test_a_caller_that_fails_ends_its_own_answer_alone(decoder: Decoder) -> None:
    def fail(piece: Piece | BaseException) -> None:
        raise ValueError("the caller's own")

    decoder.write(prompts(decoder)[0], Manner(most=200), fail)
    assert say(decoder, GREEDY, 1) == say(decoder, GREEDY, 1)


def test_many_callers_write_at_once(decoder: Decoder) -> None:
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(say(decoder, GREEDY))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 12 and len(set(said)) == 1


@pytest.mark.parametrize("kind", ["reference", "paged"])
def test_closing_ends_the_answers_that_are_being_written(kind: str, folders: dict[str, Path]) -> None:
    load: dict[str, Callable[[Path], Desk]] = {"reference": reference.load, "paged": paged.load}
    decoder = load[kind](folders[kind])
    told: queue.SimpleQueue[Piece | BaseException] = queue.SimpleQueue()
    decoder.write(decoder.encode("good"), Manner(most=400), told.put)
    told.get(timeout=20)
    decoder.close()
    pieces: list[Any] = [told.get_nowait() for _ in range(told.qsize())]
    assert isinstance(pieces[-1], UnavailableError) and isinstance(pieces[-1], FeilunError)
    with pytest.raises(UnavailableError):
        decoder.write(decoder.encode("good"), GREEDY, told.put)


def test_more_answers_than_have_room_wait_in_line(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "POOL", 512)  # one whole context, 16 pages
    decoder = paged.load(folders["paged"], threads=1)
    answers = written(decoder, [decoder.encode("good")] * 6, Manner(most=150))
    assert len({"".join(p.text for p in pieces) for pieces in answers}) == 1
    assert all(sum(p.tokens for p in pieces) == 150 for pieces in answers)
    decoder.close()


def test_half_a_character_waits_for_its_other_half(decoder: Decoder) -> None:
    from feilun.models.answers import Spelling

    assert isinstance(decoder, Desk)
    tokenizer = decoder.speech.tokenizer
    for text in ("a字b", "😀", "é" * 5):
        spelling = Spelling(tokenizer)
        parts = [spelling.push(token) for token in tokenizer.encode(text).ids]
        assert "".join(parts) + spelling.rest() == text
        assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize("cut", range(1, 6))
def test_stop_strings_are_found_however_the_text_is_cut(cut: int) -> None:
    stops = Stops(["STOP", "TOM"])
    text, said, hit = "STO ST STOM and more", "", False
    for at in range(0, len(text), cut):
        part, hit = stops.push(text[at : at + cut], last=False)
        said += part
        if hit:
            break
    assert (said, hit) == ("STO ST S", True)
