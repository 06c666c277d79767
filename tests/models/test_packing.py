"""A packed answer is read as it was, or not at all: whatever was changed, cut or put in its place."""

from __future__ import annotations

import pytest
import zstandard

from models.packing import Packer, Unpacker

ANSWER = b'{"choices": [{"message": {"content": "So it is told, and so it was."}}], "usage": {"total_tokens": 1234}}'


@pytest.mark.parametrize("answer", [b"", b"x", ANSWER, ANSWER * 3000])
def test_an_answer_comes_back_as_it_was(answer: bytes) -> None:
    assert Unpacker()(Packer()(answer)) == answer


def test_an_answer_of_which_a_bit_was_changed_anywhere_is_never_read_as_another() -> None:
    unpack = Unpacker()
    packed = Packer()(ANSWER)
    for at in range(len(packed)):
        for bit in range(8):
            changed = bytearray(packed)
            changed[at] ^= 1 << bit
            try:
                assert unpack(bytes(changed)) == ANSWER  # a bit that the format leaves unused
            except ValueError:
                continue


@pytest.mark.parametrize("length", [0, 1, 4, 12, -5, -1])
def test_what_is_cut_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        Unpacker()(Packer()(ANSWER)[:length])


def test_a_damaged_header_that_promises_any_size_takes_no_memory() -> None:
    promised = b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little")
    with pytest.raises(ValueError):
        Unpacker()(promised + Packer()(ANSWER)[6:])


def test_an_answer_without_a_checksum_is_read_too() -> None:
    assert Unpacker()(zstandard.ZstdCompressor(write_checksum=False).compress(ANSWER)) == ANSWER
