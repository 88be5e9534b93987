"""What the repository says of itself in several places says the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import unicuco_plugin

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]


def _read(name):
    return (ROOT / name).read_text(encoding="utf8")


def test_the_readmes_test_command_is_the_one_that_ci_runs():
    [shown] = re.findall(r"^\.venv/bin/(python -m pytest .*)$", _read("README.md"), re.MULTILINE)
    [run] = re.findall(r'^step "pytest" (.*)$', _read(".ci/run"), re.MULTILINE)
    assert run.replace(" -p no:cacheprovider", "") == shown


def test_the_hosted_workflow_runs_every_python_that_the_package_names():
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    jobs = yaml.safe_load(_read(".github/workflows/ci.yml"))["jobs"]
    assert set(jobs["checks"]["strategy"]["matrix"]["python"]) == named
    shards = jobs["zoo"]["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1))
    commands = " ".join(step.get("run", "") for step in jobs["zoo"]["steps"])
    assert f"--zoo-shard ${{{{ matrix.shard }}}}/{len(shards)} " in commands


def test_the_version_to_cite_is_that_of_the_package():
    assert yaml.safe_load(_read("CITATION.cff"))["version"] == PROJECT["version"]


def test_what_is_checked_before_a_commit_is_what_ci_checks():
    [repository] = yaml.safe_load(_read(".pre-commit-config.yaml"))["repos"]
    entries = {hook["entry"] for hook in repository["hooks"]}
    steps = re.findall(r'^step "(?:ruff|mypy)[^"]*" (.*)$', _read(".ci/run"), re.MULTILINE)
    plain = {re.sub(r' --check| --cache-dir "[^"]*"', "", step) for step in steps}
    assert entries == plain


def test_the_page_of_public_names_has_all_of_them():
    shown = re.findall(r"^::: unicuco_plugin\.(\w+)$", _read("docs/api.md"), re.MULTILINE)
    assert sorted(shown) == sorted(set(unicuco_plugin.__all__) - {"__version__"})


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_in_the_navigation(page):
    assert page.name in _read("mkdocs.yml")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_pages_at_the_root_lead_to_files(page):
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", _read(page))]
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_docstrings_cite_nothing_that_is_not_in_the_repository():
    pages = {
        match
        for path in (ROOT / "src").rglob("*.py")
        for match in re.findall(r"\b(?:docs/)?[a-z-]+\.md\b", path.read_text(encoding="utf8"))
    }
    assert {page for page in pages if not (ROOT / page).exists() and not (ROOT / "docs" / page).exists()} == set()
