"""With child processes: what only a real process shows."""
