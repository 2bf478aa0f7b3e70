-- The life of this server: another one once it has started anew, be it for a backend that has crashed, which resets these statistics.
-- And whether it may lose by that what it has acknowledged.
SELECT concat_ws(' ', pg_postmaster_start_time(), stats_reset) AS life,
    'off' IN (current_setting('synchronous_commit'), current_setting('fsync')) AS may_lose
FROM pg_stat_bgwriter;
