"""The sending side: watch, scan, read, plan, transfer."""
