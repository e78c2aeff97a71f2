"""Times of a cron table in a time zone. Changes of clocks are those of Debian's cron.

A time that is left out in spring is made up for at the end of the gap. One that comes twice in
autumn counts at its first coming.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from finetune_api.v1alpha1.finetuneschedule import Triggers

MAX_MISSED = 100
"""So many missed times are counted, as in a CronJob."""
_CLOCK_CHANGE = timedelta(hours=26)
"""A time may be that much off while it is looked for backwards over a change of clocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """A cron table.

    Attributes:
        table: The five fields.
        zone: IANA name of its time zone.
    """

    table: str
    zone: str = "UTC"

    @property
    def problem(self) -> str:
        """Why there are no such times, with the field and the remedy; empty if there are."""
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return (
                f"spec.triggers.timeZone: {self.zone!r} is no time zone that this operator knows;"
                " write an IANA name such as Europe/Berlin"
            )
        try:
            found = next(CronSim(self.table, datetime(2000, 1, 1, tzinfo=UTC)), None)
        except CronSimError as error:
            return (
                f"spec.triggers.cron: {self.table!r} names no times: {error};"
                " write days that their month has, and ranges from low to high"
            )
        return "" if found else f"spec.triggers.cron: {self.table!r} never comes"

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield all times after a moment, in UTC. The table must have no problem."""
        zone = ZoneInfo(self.zone) if self.zone != "UTC" else UTC
        last = moment
        for each in CronSim(self.table, moment.astimezone(zone)):
            found = each.astimezone(UTC)
            # The same hour of the wall clock comes twice in autumn, and none in spring.
            if found > last:
                last = found
                yield found

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first time after a moment; None if none comes within 50 years."""
        return next(self.after(moment), None)

    def missed(self, since: datetime, now: datetime) -> Missed | None:
        """Return the times after ``since`` that are not in the future; None if there are none."""
        last, num = None, 0
        for each in self.after(since):
            if each > now or num > MAX_MISSED:
                break
            last, num = each, num + 1
        if last is None:
            return None
        return Missed(last=self._last_until(now, last) if num > MAX_MISSED else last, num=num)

    def _last_until(self, now: datetime, known: datetime) -> datetime:
        """Return the last time that is not in the future; ``known`` is one of them."""
        zone = ZoneInfo(self.zone) if self.zone != "UTC" else UTC
        near = next(CronSim(self.table, now.astimezone(zone), reverse=True), known)
        for each in self.after(max(known, near.astimezone(UTC) - _CLOCK_CHANGE)):
            if each > now:
                break
            known = each
        return known


@dataclass(frozen=True, kw_only=True, slots=True)
class Missed:
    """Times that have passed without a start.

    Attributes:
        last: The last of them, in UTC.
        num: How many; counted up to one more than ``MAX_MISSED``.
    """

    last: datetime
    num: int

    @property
    def is_too_many(self) -> bool:
        """Whether there are more than are counted."""
        return self.num > MAX_MISSED


def times_of(triggers: Triggers) -> Times | None:
    """Return the cron table of a schedule; None if it has none."""
    if triggers.cron is None:
        return None
    return Times(table=triggers.cron, zone=triggers.time_zone or "UTC")
