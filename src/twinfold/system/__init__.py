"""The operating-system calls that differ between platforms."""
