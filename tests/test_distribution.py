"""What is built of the project: the same bytes each time, with everything in it that the program reads."""

from __future__ import annotations

import email
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from support import distribution

PACKAGES = ("gateway", "schemas", "translators")
NOT_INSTALLED = (".md", ".d.mts")
"""What is in the packages' folders for those who read the code alone."""

EPOCH = 1_700_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not (distribution.ROOT / ".git").exists():
        pytest.skip("no repository")
    return {file.suffix: file for file in distribution.build(tmp_path_factory.mktemp("dist"), EPOCH)}


def tracked() -> set[str]:
    command = ["git", "ls-files", *PACKAGES]
    names = subprocess.run(command, cwd=distribution.ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {name for name in names if not name.endswith(NOT_INSTALLED) and (distribution.ROOT / name).is_file()}


def test_everything_that_the_program_reads_is_in_the_wheel(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (metadata,) = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA")]
        times = {info.date_time for info in wheel.infolist()}
    assert names == tracked()
    assert times == {(2023, 11, 14, 22, 13, 20)}
    fields = email.message_from_string(metadata)
    assert "Private :: Do Not Upload" in (fields.get_all("Classifier") or [])
    assert fields.get_all("Provides-Extra") == ["otel"]


def test_the_sdist_has_no_time_and_nobody_of_its_own(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as archive:
        members = archive.getmembers()
    assert {member.mtime for member in members} == {EPOCH}
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert tracked() <= {member.name.partition("/")[2] for member in members}
    assert not [member.name for member in members if "/tests/" in member.name]


@pytest.mark.skipif(not os.environ.get("GATEWAY_TEST_LONG"), reason="builds once more; make test-long")
def test_the_same_commit_is_the_same_bytes(built: dict[str, Path], tmp_path: Path) -> None:
    again = {file.suffix: file for file in distribution.build(tmp_path, EPOCH)}
    assert {suffix: file.read_bytes() for suffix, file in again.items()} == {
        suffix: file.read_bytes() for suffix, file in built.items()
    }


BEFORE, AFTER = "aiohttp==3.14.3 \\\n    --hash=sha256:aa\nredis==8.0 \\\n", "aiohttp==3.15.0 \\\nrich==15.1 \\\n"


def test_make_lock_says_what_has_changed(tmp_path: Path) -> None:
    for name, text in (("a", BEFORE), ("b", AFTER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.txt").write_text(text)
    command = ["git", "diff", "--no-index", "--no-color", "-U0", "a/run.txt", "b/run.txt"]
    difference = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).stdout
    script = str(distribution.ROOT / ".locks" / "changes.awk")
    printed = subprocess.run(["awk", "-f", script], input=difference, capture_output=True, check=True).stdout.decode()
    assert printed.splitlines() == [
        "run.txt aiohttp: 3.14.3 -> 3.15.0",
        "run.txt redis: removed, it was 8.0",
        "run.txt rich: added, 15.1",
    ]
    nothing = subprocess.run(["awk", "-f", script], input=b"", capture_output=True, check=True).stdout.decode()
    assert nothing == "nothing has changed in .locks\n"
