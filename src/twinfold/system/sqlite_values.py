"""How values are handed to SQLite's driver."""

from __future__ import annotations

Blob = bytearray
"""As which the driver takes bytes at once; for `bytes` it looks for an adapter first."""
