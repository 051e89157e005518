"""What the server keeps, and where: the index and the destination tree."""
