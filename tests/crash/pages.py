"""Huge pages: a few are reserved for a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import eventually, huge_pages_kept

HUGE_PAGES = 12  # enough for a pool of 8192 frames
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


def free_huge_pages() -> int:
    return int((POOL / "free_hugepages").read_text())


@contextmanager
def reserved() -> Iterator[None]:
    """Have HUGE_PAGES free; in the end they are free again, and as many are reserved as before."""
    with huge_pages_kept() as number:
        # What is in use, surplus pages too (of whom the number was lowered under), and ours.
        in_use = int((POOL / "nr_hugepages").read_text()) - free_huge_pages()
        number.write_text(str(in_use + HUGE_PAGES))
        assert free_huge_pages() >= HUGE_PAGES, "too little memory in pieces of 2 MiB"
        yield
        eventually(lambda: free_huge_pages() >= HUGE_PAGES)
