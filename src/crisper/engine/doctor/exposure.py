"""Who could run code in a worker."""

from __future__ import annotations

from collections.abc import Sequence

from crisper.engine.doctor.facts import Address, Facts
from crisper.engine.doctor.finding import Check, Level, Said
from crisper.engine.doctor.words import literal

#: Whoever reaches it.
_CAN = {
    "crisper_registry_url": "read every message on record, forget it, and have tasks run with any arguments",
    "crisper_rabbitmq_management_url": "publish, read and delete messages, and close connections",
}
_PICKLE = frozenset({"pickle", "application/x-python-serialize"})


def pickle(facts: Facts) -> Sequence[Said]:
    if _PICKLE.isdisjoint(facts.app.accepts):
        return []
    why = "accept_content holds pickle: whoever can publish a message can run any code in every worker."
    fix = f"app.conf.accept_content = {_but_pickle(facts.app.accepts)}"
    return [Said("pickled messages are accepted from anyone", why, fix)]


def _but_pickle(accepted: Sequence[str]) -> str:
    return literal([one for one in accepted if one not in _PICKLE] or ["json"])


def pickled_results(facts: Facts) -> Sequence[Said]:
    if _PICKLE.isdisjoint(facts.app.accepts_results):
        return []
    why = (
        "result_accept_content holds pickle: whoever can write to the result backend can run any code where"
        " results are read, in workers too."
    )
    fix = f"app.conf.result_accept_content = {_but_pickle(facts.app.accepts_results)}"
    return [Said("pickled results are accepted from anyone", why, fix)]


def _title(address: Address) -> str:
    return f"{address.setting} names {'a well-known' if address.is_guest else 'no'} password"


def no_password(facts: Facts) -> Sequence[Said] | None:
    remote = [address for address in facts.app.addresses if not address.loopback]
    if not remote:
        return None
    said = []
    for address in remote:
        if address.has_password and not address.is_guest:
            continue
        how = "with RabbitMQ's well-known guest account" if address.is_guest else "without a password"
        can = _CAN.get(address.setting, "publish, read and delete messages or results")
        why = f"{address.setting} leads to {address.host} {how}: whoever reaches it can {can}."
        fix = f'app.conf.{address.setting} = "…://user:password@{address.host}/…"'
        said.append(Said(_title(address), why, fix))
    return said


CHECKS = (
    Check("pickle", Level.ERROR, "`accept_content` holds pickle", "`accept_content` without it", pickle),
    Check(
        "pickled-results", Level.ERROR,
        "`result_accept_content` holds pickle", "`result_accept_content` without it", pickled_results,
    ),
    Check(
        "no-password", Level.ERROR,
        "`broker_url`, a Redis or RabbitMQ `result_backend`, `crisper_registry_url` or"
        " `crisper_rabbitmq_management_url` leads to another host without a password or as `guest`",
        "an account with a password", no_password,
    ),
)  # fmt: skip
