"""The tables of signals: what providers' refusals mean, one table for each dialect, in the order in which rows are compared.

A provider's own rows (`signals:` in the configuration) stand before these; the rows by status at the end match every failure.
"""

from __future__ import annotations

from models.signals import Signal
from worker.providers.signals.by_status import BY_STATUS
from worker.providers.signals.claude import CLAUDE as _CLAUDE
from worker.providers.signals.google import GOOGLE
from worker.providers.signals.more_vendors import MORE_VENDORS
from worker.providers.signals.openai import OPENAI as _OPENAI
from worker.providers.signals.phrases import PHRASES
from worker.providers.signals.vendors import VENDORS

_SHARED = (*VENDORS, *MORE_VENDORS, *PHRASES, *BY_STATUS)
OPENAI: tuple[Signal, ...] = (*_OPENAI, *GOOGLE, *_SHARED)
"""Google's rows too: its OpenAI endpoint answers with its own errors."""
CLAUDE: tuple[Signal, ...] = (*_CLAUDE, *_SHARED)
GEMINI: tuple[Signal, ...] = (*GOOGLE, *_SHARED)
ANY: tuple[Signal, ...] = _SHARED
"""The table of plugins: no dialect's own rows."""
