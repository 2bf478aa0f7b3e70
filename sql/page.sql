-- One page of a list: the rows from $1 on and before $2, if there is one, up to $3 of them, and no more than that the keys of the rows before,
-- and with $5 their values, stay below $4 bytes. Without $5 no values are told. The innermost query has no upper end, so that it is nothing but a walk
-- along kv_store_key_order that stops after so many rows, whatever the planner thinks of the keys. Whoever asks for the
-- next page must know whether there is one: one row more is looked at, and counted.
SELECT key, CASE WHEN $5::boolean THEN value END AS value, version, expires_at, found
FROM (
    SELECT *,
        row_number() OVER in_order AS number,
        count(*) OVER () AS found,
        sum(octet_length(key) + CASE WHEN $5::boolean THEN coalesce(octet_length(value), 0) ELSE 0 END)
            OVER (in_order ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM (
        SELECT key, value, xmin AS version,
            CASE WHEN isfinite(expires_at)
                THEN to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END AS expires_at
        FROM kv_store
        WHERE key COLLATE "C" >= $1::text AND (expires_at IS NULL OR expires_at > now())
        ORDER BY key COLLATE "C"
        LIMIT $3::bigint + 1
    ) AS walk
    WHERE $2::text IS NULL OR key COLLATE "C" < $2::text
    WINDOW in_order AS (ORDER BY key COLLATE "C")
) AS page
WHERE number <= $3::bigint AND (bytes_before IS NULL OR bytes_before < $4::bigint)
ORDER BY number;
