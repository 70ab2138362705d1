"""Messages, their encoding, identities, clocks and transports: everything that crosses the border of a peer."""
