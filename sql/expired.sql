-- Rows past their time, the oldest first: those that may be deleted. Up to $1 they are passed over.
SELECT key, expires_at::text AS at
FROM kv_store
WHERE expires_at <= now() AND ($1::text IS NULL OR expires_at > $1::text::timestamptz)
ORDER BY expires_at
LIMIT $2;
