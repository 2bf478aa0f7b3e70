-- The timeline that this server writes on, in hexadecimal: the first eight digits of the name of its log's file. The
-- control file would tell it too, but only after the first checkpoint that follows a promotion.
SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline;
