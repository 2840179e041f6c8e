"""The File tab of the page: its component, the route for files, and the one for links."""
