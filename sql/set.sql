-- All values of a batch, one row a key, sorted by key. xmax is 0 exactly where no older row was locked: created.
INSERT INTO kv_store (key, value)
SELECT * FROM unnest($1::varchar[], $2::text[])
ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value
RETURNING key, xmin::text, (xmax = 0) AS created;
