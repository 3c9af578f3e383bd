"""Each check: what it objects to, and what is a hair better and passes."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery
from kombu import Queue

from crisper.engine.doctor.catalogue import CHECKS, SOURCES, examine
from crisper.engine.doctor.facts import Address, Connections, Facts, NotKept, Pause, ToBe, Trouble
from crisper.engine.doctor.finding import Level
from crisper.engine.doctor.fleet import CELERY, OF_SERVE, PYTHON
from crisper.engine.doctor.resending import DEFAULT
from crisper.engine.doctor.words import version
from crisper.faces.serve.web import AT_ONCE
from tests.doctor.facts import (
    HEALTHY,
    ON_RABBITMQ,
    WORKER,
    GiB,
    plain,
    seen,
    was_cut_short,
    with_app,
    with_broker,
    with_journal,
    with_queue,
    with_registry,
    with_settings,
    with_task,
)
from tests.doctor.test_app import an_app


def hazards(facts: Facts) -> set[str]:
    return {finding.id for finding in examine(facts) if finding.level is not Level.OK}


def trouble(source: str) -> Facts:
    return replace(HEALTHY, troubles=(Trouble(source, "it does not answer", "look at it"),))


BLIND = {"workers-without-crisper", "unlimited-requeue"}
LONG = {"grace"}
MEMBERS = {"chord_members": frozenset({"proj.add"})}
MANY = {"most": 97, "others": 90}

BAD: dict[str, list[tuple[Facts, set[str]]]] = {
    **{check.id: [(trouble(check.id), set())] for check in SOURCES},
    "registry-folder": [(replace(HEALTHY, to_be=ToBe("/srv/state/registry.db", False)), set())],
    "no-record": [
        (with_app(installed=False), {"unlimited-requeue"}),
        (with_settings(enabled=False), {"unlimited-requeue"}),
    ],
    "early-acks": [
        (with_task(seen(60.0), acks_late=False), LONG),
        (with_task(was_cut_short(60.0), acks_late=False), LONG),
        (with_task(was_cut_short(60.0), acks_late=False, time_limit=30.0), LONG),
        (with_task(was_cut_short(1.0), acks_late=False, time_limit=60.0), LONG),
        (with_task(with_registry(longest={}), acks_late=False, time_limit=60.0), LONG),
        (
            with_task(with_settings(seen(60.0), enabled=False), acks_late=False, on_lost="fail"),
            LONG | {"no-record"},
        ),
    ],
    "unlimited-requeue": [
        (plain(), BLIND),
        (with_task(loss_budget=101), set()),
    ],
    "ignored-results": [
        (with_app(no_chords="result_backend is not set"), set()),
        (with_app(with_registry(**MEMBERS), no_chords="it is not set"), set()),
        (
            with_task(
                with_app(backend_counts_ignored=False), makes_chords_of=("proj.add",), ignore_result=True
            ),
            set(),
        ),
        (
            with_task(with_registry(with_app(backend_counts_ignored=False), **MEMBERS), ignore_result=True),
            set(),
        ),
    ],
    "not-resendable": [
        (with_registry(not_kept=(NotKept(7, 20 * 2**20, "20 MiB > 16 MiB"),)), set()),
        (with_registry(not_kept=(NotKept(1, 9, "its headers cannot be kept: a set"),)), set()),
        (with_registry(not_kept=(NotKept(1, 9, "9.0 MiB > 8.0 MiB, the registry server's packet"),)), set()),
    ],
    "keeps-nothing": [(with_settings(max_message_bytes=0), set())],
    "keeps-little": [
        (with_settings(max_message_bytes=1), set()),
        (with_settings(max_message_bytes=1023), set()),
        (with_settings(with_registry(largest_kept=2001), max_message_bytes=2000), set()),
    ],
    "broker-unsupported": [(with_broker(kind="SQS", supported=False), set())],
    "broker-version": [
        (with_broker(version=(6, 2)), set()),
        (with_broker(ON_RABBITMQ, version=(3, 9)), set()),
    ],
    "visibility-timeout": [
        (plain(seen(3601.0)), BLIND | LONG),
        (with_task(plain(), time_limit=3601.0), BLIND),
        (with_app(plain(seen(901.0)), prefetch_multiplier=4), BLIND | LONG | {"prefetch"}),
        (with_registry(plain(), countdowns={"proj.add": 3601.0}), BLIND),
        (with_app(with_registry(plain(), longest={}), time_limit=7200.0), BLIND),
    ],
    "visibility-timeout-short": [(with_broker(visibility_timeout=19.9), set())],
    "visibility-timeout-long": [(with_broker(visibility_timeout=21_601.0), set())],
    "redis-evicts": [(with_broker(eviction="allkeys-lru"), set())],
    "consumer-timeout": [
        (seen(1801.0, ON_RABBITMQ), LONG),
        (with_task(ON_RABBITMQ, time_limit=1801.0), set()),
        (with_registry(ON_RABBITMQ, countdowns={"proj.add": 1801.0}), set()),
        (with_task(seen(1801.0, ON_RABBITMQ), acks_late=False, on_lost="fail"), LONG),
        (with_app(seen(451.0, ON_RABBITMQ), prefetch_multiplier=4), LONG | {"prefetch"}),
        (seen(13.0, with_queue(consumer_timeout=12.0, timeout_is_assumed=False)), set()),
    ],
    "quorum-qos": [
        (with_app(ON_RABBITMQ, detects_quorum_queues=False), set()),
        (with_queue(declared_quorum=False), set()),
    ],
    "dead-letters": [
        (with_queue(dead_letter_exchange=None, dead_letter_is_there=None), set()),
        (with_queue(dead_letter_is_there=False), set()),
    ],
    "workers-without-crisper": [(with_task(plain(), reject_on_worker_lost=False), set())],
    "publishers-without-crisper": [(with_registry(unnamed=1), set())],
    "versions": [
        (with_app(celery=(5, 4)), set()),
        (with_app(celery=(5, 8)), set()),
        (with_app(python=(3, 15)), set()),
        (with_registry(version=(12,)), set()),
        (with_registry(database="mariadb", version=(10, 5)), set()),
        (with_registry(database="mysql", version=(8, 0)), set()),
        (with_registry(workers=(replace(WORKER, celery="5.4.1"),)), set()),
    ],
    "versions-mixed": [(with_registry(workers=(WORKER, replace(WORKER, crisper="0.2.0"))), set())],
    "connections": [(with_registry(connections=Connections(97, 83)), set())],
    "connections-deploy": [(with_registry(connections=Connections(97, 81)), set())],
    "prefetch": [
        (with_app(seen(60.0), prefetch_multiplier=4), LONG),
        (with_app(seen(60.0), prefetch_multiplier=0), LONG),
        (with_app(was_cut_short(60.0), prefetch_multiplier=4), LONG),
    ],
    "lease-short": [
        (with_settings(heartbeat_interval=2.0, lease=7.4, sweep_interval=0.5), {"leases-differ"})
    ],
    "leases-differ": [(with_registry(workers=(replace(WORKER, lease=30.0),)), set())],
    "pauses": [(with_registry(pauses=(Pause("celery@one", 45.0),)), set())],
    "clock": [(with_registry(offset=5.1), set()), (with_registry(offset=-5.1), set())],
    "grace": [
        (seen(30.1), set()),
        (was_cut_short(30.1), set()),
        (with_app(replace(seen(30.1), host=replace(HEALTHY.host, grace=None)), soft_shutdown=0.0), set()),
        (with_app(soft_shutdown=30.1), set()),
    ],
    "journal-writable": [(with_journal(writable=False), set())],
    "journal-room": [(with_journal(free=GiB - 1), set())],
    "journal-ephemeral": [
        (with_journal(filesystem="tmpfs"), set()),
        (with_journal(filesystem="overlay"), set()),
    ],
    "sqlite-shared": [
        (
            with_registry(database="sqlite", workers=(WORKER, replace(WORKER, host="two", machine="boot-2"))),
            set(),
        ),
    ],
    "sqlite-version": [(with_app(sqlite=(3, 34)), set())],
    "retention-for-ever": [
        (with_settings(retention_days=0.0), set()),
        (with_settings(retention_lost_days=0.0), set()),
        (with_settings(retention_audit_days=0.0), set()),
    ],
    "retention-short": [
        (
            with_broker(with_settings(retention_days=1.0), visibility_timeout=86_400.0),
            {"visibility-timeout-long"},
        ),
    ],
    "pickle": [
        (with_app(accepts=("json", "pickle")), set()),
        (with_app(accepts=("application/x-python-serialize",)), set()),
    ],
    "pickled-results": [(with_app(accepts_results=("pickle",)), set())],
    "no-password": [
        (with_app(addresses=(Address("broker_url", "redis.example", False, False),)), set()),
        (with_app(addresses=(Address("broker_url", "rabbit.example", False, True, is_guest=True),)), set()),
        (with_app(addresses=(Address("crisper_registry_url", "db.example", False, False),)), set()),
    ],
}

GOOD: dict[str, list[Facts]] = {
    "registry-folder": [replace(HEALTHY, to_be=ToBe("/srv/state/registry.db", True))],
    "no-record": [HEALTHY],
    "early-acks": [
        with_task(seen(59.9), acks_late=False),
        with_task(was_cut_short(59.9), acks_late=False),
        with_task(seen(60.0), acks_late=True),
        with_task(seen(60.0), acks_late=False, on_lost="fail"),  # somebody has said what a loss means
        with_task(seen(1.0), acks_late=False, time_limit=3600.0),  # its history says that it is short
    ],
    "unlimited-requeue": [
        HEALTHY,
        with_task(loss_budget=100),
        with_task(plain(), acks_late=False),  # Celery looks at it under acks_late only
    ],
    "ignored-results": [
        HEALTHY,
        with_task(with_registry(**MEMBERS), ignore_result=True),  # Redis counts them
        with_app(with_task(makes_chords_of=()), no_chords="it is not set"),
        with_task(  # the chord's body alone may be the one that ignores its result
            with_app(backend_counts_ignored=False),
            makes_chords_of=("proj.add", "proj.sum"),
            ignore_result=True,
        ),
    ],
    "not-resendable": [HEALTHY],
    "keeps-nothing": [HEALTHY, with_settings(max_message_bytes=1)],
    "keeps-little": [
        with_settings(max_message_bytes=1024),
        with_settings(with_registry(largest_kept=2000), max_message_bytes=2000),
    ],
    "broker-unsupported": [HEALTHY, ON_RABBITMQ],
    "broker-version": [with_broker(version=(7, 0)), with_broker(ON_RABBITMQ, version=(3, 10))],
    "visibility-timeout": [
        plain(seen(3600.0)),
        with_app(plain(seen(900.0)), prefetch_multiplier=4),
        seen(7200.0),  # renewed
        with_registry(countdowns={"proj.add": 86_400.0}),
        with_app(plain(), time_limit=7200.0),  # its history says that it is short
    ],
    "visibility-timeout-short": [with_broker(visibility_timeout=20.0)],
    "visibility-timeout-long": [
        with_broker(visibility_timeout=21_600.0),
        with_broker(with_settings(track_publish="async"), visibility_timeout=86_400.0),
        with_broker(plain(), visibility_timeout=86_400.0),  # it needs that
    ],
    "redis-evicts": [HEALTHY, with_broker(eviction="volatile-lru"), with_broker(eviction=None)],
    "consumer-timeout": [
        seen(1800.0, ON_RABBITMQ),
        with_task(  # acknowledged when it begins, and none waits behind it
            with_app(seen(3600.0, ON_RABBITMQ), disables_prefetch=True), acks_late=False
        ),
        with_app(ON_RABBITMQ, time_limit=7200.0),
    ],
    "quorum-qos": [
        ON_RABBITMQ,
        with_queue(declared_quorum=False, is_quorum=False),
        with_broker(with_app(ON_RABBITMQ, detects_quorum_queues=False), version=(4, 0)),
    ],
    "dead-letters": [ON_RABBITMQ, with_queue(delivery_limit=None, dead_letter_exchange=None)],
    "workers-without-crisper": [
        HEALTHY,
        with_broker(nodes=None),
        with_registry(plain(), just_ended=frozenset({"celery@plain"})),
    ],
    "publishers-without-crisper": [HEALTHY],
    "versions": [
        HEALTHY,
        with_app(celery=(5, 7), python=(3, 14)),
        with_registry(database="mariadb", version=(10, 6)),
        with_registry(database="sqlite", version=(3, 40)),
        with_registry(workers=(replace(WORKER, celery=None),)),
    ],
    "versions-mixed": [HEALTHY, with_registry(workers=(WORKER, WORKER))],
    "connections": [with_registry(connections=Connections(97, 82))],
    "connections-deploy": [with_registry(connections=Connections(97, 80))],
    "prefetch": [
        with_app(prefetch_multiplier=4),
        seen(3600.0),
        with_app(seen(3600.0), prefetch_multiplier=4, disables_prefetch=True),
    ],
    "lease-short": [HEALTHY, with_settings(heartbeat_interval=2.0, lease=7.5)],
    "leases-differ": [
        HEALTHY,
        with_registry(workers=(WORKER, replace(WORKER, app="another", lease=30.0))),
    ],
    "pauses": [HEALTHY],
    "clock": [with_registry(offset=5.0), with_registry(offset=None)],
    "grace": [
        seen(30.0),
        replace(seen(300.0), host=replace(HEALTHY.host, grace=300.0)),
        replace(seen(300.0), host=replace(HEALTHY.host, grace=None)),  # it shuts down softly
    ],
    "journal-writable": [
        HEALTHY,
        replace(with_journal(writable=False), settings=with_settings(on_registry_down="pause").settings),
    ],
    "journal-room": [with_journal(free=GiB)],
    "journal-ephemeral": [HEALTHY, with_journal(filesystem="")],
    "sqlite-shared": [
        HEALTHY,
        with_registry(database="sqlite", workers=(WORKER, replace(WORKER, host="another-container"))),
    ],
    "sqlite-version": [with_app(sqlite=(3, 35)), with_app(sqlite=(4, 0))],
    "retention-for-ever": [
        HEALTHY,
        with_settings(retention_days=1.0, retention_lost_days=1.0, retention_audit_days=1.0),
    ],
    "retention-short": [HEALTHY, with_broker(with_settings(retention_days=1.0), visibility_timeout=86_399.0)],
    "pickle": [HEALTHY, with_app(accepts=("json", "yaml", "msgpack"))],
    "pickled-results": [HEALTHY],
    "no-password": [
        HEALTHY,
        with_app(addresses=(Address("broker_url", "127.0.0.1", True, False),)),
        with_app(addresses=(Address("broker_url", "localhost", True, True, is_guest=True),)),
    ],
}


@pytest.mark.parametrize("facts", [HEALTHY, ON_RABBITMQ])
def test_nothing_is_objected_to_what_is_recommended(facts: Facts) -> None:
    assert hazards(facts) == set()


def test_every_check_has_something_that_it_objects_to_and_something_that_passes() -> None:
    ids = [check.id for check in CHECKS]
    assert len(ids) == len(set(ids))
    assert set(BAD) == set(ids)
    assert set(GOOD) == set(ids) - {check.id for check in SOURCES}


@pytest.mark.parametrize(("id", "facts", "beside"), [(id, *bad) for id, some in BAD.items() for bad in some])
def test_a_hazard_is_found_and_no_other(id: str, facts: Facts, beside: set[str]) -> None:
    assert hazards(facts) == {id} | beside


@pytest.mark.parametrize(("id", "facts"), [(id, good) for id, some in GOOD.items() for good in some])
def test_what_is_a_hair_better_passes(id: str, facts: Facts) -> None:
    assert id not in hazards(facts)


@pytest.mark.parametrize("check", [check.id for check in CHECKS])
def test_every_finding_says_why_and_what_to_do(check: str) -> None:
    for facts, _ in BAD[check]:
        for finding in examine(facts):
            if finding.level is not Level.OK:
                assert finding.title[0] == finding.title[0].strip()
                assert finding.why.strip().endswith((".", "answer")), finding
                assert finding.fix.strip(), finding


def test_nothing_is_said_without_evidence() -> None:
    bare = Facts(settings=HEALTHY.settings, app=replace(HEALTHY.app, tasks=(), addresses=()))
    found = {finding.id for finding in examine(bare)}
    assert found == {
        "no-record",
        "versions",
        "keeps-nothing",
        "keeps-little",
        "lease-short",
        "retention-for-ever",
        "pickle",
        "pickled-results",
    }
    assert hazards(bare) == set()


def fixes(facts: Facts, *ids: str) -> list[str]:
    return [finding.fix for finding in examine(facts) if finding.id in ids and finding.level is not Level.OK]


@pytest.mark.parametrize(
    ("facts", "most"),
    [
        (with_settings(max_message_bytes=0), 16_777_216),
        (with_settings(max_message_bytes=1023), 16_777_216),
        (with_settings(with_registry(largest_kept=2001), max_message_bytes=2000), 2048),
    ],
)
def test_what_is_to_be_kept_is_cured_by_one_line(facts: Facts, most: int) -> None:
    assert fixes(facts, "keeps-nothing", "keeps-little") == [f"app.conf.crisper_max_message_bytes = {most}"]


def test_the_cure_for_what_keeps_too_little_is_the_default() -> None:
    assert HEALTHY.settings.max_message_bytes == DEFAULT


def test_where_nothing_can_be_kept_one_cure_is_told_and_no_other() -> None:
    refused = with_registry(not_kept=(NotKept(7, 90, "90 bytes > 0 bytes"),))
    told = set(fixes(with_settings(refused, max_message_bytes=0), "keeps-nothing", "not-resendable"))
    assert told == {"app.conf.crisper_max_message_bytes = 16777216"}


def test_each_retention_that_is_for_ever_has_a_line_of_its_own() -> None:
    facts = with_settings(retention_days=0.0, retention_lost_days=0.0, retention_audit_days=0.0)
    assert fixes(facts, "retention-for-ever") == [
        "app.conf.crisper_retention_days = 30, or crisper prune from cron",
        "app.conf.crisper_retention_lost_days = 90, or crisper prune from cron",
        "app.conf.crisper_retention_audit_days = 365, or crisper prune from cron",
    ]


def test_what_was_lost_is_kept_for_ever_where_all_is() -> None:
    facts = with_settings(retention_days=0.0, retention_lost_days=90.0)
    assert len(fixes(facts, "retention-for-ever")) == 1


def test_the_worst_comes_first() -> None:
    facts = with_app(with_settings(retention_days=0.0), accepts=("pickle",), celery=(5, 4))
    levels = [finding.level for finding in examine(facts)]
    assert levels == sorted(levels, key=["error", "warning", "ok"].index)
    assert levels[:3] == ["error", "warning", "warning"]


def test_what_was_cut_short_is_told_as_that() -> None:
    facts = with_task(was_cut_short(240.0), acks_late=False)
    [why] = [finding.why for finding in examine(facts) if finding.id == "early-acks"]
    assert why.startswith("proj.add was cut short after 4 min.")


@pytest.mark.parametrize(
    ("facts", "cure"),
    [
        (
            with_task(ON_RABBITMQ, time_limit=1801.0),
            'Queue("celery", queue_arguments={"x-consumer-timeout": 3600000})',
        ),
        (
            with_task(with_broker(ON_RABBITMQ, version=(3, 10)), time_limit=1801.0),
            "consumer_timeout = 3600000 in rabbitmq.conf",
        ),
        (
            with_app(seen(451.0, ON_RABBITMQ), prefetch_multiplier=4),
            "app.conf.worker_prefetch_multiplier = 1",
        ),
        (with_registry(ON_RABBITMQ, countdowns={"proj.add": 1801.0}), "countdowns below 30 min"),
    ],
)
def test_what_is_held_for_too_long_is_cured_by_why_it_is_held(facts: Facts, cure: str) -> None:
    assert [finding.fix for finding in examine(facts) if finding.id == "consumer-timeout"] == [cure]


def test_serve_is_reckoned_with_a_connection_for_each_question_at_once_and_each_thread() -> None:
    sweeper, alerts, decision = 1, 1, 1
    assert AT_ONCE + sweeper + alerts + decision == OF_SERVE


def pasted(line: str, app: Celery) -> None:
    exec(line, {"app": app})


@pytest.mark.parametrize(
    "facts", [with_broker(visibility_timeout=19.9), with_broker(visibility_timeout=21_601.0)]
)
def test_a_line_that_cures_the_broker_s_options_keeps_the_others_and_prints_none(facts: Facts) -> None:
    others = {"master_name": "main", "sentinel_kwargs": {"password": "a secret"}}
    app = an_app(broker_transport_options={"visibility_timeout": 3, **others})
    ids = "visibility-timeout-short", "visibility-timeout-long"
    [line] = fixes(with_app(facts, options_beside=True), *ids)
    assert "secret" not in line
    pasted(line, app)
    assert app.conf.broker_transport_options == {**others, "visibility_timeout": 3600}


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("result_backend", "read and delete messages or results."),
        ("crisper_registry_url", "have tasks run with any arguments."),
        ("crisper_rabbitmq_management_url", "close connections."),
    ],
)
def test_what_an_open_address_allows_is_told_by_what_it_leads_to(setting: str, what: str) -> None:
    facts = with_app(addresses=(Address(setting, "a.example", False, False),))
    [found] = [finding for finding in examine(facts) if finding.id == "no-password"]
    assert found.why.startswith(f"{setting} leads to a.example without a password")
    assert found.why.endswith(what)
    assert found.fix.startswith(f"app.conf.{setting} = ")


def test_where_there_are_no_other_options_the_line_is_plain() -> None:
    assert fixes(with_broker(visibility_timeout=19.9), "visibility-timeout-short") == [
        'app.conf.broker_transport_options = {"visibility_timeout": 3600}'
    ]


@pytest.mark.parametrize(
    ("accepted", "kept"),
    [
        (("json", "pickle", "msgpack"), '["json", "msgpack"]'),
        (("application/x-python-serialize", "yaml"), '["yaml"]'),
        (("pickle",), '["json"]'),
    ],
)
def test_a_line_that_refuses_pickle_keeps_what_else_is_accepted(accepted: tuple[str, ...], kept: str) -> None:
    assert fixes(with_app(accepts=accepted), "pickle") == [f"app.conf.accept_content = {kept}"]
    line = f"app.conf.result_accept_content = {kept}"
    assert fixes(with_app(accepts_results=accepted), "pickled-results") == [line]


def test_a_line_that_cures_a_queue_keeps_its_other_arguments() -> None:
    declared = {"x-queue-type": "quorum", "x-delivery-limit": 20, "x-single-active-consumer": True}
    cured = with_queue(dead_letter_exchange=None, dead_letter_is_there=None, arguments=declared)
    [line] = fixes(cured, "dead-letters")
    queue = eval(line, {"Queue": Queue})
    assert queue.queue_arguments == {**declared, "x-dead-letter-exchange": "dead"}


def test_the_versions_are_those_that_an_installation_asks_for() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    (least, below), (python, _) = (tuple(map(version, one)) for one in (CELERY, PYTHON))
    assert f"celery>={least},<{below}" in project["dependencies"]
    assert project["requires-python"] == f">={python}"
    assert f"Programming Language :: Python :: 3.{PYTHON[1][1] - 1}" in project["classifiers"]
    assert f"Programming Language :: Python :: 3.{PYTHON[1][1]}" not in project["classifiers"]
