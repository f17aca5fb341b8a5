"""Users, credentials, sessions, roles and signing keys."""
