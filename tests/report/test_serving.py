"""A verdict in words and as data."""

import pytest

from unicuco_plugin.report.serving import describe_verdict, verdict_data
from unicuco_plugin.serving.finding import Finding
from unicuco_plugin.serving.kernels import Device
from unicuco_plugin.serving.verdict import Row, Verdict

BOTH = (Device("cuda", 90), Device("cpu"))
ROWS = (Row("W4A16:g64", 210, ("Machete", "")), Row("16 bits", 1, (None, None)))
NOTE = Finding("kernel", "CPU", "vLLM has no kernel for W4A16:g64 there", "warning", "note")


def test_people_read_the_verdict_first_then_findings_then_the_table():
    text = describe_verdict("m", Verdict(True, (NOTE,), ROWS, BOTH, files=True, model=True))
    assert [line.rstrip() for line in text.splitlines()] == [
        "m: vLLM 0.32 loads it",
        "warning: CPU: vLLM has no kernel for W4A16:g64 there [kernel]",
        "",
        "scheme     linears  CUDA 9.0  CPU",
        "---------  -------  --------  ----",
        "W4A16:g64      210  Machete   none",
        "16 bits          1",
    ]


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (Verdict(quantised=False), "m: is not quantised: vLLM 0.32 loads it as any checkpoint of its family"),
        (Verdict(True), "m: vLLM 0.32 loads it, by its configuration alone"),
        (Verdict(True, model=True), "m: vLLM 0.32 loads it, without its weight files"),
        (Verdict(True, (Finding("a", "b", "c"),), files=True, model=True), "m: vLLM 0.32 does not load it"),
        (
            Verdict(True, (Finding("a", "b", "c", outcome="silent"),), files=True, model=True),
            "m: vLLM 0.32 would load another model without a word",
        ),
    ],
)
def test_the_first_line_says_what_becomes_of_it_and_what_was_looked_at(verdict, line):
    assert describe_verdict("m", verdict).splitlines()[0] == line


def test_machines_get_a_schema_number_and_null_where_there_is_no_kernel():
    data = verdict_data("m", Verdict(True, (NOTE,), ROWS, BOTH, files=True, model=True))
    assert (data["schema"], data["server"], data["loads"], data["quantised"]) == (1, "vLLM 0.32", True, True)
    assert data["checked"] == {"configuration": True, "model": True, "files": True}
    assert data["schemes"][0] == {
        "scheme": "W4A16:g64", "linears": 210, "kernels": {"CUDA 9.0": "Machete", "CPU": None},
    }  # fmt: skip
    assert data["findings"] == [
        {
            "rule": "kernel", "where": "CPU", "message": "vLLM has no kernel for W4A16:g64 there",
            "severity": "warning", "outcome": "note",
        }
    ]  # fmt: skip
