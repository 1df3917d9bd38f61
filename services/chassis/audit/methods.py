"""RPCs as the audit log sees them: those that change something, and the things that a request names.

Names of RPCs are verb and noun (buf lint). The verbs of those that only read are listed here; with any other verb, a
new one among them, a call is taken for one that changes something.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_READS = (
    *("Answer", "Check", "Compare", "Count", "Describe", "Export", "Get", "List", "Read", "Sample", "Search", "Verify"),
    *("Diversify", "Embed", "Expand", "Highlight", "Plan", "Reason", "Rerank", "Split"),
    # A gateway's own traffic with the rollout service: several a second from each, and no change by anybody.
    *("Acknowledge", "Report", "Store", "Watch"),
    # Feedback, which comes as often as searches do, and is all kept.
    "Record",
)
_READS_ONLY = re.compile(rf"(Stream)?({'|'.join(_READS)})(?![a-z])")
_NAMES = ("collection", "version", "snapshot", "name")
_MOST_IDS = 20


def changes(method: str) -> bool:
    """True if an RPC may change something."""
    return _READS_ONLY.match(method) is None


def object_reader(request: Descriptor) -> Callable[[Message], dict[str, Any]]:
    """Make the function that reads from a request the things that it names: names, counts, and the first ids."""
    fields = request.fields
    names = [field.name for field in fields if field.name in _NAMES and field.type == FieldDescriptor.TYPE_STRING]
    counted = [field.name for field in fields if field.is_repeated]

    def read(message: Message) -> dict[str, Any]:
        found: dict[str, Any] = {name: value for name in names if (value := getattr(message, name))}
        for name in counted:
            found[name] = len(getattr(message, name))
        if "ids" in counted:
            found["first_ids"] = list(getattr(message, "ids")[:_MOST_IDS])  # noqa: B009  of some requests alone
        return found

    return read
