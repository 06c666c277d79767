"""How answers are packed to be stored: Zstandard frames, each with a checksum of its content.

It knows no tables and reads no input files; `submit.archives` does.
"""

from __future__ import annotations

import zstandard


class Packer:
    """Packs one thread's answers. What it makes tells by itself whether any of it was changed later."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)

    def __call__(self, plain: bytes) -> bytes:
        return self._compressor.compress(plain)


class Unpacker:
    """Unpacks one thread's answers; one for all of them, because making it takes ten times longer than unpacking one."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor()

    def __call__(self, packed: bytes) -> bytes:
        """The content. Raises ValueError where `packed` is damaged, cut or no such thing at all."""
        # piece by piece: a damaged header may promise any size
        reader = self._decompressor.decompressobj()
        try:
            plain = reader.decompress(packed)
        except (zstandard.ZstdError, TypeError) as error:
            raise ValueError(str(error)) from None
        if not reader.eof:
            raise ValueError("cut")
        return plain
