import hashlib
import json

import pytest

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.signed import SignedDocument

DOCUMENT = SignedDocument("menu", 3, LevelsError, "cook again")
CONTENT = {"dish": "Käsespätzle", "price": 12.5, "of": ["flour", {"eggs": 3}]}


@pytest.fixture
def path(tmp_path):
    (tmp_path / "menu.json").write_bytes(DOCUMENT.dumps(CONTENT))
    return tmp_path / "menu.json"


def test_what_is_read_is_what_was_written(path):
    assert DOCUMENT.read(path) == CONTENT


def test_the_digest_is_sha256_of_the_rest_in_canonical_form(path):
    content = json.loads(path.read_text(encoding="utf8"))
    digest = content.pop("digest")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert digest == hashlib.sha256(canonical.encode()).hexdigest()
    assert content == {"schema": 3, **CONTENT}


def test_other_spacing_and_order_are_the_same_document(path):
    content = json.loads(path.read_text(encoding="utf8"))
    path.write_text(json.dumps(dict(reversed(content.items()))), encoding="utf8")
    assert DOCUMENT.read(path) == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("12.5", "12.6"), "menu.json was edited or damaged: .* does not match; cook again$"),
        (lambda text: text.replace('"schema": 3', '"schema": 4'), "^menu schema must be 3, got 4: another"),
        (lambda text: text[:-4], "menu.json cannot be read: "),
        (lambda _: "[]", "menu.json is damaged: it has no schema$"),
    ],
    ids=["edited", "newer", "truncated", "other JSON"],
)
def test_anything_else_is_refused(path, change, message):
    path.write_text(change(path.read_text(encoding="utf8")), encoding="utf8")
    with pytest.raises(LevelsError, match=message):
        DOCUMENT.read(path)


def test_a_missing_one_is_refused(tmp_path):
    with pytest.raises(LevelsError, match=f"^no menu at {tmp_path}: it has no menu.json$"):
        DOCUMENT.read(tmp_path / "menu.json")


def test_numbers_that_json_has_not_are_not_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        DOCUMENT.dumps({"price": float("nan")})
