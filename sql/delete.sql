-- All deletes of a batch. Returns the keys that there were; a row past its time was none, by the time of the moment as in set.sql.
DELETE FROM kv_store WHERE key = ANY($1::varchar[])
RETURNING key, COALESCE(expires_at <= clock_timestamp(), false) AS expired;
