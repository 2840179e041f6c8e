"""The page on a phone: the section with its QR code, what a browser needs to install it, and its icon."""
