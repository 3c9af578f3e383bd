"""The registry in plain Python: for tests and for simulated time. Nothing outlives the process."""

from crisper.store.memory.persons import Persons
from crisper.store.memory.publishes import Publishes
from crisper.store.memory.records import Records
from crisper.store.memory.retention import Retention
from crisper.store.memory.terms import Terms


class MemoryStore(Records, Persons, Publishes, Terms, Retention):
    """`crisper.store.base.Store` over dictionaries. `clock` gives milliseconds.

    Any number of threads may share one; a lock makes each verb one transaction.
    """
