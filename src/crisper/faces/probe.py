"""`crisper-probe live|ready`: whether the worker here lives, by the file that its recorder writes.

Asked every few seconds for ever, so it starts in milliseconds: neither the app nor Celery, SQLAlchemy,
click, argparse or json is imported. It asks neither the broker nor the registry: a worker that cannot
reach them is no better for being restarted.
"""

from __future__ import annotations

import os
import sys

from crisper.engine import sign
from crisper.engine.sign import Sign

YES, NO, USAGE = 0, 1, 2

#: A recorder that dies is replaced within a second, one that hangs within 12.
RECORDER_SECONDS = 30.0
#: The loop ticks once a second, and its thread has no other work that takes this long.
LOOP_SECONDS = 60.0
#: What keeps the loop is said once a second while it does.
SAID_SECONDS = 15.0

_KEPT = {
    "task": "a task runs in its loop's own thread",
    "broker": "it waits for the broker",
    "shutdown": "it shuts down",
}
_OPTIONS = ("--dir", "--hostname", "--pidfile", "--within")
HELP = f"""usage: crisper-probe live|ready [--dir DIR] [--hostname NODE] [--pidfile FILE] [--within SECONDS]

live    the worker's loop goes round, or stands still for a good reason, and its recorder lives;
        neither the broker nor the registry is asked
ready   and it keeps a record, and takes messages

--dir DIR          the folder of the signs of life; {sign.VARIABLE} says it too
--hostname NODE    of several workers the one of this node name, such as celery@web-1
--pidfile FILE     of several workers the one whose pid stands there (celery worker --pidfile)
--within SECONDS   how long the loop may stand still for no reason that is known ({LOOP_SECONDS:g})

Exit codes: 0 yes, 1 no, 2 it cannot be told; one sentence says why."""


class Unclear(Exception):
    """It cannot be told; says what to do."""


def main() -> int:
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(HELP)
        return YES
    try:
        yes, sentence = answer(*read(words))
    except Unclear as exc:
        print(f"crisper-probe: {exc}", file=sys.stderr)
        return USAGE
    print(sentence)
    return YES if yes else NO


def read(words: list[str]) -> tuple[str, dict[str, str]]:
    """The question and its options. Raises `Unclear`."""
    questions, options = [], {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in _OPTIONS:
            options[name] = value if equals else next(rest, "")
            if not options[name]:
                raise Unclear(f"{name} needs a value; crisper-probe --help shows how")
        else:
            questions.append(word)
    if questions not in (["live"], ["ready"]):
        raise Unclear("ask `crisper-probe live` or `crisper-probe ready`; --help shows the options")
    return questions[0], options


def answer(question: str, options: dict[str, str]) -> tuple[bool, str]:
    """Whether, and why. Raises `Unclear`."""
    within = _seconds(options.get("--within", str(LOOP_SECONDS)))
    folder = options.get("--dir") or os.environ.get(sign.VARIABLE) or sign.default_folder()
    found = _the_one(_signs(folder), options, folder)
    if found is None:
        return False, f"no worker of this host and user has left a sign of life in {folder}"
    now = sign.now_ms()
    if not is_there(found):
        return False, f"{found.worker} (pid {found.pid}) is gone"
    if question == "live":
        return live(found, now, within)
    return ready(found, now, within)


def live(found: Sign, now: int, within: float) -> tuple[bool, str]:
    silent = (now - min(found.at, found.turned)) / 1000
    if silent > RECORDER_SECONDS:
        return False, f"{found.worker}: its recorder has given no sign for {silent:.0f} s"
    still = (now - found.ticked) / 1000
    kept = _KEPT.get(found.stands) if now - found.stood_at <= SAID_SECONDS * 1000 else None
    if kept is not None:
        return True, f"{found.worker} lives: its loop has stood still for {still:.0f} s, because {kept}"
    if still > within:
        return False, f"{found.worker}: its loop has not gone round for {still:.0f} s"
    return True, f"{found.worker} lives"


def ready(found: Sign, now: int, within: float) -> tuple[bool, str]:
    lives, sentence = live(found, now, within)
    if not lives:
        return False, sentence
    if found.why:
        return False, f"{found.worker} takes no more messages for now: {found.why}"
    if not found.records:
        return False, f"{found.worker} is not enrolled in the registry yet, and has no journal"
    kept = found.stands if now - found.stood_at <= SAID_SECONDS * 1000 else ""
    if not found.consumes or kept in ("broker", "shutdown"):
        return False, f"{found.worker} does not take messages: {_KEPT.get(kept, 'it is not connected')}"
    return True, f"{found.worker} is ready, on record in the {found.records}"


def is_there(found: Sign) -> bool:
    """Whether that very process is, as far as can be seen from here. A zombie is not."""
    try:
        with open(f"/proc/{found.pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return fields[0] not in (b"Z", b"X") and int(fields[19]) == found.pid_start
    except OSError:
        pass  # no /proc, or one that hides other users' processes
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signs(folder: str) -> list[Sign]:
    """Of this pid namespace: others' pids mean nothing here."""
    try:
        found = sign.read(folder)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise Unclear(f"{folder} cannot be read: {exc.strerror}; run it as the worker's user") from None
    try:
        here = os.readlink("/proc/self/ns/pid")
    except OSError:
        return found
    return [one for one in found if one.pid_namespace == here]


def _the_one(signs: list[Sign], options: dict[str, str], folder: str) -> Sign | None:
    """Raises `Unclear` where there are several."""
    wanted = signs
    if "--hostname" in options:
        wanted = [one for one in wanted if one.worker == options["--hostname"]]
    if "--pidfile" in options:
        pid = _pid(options["--pidfile"])
        wanted = [one for one in wanted if one.pid == pid]
    there = [one for one in wanted if is_there(one)]
    if len(there) > 1:
        names = ", ".join(f"{one.worker} (pid {one.pid})" for one in there)
        raise Unclear(f"which worker? In {folder} there are {names}. Say --hostname NODE or --pidfile FILE")
    if signs and not wanted:
        names = ", ".join(f"{one.worker} (pid {one.pid})" for one in signs)
        raise Unclear(f"no such worker; in {folder} there are {names}")
    return next(iter(there or wanted), None)


def _pid(path: str) -> int:
    try:
        with open(path) as file:
            return int(file.read(32))
    except (OSError, ValueError):
        raise Unclear(f"there is no pid in {path}; the worker writes it with --pidfile") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise Unclear(f"--within {text}: must be between 1 and 86400 seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
