"""What people see of a task's arguments."""

from crisper.core.preview.message import DECODE_LIMIT, preview_message
from crisper.core.preview.quick import MAX_DEPTH
from crisper.core.preview.redaction import DEFAULT_REDACT
from crisper.core.preview.value import MIN_LIMIT, preview

__all__ = ["DECODE_LIMIT", "DEFAULT_REDACT", "MAX_DEPTH", "MIN_LIMIT", "preview", "preview_message"]
