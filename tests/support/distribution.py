"""Builds the wheel and the sdist, the same bytes from the same commit: `make dist`.

Setuptools takes SOURCE_DATE_EPOCH for wheels. What it writes into an sdist beside that (times, owners, the order of
files) is taken out here. Without that variable the time is that of the last commit.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, f'build_{sys.argv[1]}')(sys.argv[2])"


def epoch() -> int:
    """Returns the time that all files get, in Unix seconds."""
    value = os.environ.get("SOURCE_DATE_EPOCH")
    if value is None:
        command = ["git", "log", "-1", "--format=%ct"]
        value = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return int(value)


def build(target: Path, seconds: int) -> list[Path]:
    """Builds into this folder, from a copy of the files that git tracks. Returns the sdist and the wheel."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        _copy(source)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(seconds), "PYTHONDONTWRITEBYTECODE": "1"}
        built = Path(folder, "built")
        built.mkdir()
        for kind in ("sdist", "wheel"):
            command = [sys.executable, "-c", _BUILD, kind, str(built)]
            result = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
            if result.returncode or not list(built.glob("*.whl" if kind == "wheel" else "*.tar.gz")):
                raise SystemExit(result.stdout + result.stderr)
        for file in built.glob("*.tar.gz"):
            _normalize(file, seconds)
        return [Path(shutil.move(file, target / file.name)) for file in sorted(built.iterdir(), reverse=True)]


def _copy(source: Path) -> None:
    """Copies what git tracks: what else lies around here belongs to nobody's package."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in names.decode().split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)


def _normalize(file: Path, seconds: int) -> None:
    with tarfile.open(file) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name)
        contents = {one.name: handle.read() if (handle := archive.extractfile(one)) else None for one in members}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for old in members:
            member = tarfile.TarInfo(old.name)
            member.type, member.mtime, member.mode = old.type, seconds, 0o755 if old.isdir() else 0o644
            content = contents[old.name]
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content) if content is not None else None)
    with file.open("wb") as out, gzip.GzipFile("", "wb", 9, out, seconds) as packed:
        packed.write(plain.getvalue())


def main() -> None:
    """Builds into `dist` and prints the files with their hashes."""
    parser = argparse.ArgumentParser(description="Build the wheel and the sdist reproducibly.")
    parser.add_argument("target", nargs="?", default="dist")
    for file in build(Path(parser.parse_args().target), epoch()):
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file}")


if __name__ == "__main__":
    main()
