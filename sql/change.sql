-- Changes rows that are still as they were looked at: had is the version that a row must have, NULL that there must be
-- none; ended says whether its time was over, for in between it may have ended: then the row was none, and what was judged by
-- it must be judged anew. Hence the time of the moment, and not that of the transaction, which may have waited for a lock. What another program has written meanwhile is left alone and does not come back. kept: it expires when it did.
-- = ANY besides: so that rows are looked for by their keys, whatever else a planner thinks of who is joined with whom.
WITH given AS (
    SELECT * FROM unnest($1::varchar[], $2::text[], $3::float8[], $4::boolean[], $5::text[], $6::boolean[])
        AS given (key, value, ttl_s, kept, had, ended)
), updated AS (
    UPDATE kv_store SET
        value = given.value,
        expires_at =
            CASE WHEN given.kept THEN kv_store.expires_at ELSE now() + make_interval(secs => given.ttl_s) END,
        created_at = CASE WHEN given.ended THEN LOCALTIMESTAMP ELSE kv_store.created_at END
    FROM given
    WHERE kv_store.key = given.key AND kv_store.key = ANY($1) AND kv_store.xmin::text = given.had
        AND COALESCE(kv_store.expires_at <= clock_timestamp(), false) = given.ended
    RETURNING kv_store.key, kv_store.xmin
), inserted AS (
    INSERT INTO kv_store (key, value, expires_at)
    SELECT key, value, now() + make_interval(secs => ttl_s) FROM given WHERE had IS NULL
    ON CONFLICT (key) DO NOTHING
    RETURNING key, xmin
), deleted AS (
    DELETE FROM kv_store
    USING unnest($7::varchar[], $8::text[], $9::boolean[]) AS gone (key, had, ended)
    WHERE kv_store.key = gone.key AND kv_store.key = ANY($7) AND kv_store.xmin::text = gone.had
        AND COALESCE(kv_store.expires_at <= clock_timestamp(), false) = gone.ended
    RETURNING kv_store.key
)
SELECT key, xmin FROM updated
UNION ALL
SELECT key, xmin FROM inserted
UNION ALL
SELECT key, NULL FROM deleted;
