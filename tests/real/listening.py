"""What a link said, kept, with a way to wait for something."""

import threading
import time


class Heard:
    """Everything a link said, with a way to wait for something."""

    def __init__(self):
        self.events = []
        self.news = threading.Condition()

    def __call__(self, event):
        with self.news:
            self.events.append(event)
            self.news.notify_all()

    def of(self, kind, **members):
        with self.news:
            return [
                e
                for e in self.events
                if isinstance(e, kind) and all(getattr(e, k) == v for k, v in members.items())
            ]

    def wait(self, kind, deadline=10, where=lambda event: True, **members):
        """The first event of this kind with these members; fails when none comes."""
        end = time.monotonic() + deadline
        while True:
            found = [e for e in self.of(kind, **members) if where(e)]
            if found:
                return found[0]
            with self.news:
                left = end - time.monotonic()
                assert left > 0, f"no {kind.__name__} {members} within {deadline} s"
                self.news.wait(min(left, 0.1))
