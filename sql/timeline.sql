-- The timeline that this server writes on, in hexadecimal: the first eight digits of the name of its log's file. The
-- control file would tell it too, but only after the first checkpoint that follows a promotion.
--
-- `life`: the same for as long as the server has not started anew, be it for a backend that has crashed, which resets these
-- statistics. Only where commits are acknowledged before they are on the disk, and may be lost by that.
SELECT
    left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline,
    CASE
        WHEN 'off' IN (current_setting('synchronous_commit'), current_setting('fsync'))
        THEN concat_ws(' ', pg_postmaster_start_time(), (SELECT stats_reset FROM pg_stat_bgwriter))
    END AS life;
