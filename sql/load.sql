-- A piece of a bulk load of which some rows are there already, or live for so many seconds: what set.sql does, and nobody
-- is told what became of them. Where all are new, COPY stores them (1.5 times as fast, or more).
INSERT INTO kv_store (key, value, expires_at)
SELECT key, value, COALESCE(expires_at::timestamptz, now() + make_interval(secs => ttl_s))
FROM unnest($1::varchar[], $2::text[], $3::float8[], $4::text[]) AS given (key, value, ttl_s, expires_at)
ON CONFLICT (key) DO UPDATE SET
    value = EXCLUDED.value,
    expires_at = EXCLUDED.expires_at,
    created_at = CASE WHEN kv_store.expires_at <= clock_timestamp() THEN EXCLUDED.created_at ELSE kv_store.created_at END;
