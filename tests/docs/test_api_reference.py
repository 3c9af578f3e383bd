"""docs/reference/api.md has all that is public in Python, as it is."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import crisper
from crisper import errors
from crisper.celery.install import _TASK_KEYS
from crisper.contrib.django import registry_url

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md").read_text().replace(r"\_", "_")


def signature(function: object) -> str:
    assert callable(function)
    return f"{function.__name__}{inspect.signature(function)}".replace("'", "")


def row_of(error: type[Exception]) -> str:
    """An error's line in the table."""
    meaning = " ".join((inspect.getdoc(error) or "").split())
    code = f"{error.exit_code}" if issubclass(error, errors.CrisperError) else "-"
    assert error.__base__ is not None
    return f"| `{error.__name__}` | `{error.__base__.__name__}` | {code} | {meaning} |"


def test_every_public_name_stands_there_with_its_signature() -> None:
    for name in crisper.__all__:
        assert f"## crisper.{name}\n" in PAGE
        if inspect.isfunction(getattr(crisper, name)):
            assert f"```python\n{signature(getattr(crisper, name))}\n```" in PAGE
    assert f"```python\n{signature(registry_url)}\n```" in PAGE


def test_every_error_stands_there_as_it_is() -> None:
    rows = [row_of(error) for _, error in inspect.getmembers(errors, inspect.isclass)]
    shown = re.findall(r"^\| `\w+` \| `\w+` \| [\d-]+ \| .* \|$", PAGE, re.MULTILINE)
    assert sorted(shown) == sorted(rows), "\n".join(rows)


def test_everything_of_the_current_attempt_stands_there() -> None:
    where = re.search(r"from (crisper\S+) import CurrentAttempt", inspect.getsource(crisper))
    assert where is not None
    attempt = importlib.import_module(where[1]).CurrentAttempt
    public = {name for name in [*attempt.__annotations__, *vars(attempt)] if not name.startswith("_")}
    assert set(rows_of("crisper.current_attempt")) == public


def test_every_key_of_the_task_option_stands_there() -> None:
    assert set(rows_of("The task option `crisper`")) == _TASK_KEYS


def rows_of(heading: str) -> list[str]:
    """The names that the table below a heading explains."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)", section, re.MULTILINE)
