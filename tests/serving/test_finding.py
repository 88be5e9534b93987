"""What a rule says is one line, however much strangers put into it."""

from unicuco_plugin.serving.finding import Finding, name_some


def test_a_message_is_clipped_in_its_middle_so_that_what_to_do_stays():
    finding = Finding("a", "x" * 1000, "y" * 1000 + ": do this")
    assert (len(finding.message), len(finding.where)) == (300, 160)
    assert finding.message.endswith("do this")


def test_two_names_are_given_and_the_others_counted():
    assert name_some(["a"]) == "a"
    assert name_some(["a", "b", "c", "d"]) == "a, b and 2 more"
