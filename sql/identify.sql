-- Who this session is, for whoever has to make sure one day that it is gone: a pid alone could be reused. And whether
-- its server is a standby. `started` is null where the role that the session acts in may not see the role that has logged in.
SELECT
    pg_backend_pid() AS pid,
    (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()) AS started,
    session_user::text AS login,
    current_user::text AS role,
    pg_is_in_recovery() AS in_recovery;
