-- All deletes of a batch. Returns the keys that there were; a row past its time was none.
DELETE FROM kv_store WHERE key = ANY($1::varchar[])
RETURNING key, COALESCE(expires_at <= now(), false) AS expired;
