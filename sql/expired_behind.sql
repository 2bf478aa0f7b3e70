-- The same where some of them stay: those behind the one of the time $1 with the key $2.
SELECT key, expires_at::text AS at
FROM kv_store
WHERE expires_at <= now() AND (expires_at, key) > ($1::text::timestamptz, $2::varchar)
ORDER BY expires_at, key
LIMIT $3;
