"""Folders of strangers at a terminal: nothing in them is run, and nobody is asked whether it may."""

import json
import os
import pickle
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from structured_parts import mixed_parts
from tiny import tiny_model, tiny_tokenizer

from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.modeling_compact import FILE

pytestmark = pytest.mark.slow

READER = Path(__file__).resolve().parents[1] / "hostile_reader.py"
# What a folder would do if its code were run: leave a mark.
CODE = """
import os

with open(os.environ["MARKER"], "a") as marker:
    marker.write(__file__ + "\\n")
"""
CLASSES = "class C: pass\n\n\nclass M: pass\n\n\nclass T: pass\n\n\ndef generate(*_, **__): pass\n"
TEMPLATE = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    "{{ cycler.__init__.__globals__.os.system('echo template >> \"$MARKER\"') }}"
)


class Pickled:
    def __reduce__(self):
        return os.system, ('echo pickle >> "$MARKER"',)


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def add_code(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(CODE + CLASSES)


def make(folder, parts=None):
    model = tiny_model("llama", blocks=6) if parts else tiny_model("llama")
    if parts:
        apply_parts(model, parts)
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def map_to_code(folder, **fields):
    add_code(folder, "own.py")
    edit(folder / "config.json", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}, **fields)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", "own.T"]})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    map_to_code(make(root / "unheard-of"), model_type="unheard-of", architectures=["M"])
    edit(root / "unheard-of" / "tokenizer_config.json", tokenizer_class="T")
    map_to_code(make(root / "llama"))
    compact = make(root / "compact", mixed_parts(biases=True))
    assert (compact / FILE).exists()
    add_code(compact, FILE)
    add_code(make(root / "generate"), "custom_generate/generate.py")
    (make(root / "template") / "chat_template.jinja").write_text(TEMPLATE)
    pickled = make(root / "pickle")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Pickled()}))
    return sorted(root.iterdir())


@pytest.fixture(scope="module")
def terminal(folders, tmp_path_factory):
    """What every loader made of every folder, what the terminal showed, and what was run."""
    place = tmp_path_factory.mktemp("terminal")
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read():
        try:
            while chunk := os.read(ours, 4096):
                shown.extend(chunk)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    os.write(ours, b"y\n" * 20)
    marker = place / "marker"
    run = subprocess.run(
        [sys.executable, READER, place / "found.json", *folders],
        stdin=theirs, stdout=theirs, stderr=theirs, timeout=300, check=False,
        env=os.environ | {"MARKER": str(marker), "HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    os.close(theirs)
    reader.join()
    os.close(ours)
    text = shown.decode("utf8", "replace")
    assert run.returncode == 0, text
    return json.loads((place / "found.json").read_text()), text, marker.read_text() if marker.exists() else ""


def test_nothing_is_run(terminal):
    assert terminal[2] == ""


def test_nobody_is_asked(terminal):
    assert "Do you wish to run" not in terminal[1]
    assert "[y/N]" not in terminal[1]


@pytest.mark.parametrize("loader", ["load", "load_model", "load_config", "find_model", "load_tokenizer"])
def test_a_folder_that_needs_its_own_code_is_refused_in_one_line(terminal, folders, loader):
    [folder] = [folder for folder in folders if folder.name == "unheard-of"]
    what = "its tokenizer" if loader == "load_tokenizer" else "its configuration"
    assert terminal[0]["unheard-of"][loader] == (
        f"UnsupportedModelError: {folder}: {what} cannot be loaded: it needs code of its own, which is not run; if you "
        "trust its author, pass --trust-remote-code, or load it by Transformers with trust_remote_code=True"
    )


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("compact", "CompactLlamaForCausalLM"), ("generate", "LlamaForCausalLM"), ("llama", "LlamaForCausalLM")],
)
def test_what_we_have_code_for_is_loaded_by_that_code(terminal, folder, kind):
    found = terminal[0][folder]
    assert (found["load"], found["load_model"]) == (kind, kind)
    assert found["generate"] == "Tensor"
    assert found["load_config"] == "LlamaConfig"
    assert found["find_model"] == "NoneType"


def test_a_chat_template_that_tries_to_break_out_is_stopped(terminal):
    assert terminal[0]["template"]["chat"].startswith("SecurityError: ")


def test_pickled_weights_are_not_read(terminal):
    found = terminal[0]["pickle"]
    assert "no file named model.safetensors" in found["load"]
    assert found["load_model"].startswith("UnsupportedModelError: ")
    assert "\n" not in found["load"] + found["load_model"]
