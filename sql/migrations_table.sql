-- Which migrations have been applied. Made by the first server that ever connects.
CREATE TABLE IF NOT EXISTS hotrow_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP
);
