import pytest

from unicuco_plugin.models.tensors import memory
from unicuco_plugin.models.tensors.memory import free_memory

SECOND = {"limit": "memory.max", "used": "memory.current", "files": "active_file"}
FIRST = {"limit": "memory.limit_in_bytes", "used": "memory.usage_in_bytes", "files": "total_active_file"}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with 9 kB free, whose control groups are the test's."""
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 20 kB\nMemAvailable: 9 kB\n", encoding="ascii")
    return tmp_path


def limit(folder, names, *, most, used=0, files=0):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("limit", most), ("used", used)):
        (folder / names[name]).write_text(f"{value}\n", encoding="ascii")
    (folder / "memory.stat").write_text(f"anon 5\n{names['files']} {files}\n", encoding="ascii")


def test_without_groups_it_is_what_the_host_has(host):
    assert free_memory() == 9 * 1024


@pytest.mark.parametrize(("tight", "free"), [("user.slice/job", 700), ("user.slice", 700), ("", 700), ("other", 9216)])
@pytest.mark.parametrize(
    "version", [(SECOND, "0::/{}", "."), (FIRST, "4:cpu,memory:/{}\n3:cpuset:/other\n0::/", "memory")]
)
def test_the_least_of_all_groups_that_the_process_is_in_counts(tight, free, version, host):
    names, line, root = version
    (host / "self/cgroup").write_text(line.format("user.slice/job") + "\n", encoding="ascii")
    for group in ("", "user.slice", "user.slice/job", "other"):
        most = "max" if names is SECOND else 2**63 - 4096
        limit(host / "groups" / root / group, names, most=most)
    limit(host / "groups" / root / tight, names, most=1000, used=500, files=200)
    assert free_memory() == free


def test_in_a_container_the_path_of_the_host_leads_to_its_root(host):
    (host / "self/cgroup").write_text("0::/../../docker/17\n", encoding="ascii")
    limit(host / "groups", SECOND, most=1000, used=500)
    assert free_memory() == 500
