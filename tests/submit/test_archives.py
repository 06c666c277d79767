"""Compressed inputs: read as what they hold, by their first bytes, in flat memory; a truncated one is said to be so."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from models.config_file import load_config_text
from models.errors import InputError
from models.lanes import Lanes
from submit.batch_options import BatchOptions
from submit.producer import check
from submit.source import Input, opened

LANES = Lanes(load_config_text("providers: [{id: openai, keys: [{id: a, secret: s}]}]"))
LINES = b"".join(json.dumps({"prompt": f"say {n}", "model": "m"}).encode() + b"\n" for n in range(5000))


def peak_mb() -> float:
    """The most memory that this process has had; the system's own count begins with what its parent had, on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024)


def zstd(content: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(content)


def streamed(content: bytes) -> bytes:
    """As command line tools write it: without the content's size, with a checksum."""
    packer = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compressobj()
    return packer.compress(content) + packer.flush()


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("prompts/prompts.jsonl", content)
        archive.writestr("__MACOSX/prompts/._prompts.jsonl", b"notes")
    return out.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd,
    "streamed zstd": streamed,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
SKIPPABLE = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))


def total(source: Input) -> int:
    with opened(source) as given:
        first = check(given, LANES)
        assert check(given, LANES) == first  # it is read twice
        return first.total


@pytest.mark.parametrize("pack", [*PACKERS.values(), zipped], ids=[*PACKERS, "zip"])
def test_an_archive_is_read_as_what_it_holds_whatever_its_name(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "prompts.anything"
    path.write_bytes(pack(LINES))
    assert total(path) == 5000
    assert total(io.BytesIO(pack(LINES))) == 5000


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(LINES[:999], mtime=0) + gzip.compress(LINES[999:], mtime=0),
        zstd(LINES[:999]) + SKIPPABLE + streamed(LINES[999:]),
        SKIPPABLE + zstd(LINES),
        b"".join(bz2.compress(LINES[at : at + 5000]) for at in range(0, len(LINES), 5000)),
        lzma.compress(LINES[:999]) + bytes(8) + lzma.compress(LINES[999:]) + bytes(4),
    ],
    ids=["gzip", "zstd", "a note in front", "bzip2", "xz"],
)
def test_archives_of_several_parts_are_read_to_their_end(content: bytes) -> None:
    assert total(io.BytesIO(content)) == 5000


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_an_archive_that_ends_too_early_is_an_error_wherever_it_ends(pack: Callable[[bytes], bytes]) -> None:
    whole = pack(LINES)
    short = () if pack in (bz2.compress, lzma.compress) else (5, 9)  # these are known by ten bytes, or six
    for end in (*short, 12, len(whole) // 2, len(whole) - 5, len(whole) - 1):
        with pytest.raises(InputError, match="is truncated"):
            total(io.BytesIO(whole[:end]))


@pytest.mark.parametrize(
    "pack", [gzip.compress, streamed, bz2.compress, lzma.compress, zipped], ids=["gzip", "zstd", "bzip2", "xz", "zip"]
)
def test_a_damaged_archive_is_an_error(pack: Callable[[bytes], bytes]) -> None:
    whole = bytearray(pack(LINES))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(InputError, match="damaged|truncated"):
        total(io.BytesIO(bytes(whole)))


def test_a_zip_archive_of_several_files_is_refused_and_one_of_a_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tables.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t.csv", "id,prompt\n1,hello\n")
    with opened(path) as source:
        assert check(source, LANES, BatchOptions(model="m")).total == 1
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("u.csv", "id,prompt\n1,hello\n")
    with pytest.raises(InputError, match="is a zip archive of 2 files: unpack it, and submit one of them"):
        total(path)


def test_a_zip_archive_that_lists_files_without_end_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}{'x' * 60_000}", b"")
    content = bytearray(out.getvalue())
    content[-10:-6] = (5_000_000).to_bytes(4, "little")  # the size of the list
    with pytest.raises(InputError, match="it lists too many files"):
        total(io.BytesIO(content[:30] + bytes(5_000_000) + content[30:]))


def test_an_archive_that_needs_a_larger_window_is_refused_with_the_way_out() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 * 1024 * 1024}]
    with pytest.raises(InputError, match="takes more than 128 MB of memory to unpack"):
        total(io.BytesIO(lzma.compress(LINES, filters=filters)))


def test_an_archive_comes_from_stdin_too() -> None:
    program = (
        "from tests.submit.test_archives import total; from models.errors import InputError\n"
        "try: print(total('-'))\nexcept InputError as error: print(error)"
    )
    packed = gzip.compress(LINES)
    for given, said in ((packed, b"5000\n"), (packed[:-3], b"stdin is truncated")):
        done = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, timeout=60, check=True)
        assert done.stdout.startswith(said)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_memory_stays_flat_however_much_is_in_an_archive(kind: str, tmp_path: Path) -> None:
    """400 MB without a line break, and 200 MB of lines, in archives below 1 MB."""
    line = b'{"prompt": "' + b"a" * 1_000_000 + b'", "model": "m"}\n'
    path = tmp_path / "big"
    program = (
        "import sys; from tests.submit.test_archives import peak_mb, total; from models.errors import InputError\n"
        "try: print(total(sys.argv[1]))\nexcept InputError as error: print(error.lines[0].reason)\n"
        "print(peak_mb())"
    )
    for piece, times, said, most_mb in ((b"a" * 1_000_000, 400, "longer than 64 MB", 250), (line, 200, "200", 250)):
        if kind == "gzip":
            with gzip.open(path, "wb", compresslevel=1) as packed:
                for _ in range(times):
                    packed.write(piece)
        else:
            with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as packed:
                for _ in range(times):
                    packed.write(piece)
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=True
        )
        told, peak = done.stdout.splitlines()
        assert told == said
        assert float(peak) < most_mb
