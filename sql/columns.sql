-- What holds keys and values in a table that is there already; nothing where there is none. A type of the category S is some kind
-- of text; so is a domain over one. `alters`: what is put into it, of 255 characters at most, may be padded, or lose blanks at its end.
SELECT wanted.name, format_type(atttypid, atttypmod) AS type, COALESCE(typcategory = 'S', false) AS is_text,
    COALESCE(NOT (attnotnull OR typnotnull), false) AS may_be_null,
    CASE COALESCE(NULLIF(typbasetype, 0), atttypid)
        WHEN 'bpchar'::regtype THEN true
        -- A length is counted with the four bytes before it; none is -1.
        WHEN 'varchar'::regtype THEN CASE WHEN typbasetype = 0 THEN atttypmod ELSE typtypmod END BETWEEN 0 AND 255 + 3
        ELSE false
    END AS alters
FROM (VALUES ('key'), ('value')) AS wanted (name)
LEFT JOIN (pg_attribute JOIN pg_type ON pg_type.oid = atttypid)
    ON attrelid = to_regclass('kv_store') AND attname = wanted.name AND NOT attisdropped
WHERE to_regclass('kv_store') IS NOT NULL;
