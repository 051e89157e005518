"""Pure decisions: no file, socket, clock, thread or database."""
