-- A batch with both, in one statement and one commit. No key is in both lists.
WITH deleted AS (
    DELETE FROM kv_store WHERE key = ANY($4::varchar[])
    RETURNING key, COALESCE(expires_at <= clock_timestamp(), false) AS expired
), stored AS (
    INSERT INTO kv_store (key, value, expires_at)
    SELECT key, value, now() + make_interval(secs => ttl_s)
    FROM unnest($1::varchar[], $2::text[], $3::float8[]) AS given (key, value, ttl_s)
    ON CONFLICT (key) DO UPDATE SET
        value = EXCLUDED.value,
        expires_at = EXCLUDED.expires_at,
        created_at = CASE WHEN kv_store.expires_at <= clock_timestamp() THEN EXCLUDED.created_at ELSE kv_store.created_at END
    RETURNING key, xmin, (xmax = 0 OR created_at IS NOT DISTINCT FROM (SELECT LOCALTIMESTAMP)) AS created
)
SELECT key, xmin, created, NULL AS expired FROM stored
UNION ALL
SELECT key, NULL, NULL, expired FROM deleted;
