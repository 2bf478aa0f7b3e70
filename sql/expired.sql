-- Rows past their time, the oldest first: those that may be deleted. In no order where their times are the same, so that those of
-- one time, which may be a million, need no sorting.
SELECT key, expires_at::text AS at
FROM kv_store
WHERE expires_at <= now()
ORDER BY expires_at
LIMIT $1;
