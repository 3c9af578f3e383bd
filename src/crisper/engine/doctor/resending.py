"""What could not be sent again, because its message is not kept."""

from __future__ import annotations

from collections.abc import Sequence

from crisper.engine.doctor.facts import Facts, NotKept
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import plural, size

#: A limit below it keeps hardly anything: Celery's own part of a message is 80 bytes, the rest is arguments.
LITTLE = 1024
MOST = 512 * 2**20  # that the setting takes
DEFAULT = 16 * 2**20  # the setting's own


def not_resendable(facts: Facts) -> Sequence[Said] | None:
    if facts.registry is None or (not facts.registry.longest.keys() and not facts.registry.not_kept):
        return None
    return [
        Said(
            f"{plural(one.count, 'message')} of the last week could not be sent again",
            f"they are not kept: {one.reason}. One that is lost cannot be brought back.",
            _keep(one, facts.settings.max_message_bytes),
        )
        for one in facts.registry.not_kept
    ]


def _keep(one: NotKept, most: int) -> str:
    if "packet" in one.reason:
        return "max_allowed_packet of the registry's server above twice the largest message"
    if " > " not in one.reason:
        return "publish with headers that JSON can hold"
    return _limit(one.largest) if most >= LITTLE else _set(DEFAULT)


def _limit(largest: int) -> str:
    if largest > MOST:
        return "publish what is large by reference: Crisper keeps 512 MiB at most"
    return _set(min(MOST, 1 << (largest - 1).bit_length()))


def _set(most: int) -> str:
    return f"app.conf.crisper_max_message_bytes = {most}"


def keeps_nothing(facts: Facts) -> Sequence[Said]:
    if facts.settings.max_message_bytes:
        return []
    why = "crisper_max_message_bytes is 0: no message is kept, so nothing that is lost can be sent again."
    return [Said("no message is kept", why, _set(DEFAULT))]


def keeps_little(facts: Facts) -> Sequence[Said] | None:
    most = facts.settings.max_message_bytes
    largest = facts.registry.largest_kept if facts.registry is not None else 0
    if not most:
        return None
    if most < LITTLE:
        why = f"crisper_max_message_bytes is {most}: a message with any arguments is larger, and is not kept."
        return [Said("hardly any message is kept", why, _set(DEFAULT))]
    if largest <= most:
        return []
    why = (
        f"crisper_max_message_bytes is {most}, and a message of {size(largest)} was kept in the last week."
        " The next one like it is not, and cannot be sent again."
    )
    return [Said("messages like those on record will not be kept", why, _limit(largest))]


CHECKS = (
    Check(
        "not-resendable", Level.WARNING,
        "messages that are not kept, because they are too large or have headers that JSON cannot hold",
        "`crisper_max_message_bytes`; on MariaDB `max_allowed_packet`", not_resendable,
    ),
    Check(
        "keeps-nothing", Level.ERROR,
        "`crisper_max_message_bytes` is 0: nothing can be sent again",
        "`crisper_max_message_bytes = 16777216`", keeps_nothing,
    ),
    Check(
        "keeps-little", Level.WARNING,
        "`crisper_max_message_bytes` is below 1 KiB, or below a message that was kept in the last week",
        "`crisper_max_message_bytes`", keeps_little,
    ),
)  # fmt: skip
