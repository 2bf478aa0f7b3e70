-- Is there a column expires_at, without the index that is made together with it? Something else may have its name.
SELECT NOT EXISTS (
    SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = to_regclass('kv_store') AND relname = 'kv_store_expires_at' AND indpred IS NOT NULL
) AND EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass('kv_store') AND attname = 'expires_at' AND NOT attisdropped
);
