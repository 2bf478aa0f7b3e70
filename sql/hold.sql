-- Rows that a batch was judged by and does not change: those that are still as they were looked at, and from here on stay so until
-- its commit. had, ended and = ANY as in change.sql.
SELECT kv_store.key
FROM kv_store JOIN unnest($1::varchar[], $2::text[], $3::boolean[]) AS held (key, had, ended) ON kv_store.key = held.key
WHERE kv_store.key = ANY($1) AND kv_store.xmin::text = held.had AND COALESCE(kv_store.expires_at <= clock_timestamp(), false) = held.ended
FOR SHARE OF kv_store;
