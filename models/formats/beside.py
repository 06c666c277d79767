"""What stands beside a vendor's body in its line: metadata and columns of the user's own, which come back with the result.

It does not look into the body: what is in there is the vendor's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

METADATA = "metadata"
PLACE = frozenset({"provider", "route"})
"""Fields of ours that say where a line goes."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def beside(row: Mapping[str, Any], line: bytes, own: Collection[str]) -> bytes | None:
    """Returns the line's `metadata` as JSON, byte for byte, with every other field that is neither in `own` nor one of ours in it.

    `row` is `line` decoded. Where a field of the metadata has the same name, that one stays. None if there is nothing.
    """
    extra = [name for name in row if name not in own and name not in PLACE and name != METADATA]
    if not extra and row.get(METADATA) is None:
        return None
    return merged_metadata(row, _members.decode(line), extra)


def merged_metadata(row: Mapping[str, Any], members: Mapping[str, msgspec.Raw], extra: Collection[str]) -> bytes | None:
    """Returns the metadata with the fields in `extra` in it, as JSON; None if there is nothing. `members` are the row's, as written."""
    metadata = row.get(METADATA)
    if not extra:
        return None if metadata is None else bytes(members[METADATA])
    found = {name: members[name] for name in extra}
    if type(metadata) is dict:
        found |= _members.decode(members[METADATA])
    elif metadata is not None:
        found[METADATA] = members[METADATA]
    return msgspec.json.encode(found)
