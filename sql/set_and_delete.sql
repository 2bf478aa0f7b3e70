-- A batch with both, in one statement and one commit. No key is in both lists.
WITH deleted AS (
    DELETE FROM kv_store WHERE key = ANY($3::varchar[]) RETURNING key
), stored AS (
    INSERT INTO kv_store (key, value)
    SELECT * FROM unnest($1::varchar[], $2::text[])
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value
    RETURNING key, xmin::text, (xmax = 0) AS created
)
SELECT key, xmin, created FROM stored
UNION ALL
SELECT key, NULL, NULL FROM deleted;
