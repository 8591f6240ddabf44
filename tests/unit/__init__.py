"""No child process, no browser."""
