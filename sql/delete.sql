-- All deletes of a batch. Returns the keys that there were.
DELETE FROM kv_store WHERE key = ANY($1::varchar[]) RETURNING key;
