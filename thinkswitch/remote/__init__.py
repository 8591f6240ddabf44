"""Work done elsewhere: a teacher behind a server, more GPUs."""
