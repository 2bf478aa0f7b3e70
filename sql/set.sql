-- All values of a batch, one row a key, sorted by key. xmax is 0 exactly where no older row was locked: created. So is a
-- row that takes the place of one past its time: it begins anew. The time, the same for all, is asked once; but whether a row is
-- past its own is asked at the moment, as in change.sql: the statement may have waited for a lock until then, and whoever has read
-- meanwhile was told that there is none.
INSERT INTO kv_store (key, value, expires_at)
SELECT key, value, now() + make_interval(secs => ttl_s)
FROM unnest($1::varchar[], $2::text[], $3::float8[]) AS given (key, value, ttl_s)
ON CONFLICT (key) DO UPDATE SET
    value = EXCLUDED.value,
    expires_at = EXCLUDED.expires_at,
    created_at = CASE WHEN kv_store.expires_at <= clock_timestamp() THEN EXCLUDED.created_at ELSE kv_store.created_at END
RETURNING key, xmin, (xmax = 0 OR created_at IS NOT DISTINCT FROM (SELECT LOCALTIMESTAMP)) AS created;
