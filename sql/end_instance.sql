-- Ends the backends that an earlier process of this instance left behind: they may still commit what it had sent.
-- Counts those still there: ask again until it is 0.
SELECT count(pg_terminate_backend(pid)) AS alive
FROM pg_stat_activity
WHERE application_name = $1 AND pid <> pg_backend_pid() AND usename = session_user;
