"""What each open page has asked for and what it shows, and who started what all pages share."""

import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from thinkswitch.errors import UserError


@dataclass(eq=False)
class PageRequest:
    """One thing that a page has asked for. It fills some parts of the page; the first is its main one."""

    session: "Session"
    number: float  # of the click
    parts: tuple[str, ...]
    working: bool = False  # it can be stopped
    has_words: bool = False  # something of its answer is shown
    finished: bool = False

    def superseded(self) -> bool:
        """Whether a later click asked for the same: nobody waits for this one any more."""
        return not self.owns(self.parts[0])

    def owns(self, part: str) -> bool:
        return self.session.newest(part) is self

    def stopped(self) -> bool:
        return self.session.stopped(self)

    def given_up(self) -> bool:
        return self.superseded() or self.stopped()

    def write(self, **changes: Any) -> None:
        """Change what the page shows. Parts that a newer request has taken over stay as they are."""
        self.session.write(self, changes)

    def finish(self, **changes: Any) -> None:
        """Write for the last time."""
        self.session.write(self, changes, finished=True)


@dataclass(frozen=True)
class Screen:
    """What a page is to show: all of it, whoever wrote it."""

    parts: dict[str, Any] = field(default_factory=dict)
    stoppable: bool = False  # something is at work that can be stopped
    warned: bool = False  # there are warnings to be shown, once


class Session:
    """One open page: what it has asked for, and the screen on which that is answered.

    Requests are ordered by the number that the browser gave each click. The order in which threads start is
    not that of the clicks, so the server cannot number them itself.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._newest: dict[str, PageRequest] = {}
        self._stopped_up_to = float("-inf")
        self._parts: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._version = 0
        self.sent: dict[str, Any] = {}  # the parts as the browser has them
        self.asked: Any = None  # the question whose answers Compare shows
        self.end_columns: Any = None  # what instruct and thinking show in Compare
        self.curve: Any = None  # the last one that was drawn in Compare
        self.exchanges: dict[str, tuple] = {}  # the earlier turns of each view of Compare

    # ---- requests

    def supersede(self, number: float | None, *parts: str) -> PageRequest:
        """Ask for something new. A request with a lower number that arrives later is superseded at once."""
        with self._changed:
            if number is None:  # a caller without a browser: after everything that came before
                number = 1 + max((r.number for r in self._newest.values()), default=0)
            request = PageRequest(self, number, parts)
            for part in parts:
                current = self._newest.get(part)
                if current is None or current.number <= number:
                    self._newest[part] = request
            return request

    def newest(self, part: str) -> PageRequest | None:
        return self._newest.get(part)

    def stop(self, number: float | None = None) -> None:
        """Stop what was asked for up to this click; without a number, everything so far."""
        with self._changed:
            if number is None:
                number = max((r.number for r in self._newest.values()), default=0)
            self._stopped_up_to = max(self._stopped_up_to, number)

    def stopped(self, request: PageRequest) -> bool:
        return request.number <= self._stopped_up_to

    def close(self) -> None:
        """The page has gone away: stop everything that it has asked for, now or in threads still starting."""
        self.stop(float("inf"))

    # ---- the screen

    def write(self, request: PageRequest | None, changes: dict[str, Any], finished: bool = False) -> None:
        """What `request` (None: the page itself) wants shown."""
        with self._changed:
            if request is not None:
                request.finished = request.finished or finished
                if request.superseded():
                    return
                changes = {part: value for part, value in changes.items() if self._may_write(request, part)}
            self._parts |= changes
            self._version += 1
            self._changed.notify_all()

    def _may_write(self, request: PageRequest, part: str) -> bool:
        """Parts that no request asks for, as the status line, belong to everybody."""
        return part not in self._newest or request.owns(part)

    def shows(self, part: str) -> Any:
        return self._parts.get(part)

    def warn(self, sentence: str) -> None:
        """Show a sentence once."""
        with self._changed:
            self._warnings.append(sentence)

    def take_warnings(self) -> list[str]:
        with self._changed:
            taken, self._warnings = self._warnings, []
            return taken

    def watch(self, parts: Collection[str]) -> Iterator[Screen]:
        """The screen whenever it changes, until all requests for `parts` have finished; at least once."""
        seen: int | None = None
        while True:
            with self._changed:
                while self._version == seen and self.unfinished(parts):
                    self._changed.wait()
                if self._version == seen:
                    return
                seen = self._version
                screen = self._screen(parts)
            yield screen

    def unfinished(self, parts: Collection[str]) -> list[PageRequest]:
        return [r for part, r in self._newest.items() if part in parts and not r.finished]

    def _screen(self, parts: Collection[str]) -> Screen:
        stoppable = any(r.working for r in self.unfinished(parts))
        return Screen(dict(self._parts), stoppable, bool(self._warnings))


class Sessions:
    """Every open page, by Gradio's session hash."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}

    def get(self, session_hash: str) -> Session:
        return self._open.setdefault(session_hash, Session())

    def is_open(self, session_hash: str) -> bool:
        return session_hash in self._open

    def close(self, session_hash: str) -> None:
        session = self._open.pop(session_hash, None)
        if session is not None:
            session.close()


class Owners:
    """Which page started a shared thing. In a public demo only that page may end it.

    What nobody owns, everybody may end; closing (or reloading) a page gives up what it owns.
    """

    def __init__(self, demo: bool) -> None:
        self._demo = demo
        self._owner: dict[str, str] = {}  # {thing: session hash}
        self._left: set[str] = set()  # things whose page has gone away

    def take(self, thing: str, session_hash: str | None) -> None:
        if session_hash is not None:
            self._owner[thing] = session_hash
            self._left.discard(thing)

    def check(self, thing: str, session_hash: str | None) -> None:
        """Refuse a page that may not end `thing`."""
        owner = self._owner.get(thing)
        if self._demo and owner is not None and owner != session_hash:
            raise UserError(f"another visitor started {thing}; only they can end it")

    def check_run(self, thing: str, session_hash: str | None) -> None:
        """As `check`. A run that no page has started belongs to whoever runs the demo."""
        self.check(thing, session_hash)
        if self._demo and thing not in self._owner and thing not in self._left:
            raise UserError(f"{thing} was not started from this page; a demo shows it, and does not end it")

    def check_own(self, thing: str, session_hash: str | None) -> None:
        """Refuse a page that has not started `thing` itself. What nobody owns, a demo keeps."""
        if self._demo and (session_hash is None or self._owner.get(thing) != session_hash):
            raise UserError(f"in a demo only the visitor who started {thing} may do that")

    def others(self, session_hash: str | None) -> set[str]:
        """The things that belong to other pages."""
        return {thing for thing, owner in list(self._owner.items()) if owner != session_hash}

    def release(self, session_hash: str) -> None:
        for thing in [thing for thing, owner in list(self._owner.items()) if owner == session_hash]:
            self._owner.pop(thing, None)
            self._left.add(thing)
