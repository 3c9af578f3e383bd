"""Everything Crisper raises on purpose.

    CrisperError
    ├── SettingsError          a setting is unknown or makes no sense
    ├── RegistryError
    │   ├── RegistryUnreachable    no answer from the database in time
    │   │   ├── RegistryUnusable       its file is no database, or cannot be made, read or written
    │   │   └── RegistryMoved          another server answers, or the same one went back in time
    │   ├── SchemaMissing          the database has no registry yet
    │   ├── SchemaOutdated         the registry is older than this Crisper
    │   └── SchemaTooNew           the registry is newer than this Crisper
    ├── Fenced                 this incarnation was declared lost, or its recorder was replaced
    ├── JournalError           the journal on this host's disk takes no more
    │   ├── JournalFull            its disk or its limit is full
    │   └── JournalUnusable        it cannot be made, read or written
    ├── CheckpointError        a task's checkpoint is no JSON, too large, or not on record in time
    ├── MessageDamaged         a kept message cannot be read back as it was written
    ├── TaskNotFound           no task of that id is on record
    ├── BadQuestion            a filter, a limit or a cursor makes no sense
    └── Refused                the request is understood, and doing it would be unsafe

`TaskLost` is not raised here: it is what callers find in the result backend
when a lost task was not brought back.
"""

from __future__ import annotations


class CrisperError(Exception):
    """The root of every error that Crisper raises on purpose."""

    exit_code = 1


class SettingsError(CrisperError):
    """A setting is unknown or makes no sense; the message says what to set."""

    exit_code = 2


class RegistryError(CrisperError):
    """Something is wrong with the registry's database."""


class RegistryUnreachable(RegistryError):
    """The registry did not answer in time; check `crisper_registry_url` and the server."""

    exit_code = 69


class RegistryUnusable(RegistryUnreachable):
    """The registry's file is no database, or cannot be made, read or written; waiting mends none of it."""


class RegistryMoved(RegistryUnreachable):
    """Another server answers in the registry's place, or the same one went back in time: a failover or a
    restore. What was committed lately may be missing; workers enroll again and write it again."""


class SchemaMissing(RegistryError):
    """The database holds no registry; run `crisper migrate`."""


class SchemaOutdated(RegistryError):
    """The registry was made by an older Crisper; run `crisper migrate`."""


class SchemaTooNew(RegistryError):
    """The registry was made by a newer Crisper; upgrade this installation."""


class Fenced(CrisperError):
    """The incarnation was declared lost or its recorder replaced; it may write nothing more."""


class JournalError(CrisperError):
    """The journal on this host's disk takes no more."""


class JournalFull(JournalError):
    """The journal's disk, or the limit `crisper_journal_max_bytes`, is full."""


class JournalUnusable(JournalError):
    """The journal cannot be made, read or written; check `crisper_journal_dir`."""


class CheckpointError(CrisperError):
    """A task's checkpoint is no JSON, too large, or, where that was asked for, not on record in time."""


class MessageDamaged(CrisperError):
    """A kept message cannot be read back as it was written, so it is not re-sent."""


class TaskNotFound(CrisperError):
    """No task of that id is on record; `crisper tasks` lists those that are."""


class BadQuestion(CrisperError):
    """A filter, a limit or a cursor makes no sense; the message says how to write it."""

    exit_code = 2


class Refused(CrisperError):
    """The request is understood, and carrying it out would be unsafe."""

    exit_code = 75


class TaskLost(Exception):
    """Stored as a task's result when its attempt was lost and policy forbids a re-run.

    The message is kept: `crisper recover TASK_ID` sends it again.
    """
