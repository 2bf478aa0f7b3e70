-- Deletes some rows past their time, the oldest first. What another server, or a write, has in hand is left to it.
DELETE FROM kv_store
WHERE expires_at <= now() AND key IN (
    SELECT key FROM kv_store WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
);
