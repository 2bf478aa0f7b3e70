-- Deletes those of these rows that are past their time. What another server, or a write, has in hand is left to it. COALESCE, and
-- = ANY besides: so that they are looked for by their keys, and never among all that are past their time.
DELETE FROM kv_store
WHERE COALESCE(expires_at <= now(), false) AND key = ANY($1::varchar[]) AND key IN (
    SELECT key FROM kv_store WHERE key = ANY($1::varchar[]) AND COALESCE(expires_at <= now(), false) FOR UPDATE SKIP LOCKED
);
