"""Memory and cores of this process, in control groups that are written here."""

import os
import subprocess
import sys

import pytest

from features.runtime.machine import cores, memory_limit


@pytest.fixture
def root(tmp_path):
    """Write files of /proc and /sys below a folder: each a path and its text."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return write


def test_without_control_groups_the_machine_is_the_limit(tmp_path):
    assert cores(tmp_path) == len(os.sched_getaffinity(0))
    assert memory_limit(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/b/memory.max": 1000, "a/memory.max": 2000}, 1000),
        ({"a/b/memory.max": "max", "a/memory.max": 2000}, 2000),  # of the group above it
        ({"a/b/memory.max": 3000, "a/memory.max": 2000}, 2000),
        ({"memory.max": 500}, 500),  # of a container, which sees its own group as the topmost one
        ({"unified/a/b/memory.max": 700}, 700),  # both versions beside each other
        ({"a/b/memory.max": "max"}, None),
        ({"a/c/memory.max": 10}, None),  # another process's
        ({}, None),
    ],
)
def test_the_least_memory_of_groups_of_version_2_counts(root, files, expected):
    place = root({"proc/self/cgroup": "0::/a/b"} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert memory_limit(place) == (expected or memory_limit(place / "none"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory/a/b/memory.limit_in_bytes": 1000, "memory/a/memory.limit_in_bytes": 900}, 900),
        ({"memory/memory.limit_in_bytes": 800}, 800),
        ({"memory/a/b/memory.limit_in_bytes": 9223372036854771712}, None),  # how version 1 writes that there is none
        ({"cpu/a/b/memory.limit_in_bytes": 1000}, None),
    ],
)
def test_the_least_memory_of_groups_of_version_1_counts(root, files, expected):
    groups = "5:cpu,cpuacct:/\n4:memory:/a/b\n1:name=systemd:/\n0::/"
    place = root({"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert memory_limit(place) == (expected or memory_limit(place / "none"))


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "100000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 1),  # half a core is one
        ("0::/a/b", {"a/b/cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "100 100000"}, 1),
        ("5:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": 70000, "cpu/a/cpu.cfs_period_us": 100000}, 1),
        ("5:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": -1, "cpu/a/cpu.cfs_period_us": 100000}, None),
        ("5:cpuset:/a", {"cpu/a/cpu.cfs_quota_us": 70000, "cpu/a/cpu.cfs_period_us": 100000}, None),
        ("0::/a/b", {"a/b/cpu.max": "99900000 100000"}, None),  # more than the machine has
    ],
)
def test_the_smallest_quota_of_cores_counts(root, groups, files, expected):
    place = root({"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert cores(place) == (expected or cores(place / "none"))


@pytest.mark.skipif(cores() < 2, reason="one core only")
def test_a_part_of_a_core_counts_as_one(root):
    assert cores(root({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "110000 100000"})) == 2


def test_features_are_imported_where_there_is_no_module_resource():
    program = "import sys; sys.modules['resource'] = None; import features.store.reader, features.safefiles.hdf5 as h; print(h.resource)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.stdout == "None\n", child.stderr


def test_no_more_cores_are_used_than_the_process_is_let_have():
    program = "from features.runtime.machine import cores, limit_cores; limit_cores(1); print(cores())"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "1\n"
