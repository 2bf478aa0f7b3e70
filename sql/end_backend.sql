-- Ends one old backend of ours. True while it is still there: ask again until it is false.
SELECT count(pg_terminate_backend(pid)) > 0 AS alive
FROM pg_stat_activity
WHERE pid = $1 AND backend_start = $2::text::timestamptz;
