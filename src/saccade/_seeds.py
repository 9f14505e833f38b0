"""Counter-based randomness: every random decision has a seed made from what it is for.

So it does not depend on what was drawn before it, on the number of processes, or on where a killed run continues.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed for ``parts``, such as ``(seed, "batches", epoch)``: 63 bits, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
