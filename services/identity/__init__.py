"""Who somebody is, and what they may do: users, credentials, sessions, roles and signing keys."""
