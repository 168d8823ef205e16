"""The blocking shell: sockets, threads, and the drive that runs the flows."""
