"""The store's verbs in SQL that PostgreSQL and SQLite both speak, and MariaDB nearly.

The dialects differ in how a transaction begins, how rows are locked and what
their clock is called: `crisper.store.database` holds those. Statements are plain text and not
built by a library, because the recorder that runs them must stay small.
"""

from crisper.store.sql.incarnations import Incarnations
from crisper.store.sql.persons import Persons
from crisper.store.sql.publishes import Publishes
from crisper.store.sql.records import Records
from crisper.store.sql.retention import Retention
from crisper.store.sql.terms import Terms


class SqlStore(Incarnations, Records, Persons, Publishes, Terms, Retention):
    """`crisper.store.base.Store` over one `Database`."""
