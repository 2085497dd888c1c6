"""Project files: every problem at once, with its line and a hint (RELIABILITY 45)."""

from __future__ import annotations

from pathlib import Path

import pytest

from feilun.errors import ProjectError
from feilun.flywheel import OTHERS, Flywheel, find_root
from feilun.pipeline import other_names
from feilun.pipeline import project as projects
from feilun.pipeline.problems import line_numbers
from feilun.pipeline.steps import STEPS
from feilun.templates import shipped

GOOD = (shipped("examples") / "reviews" / "feilun.toml").read_text("utf-8")


def load(folder: Path, text: str, *changes: str) -> projects.Project:
    (folder / "feilun.toml").write_text(text, "utf-8")
    return projects.load(folder, OTHERS, changes, shipped("recipes"))


def problem_of(folder: Path, text: str, *changes: str) -> str:
    with pytest.raises(ProjectError) as caught:
        load(folder, text, *changes)
    return str(caught.value)


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize("name", ["reviews", "own"])
def test_every_project_that_we_ship_is_valid(name):
    assert projects.load(shipped("examples") / name, OTHERS, (), shipped("recipes")).name == name


def test_case_45_all_problems_are_said_at_once_with_their_lines(tmp_path):
    text = GOOD.replace("quantise =", "quantize =").replace("horizon_days = 30", 'horizon_days = "soon"')
    text = text.replace('base = "catalog:all-MiniLM-L6-v2"\n', "").replace(
        '["evaluate.reviews"]', '["evaluate.reviws"]'
    )
    said = problem_of(tmp_path, text)
    assert "4 problems" in said
    assert f"feilun.toml:{line_of(text, 'quantize')}  [compress.reviews]" in said and "did you mean 'quantise'?" in said
    assert f"feilun.toml:{line_of(text, 'horizon_days')}  [relearn.reviews]" in said
    assert "finetune needs 'base'" in said
    assert "nothing makes 'evaluate.reviws'" in said and "did you mean 'evaluate.reviews'?" in said


def test_case_45_an_unknown_name_inside_a_plan_is_found_on_its_own_line(tmp_path):
    text = GOOD.replace('monthly = "49.00 USD"', 'montly = "49.00 USD"')
    said = problem_of(tmp_path, text)
    assert f"feilun.toml:{line_of(text, 'montly')}" in said
    assert "did you mean 'monthly'?" in said


def test_case_45_a_circle_of_steps_is_shown(tmp_path):
    text = GOOD.replace('base = "catalog:all-MiniLM-L6-v2"', 'base = "compress.reviews"')
    assert "in a circle: " in problem_of(tmp_path, text)


def test_case_45_an_input_of_the_wrong_kind_is_refused(tmp_path):
    text = GOOD.replace('base = "catalog:all-MiniLM-L6-v2"', 'base = "prepare.films"')
    assert "'prepare.films' makes a dataset, 'base' needs a model" in problem_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = [", "is not TOML"),
        ("[finetune.a]\n", "the project has no name"),
        ('[project]\nname = "a"\n[fintune.a]\n', "did you mean 'finetune'?"),
        ('[project]\nname = "a"\n[mix.a]\n', "there is no stage 'mix'"),
        ('[project]\nname = "a"\n[finetune]\nbase = "x"\n', "'finetune' needs a name"),
        ('[project]\nname = "a"\nsecret = "x"\n', "project has no setting 'secret'"),
    ],
)
def test_case_45_what_is_not_a_project_is_refused_in_words(tmp_path, text, words):
    assert words in problem_of(tmp_path, text)


def test_a_missing_project_file_says_how_to_begin(tmp_path):
    with pytest.raises(ProjectError, match=r"there is no feilun\.toml here") as caught:
        projects.load(tmp_path, OTHERS)
    assert caught.value.hint == "begin one with: feilun init FOLDER"


def test_the_layers_are_recipe_then_project_then_set(tmp_path):
    recipe = projects.load(shipped("examples") / "reviews", OTHERS, (), shipped("recipes"))
    settings = recipe.sections["finetune.reviews"].settings
    text = GOOD.replace('recipe = "full-small"', 'recipe = "full-small"\nepochs = 7')
    assert load(tmp_path, text).sections["finetune.reviews"].settings == settings.model_copy(update={"epochs": 7})
    changed = load(tmp_path, text, "finetune.reviews.epochs=9").sections["finetune.reviews"].settings
    assert changed == settings.model_copy(update={"epochs": 9})


@pytest.mark.parametrize("change", ["epochs=2", "finetune.reviews.epochs", "finetune.reviews.epoch=2", "a.b.c=1"])
def test_a_change_that_makes_no_sense_is_refused(tmp_path, change):
    assert problem_of(tmp_path, GOOD, change)


def test_an_unknown_recipe_lists_the_known_ones(tmp_path):
    said = problem_of(tmp_path, GOOD.replace('"full-small"', '"ful-small"'))
    assert "did you mean 'full-small'?" in said


def test_line_numbers_are_those_of_an_editor():
    lines = line_numbers('# note\n[a]\nx = 1\n\n[b."c d"]\ny.z = [\n  1,\n]\n')
    assert (lines["a",], lines["a", "x"], lines["b", "c d"], lines["b", "c d", "y", "z"]) == (2, 3, 5, 6)


def test_a_project_is_found_from_a_folder_inside_it(tmp_path):
    load(tmp_path, GOOD)
    inside = tmp_path / "data" / "more"
    inside.mkdir(parents=True)
    assert find_root(inside) == tmp_path


BROKEN = """[project]
name = "a"

[prepare.rows]
source = "nofile.csv"

[finetune.model]
base = "catalog:minilm"
examples = "prepare.zz"
"""


def test_case_45_what_is_missing_outside_is_said_together_with_a_section_that_is_not_there(tmp_path):
    (tmp_path / "feilun.toml").write_text(BROKEN, "utf-8")
    with pytest.raises(ProjectError) as caught:
        Flywheel(tmp_path)
    said = str(caught.value)
    assert (
        "3 problems" in said and "feilun.toml:5  [prepare.rows]" in said and "feilun.toml:8  [finetune.model]" in said
    )
    assert "'nofile.csv'" in said and "'minilm'" in said and "nothing makes 'prepare.zz'" in said


def test_case_45_all_that_is_missing_outside_is_said_before_any_step_runs(tmp_path):
    (tmp_path / "feilun.toml").write_text(BROKEN.replace("zz", "rows"), "utf-8")
    with Flywheel(tmp_path) as wheel:
        planned = wheel.plan()
        assert [s.state for s in planned.steps] == ["blocked", "blocked"]
        with pytest.raises(ProjectError) as caught:
            list(wheel.run(planned))
    assert "2 things" in str(caught.value) and "nofile.csv" in str(caught.value) and "minilm" in str(caught.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("lr", "learning_rate"),
        ("learning-rate", "learning_rate"),
        ("batch_size", "batch_rows"),
        ("num_train_epochs", "epochs"),
        ("warmup_ratio", "warmup"),
        ("lora_r", "rank"),
        ("lora_alpha", "alpha"),
        ("max_seq_length", "context"),
        ("model_name_or_path", "base"),
    ],
)
def test_a_name_of_another_trainer_is_answered_with_ours(tmp_path, theirs, ours):
    text = GOOD.replace('recipe = "full-small"', f'recipe = "full-small"\n{theirs} = 1')
    assert f"did you mean '{ours}'?" in problem_of(tmp_path, text)


def test_every_name_of_another_trainer_stands_for_a_setting_or_an_input_that_there_is():
    known = {n for s in STEPS.values() for n in (*s.settings.model_fields, *(i.name for i in s.inputs))}
    assert set(other_names.OURS.values()) <= known


@pytest.mark.parametrize("line", ["label_smoothing = true", "epochs = true", "learning_rate = false", "seed = true"])
def test_true_is_no_number(tmp_path, line):
    text = GOOD.replace('recipe = "full-small"', f'recipe = "full-small"\n{line}')
    assert "a number is needed, not true or false" in problem_of(tmp_path, text)
    good = GOOD.replace('recipe = "full-small"', 'recipe = "full-small"\nfreeze_embeddings = true')
    assert load(tmp_path, good)
