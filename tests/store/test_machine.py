"""Whatever is done, in whatever order: SQLite, PostgreSQL and MariaDB do as the memory store does."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.store.acting import SqlRegistry
from tests.store.looking import hasten
from tests.store.machine import Machine

#: Runs of so many steps. One takes 0.05 s on SQLite, 0.35 s on MariaDB.
EXAMPLES, STEPS = int(os.environ.get("CRISPER_MACHINE_EXAMPLES", 20)), 35


@pytest.mark.timeout(120 + 2 * EXAMPLES)
def test_a_store_does_as_the_model_does(shared: SqlRegistry) -> None:
    hasten(shared.store, shared.url)
    how = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: Machine(shared), settings=how)
