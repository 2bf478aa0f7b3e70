-- All misses of a batch. xmin is the transaction that wrote the row: the version in the ETag.
SELECT key, value, xmin::text FROM kv_store WHERE key = ANY($1::varchar[]);
