"""Streams and events of a double of a GPU's driver.

Streams run as late as they may: work is executed when somebody waits for it, in an order that events allow.
"""

import threading
from typing import Any

from tests.support.strict_calls import StrictCalls
from tests.support.strict_state import Clock, EventState, StreamState, Work, join


class StrictStreams(StrictCalls):
    """Streams and events, and what is over.

    Attributes:
        activations: stream -> engine that runs there, and its memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activations: dict[int, tuple[Any, int]] = {}
        self._streams: dict[int, StreamState] = {}
        self._events: dict[int, EventState] = {}
        self._finished: Clock = {}  # works that are over for certain

    def create_stream(self, *, urgent: bool) -> int:
        with self.checked_call("create_stream"):
            handle = self._new_handle()
            self._streams[handle] = StreamState(handle, {})
            return handle

    def destroy_stream(self, stream: int) -> None:
        with self.checked_call("destroy_stream"):
            state = self.stream_state(stream, "destroy_stream")
            if state.captured is not None or not self._over(stream, state.issued):
                self._misuse("a stream is destroyed that has work")
            state.destroyed = True
            self.activations.pop(stream, None)

    def synchronize_stream(self, stream: int) -> None:
        with self.checked_call("synchronize_stream"):
            self._no_capture("waits for a stream")
            state = self.stream_state(stream, "synchronize_stream")
            self._finish({**state.clock, stream: state.issued})

    def create_event(self) -> int:
        with self.checked_call("create_event"):
            handle = self._new_handle()
            self._events[handle] = EventState()
            return handle

    def destroy_event(self, event: int) -> None:
        with self.checked_call("destroy_event"):
            self._event(event).destroyed = True
            del self._events[event]

    def record_event(self, event: int, stream: int) -> None:
        with self.checked_call("record_event"):
            state = self.stream_state(stream, "record_event")
            if state.captured is not None:
                self._misuse("an event is recorded on a stream that is captured")
            self._event(event).clock = {**state.clock, stream: state.issued}

    def event_done(self, event: int) -> bool:
        with self.checked_call("event_done"):
            self._no_capture("asks for an event")
            return all(self._over(stream, number) for stream, number in self._recorded(event).items())

    def synchronize_event(self, event: int) -> None:
        with self.checked_call("synchronize_event"):
            self._no_capture("waits for an event")
            self._finish(self._recorded(event))

    def wait_event(self, stream: int, event: int) -> None:
        with self.checked_call("wait_event"):
            state = self.stream_state(stream, "wait_event")
            if state.captured is not None:
                self._misuse("a captured stream waits for an event from outside of the capture")
            join(state.clock, self._recorded(event))

    def stream_state(self, stream: int, what: str) -> StreamState:
        state = self._streams.get(stream)
        if state is None or state.destroyed:
            self._misuse(f"{what} on a stream that does not exist, or was destroyed")
        return state

    def _event(self, event: int) -> EventState:
        state = self._events.get(event)
        if state is None:
            self._misuse("an event is used that was destroyed")
        return state

    def _recorded(self, event: int) -> Clock:
        clock = self._event(event).clock
        if clock is None:
            self._misuse("an event is waited for that was not recorded")
        return clock

    def _over(self, stream: int, number: int) -> bool:
        return self._finished.get(stream, 0) >= number

    def _finish(self, clock: Clock) -> None:
        """Execute what lies before a clock, in the order in which it was given."""
        due: list[tuple[int, Work]] = []
        for stream, number in clock.items():
            pending = self._streams[stream].pending
            while pending and pending[0][1] <= number:
                order, _, work = pending.popleft()
                due.append((order, work))
        join(self._finished, clock)
        for _, work in sorted(due, key=lambda entry: entry[0]):
            if work.execute is not None:
                work.execute()

    @property
    def streams_alive(self) -> int:
        """Streams that were not destroyed."""
        return sum(not state.destroyed for state in self._streams.values())

    @property
    def events_alive(self) -> int:
        """Events that were not destroyed."""
        return len(self._events)

    def _no_capture(self, what: str) -> None:
        """A thread that captures must do none of what waits for the GPU."""
        for state in self._streams.values():
            if state.captured is not None and state.capturer == threading.get_ident():
                self._misuse(f"a thread {what} while it captures")
