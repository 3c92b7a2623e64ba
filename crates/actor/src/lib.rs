//! Roles, actors, mailboxes and references: the same call local and remote.
