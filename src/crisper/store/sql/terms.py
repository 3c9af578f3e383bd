"""Leadership, and the registry's own clock."""

from __future__ import annotations

from crisper.store.base import Term
from crisper.store.sql.parts import Parts, verb


class Terms(Parts):
    """The verbs of the sweepers among each other."""

    def term(self, name: str) -> Term | None:
        with self.db.single():
            rows = self.db.rows("SELECT holder, counter FROM crisper_leader WHERE name = ?", name)
        return Term(str(rows[0][0]), int(rows[0][1])) if rows else None

    @verb
    def campaign(self, name: str, holder: str, seen: Term | None) -> Term | None:
        counter = seen.counter + 1 if seen else 1
        with self.db.single():
            if seen is None:
                won = self.db.run(
                    "INSERT INTO crisper_leader (name, holder, counter, since)"
                    f" VALUES (?, ?, 1, {self.db.now()}) ON CONFLICT DO NOTHING",
                    *(name, holder),
                )
            else:
                won = self.db.run(
                    # MariaDB assigns from left to right: what looks at the old holder comes first.
                    "UPDATE crisper_leader SET counter = counter + 1,"
                    f" since = CASE WHEN holder = ? THEN since ELSE {self.db.now()} END, holder = ?"
                    " WHERE name = ? AND holder = ? AND counter = ?",
                    *(holder, holder, name, *seen),
                )
        return Term(holder, counter) if won else None

    def clock(self) -> tuple[int, int]:
        with self.db.write():
            now = self.now()
            rows = self.db.rows("SELECT counter FROM crisper_leader WHERE name = 'clock'")
        return now, int(rows[0][0]) if rows else 0

    @verb
    def mend_clock(self, mended: int, step_ms: int) -> bool:
        with self.db.write():
            if mended:
                won = self.db.run(
                    "UPDATE crisper_leader SET counter = counter + 1 WHERE name = 'clock' AND counter = ?",
                    mended,
                )
            else:
                won = self.db.run(
                    "INSERT INTO crisper_leader (name, holder, counter, since)"
                    f" VALUES ('clock', '', 1, {self.db.now()}) ON CONFLICT DO NOTHING"
                )
            if won:
                self.db.run(
                    "UPDATE crisper_recovery SET created_at = created_at + ?, due_at = due_at + ?"
                    " WHERE state IN ('pending', 'decided', 'waiting')",
                    *(step_ms, step_ms),
                )
                self.db.run("UPDATE crisper_publish SET due_at = due_at + ?", step_ms)
                self._event(self.now(), "clock_mended", actor="sweeper", data={"step_ms": step_ms})
        return bool(won)
