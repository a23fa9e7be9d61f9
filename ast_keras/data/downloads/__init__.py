"""Public data on this machine: downloaded, unpacked, found again."""
