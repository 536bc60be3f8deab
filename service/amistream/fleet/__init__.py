"""Jobs from a message queue: messages, leases, the intake, and results."""
