-- The whole of a migration takes as long as it takes. Servers before 17 do not have this setting, and nothing is set there.
SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout';
