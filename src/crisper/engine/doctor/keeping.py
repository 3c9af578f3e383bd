"""What is kept, where, and for how long: the journal, the registry, the retention."""

from __future__ import annotations

from collections.abc import Sequence

from crisper.engine.doctor.facts import Facts, Journal
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import named, size, span, version
from crisper.store.sqlite import OLDEST

#: Filesystems that end with the container, or with the host.
EPHEMERAL = frozenset({"tmpfs", "ramfs", "overlay", "aufs"})
_FOLDER = 'app.conf.crisper_journal_dir = "/var/lib/crisper"'


def _journal(facts: Facts) -> Journal | None:
    wanted = facts.records and facts.settings.on_registry_down == "journal"
    return facts.host.journal if wanted else None


def journal_writable(facts: Facts) -> Sequence[Said] | None:
    journal = _journal(facts)
    if journal is None:
        return None
    if journal.writable:
        return []
    why = (
        f"this user cannot write to {journal.folder} on this host: while the registry is away, a worker here"
        " takes no more messages."
    )
    return [Said("the journal cannot be written", why, f"{_FOLDER}, a folder of the worker's user")]


def journal_room(facts: Facts) -> Sequence[Said] | None:
    journal = _journal(facts)
    if journal is None or journal.free is None or not journal.writable:
        return None
    here = sum(worker.host == facts.host.name for worker in facts.registry.workers) if facts.registry else 0
    need = max(here, 1) * facts.settings.journal_max_bytes
    if journal.free >= need:
        return []
    why = (
        f"{size(journal.free)} are free at {journal.folder}; {max(here, 1)} workers here may write"
        f" {size(facts.settings.journal_max_bytes)} each. The disk is full before the limit stops them."
    )
    most = max(4 * 2**20, journal.free // max(here, 1) // 2)
    return [Said("the journal's disk is too small", why, f"app.conf.crisper_journal_max_bytes = {most}")]


def journal_ephemeral(facts: Facts) -> Sequence[Said] | None:
    journal = _journal(facts)
    if journal is None or not journal.filesystem:
        return None
    if journal.filesystem not in EPHEMERAL:
        return []
    why = (
        f"{journal.folder} is on {journal.filesystem}, which ends with the container or the host: what ran"
        " while the registry was away ends with it."
    )
    return [Said("the journal does not outlive its worker", why, f"{_FOLDER}, on a volume")]


def sqlite_shared(facts: Facts) -> Sequence[Said] | None:
    registry = facts.registry
    if registry is None or registry.database != "sqlite" or not registry.workers:
        return None
    if len({worker.machine for worker in registry.workers}) < 2:
        return []
    hosts = sorted({worker.host for worker in registry.workers})
    why = f"{named(hosts)} write to it. SQLite's locks do not hold across machines."
    fix = 'app.conf.crisper_registry_url = "postgresql://…"'
    return [Said("several machines share a SQLite registry", why, fix)]


def sqlite_version(facts: Facts) -> Sequence[Said] | None:
    if not facts.app.sqlite:
        return None
    if facts.app.sqlite >= OLDEST:
        return []
    why = f"Crisper needs SQLite {version(OLDEST)} or newer: no worker with this Python can open the file."
    fix = 'a Python with a newer SQLite, or app.conf.crisper_registry_url = "postgresql://…"'
    return [Said(f"this Python has SQLite {version(facts.app.sqlite)}", why, fix)]


#: By setting: its default, the title of a hazard, and what is kept.
_RETENTIONS = {
    "retention_days": (30, "nothing is ever forgotten", "every attempt stays"),
    "retention_lost_days": (90, "what was lost is never forgotten", "every task that was ever lost stays"),
    "retention_audit_days": (365, "events are never forgotten", "every event stays"),
}


def retention_for_ever(facts: Facts) -> Sequence[Said]:
    return [
        Said(
            title,
            f"crisper_{setting} is 0: {what} on record, and the registry grows without end.",
            f"app.conf.crisper_{setting} = {days}, or crisper prune from cron",
        )
        for setting, (days, title, what) in _RETENTIONS.items()
        if not getattr(facts.settings, setting)
    ]


def retention_short(facts: Facts) -> Sequence[Said] | None:
    broker, days = facts.broker, facts.settings.retention_days
    if broker is None or not days:
        return None
    again = broker.visibility_timeout or max((q.consumer_timeout for q in broker.queues), default=0.0)
    if not again:
        return None
    if days * 86_400 > again:
        return []
    why = (
        f"what has finished is refused for {span(days * 86_400)}, and the broker may deliver it again after"
        f" {span(again)}: then it runs again."
    )
    fix = f"app.conf.crisper_retention_days = {int(again // 86_400) + 7}"
    return [Said("what has finished may run again", why, fix)]


CHECKS = (
    Check(
        "journal-writable", Level.ERROR,
        "this user cannot write to the journal's folder on this host", "`crisper_journal_dir`",
        journal_writable,
    ),
    Check(
        "journal-room", Level.WARNING,
        "`crisper_journal_max_bytes`, times the workers of this host, is more than its disk has free",
        "a larger disk, or `crisper_journal_max_bytes`", journal_room,
    ),
    Check(
        "journal-ephemeral", Level.WARNING,
        "the journal's folder is on tmpfs, or in a container's own layer", "a volume", journal_ephemeral,
    ),
    Check(
        "sqlite-shared", Level.ERROR,
        "workers of several machines are alive in one SQLite registry", "PostgreSQL or MariaDB",
        sqlite_shared,
    ),
    Check(
        "sqlite-version", Level.ERROR,
        "the registry is a SQLite file, and Python's own SQLite is older than 3.35",
        "a Python with a newer one; PostgreSQL or MariaDB", sqlite_version,
    ),
    Check(
        "retention-for-ever", Level.WARNING,
        "`crisper_retention_days`, `crisper_retention_lost_days` or `crisper_retention_audit_days` is 0",
        "30, 90 and 365 of them, or `crisper prune` from cron", retention_for_ever,
    ),
    Check(
        "retention-short", Level.ERROR,
        "the retention is shorter than `visibility_timeout` or `consumer_timeout`, after which the broker"
        " delivers again",
        "`crisper_retention_days` above it", retention_short,
    ),
)  # fmt: skip
