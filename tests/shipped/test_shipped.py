"""What `crisper export-config` prints works where it is meant for, and names nothing that does not exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from crisper.core.states import VerdictKind
from crisper.faces.cli.events import KINDS
from crisper.faces.serve.metrics import FROM_ZERO, METRICS
from crisper.faces.shipped.files import STARTS_WORKERS, TEMPLATES, Blanks, filled
from crisper.store import totals
from tests.faces.conftest import Run
from tests.faces.scene import Scene
from tests.left_out import needs
from tests.serve.conftest import Served
from tests.servers import Unavailable

ROOT = Path(__file__).resolve().parents[2]
BLANKS = Blanks("proj.celery:app", 900, 20)
NAMES = re.compile(r"crisper_[a-z_]+")
LABELS = re.compile(r'(\w+)=~?"([^"]*)"')


def tool(*command: str) -> list[str]:
    """The command, if its program is on this machine and does that."""
    with needs(" ".join(command), optional=command[0] == "docker"):  # Debian packages no compose plugin
        probe = [*command, "--version"] if len(command) == 1 else [*command, "version"]
        if (
            shutil.which(command[0]) is None
            or subprocess.run(probe, capture_output=True, check=False).returncode
        ):
            raise Unavailable("it is not on PATH")
    return list(command)


def checked(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(filled("prometheus", BLANKS))["groups"]
    return list(group["rules"])


def dashboard() -> dict[str, Any]:
    return dict(json.loads(filled("grafana", BLANKS)))


def expressions() -> list[str]:
    """Of the rules and of the dashboard."""
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    asked += [one["expr"] for one in dashboard()["annotations"]["list"]]
    return asked + [rule["expr"] for rule in rules()]


def test_every_metric_and_label_that_is_asked_for_exists() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    known = {one.name: one.label for one in METRICS}
    values = {
        "kind": set(KINDS),
        "state": {"alive", "suspect", "lost", "gone", "claimed", "running", "quarantined", "held"},
        "verdict": set(VerdictKind),
    }
    for expression in expressions():
        named = set(NAMES.findall(expression))
        assert named
        assert named <= set(known), expression
        assert all(f"| `{name}` |" in page for name in named)
        for label, value in LABELS.findall(expression):
            assert label in {known[name] for name in named}
            assert set(value.split("|")) <= values[label], expression


def test_every_event_whose_increase_alerts_is_counted_from_zero() -> None:
    asked = {kind for rule in rules() for kind in re.findall(r'kind="(\w+)"', rule["expr"])}
    assert asked <= set(FROM_ZERO) <= set(KINDS)


def test_every_alert_says_what_it_is_and_stands_in_the_how_to() -> None:
    page = (ROOT / "docs" / "howto" / "monitoring.md").read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
    named = re.findall(r"^\| `(Crisper\w+)`", page, re.MULTILINE)
    assert named == [rule["alert"] for rule in rules()]


#: What a scrape finds on a good day, and what each alert needs to be told otherwise.
WELL = {
    "crisper_build_info": "1",
    "crisper_registry_up": "1",
    "crisper_sweeper_silent_seconds": "1",
    'crisper_workers{state="alive"}': "4",
    'crisper_workers{state="suspect"}': "0",
    'crisper_events_total{kind="brake"}': "0",
    'crisper_events_total{kind="worker_lost"}': "7",
    'crisper_events_total{kind="overlap"}': "0",
    'crisper_workers_ailing{kind="wedged"}': "0",
    'crisper_workers_ailing{kind="silent"}': "0",
    "crisper_attempts_stalled": "0",
    'crisper_tasks_waiting{state="quarantined"}': "0",
    'crisper_tasks_waiting{state="held"}': "0",
    "crisper_recoveries_under_way": "0",
    "crisper_journal_bytes": "0",
    "crisper_worker_errors": "0",
}
ILL = {
    "CrisperRegistryDown": ("crisper_registry_up", "0"),
    "CrisperSweeperSilent": ("crisper_sweeper_silent_seconds", "61"),
    "CrisperNoWorkers": ('crisper_workers{state="alive"}', "0"),
    "CrisperBrake": ('crisper_events_total{kind="brake"}', "0x57 1x10"),
    "CrisperWorkerLost": ('crisper_events_total{kind="worker_lost"}', "7x57 9x10"),
    "CrisperTasksQuarantined": ('crisper_tasks_waiting{state="quarantined"}', "1"),
    "CrisperWorkersAiling": ('crisper_workers_ailing{kind="wedged"}', "3"),
    "CrisperAttemptsStalled": ("crisper_attempts_stalled", "2"),
    "CrisperTasksHeld": ('crisper_tasks_waiting{state="held"}', "2"),
    "CrisperRecoveriesStuck": ("crisper_recoveries_under_way", "1"),
    "CrisperJournalGrowing": ("crisper_journal_bytes", "5000"),
    "CrisperOverlap": ('crisper_events_total{kind="overlap"}', "0x57 1x10"),
    "CrisperErrors": ("crisper_worker_errors", "1"),
}


def scraped(**told: str) -> list[dict[str, str]]:
    return [
        {"series": name, "values": value if "x" in value else f"{value}x70"}
        for name, value in {**WELL, **told}.items()
    ]


def test_each_alert_fires_on_its_own_trouble_and_no_other_does(tmp_path: Path) -> None:
    promtool = tool("promtool")
    path = tmp_path / "rules.yml"
    path.write_text(filled("prometheus", BLANKS))
    checked([*promtool, "check", "rules", str(path)])
    known = {rule["alert"]: rule for rule in rules()}
    troubles = {name: scraped(**{metric: value}) for name, (metric, value) in ILL.items()}
    troubles |= {"CrisperSilent": [], "a good day": scraped()}
    assert set(troubles) == {*known, "a good day"}
    tests = []
    for trouble, series in troubles.items():
        asked = []
        for alert, rule in known.items():
            # Templates in annotations are compared as well: what they say is read from the rule itself.
            expected = {"exp_labels": rule["labels"], "exp_annotations": _said(rule)}
            asked.append(
                {"eval_time": "1h", "alertname": alert, "exp_alerts": [expected] if alert == trouble else []}
            )
        tests.append({"interval": "1m", "name": trouble, "input_series": series, "alert_rule_test": asked})
    told = tmp_path / "tests.yml"
    told.write_text(json.dumps({"rule_files": [str(path)], "evaluation_interval": "1m", "tests": tests}))
    checked([*promtool, "test", "rules", str(told)])


def _said(rule: dict[str, Any]) -> dict[str, str]:
    values = {
        "CrisperSweeperSilent": ("{{ $value | humanizeDuration }}", "1m 1s"),
        "CrisperJournalGrowing": ("{{ $value | humanize1024 }}", "4.883ki"),
        "CrisperTasksQuarantined": ("{{ $value }}", "1"),
        "CrisperWorkersAiling": ("{{ $value }}", "3"),
        "CrisperAttemptsStalled": ("{{ $value }}", "2"),
        "CrisperTasksHeld": ("{{ $value }}", "2"),
    }
    was, becomes = values.get(rule["alert"], ("", ""))
    return {key: text.replace(was, becomes) for key, text in rule["annotations"].items()}


def test_the_dashboards_questions_are_promql(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    asked = [{"record": f"asked:{i}", "expr": text} for i, text in enumerate(expressions())]
    path.write_text(json.dumps({"groups": [{"name": "asked", "rules": asked}]}))
    checked([*tool("promtool"), "check", "rules", "--lint=none", str(path)])


def test_what_is_asked_for_is_what_a_scrape_prints(served: Served, scene: Scene) -> None:
    """By the answer itself: names, and the labels that a panel's legend shows."""
    assert totals.follow(scene.store, lag_ms=-1000) > 0
    printed: dict[str, set[str]] = {}
    for line in served.stranger().get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})?", line).groups()  # type: ignore[union-attr]
            printed.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    for expression in expressions():
        assert set(NAMES.findall(expression)) <= set(printed), expression
    for target in (target for panel in dashboard()["panels"] for target in panel["targets"]):
        shown = set(re.findall(r"{{\s*(\w+)\s*}}", target.get("legendFormat", "")))
        assert shown <= set().union(*(printed[name] for name in NAMES.findall(target["expr"]))), target


def test_the_sweepers_silence_goes_by_the_lease() -> None:
    def limit(lease: float) -> list[str]:
        return re.findall(r"silent_seconds\) > (\d+)", filled("prometheus", Blanks("proj", 1, lease)))

    assert (limit(1), limit(20), limit(120)) == (["60"], ["60"], ["360"])


def test_the_dashboard_is_whole() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["type"] in ("stat", "timeseries", "table")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    shown = set(NAMES.findall(" ".join(expressions())))
    assert shown == {one.name for one in METRICS} - {"crisper_sweeper_leads"}


# -- how to start workers ----------------------------------------------------------


def test_kubernetes_takes_every_object() -> None:
    found = list(yaml.safe_load_all(filled("kubernetes", BLANKS)))
    assert [one["kind"] for one in found] == ["Deployment", "Deployment", "Service"]
    for one in found:
        kubernetes_validate.validate(one, "1.33", strict=True)
    pod = found[0]["spec"]["template"]["spec"]
    [worker] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] == 900
    assert {"name": "TERMINATION_GRACE_PERIOD_SECONDS", "value": "900"} in worker["env"]
    assert worker["command"] == ["celery", "-A", "proj.celery:app", "worker", "--loglevel", "INFO"]
    assert worker["livenessProbe"]["exec"]["command"] == ["crisper-probe", "live"]
    assert worker["readinessProbe"]["exec"]["command"] == ["crisper-probe", "ready"]


def test_compose_is_read_without_an_engine(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(filled("compose", BLANKS))
    command = [*tool("docker", "compose"), "config", "--quiet"]
    checked(command, cwd=tmp_path, env={"PATH": "/usr/bin:/usr/local/bin", "CRISPER_REGISTRY_URL": "x"})


def test_compose_has_the_probe_and_the_grace() -> None:
    found = yaml.safe_load(filled("compose", BLANKS))
    assert set(found) == {"name", "services", "secrets", "volumes"}
    worker = found["services"]["worker"]
    assert worker["stop_grace_period"] == "900s"
    assert worker["healthcheck"]["test"] == ["CMD", "crisper-probe", "live"]
    assert worker["command"][:3] == ["celery", "-A", "proj.celery:app"]


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "celery-worker.service"
    text = filled("systemd", BLANKS)
    assert "\nKillMode=mixed\n" in text
    assert "\nTimeoutStopSec=900\n" in text
    unit.write_text(text.replace("/srv/app/.venv/bin/celery", sys.executable))
    assert checked([*tool("systemd-analyze"), "verify", str(unit)]) == ""


@pytest.mark.parametrize("hostile", ["x\nUser=root", "a b", 'x"', "$(id)", "-x", "@GRACE@", "x:y:z", ""])
@pytest.mark.parametrize("what", STARTS_WORKERS)
def test_an_app_s_name_writes_nothing_else(run: Run, what: str, hostile: str) -> None:
    result = run("sqlite:////none", "-A", hostile, "export-config", what)
    assert (result.exit_code, result.stdout) == (2, "")


# -- the command -------------------------------------------------------------------


def test_it_prints_or_writes_and_never_overwrites(run: Run, tmp_path: Path) -> None:
    for what in TEMPLATES:
        text = run("sqlite:////none", "export-config", what).stdout
        assert "@" not in re.sub(r"worker@|\w@host", "", text).replace("user:password@", "")
        file = tmp_path / what
        result = run("sqlite:////none", "export-config", what, "--output", str(file))
        assert (result.exit_code, result.stdout, file.read_text()) == (0, "", text)
        again = run("sqlite:////none", "export-config", what, "--output", str(file))
        assert (again.exit_code, "is there already" in again.output) == (2, True)


def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    checked(command, cwd=ROOT)
    [wheel] = tmp_path.glob("*.whl")
    listed = subprocess.run(
        ["git", "ls-files", "src/crisper"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as packed:
        held = set(packed.namelist())
        [entries] = [name for name in held if name.endswith("entry_points.txt")]
        assert "crisper-probe = crisper.faces.probe:main" in packed.read(entries).decode()
    assert {path.removeprefix("src/") for path in listed if (ROOT / path).exists()} <= held
    assert {f"crisper/faces/shipped/templates/{name}" for name in TEMPLATES.values()} <= held
