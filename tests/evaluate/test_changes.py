"""Texts made worse, and energy counters read from files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.evaluate import compared, efficiency, outside, robustness


@given(st.text(min_size=1, max_size=60), st.integers(0, 99))
def test_a_change_is_the_same_again_leaves_something_and_keeps_places_where_it_says_so(text: str, seed: int) -> None:
    for name, (change, in_place) in robustness.CHANGES.items():
        made = change(text, random.Random(seed))
        assert made == change(text, random.Random(seed)), name
        assert made.strip() or not text.strip(), name
        if in_place:
            assert len(made) == len(text), name
            assert [c.isspace() for c in made] == [c.isspace() for c in text], name


def test_typos_are_about_as_many_as_they_should_be() -> None:
    text = "the end of the story was rather dull and we left " * 40
    made = robustness.typos(text, random.Random(0), in_place=True)
    wrong = sum(a != b for a, b in zip(text, made, strict=True))
    letters = sum(c.isalpha() for c in text)
    assert 0.02 < wrong / letters < 0.12


def test_chinese_text_loses_characters_where_others_lose_words() -> None:
    text = "这家酒店的服务非常好但是房间太小了早餐也很一般不过位置方便"
    assert robustness.CHANGES["the first half only"][0](text, random.Random(0)) == text[:15]
    fewer = robustness.CHANGES["a tenth of the words missing"][0](text, random.Random(3))
    assert 0.5 * len(text) < len(fewer) < len(text)


def counter(root: Path, name: str, used: int, most: int = 10**9) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{used}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")


def test_energy_is_read_from_packages_alone_and_survives_a_counter_that_begins_anew(tmp_path: Path) -> None:
    assert efficiency.energy(tmp_path) is None
    counter(tmp_path, "intel-rapl:0", 900_000_000)
    counter(tmp_path, "intel-rapl:0:0", 1)  # a part of package 0
    before = efficiency.energy(tmp_path)
    counter(tmp_path, "intel-rapl:0", 50_000_000)
    after = efficiency.energy(tmp_path)
    assert before == {"intel-rapl:0": (900.0, 1000.0)}
    assert efficiency._spent(before, after, rows=500) == pytest.approx(2 * 150)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert efficiency.energy(tmp_path) is None


def test_the_distance_is_that_of_mahalanobis() -> None:
    chance = np.random.default_rng(0)
    mixed = chance.normal(size=(3000, 3)) @ np.diag([1.0, 3.0, 0.2])
    means, inverse = outside.fit(mixed, np.zeros(3000))
    found = outside.distance(means + np.array([[1.0, 0, 0], [0, 3.0, 0], [0, 0, 0.2], [0, 0, 0]]), means, inverse)
    np.testing.assert_allclose(found, [1, 1, 1, 0], atol=0.15)


def test_two_models_that_are_right_of_the_same_rows_do_not_differ() -> None:
    right = np.array([True, False, True])
    assert compared.mcnemar(right, right) == {"only_this": 0, "only_other": 0, "p": 1.0}
