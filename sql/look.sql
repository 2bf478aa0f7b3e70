-- The rows that writes with conditions, and additions, are judged by. One past its time is as good as none, but it is in
-- its place: it is changed, where none would be inserted.
SELECT key, value, xmin,
    CASE WHEN expires_at IS NOT NULL
        THEN LEAST(date_part('epoch', expires_at) - date_part('epoch', now()), 1e10) END AS left_s,
    COALESCE(expires_at <= now(), false) AS expired
FROM kv_store
WHERE key = ANY($1::varchar[]);
