-- Other instances on this database: what they write is not seen here while a cached copy lives.
SELECT string_agg(DISTINCT substr(application_name, 8), ', ') AS others
FROM pg_stat_activity
WHERE application_name LIKE 'hotrow/%' AND application_name NOT IN ($1, 'hotrow/migrate')
    AND datname = current_database();
