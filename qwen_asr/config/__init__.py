"""Every option and limit of the server, and how an option becomes a flag, an environment variable and a table row."""
