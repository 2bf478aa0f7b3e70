-- All misses of a batch. xmin is the transaction that wrote the row: the version in the ETag. A row past its time is none.
-- left_s: seconds until it is, by the clock of the server; infinity is cut to what a number of seconds can be.
SELECT key, value, xmin::text, LEAST(extract(epoch FROM expires_at)::float8 - extract(epoch FROM now())::float8, 1e10) AS left_s
FROM kv_store
WHERE key = ANY($1::varchar[]) AND (expires_at IS NULL OR expires_at > now());
