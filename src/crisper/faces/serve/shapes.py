"""The shapes of the API's answers: those of docs/reference/json.md."""

from __future__ import annotations

from crisper.core.states import RecoveryState, State, VerdictKind, WorkerState
from crisper.engine.control import Outcome
from crisper.engine.filters import TASK_STATES
from crisper.faces.serve.access import Role
from crisper.faces.serve.schema import (
    ANYTHING,
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    TIME,
    Schema,
    also,
    counts,
    many,
    maybe,
    one_of,
    ref,
    thing,
)

TASK_STATE = one_of(TASK_STATES)
VERDICT = one_of(VerdictKind)
ATTEMPT: Schema = {"type": "integer", "minimum": 1}

_ailment = thing(kind=TEXT, sentence=TEXT, seconds=COUNT)
_ailment["properties"] |= {"task_id": TEXT, "attempt": maybe(ATTEMPT)}

_progress = thing(done=maybe(NUMBER), total=maybe(NUMBER), note=maybe(TEXT), at=maybe(TIME))

_worker = thing(
    id=TEXT,
    hostname=TEXT,
    host=TEXT,
    pid={"type": "integer"},
    state=one_of([*WorkerState, "suspect"]),
    started_at=maybe(TIME),
    seen_at=maybe(TIME),
    ended_at=maybe(TIME),
    lease_ms=COUNT,
    open_attempts=COUNT,
    queues=many(TEXT),
    pool=maybe(TEXT),
    concurrency=maybe(COUNT),
    version=maybe(TEXT),
    evidence=ANYTHING,
    errors=COUNT,
    refused=COUNT,
    held=COUNT,
    journal_bytes=COUNT,
    loop_age_ms=maybe(COUNT),
    ails=many(ref("Ailment")),
    running=COUNT,
    leads={"type": "boolean"},
)

_status = thing(
    registry=thing(id=maybe(TEXT), url=TEXT, database=TEXT, schema=maybe(TEXT), now=maybe(TIME)),
    workers=also(
        counts(
            *("alive", "suspect", "lost", "gone", "wedged", "silent", "stalled", "errors", "journal_bytes")
        ),
        versions={"type": "object", "additionalProperties": COUNT},
        blind=maybe(many(TEXT)),
    ),
    messages=also(counts("unclaimed"), unconsumed=many(thing(queue=TEXT, recovering=COUNT))),
    attempts=counts("claimed", "running"),
    tasks=counts("quarantined", "held", "lost_24h", "recovered_24h"),
    sweeper=thing(
        leader=maybe(TEXT),
        worker=maybe(TEXT),
        state=maybe(one_of(WorkerState)),
        since=maybe(TIME),
        workers_to_clear=COUNT,
        recoveries_under_way=COUNT,
    ),
)

_task = thing(
    task_id=TEXT,
    name=TEXT,
    state=TASK_STATE,
    attempt=ATTEMPT,
    worker=maybe(TEXT),
    queue=maybe(TEXT),
    received_at=maybe(TIME),
    started_at=maybe(TIME),
    finished_at=maybe(TIME),
)

_event = thing(
    at=maybe(TIME), kind=TEXT, attempt=maybe(ATTEMPT), worker=maybe(TEXT), actor=TEXT, data=ANYTHING
)

_attempt = thing(
    number=ATTEMPT,
    state=one_of(State),
    worker=maybe(TEXT),
    pid=maybe({"type": "integer"}),
    received_at=maybe(TIME),
    started_at=maybe(TIME),
    finished_at=maybe(TIME),
    runtime=maybe(NUMBER),
    reason=maybe(TEXT),
    progress=maybe(ref("Progress")),
    memory_bytes=maybe(COUNT),
)

_verdict = thing(
    attempt=maybe(ATTEMPT),
    verdict=maybe(VERDICT),
    reason=maybe(TEXT),
    evidence=ANYTHING,
    decided_by=TEXT,
    decided_at=maybe(TIME),
)

_story = thing(
    task_id=TEXT,
    name=TEXT,
    state=TASK_STATE,
    args_preview=ANYTHING,
    kwargs_preview=ANYTHING,
    attempts=many(ref("Attempt")),
    verdicts=many(ref("Verdict")),
    recoveries=many(
        thing(attempt=ATTEMPT, action=maybe(VERDICT), state=one_of(RecoveryState), sent_at=maybe(TIME))
    ),
    events=many(ref("Event")),
    checkpoint=maybe(thing(attempt=ATTEMPT, at=maybe(TIME), preview=ANYTHING)),
)

_published = thing(
    task_id=TEXT,
    name=TEXT,
    state={"type": "string", "const": "published"},
    queue=maybe(TEXT),
    published_at=maybe(TIME),
    args_preview=ANYTHING,
    kwargs_preview=ANYTHING,
)

_failures = thing(
    since=maybe(TIME),
    looked_at=COUNT,
    complete=FLAG,
    more=FLAG,
    groups=many(
        thing(
            name=TEXT,
            state=one_of(State),
            verdict=maybe(VERDICT),
            why=maybe(TEXT),
            attempts=COUNT,
            first_at=maybe(TIME),
            last_at=maybe(TIME),
            example=thing(task_id=TEXT, reason=maybe(TEXT)),
        )
    ),
)

_queues = thing(
    broker=maybe(TEXT),
    trouble=maybe(TEXT),
    queues=many(
        thing(
            **{
                "name": TEXT,
                **dict.fromkeys(("workers", "claimed", "running", "recovering", "unclaimed"), COUNT),
            },
            **dict.fromkeys(("waiting", "consumers"), maybe(COUNT)),
            oldest_at=maybe(TIME),
        )
    ),
)

_runs = thing(
    task_id=TEXT,
    attempt=ATTEMPT,
    name=TEXT,
    worker=maybe(TEXT),
    age=maybe(NUMBER),
    stalled=FLAG,
    progress=maybe(ref("Progress")),
    memory_bytes=maybe(COUNT),
    usual=maybe(thing(median=NUMBER, p95=NUMBER, attempts=COUNT)),
    late=maybe(FLAG),
)

_timeline = thing(
    since=maybe(TIME),
    now=maybe(TIME),
    more=FLAG,
    complete=FLAG,
    lanes=many(
        thing(
            hostname=TEXT,
            lives=many(
                thing(
                    id=TEXT,
                    state=one_of(WorkerState),
                    started_at=maybe(TIME),
                    ended_at=maybe(TIME),
                    evidence=ANYTHING,
                    recovered=many(thing(at=maybe(TIME), tasks=COUNT)),
                )
            ),
        )
    ),
)

_decided = thing(
    tasks=many(
        thing(task_id=TEXT, outcome=one_of(Outcome), reason=maybe(TEXT), attempt=maybe(ATTEMPT)),
    )
)
_decided["properties"] |= {
    "left": {**COUNT, "description": "Of many: what became of so many is not known."},
    "said": {**TEXT, "description": "Of many: what became of them, in a sentence."},
}

#: What other shapes are made of, and what answers are.
SHAPES: dict[str, Schema] = {
    "Ailment": _ailment,
    "Progress": _progress,
    "Worker": _worker,
    "Task": _task,
    "Event": _event,
    "Audited": also(_event, id=COUNT, task_id=maybe(TEXT)),
    "Attempt": _attempt,
    "Verdict": _verdict,
    "Story": _story,
    "Published": _published,
    "Decided": _decided,
    "Error": thing(error=thing(kind=TEXT, message=TEXT)),
    "Status": _status,
    "Workers": thing(workers=many(ref("Worker"))),
    "Tasks": thing(tasks=many(ref("Task")), next=maybe(TEXT), looked_back_to=maybe(TIME)),
    "Failures": _failures,
    "Queues": _queues,
    "Running": thing(running=many(_runs)),
    "Timeline": _timeline,
    "Events": thing(events=many(ref("Audited")), next=maybe(TEXT)),
    "Selection": thing(
        tasks=many(thing(task_id=TEXT, attempt=ATTEMPT, state=TASK_STATE)),
        matching=COUNT,
        warnings=many(TEXT),
    ),
    "Session": thing(name=TEXT, role=one_of(role.name.lower() for role in Role)),
    "Ended": thing(ended=FLAG),
}
