-- What a migration makes is made beside the table that is there already, wherever on the path that is: CREATE looks at the first
-- schema of the path alone, and would make an empty table there, which all others would take for the one with the rows.
SELECT set_config('search_path', quote_ident(nspname) || ', ' || current_setting('search_path'), true)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE pg_class.oid = to_regclass('kv_store');
