-- The rows that writes with conditions, and additions, are judged by. One past its time is as good as none, but it is in
-- its place: it is changed, where none would be inserted.
SELECT key, value, xmin::text, LEAST(extract(epoch FROM expires_at)::float8 - extract(epoch FROM now())::float8, 1e10) AS left_s,
    COALESCE(expires_at <= now(), false) AS expired
FROM kv_store
WHERE key = ANY($1::varchar[]);
