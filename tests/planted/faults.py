"""All faults that are planted, side by side with the promises of docs/guarantees.md."""

from __future__ import annotations

from tests.planted.client_faults import CLIENT_FAULTS
from tests.planted.cost_faults import COST_FAULTS
from tests.planted.server_faults import SERVER_FAULTS
from tests.planted.storage_faults import STORAGE_FAULTS

FAULTS = (*STORAGE_FAULTS, *SERVER_FAULTS, *CLIENT_FAULTS, *COST_FAULTS)
