"""HTTP before the client."""
