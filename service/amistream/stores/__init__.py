"""Places to put a bundle: one port (`port.Store`), and an adapter for each kind of place."""
