"""Places inside: some are always left for who comes next, and refusals say whose turn it is to do something."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import ExitStack, suppress

import pytest

from feilun.errors import FeilunError, QuotaError, UnavailableError
from feilun.serve.admission import GREED, Admission
from feilun.serve.fairness import Standing


def enter(stack: ExitStack, admission: Admission, standing: Standing, tokens: int = 1) -> None:
    """One request that stays inside as long as the stack; nothing of it stays where it is refused."""
    with ExitStack() as mine:
        mine.enter_context(admission.permit())
        mine.enter_context(admission.room(tokens, standing))
        stack.enter_context(mine.pop_all())


def fill(stack: ExitStack, admission: Admission, standing: Standing, tokens: int = 1) -> tuple[int, FeilunError]:
    """As many requests as are let in, and the refusal of the next."""
    for number in range(10_000):
        try:
            enter(stack, admission, standing, tokens)
        except FeilunError as error:
            return number, error
    raise AssertionError("nothing was refused")


def test_one_customer_cannot_take_all_places() -> None:
    admission = Admission(90, 10**6, 10**6)
    with ExitStack() as stack:
        taken, refusal = fill(stack, admission, Standing("greedy"))
        assert taken == 90 * GREED // (GREED + 1)
        assert isinstance(refusal, UnavailableError)  # alone it has nobody to leave room to: the house is full
        enter(stack, admission, Standing("new"))
    assert (admission.requests, admission.tokens) == (0, 0)


def test_who_has_more_than_its_part_is_told_that_it_is_theirs_429_and_others_503() -> None:
    admission = Admission(90, 10**6, 10**6, lambda: 7.2)
    with ExitStack() as stack:
        enter(stack, admission, Standing("small"))
        _, theirs = fill(stack, admission, Standing("greedy"))
        assert isinstance(theirs, QuotaError)
        assert (theirs.name, theirs.retry_after) == ("too-many-at-once", 8)
        _, ours = fill(stack, admission, Standing("small"))
        assert isinstance(ours, UnavailableError)
        assert (ours.name, ours.retry_after) == ("busy", 8)


def test_tokens_are_shared_as_places_are() -> None:
    admission = Admission(10**6, 9_000, 10**6)
    with ExitStack() as stack:
        taken, _ = fill(stack, admission, Standing("greedy"), 100)
        assert taken == 90 * GREED // (GREED + 1)
        enter(stack, admission, Standing("new"), 500)


def test_a_larger_share_has_more_places_as_they_come_and_go() -> None:
    admission = Admission(500, 10**6, 10**6)
    inside: deque[tuple[str, ExitStack]] = deque()
    for step in range(5_000):
        for standing in (Standing("one", 1), Standing("four", 4)):
            stack = ExitStack()
            with suppress(FeilunError):
                enter(stack, admission, standing)
                inside.append((standing.tenant, stack))
        if step > 500:
            inside.popleft()[1].close()
    count = Counter(tenant for tenant, _ in inside)
    assert count["four"] / count["one"] == pytest.approx(4, rel=0.15)


def test_a_request_larger_than_all_the_room_is_let_in_when_it_is_alone() -> None:
    admission = Admission(10, 100, 100)
    with ExitStack() as stack:
        enter(stack, admission, Standing("large"), 1_000)
        with pytest.raises(UnavailableError):
            enter(stack, admission, Standing("other"))
    assert admission.tokens == 0
