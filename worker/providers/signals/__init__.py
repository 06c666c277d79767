"""The tables of signals: what providers' refusals mean, one table for each dialect, in the order in which rows are compared.

A provider's own rows (`signals:` in the configuration) stand before these; the rows by status at the end match every failure.
"""

from __future__ import annotations

from models.signals import Signal
from worker.providers.signals.by_status import BY_STATUS
from worker.providers.signals.claude import CLAUDE as _CLAUDE
from worker.providers.signals.google import GOOGLE
from worker.providers.signals.openai import OPENAI as _OPENAI
from worker.providers.signals.phrases import PHRASES
from worker.providers.signals.vendors import VENDORS

OPENAI: tuple[Signal, ...] = (*_OPENAI, *GOOGLE, *VENDORS, *PHRASES, *BY_STATUS)
"""Google's rows too: its OpenAI endpoint answers with its own errors."""
CLAUDE: tuple[Signal, ...] = (*_CLAUDE, *VENDORS, *PHRASES, *BY_STATUS)
GEMINI: tuple[Signal, ...] = (*GOOGLE, *VENDORS, *PHRASES, *BY_STATUS)
ANY: tuple[Signal, ...] = (*VENDORS, *PHRASES, *BY_STATUS)
"""The table of plugins: no dialect's own rows."""
