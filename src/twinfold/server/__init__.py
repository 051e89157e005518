"""The receiving side: receive, apply, commit."""
