"""The options and limits of the server, and how an option is read, checked and documented."""
