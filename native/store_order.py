"""What Python lacks for memory that it shares with other processes: an order of stores."""

import threading


def order_stores() -> None:
    """Make all stores before this call visible to other processors before all that come after it."""
    # Taking and releasing a lock twice is a full barrier on every processor; Python has no other.
    lock = threading.Lock()
    for _ in range(2):
        lock.acquire()
        lock.release()
