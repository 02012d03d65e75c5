"""Files kept open in this process: at most `size` of them, the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Opened(Generic[T]):
    """A bounded cache from a key (an artifact's hash, so content never changes) to an open file.

    Threads share it. An entry that is dropped while another thread still reads from it closes when
    that thread lets go, because nothing here closes by force.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[object, T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: object, open_: Callable[[], T]) -> T:
        """The entry of `key`, opened by `open_` when it is not there."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        opened = open_()
        with self._lock:
            entry = self._entries.setdefault(key, opened)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return entry

    def __len__(self) -> int:
        return len(self._entries)
