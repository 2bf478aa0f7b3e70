-- The timeline that this server writes on, in hexadecimal: the first eight digits of the name of its log's file. The
-- control file would tell it too, but only after the first checkpoint that follows a promotion. And how far its log has come.
SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline, (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS position;
