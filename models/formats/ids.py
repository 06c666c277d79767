"""The ids of one input file, so that the second line with the same id is found whatever the size of the file.

It does not keep the ids themselves: a table of 64-bit hashes and line numbers, 18 to 36 bytes a line.
"""

from __future__ import annotations

from array import array

_FIRST_SLOTS = 1 << 12
_BITS = (1 << 64) - 1


class SeenIds:
    """Open addressing in two flat arrays: a set of ids would cost about 150 bytes a line and grow with the ids.

    Two different ids are taken for one with a chance of n²/2⁶⁵: 3 in 100 million for a file of a million lines, and then only
    in that run, since Python seeds its string hash anew in each process.
    """

    def __init__(self) -> None:
        self._count = 0
        self._resize(_FIRST_SLOTS)

    def first_line(self, custom_id: str, number: int) -> int | None:
        """Note that line `number` has this id. The number of the earlier line that has it, None if there is none."""
        key = (hash(custom_id) & _BITS) or 1  # 0 marks a free slot
        keys, mask = self._keys, self._mask
        slot = key & mask
        while found := keys[slot]:
            if found == key:
                return self._lines[slot]
            slot = (slot + 1) & mask
        keys[slot] = key
        self._lines[slot] = number
        self._count += 1
        if self._count * 3 > mask * 2:
            self._grow()
        return None

    def _grow(self) -> None:
        keys, lines = self._keys, self._lines
        self._resize(2 * len(keys))
        table, numbers, mask = self._keys, self._lines, self._mask
        for key, number in zip(keys, lines, strict=True):
            if key:
                slot = key & mask
                while table[slot]:
                    slot = (slot + 1) & mask
                table[slot] = key
                numbers[slot] = number

    def _resize(self, slots: int) -> None:
        self._mask = slots - 1
        self._keys = array("Q", bytes(8 * slots))
        self._lines = array("I", bytes(array("I").itemsize * slots))
