-- How long a statement waits for what others have locked, in milliseconds; a server that has less of it keeps that.
SELECT set_config('lock_timeout', CASE WHEN setting::integer BETWEEN 1 AND $1 THEN setting ELSE $1::text END, false)
FROM pg_settings WHERE name = 'lock_timeout';
