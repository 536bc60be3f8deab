"""The contracts between rooms: what a volume, a store, a target and a registry promise."""
