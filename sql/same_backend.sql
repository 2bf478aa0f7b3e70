-- Is this still the backend that was asked who it is, and has it our settings? A pooler that deals backends out by transaction
-- has given another one by now, or will.
SELECT pg_backend_pid() = $1 AND current_setting('client_min_messages') = 'warning' AS same;
