"""The rules of docs/architecture.md and of the house style that a machine can hold."""

import ast
import dataclasses
import functools
import importlib
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from unicuco_plugin.models.families.known import FAMILIES, USUAL

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "unicuco_plugin"

ROOMS = [
    "errors",
    "frozen",
    "patterns",
    "escaping",
    "files",
    "signed",
    "ownership",
    "progress",
    "threads",
    "quantities",
    "request",
    "request_file",
    "traits",
    "schemes",
    "strategy",
    "payload",
    "models",
    "texts",
    "pruning",
    "levels",
    "spaces",
    "costs",
    "timing",
    "scores",
    "compensation",
    "objectives",
    "evaluation",
    "healing",
    "journal",
    "policy",
    "search",
    "peers",
    "plugins",
    "profile_record",
    "profile",
    "divergences",
    "asked",
    "limits",
    "preferences",
    "views",
    "answering",
    "collection",
    "training",
    "executors",
    "benchmark",
    "serving",
    "modifiers",
    "report",
    "web",
    "cli",
]
# Rooms within a room, in the same way; modules that lie beside them come where their names stand.
INNER = {
    "models": [
        "output_folder",
        "staging",
        "tensors",
        "families",
        "blocks",
        "scratch",
        "placement",
        "checkpoints",
        "parts",
        "sketch",
        "loading",
        "reach",
        "fused_units",
        "caches",
        "exportable",
    ],
    "modifiers": [
        "toolkit",
        "recipes",
        "sources",
        "carriers",
        "sparsity_profile",
        "registration",
        "recipe",
        "export",
    ],
}

# The only rooms that may know these packages.
HOSTS = {
    "transformers": {"models", "texts"},
    "llmcompressor": {"levels", "modifiers", "cli"},
    "peft": {"healing"},
    "fastapi": {"web"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "prometheus_client": {"web"},
}

MOST_LINES = 250

SPACE_NAMES = frozenset({"depth", "sublayer", "sparsity", "structured"})
# Where a space is described, and where it is built; and a table of granularities, one of which is called as a space is.
MAY_NAME_SPACES = {"traits.py", "plugins/builtin.py", "spaces/units.py"}

# Who may name modules and fields of families outside their room: the files that travel with checkpoints and import
# nothing of ours, who fills in the form that vLLM gave Llama's names, and what Transformers and llm-compressor call the
# experts of every family.
MAY_NAME_FAMILIES = {
    "models/parts/modeling_compact.py", "models/parts/modeling_deci.py", "models/parts/configuration_deci.py",
    "models/parts/deci.py", "models/blocks/mixtures.py", "models/blocks/experts.py", "levels/experts.py",
}  # fmt: skip
# Fields that Transformers itself gives all families, and words that mean something else, too.
OF_ALL_FAMILIES = {"layer_types", "per_layer_config", "attention", "mlp", "attn", "dense"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def offenders(check):
    """What a check finds wrong, by the modules in which it finds anything.

    Rules are looped over modules, not parametrised with them: that would be half of all tests there are.
    """
    return {str(module.relative_to(PACKAGE)): wrong for module in MODULES if (wrong := check(module))}


def room_of(module):
    """The room of a source file; None for the package root, which may import anything."""
    first = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if first == "__init__" else first


def inner_of(module):
    """The room within a room, or the module beside such."""
    parts = module.relative_to(PACKAGE).parts
    return parts[1].removesuffix(".py") if len(parts) > 1 else ""


def comes_before(target, own, chain):
    """Whether one may be imported by the other; what is no room within is a name of the package itself."""
    return target not in chain or own not in chain or chain.index(target) <= chain.index(own)


def name_of(module):
    parts = module.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def parse(module):
    return ast.parse(module.read_text(encoding="utf8"), str(module))


def imports(tree, module):
    """Yield (line, dotted name) of every import, wherever it stands, relative ones resolved."""
    package = module.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            # ``from unicuco_plugin import models`` names a room in its list, not in its module.
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def wrong_imports(tree, module, rooms=ROOMS):
    room = room_of(module)
    found = []
    for line, name in imports(tree, module):
        top, _, rest = name.partition(".")
        allowed = room is None or room in HOSTS.get(top, {room})
        if top == "unicuco_plugin" and room is not None:
            target, _, inside = rest.partition(".")
            allowed = target in rooms and rooms.index(target) <= rooms.index(room)
            if target == room and room in INNER:
                allowed = comes_before(inside.partition(".")[0], inner_of(module), INNER[room])
        if not allowed:
            found.append(f"{room}, line {line}: {name}")
    return found


def space_comparisons(tree):
    """Yield the lines that ask for a space by its name: a comparison, ``in``, a pattern, or a table by names.

    A kind of request, a column and an option are called "sparsity" or "structured" too: a comparison that speaks of a
    ``kind`` or a ``request`` is about these, and so is a mapping whose only such key is one of the two.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [left, *others]
                found = any(literals(side) & SPACE_NAMES for side in sides)
                if found and not re.search("kind|request", " ".join(map(ast.unparse, sides))):
                    yield node.lineno
            case ast.MatchValue(value=ast.Constant(value=str(name))) if name in SPACE_NAMES:
                yield node.lineno
            case ast.Dict(keys=keys):
                named = {name for key in keys if key is not None for name in literals(key)} & SPACE_NAMES
                if named & {"depth", "sublayer"} or len(named) > 1:
                    yield node.lineno
            case ast.Subscript(slice=ast.Subscript() | ast.Tuple() | ast.Constant() as inside, value=ast.Name(id=name)):
                if name == "Literal" and len(literals(inside) & SPACE_NAMES) > 1:
                    yield node.lineno
            case ast.Call(func=ast.Attribute(attr="index" | "get" | "startswith"), args=[first, *_]):
                if literals(first) & (SPACE_NAMES - {"sparsity"}):
                    yield node.lineno


def literals(node):
    """Text that a literal holds, by itself or in a tuple, list or set."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return {text for part in parts for text in literals(part)}
        case ast.Call(args=[inner]):  # frozenset({...})
            return literals(inner)
    return set()


def words(value):
    """All names that a description of a family holds; sentences are none."""
    if isinstance(value, str):
        return {value} if value.isidentifier() else set()
    if dataclasses.is_dataclass(value):
        return {word for field in dataclasses.fields(value) for word in words(getattr(value, field.name))}
    return {word for part in value for word in words(part)} if isinstance(value, Mapping | tuple | frozenset) else set()


NAMES_OF_FAMILIES = (FAMILIES.keys() | words(USUAL) | words(tuple(FAMILIES.values()))) - OF_ALL_FAMILIES


def family_names(tree):
    """Yield (line, name) of every literal that is a name of a family, or of a module or field of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in NAMES_OF_FAMILIES:
            yield node.lineno, node.value


def public(body):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def undocumented(body, prefix=""):
    for node in public(body):
        if ast.get_docstring(node) is None and not any(
            "overload" in ast.unparse(d) or ast.unparse(d).endswith(".setter") for d in node.decorator_list
        ):
            yield f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}{node.name}.")


def bound_names(body):
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            case ast.Assign():
                yield from (
                    name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)
                )
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If() | ast.Try() | ast.With():
                for part in ("body", "orelse", "finalbody"):
                    yield from bound_names(getattr(node, part, []))


def exported(tree):
    """The module's ``__all__``, None where it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def imports_of_peers(module):
    return [name for _, name in imports(parse(module), module) if name.startswith("unicuco_plugin.peers")]


def prints(tree):
    return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]


def badly_listed(tree):
    names = exported(tree)
    if names is None:
        return [node.name for node in public(tree.body)]
    return names != sorted(set(names), key=sort_key) and names


def missing_names(module):
    tree = parse(module)
    names, bound = exported(tree) or [], set(bound_names(tree.body))
    if "__getattr__" in bound:  # lazy names exist only once asked for
        loaded = importlib.import_module(name_of(module))
        bound |= {name for name in names if hasattr(loaded, name)}
    return [name for name in names if name not in bound]


def sort_key(name):
    # The order of ruff's RUF022: constants, classes, the rest; numbers by value.
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def test_the_rooms_are_the_chain_of_the_architecture_page():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
    [chain] = [line for line in page.splitlines() if " <- " in line]
    assert chain.strip().split(" <- ") == ROOMS


def test_a_module_stands_in_a_room_of_the_chain():
    assert {room_of(module) for module in MODULES} == {None, *ROOMS}


def test_rooms_within_rooms_are_the_chains_of_the_architecture_page():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
    for room, chain in INNER.items():
        assert f"`{room}/`: {', '.join(f'`{name}`' for name in chain)}." in page
        found = {inner_of(module) for module in MODULES if room_of(module) == room} - {"__init__"}
        assert found == set(chain)


def test_a_module_imports_only_from_earlier_rooms_and_its_own():
    assert offenders(lambda module: wrong_imports(parse(module), module)) == {}


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("request.py", "from unicuco_plugin.strategy import Strategy"),
        ("request.py", "import unicuco_plugin.cli.main"),
        ("request.py", "from unicuco_plugin import search"),
        ("request.py", "from unicuco_plugin import load_profile"),
        ("models/drop.py", "from ..search import trainer"),
        ("models/drop.py", "def late():\n    from unicuco_plugin.spaces.depth import Depth"),
        ("search/gp.py", "import transformers"),
        ("search/gp.py", "from transformers.utils import logging"),
        ("report/card.py", "from llmcompressor import oneshot"),
        ("models/drop.py", "import llmcompressor.modifiers"),
        ("models/blocks/drop.py", "from unicuco_plugin.models.parts.cuts import check_cuts"),
        ("modifiers/recipes/prune.py", "from unicuco_plugin.modifiers.export.card import write_card"),
    ],
)
def test_the_direction_test_sees_a_wrong_import(place, source):
    assert len(wrong_imports(ast.parse(source), PACKAGE / place)) == 1


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("search/gp.py", "from .kernel import Kernel\nfrom ..errors import JournalError\nimport torch"),
        ("models/drop.py", "from transformers import AutoConfig"),
        ("modifiers/prune.py", "import llmcompressor.core\nfrom unicuco_plugin.models import blocks"),
        ("__init__.py", "from unicuco_plugin.cli.main import main\nfrom unicuco_plugin import plugins"),
    ],
)
def test_the_direction_test_lets_a_right_import_pass(place, source):
    assert wrong_imports(ast.parse(source), PACKAGE / place) == []


def test_a_module_asks_a_space_what_it_does_and_not_what_it_is_called():
    assert offenders(lambda module: list(space_comparisons(parse(module)))).keys() <= MAY_NAME_SPACES


@pytest.mark.parametrize(
    "source",
    [
        'if strategy.space == "depth": pass',
        'if "structured" not in spaces: pass',
        'if space in ("depth", "sublayer"): pass',
        'if space in frozenset({"sparsity"}): pass',
        'x = [s for s in strategies if "sparsity" != s.space]',
        'TABLE = {"sparsity": SparsityHandler, "structured": StructuredHandler}',
        'TABLE = {"depth": RemovalHandler}',
        'match space:\n    case "sublayer" | "depth":\n        pass',
        'space: Literal["depth", "sparsity"] = "depth"',
        'handler = handlers.get("structured")',
    ],
)
def test_the_test_of_space_names_sees_a_comparison(source):
    assert list(space_comparisons(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        'if request.kind != "sparsity": pass',
        'row = {"sparsity": found.sparsity, "units": found.units}',
        'share = (fields["request"] or {}).get("sparsity", 0.5)',
        'x = PeerResult("depth", units)',
        'spaces: ClassVar[tuple[str, ...]] = ("sparsity", "depth")',
        'found = fields["structured"]',
    ],
)
def test_the_test_of_space_names_lets_other_words_pass(source):
    assert list(space_comparisons(ast.parse(source))) == []


def test_what_families_call_things_stands_in_their_room():
    found = offenders(lambda module: list(family_names(parse(module))))
    assert {place for place in found if not place.startswith("models/families/")} <= MAY_NAME_FAMILIES


@pytest.mark.parametrize(
    "source",
    ['NAMES = ("o_proj", "mixer")', 'if config.model_type == "gptj": pass', 'vars(text).get("num_dense_layers")'],
)
def test_the_test_of_family_names_sees_one(source):
    assert list(family_names(ast.parse(source)))


def test_training_knows_no_peer():
    rooms = ("training", "search", "policy")
    assert offenders(lambda module: room_of(module) in rooms and imports_of_peers(module)) == {}


def test_only_the_command_line_prints():
    assert offenders(lambda module: room_of(module) != "cli" and prints(parse(module))) == {}


def test_a_module_is_one_noun_and_not_a_drawer():
    assert not {module.stem for module in MODULES} & {"utils", "util", "helpers", "common", "misc"}


def test_a_module_is_short():
    lengths = {module: len(module.read_text(encoding="utf8").splitlines()) for module in MODULES}
    assert offenders(lambda module: lengths[module] > MOST_LINES and lengths[module]) == {}


def test_everything_public_has_a_docstring():
    assert offenders(lambda module: ast.get_docstring(parse(module)) is None) == {}
    assert offenders(lambda module: list(undocumented(parse(module).body))) == {}


def test_a_module_with_public_names_lists_them_sorted_in_all():
    assert offenders(lambda module: badly_listed(parse(module))) == {}


def test_all_names_only_what_exists():
    assert offenders(missing_names) == {}
