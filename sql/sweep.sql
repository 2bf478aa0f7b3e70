-- Deletes those of these rows that are past their time. What another server, or a write, has in hand is left to it.
DELETE FROM kv_store
WHERE expires_at <= now() AND key IN (
    SELECT key FROM kv_store WHERE key = ANY($1::varchar[]) AND expires_at <= now() FOR UPDATE SKIP LOCKED
);
