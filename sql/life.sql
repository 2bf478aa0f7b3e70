-- The life of this server: since when it counts. A crash, be it of one backend, begins that anew; a stop in good order does not.
-- And whether a crash may take back what it has acknowledged.
SELECT stats_reset::text AS life,
    current_setting('synchronous_commit') = 'off'
        OR EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('kv_store') AND relpersistence = 'u') AS may_lose
FROM pg_stat_bgwriter;
