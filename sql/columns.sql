-- What a table that is there already has of what is needed; nothing where there is none. A type of the category S is some kind
-- of text; so is a domain over one. `keeps`: any 255 characters of a key stay what they are there, where others cut, pad or equate
-- them; and a value is not cut or padded in silence.
-- `equates`: the collation that takes different characters for the same, if it does. `is_unique`: there is what ON CONFLICT (key) asks
-- for. `has_moment`: it may tell by the moment of its transaction that a row is new. `is_table`: PostgreSQL tells xmin of a row that is
-- written, as it does not of a partitioned table's or a view's; and no table that inherits from it has a key once more. `is_lost`: a
-- crash empties it. `wanting`: a column that a new row has nothing for.
-- `found`: a name is looked up as of now, and rows of the catalog as of the beginning of the statement: a table that another
-- server makes between the two is not there yet.
WITH RECURSIVE found AS MATERIALIZED (
    SELECT oid, relkind, relpersistence FROM pg_class WHERE oid = to_regclass('kv_store')
), held AS (
    SELECT attname::text AS name, atttypid AS type, atttypmod AS length, typcategory = 'S' AS is_text,
        atthasdef OR typdefault IS NOT NULL AS has_default, attcollation AS collation,
        NOT (attnotnull OR typnotnull) AS may_be_null, format_type(atttypid, atttypmod) AS shown
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    WHERE attrelid = (SELECT oid FROM found) AND attname IN ('key', 'value', 'created_at', 'expires_at') AND NOT attisdropped
), base AS (
    SELECT name, type, length FROM held
    UNION ALL
    SELECT name, typbasetype, CASE WHEN length = -1 THEN typtypmod ELSE length END
    FROM base JOIN pg_type ON pg_type.oid = type AND typtype = 'd'
)
SELECT wanted.name, shown, COALESCE(is_text, false), COALESCE(may_be_null, false),
    CASE wanted.name
        WHEN 'key' THEN EXISTS (
            SELECT FROM base
            WHERE base.name = 'key'
                -- A length is counted with the four bytes before it; none is -1.
                AND (type = 'text'::regtype OR type = 'varchar'::regtype AND (length = -1 OR length >= 255 + 4))
        )
        ELSE NOT EXISTS (
            SELECT FROM base
            WHERE base.name = wanted.name
                -- Of a varchar that has a length, too, blanks are cut from the end.
                AND (
                    type IN ('name'::regtype, '"char"'::regtype)
                    OR type IN ('bpchar'::regtype, 'varchar'::regtype) AND length <> -1
                )
        )
    END AS keeps,
    (SELECT collname::text FROM pg_collation WHERE oid = held.collation AND NOT collisdeterministic) AS equates,
    EXISTS (
        SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
        WHERE indrelid = (SELECT oid FROM found) AND attname = wanted.name AND indnkeyatts = 1
            AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
    ) AS is_unique,
    EXISTS (
        SELECT FROM found WHERE relkind = 'r' AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = found.oid)
    ) AS is_table,
    EXISTS (SELECT FROM found WHERE relpersistence = 'u') AS is_lost,
    (
        SELECT min(attname::text) FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
        WHERE attrelid = (SELECT oid FROM found) AND attnum > 0 AND NOT attisdropped AND attname NOT IN ('key', 'value')
            AND (attnotnull OR typnotnull) AND NOT atthasdef AND attidentity = '' AND typdefault IS NULL
    ) AS wanting,
    EXISTS (
        SELECT FROM base
        WHERE base.name = wanted.name AND length IN (-1, 6)
            -- A text that becomes a timestamp loses its offset without a word, as that of expires_at would in a COPY.
            AND (type = 'timestamptz'::regtype OR type = 'timestamp'::regtype AND wanted.name = 'created_at')
    ) AS is_moment,
    COALESCE(has_default, false) AS has_default
FROM (VALUES (1, 'key'), (2, 'value'), (3, 'created_at'), (4, 'expires_at')) AS wanted (number, name) LEFT JOIN held ON held.name = wanted.name
WHERE EXISTS (SELECT FROM found)
ORDER BY number;
