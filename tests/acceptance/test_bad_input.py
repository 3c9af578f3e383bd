"""What a real worker says to what makes no sense: a sentence, the right exit code, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from crisper.store import migrate
from crisper.store.version import HEAD_REVISION
from tests.acceptance.asking import in_broker
from tests.fleet import Fleet, Worker, wait_for
from tests.schema import set_revision
from tests.servers import PrivatePostgres


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.close()


def refuses(
    fleet: Fleet, *, code: int, sentence: str, inside: Sequence[str] = (), **environment: str
) -> Worker:
    """A worker that ends with that sentence and leaves the broker's message where it is."""
    sent = fleet.send("noop")
    worker = fleet.worker("refused", "-c", "1", wait=False, inside=inside, **environment)
    assert worker.process.wait(30) == code, worker.text()
    assert sentence in worker.text()
    assert "Traceback" not in worker.text()
    assert in_broker(fleet) == 1
    assert fleet.app.AsyncResult(sent.id).state == "PENDING"
    return worker


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"CRISPER_LEESE": "30"}, "Did you mean CRISPER_LEASE?"),
        ({"CRISPER_LEASE": "11"}, "shorter than three heartbeats"),
        ({"CRISPER_REGISTRY_URL": ""}, "crisper_registry_url is empty"),
        ({"CRISPER_REGISTRY_URL": "oracle://u:hush@db/x"}, "use postgresql://"),
        ({"FLEET_CONF": {"crisper_leese": 30}}, "Did you mean crisper_lease?"),
        ({"FLEET_CONF": {"crisper_lease": [30]}}, "crisper_lease = [30]: expected a number (s)"),
        ({"FLEET_CONF": {"crisper_heartbeat_interval": float("nan")}}, "expected a number (s)"),
        (
            {"FLEET_POLICY": {"on_loss": "resend"}},
            "task own_policy: crisper={…} knows loss_budget, on_lost",
        ),
        ({"FLEET_POLICY": {"loss_budget": "many"}}, "task own_policy: crisper={'loss_budget': 'many'}"),
        ({"FLEET_POLICY": ["resend"]}, "task own_policy: crisper=['resend'] is not a dict"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_what_to_set(
    fleet: Fleet, environment: dict[str, object], sentence: str
) -> None:
    plain = {k: v if isinstance(v, str) else json.dumps(v) for k, v in environment.items()}
    worker = refuses(fleet, code=2, sentence=sentence, **plain)
    assert "hush" not in worker.text()


def test_settings_and_policies_that_make_sense_are_taken(fleet: Fleet) -> None:
    environment = {"CRISPER_LEASE": "12", "FLEET_POLICY": '{"on_lost": "hold", "loss_budget": 5}'}
    sent = fleet.send("noop", 7)
    fleet.worker("sane", "-c", "1", **environment)
    assert sent.get(timeout=20) == 7


# -- registries --------------------------------------------------------------


def _no_database(path: Path) -> None:
    path.write_bytes(b"no database, " * 1000)


def _truncated(path: Path) -> None:
    migrate.upgrade(f"sqlite:///{path}")
    path.write_bytes(path.read_bytes()[:5000])


def _a_folder(path: Path) -> None:
    path.mkdir()


def _newer(path: Path) -> None:
    migrate.upgrade(f"sqlite:///{path}")
    set_revision(f"sqlite:///{path}", "9999")


@pytest.mark.parametrize(
    ("spoil", "code", "sentence"),
    [
        (_no_database, 69, "is no SQLite database. Move it away"),
        (_truncated, 69, "it is damaged. Stop the workers"),
        (_a_folder, 69, "it cannot be opened. Look at its folder"),
        (_newer, 1, "Install a newer Crisper here"),
    ],
)
def test_a_file_that_cannot_be_the_registry_is_refused_with_what_to_do(
    fleet: Fleet, spoil: Callable[[Path], None], code: int, sentence: str
) -> None:
    path = fleet.folder / "spoilt.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    refuses(fleet, code=code, sentence=sentence, CRISPER_REGISTRY_URL=f"sqlite:///{path}")
    if before and code == 69:
        assert path.read_bytes() == before


def test_a_registry_that_cannot_be_made_is_refused_with_what_to_do(fleet: Fleet) -> None:
    url = "sqlite:////proc/nowhere/registry.db"
    refuses(fleet, code=69, sentence="Make its folder writable", CRISPER_REGISTRY_URL=url)


@pytest.mark.parametrize(
    ("revision", "sentence"),
    [
        (None, "holds no Crisper registry yet. Create it once, with:"),
        ("0000", f"has schema 0000, this Crisper needs {HEAD_REVISION}. Upgrade it, with:"),
        ("9999", "Install a newer Crisper here"),
    ],
)
def test_a_server_with_another_schema_is_refused_with_what_to_run(
    tmp_path: Path, postgres_database: str, revision: str | None, sentence: str
) -> None:
    fleet = Fleet(tmp_path, registry=postgres_database)
    try:
        if revision is not None:
            migrate.upgrade(postgres_database)
            set_revision(postgres_database, revision)
        worker = refuses(fleet, code=1, sentence=sentence)
        if revision != "9999":
            assert "crisper migrate" in worker.text() or "crisper -A proj migrate" in worker.text()
    finally:
        fleet.close()


def test_a_worker_that_is_to_pause_starts_while_its_registry_is_away_says_so_waits_and_goes_on(
    tmp_path: Path, own_postgres: PrivatePostgres
) -> None:
    migrate.upgrade(own_postgres.url)
    own_postgres.stop()
    fleet = Fleet(tmp_path, registry=own_postgres.url, lease=12, on_registry_down="pause")
    try:
        sent = [fleet.send("late", key, 0.01) for key in range(4)]
        worker = fleet.worker("patient")
        assert "the registry has not answered yet; deliveries wait until it does" in worker.text()
        wait_for("it pauses", lambda: "takes no more messages" in worker.text())
        assert not fleet.starts()
        own_postgres.start()
        assert [one.get(timeout=30) for one in sent] == [0, 1, 2, 3]
        assert fleet.run_twice() == []
        assert [fleet.attempts(one.id) for one in sent] == [[(1, "succeeded")]] * 4
        assert "Traceback" not in worker.text()
    finally:
        fleet.close()


def test_a_read_only_registry_is_refused_with_what_to_do(fleet: Fleet) -> None:
    path = fleet.folder / "registry.db"
    migrate.upgrade(f"sqlite:///{path}")
    path.chmod(0o444)
    command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"]  # root too obeys the mode then
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("setpriv (util-linux) cannot be used here")
    refuses(fleet, code=69, sentence="it is read-only. Make it and its folder writable", inside=command)
