"""What a result says of its making."""

import datetime
import platform

from unicuco_plugin.benchmark.provenance import provenance


def test_command_date_and_machine_are_told():
    found = provenance("unicuco benchmark x.yaml")
    assert found["command"] == "unicuco benchmark x.yaml"
    assert abs(datetime.date.fromisoformat(found["date"]) - datetime.date.today()) <= datetime.timedelta(days=1)
    assert found["machine"]["python"] == platform.python_version()
    assert "accelerator" not in found["machine"]
