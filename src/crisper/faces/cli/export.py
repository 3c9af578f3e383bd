"""`crisper export`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from crisper.errors import CrisperError, SettingsError
from crisper.faces.cli.place import Place
from crisper.faces.cli.text import plural

if TYPE_CHECKING:
    from crisper.engine.export import Kind

    Pages = Iterable[list[dict[str, Any]]]

#: Of a Parquet file: large enough to compress, small enough to keep in memory.
ROW_GROUP = 20_000


@click.command()
@click.argument("what", type=click.Choice(["attempts", "recoveries", "events", "workers"]))
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where to; stdout by default. Replaced once all of it is written.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]),
              help="By default what FILE ends in, else jsonl.")  # fmt: skip
@click.option("--since", metavar="AGE", help="Only what happened so long ago or later: 90s, 2h, 7d.")
@click.option("--until", metavar="AGE", help="Only what happened longer ago than that.")
@click.pass_obj
def export(
    place: Place, what: str, to: Path | None, form: str | None, since: str | None, until: str | None
) -> None:
    """Write history out, as JSON Lines or Parquet.

    It is streamed, so its length does not matter: nothing is held up, and
    what changes meanwhile may be there as it was or as it is. Messages are
    not exported; previews of arguments are, redacted as they were recorded.
    Parquet needs pyarrow: pip install 'celery-crisper[parquet]'.

    \b
    Examples:
      crisper -A proj export events --since 1d | jq .kind
      crisper -A proj export attempts --to attempts.parquet
      crisper -A proj export attempts --until 30d --to old.jsonl
    """
    from crisper.engine.export import EXPORTABLE, rows
    from crisper.engine.moments import age_ms

    form = form or ("parquet" if to is not None and to.suffix == ".parquet" else "jsonl")
    if form == "parquet" and to is None:
        raise SettingsError("Parquet is not for a terminal or a pipe: say --to FILE")
    ages = {"since_ms": age_ms(since) if since else None, "until_ms": age_ms(until) if until else None}
    kinds = EXPORTABLE[what].kinds
    with place.reading() as reading, _out(to) as file:
        pages = _shown(rows(reading, what, **ages))
        count = _parquet(pages, kinds, file) if form == "parquet" else _jsonl(pages, kinds, file)
    if to is not None:
        click.echo(f"{plural(count, 'row')} of {what} in {to}", err=True)


@contextlib.contextmanager
def _out(to: Path | None) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole, for nobody else to read; or stdout."""
    if to is None:
        yield sys.stdout.buffer
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{to.name}.", dir=to.parent)
    except OSError as exc:
        raise CrisperError(f"cannot write to {to.parent}: {exc.strerror}. Choose another --to") from exc
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).replace(to)
    except OSError as exc:
        raise CrisperError(f"cannot write {to}: {exc.strerror}. Nothing was replaced") from exc
    finally:
        Path(name).unlink(missing_ok=True)


def _shown(pages: Pages) -> Iterator[list[dict[str, Any]]]:
    """With its progress on stderr, if that is a terminal."""
    with click.progressbar(
        length=0, label="rows", show_eta=False, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        for page in pages:
            yield page
            bar.update(len(page))


def _jsonl(pages: Pages, kinds: dict[str, Kind], file: IO[bytes]) -> int:
    from crisper.engine.export import as_json

    count = 0
    for page in pages:
        file.write("".join(json.dumps(as_json(row, kinds)) + "\n" for row in page).encode())
        count += len(page)
    file.flush()
    return count


def _parquet(pages: Pages, kinds: dict[str, Kind], file: IO[bytes]) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SettingsError("Parquet needs pyarrow: pip install 'celery-crisper[parquet]'") from None
    types = {
        "text": pyarrow.string(),
        "json": pyarrow.string(),
        "number": pyarrow.int64(),
        "flag": pyarrow.bool_(),
        "time": pyarrow.timestamp("ms", tz="UTC"),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])
    count, waiting = 0, list[dict[str, Any]]()
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for page in pages:
            waiting += page
            if len(waiting) >= ROW_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
                count += len(waiting)
                waiting.clear()
        if waiting:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
    return count + len(waiting)
