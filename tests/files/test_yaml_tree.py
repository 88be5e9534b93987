"""YAML that a recipe has no use for, refused by its events, before a tree is built of it."""

import os
from pathlib import Path

import pytest

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.files import yaml_tree
from unicuco_plugin.files.yaml_tree import compose_yaml, line_of, plain_values
from unicuco_plugin.modifiers.recipe import check_recipe

TAG = "must hold plain values only, got the tag 'tag:yaml.org,2002:python"
GOOD = "s_stage:\n  s_modifiers:\n    WandaPruningModifier:\n      sparsity: 0.5\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


def refused(text):
    with pytest.raises(RecipeError) as caught:
        check_recipe(text)
    message = str(caught.value)
    assert len(message) <= 300 and message.isprintable()
    return message


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB + GOOD, "recipe, line 6: aliases must stand for at most 200,000 values altogether; write them out"),
        ("args: &a [*a]\n" + GOOD, "recipe, line 1: *a must not stand inside what it names"),
        ("args: &a {b: {c: *a}}\n" + GOOD, "recipe, line 1: *a must not stand inside what it names"),
        ("args: " + "[" * 60, "recipe, line 1: must be nested at most 40 deep"),
        (GOOD + "---\n" + GOOD, "recipe, line 5: must be one YAML document, got a second one"),
        (GOOD + "args: !!python/object/apply:os.system [a]\n", f"recipe, line 5: {TAG}/object/apply:os.system'; leave"),
        ("a_stage: !!python/name:os.system ''\n", f"recipe, line 1: {TAG}/name:os.system'; leave it out"),
        ("args: !own 1\n", "recipe, line 1: must hold plain values only, got the tag '!own'; leave it out"),
        ("? [a]\n: 1\n", "recipe, line 1: a key must be a word, got a list or a mapping"),
        (GOOD + "args: {{a: 1}: 2}\n", "recipe, line 5: a key must be a word, got a list or a mapping"),
        (GOOD + "args: {day: 2024-02-31}\n", "recipe, line 5: '2024-02-31' without quotes is a date; write"),
        (GOOD + "args: [<<]\n", "recipe, line 5: '<<' without quotes is a merge; write it in quotes"),
        (GOOD + "args: {a: !!int x}\n", "recipe, line 5: 'x' cannot be read: invalid literal for int"),
        (
            GOOD + f"args: {{a: {'1' * 5000}}}\n",
            f"recipe, line 5: a number must have at most 400 digits, got '{'1' * 58}…",
        ),
        (
            GOOD + f"args: {{a: {':'.join('1' * 4000)}}}\n",
            f"recipe, line 5: a number must have at most 400 digits, got '{'1:' * 29}…",
        ),
        (GOOD + f"args: {'x' * 10_001}\n", "recipe, line 5: a value must have at most 10,000 characters, got 10,001"),
        (GOOD + "args: \0\n", "recipe: "),
        (GOOD + "args: \ud800\n", "recipe"),
    ],
    ids=[
        "bomb", "itself", "itself deeper", "deep", "two documents", "call", "name", "own tag", "list as a key",
        "mapping as a key", "date", "merge as a value", "no int", "digits", "base 60", "long", "control", "surrogate",
    ],
)  # fmt: skip
def test_what_is_no_plain_recipe_is_refused_in_one_line(text, message, loader, monkeypatch):
    monkeypatch.setattr(yaml_tree, "_Loader", getattr(yaml_tree.yaml, loader))
    assert refused(text).startswith(message)


def test_a_hundred_thousand_brackets_end_in_a_refusal():
    # Which of the two limits they meet first depends on the parser.
    assert refused("args: " + "[" * 100_000).startswith("recipe, line 1: ")


def test_aliases_and_merges_of_a_reasonable_size_are_read():
    text = "args: {ignore: &i [lm_head], body: &b {sparsity: 0.5}}\n" + GOOD.replace("sparsity: 0.5", "<<: *b")
    [modifier] = check_recipe(text + "      ignore: *i\n").modifiers
    assert (modifier.sparsity, modifier.ignore) == (0.5, ["lm_head"])


@pytest.mark.slow
def test_a_line_for_every_linear_of_256_experts_is_read():
    names = [
        f"model.layers.{block}.mlp.experts.{expert}.{part}_proj"
        for block in range(26)
        for expert in range(256)
        for part in ("gate", "up", "down")
    ]
    [modifier] = check_recipe(GOOD + "      targets:\n" + "".join(f"        - {name}\n" for name in names)).modifiers
    assert modifier.targets == names


def test_more_values_than_any_recipe_has_are_refused(monkeypatch):
    monkeypatch.setattr(yaml_tree, "_MOST_NODES", 100)
    assert refused("args: [" + "x, " * 100 + "]\n" + GOOD) == "recipe, line 1: must hold at most 100 values"


def test_more_bytes_than_any_recipe_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_tree, "_MOST_BYTES", 50)
    (tmp_path / "r.yaml").write_text(GOOD, encoding="utf8")
    assert refused(GOOD) == f"recipe: must have at most 50 characters, got {len(GOOD)}"
    assert refused(tmp_path / "r.yaml").endswith(f"r.yaml cannot be read: must have at most 50 bytes, got {len(GOOD)}")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "NUL", "latin 1"])
def test_what_is_no_regular_file_of_text_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "r.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "latin 1":
        path.write_bytes(GOOD.encode() + "# ä".encode("latin1"))
    given = {"device": Path("/dev/zero"), "NUL": "r\0.yaml"}.get(kind, path)
    assert "cannot be read: " in refused(given)


def test_a_long_file_name_leaves_room_for_the_reason(tmp_path):
    path = tmp_path / ("x" * 200 + ".yaml")
    path.write_text("{}", encoding="utf8")
    assert refused(path) == f"…{str(path)[-99:]}: the recipe has no modifier"


def test_a_value_is_found_again_in_the_text():
    text = GOOD + "      targets:\n      - a\n      - b\n"
    root = compose_yaml("recipe", text)
    way = ("s_stage", "s_modifiers", "WandaPruningModifier")
    lines = [line_of(root, path) for path in ((), way, (*way, "targets", 1), (*way, "ignore"), (*way, "targets", 9))]
    assert lines == [1, 3, 7, 3, 5]
    assert plain_values("recipe", root)["s_stage"]["s_modifiers"]["WandaPruningModifier"]["targets"] == ["a", "b"]
