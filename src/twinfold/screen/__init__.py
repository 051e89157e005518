"""What people see: the client's live screen, the server's banner, plain lines elsewhere."""
